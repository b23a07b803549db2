"""From method and path to a handler: exact paths by one lookup, those with a placeholder next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from orchestrator.api.endpoints import Endpoint
from orchestrator.api.reply import Handler
from orchestrator.errors import ApiError, BadRequest, MethodNotAllowed, NotFound

# What logs and metrics call a path that is not ours: a stranger's words make no labels.
OTHER: Final = "other"


# The names of models elsewhere are of two segments, as `owner/name`.
_SEGMENTS_ANY: Final = frozenset({"/v1/models/{model}"})


class Route(NamedTuple):
    """A handler, and whether it is given the body or reads it itself."""

    handler: Handler
    reads_body: bool


class _Pattern(NamedTuple):
    path: str
    before: str
    after: str
    methods: dict[str, Route]


class Routes:
    """All routes of the API; ``handlers`` are named by operation id, one for every endpoint."""

    def __init__(self, endpoints: Iterable[Endpoint], handlers: Mapping[str, Handler]) -> None:
        left = dict(handlers)
        self._exact: dict[str, dict[str, Route]] = {}
        patterns: dict[str, _Pattern] = {}
        for one in endpoints:
            before, placeholder, rest = one.path.partition("{")
            if placeholder:
                after = rest.partition("}")[2]
                pattern = patterns.setdefault(one.path, _Pattern(one.path, before, after, {}))
                methods = pattern.methods
            else:
                methods = self._exact.setdefault(one.path, {})
            methods[one.method] = Route(left.pop(one.operation_id), one.reads_body)
        if left:
            raise ValueError(f"no endpoint is called {min(left)}")
        # The longest ends first: /files/{id}/content is not a file called "x/content".
        self._patterns = sorted(patterns.values(), key=lambda one: -len(one.after))
        self._paths = ", ".join((*self._exact, *patterns))

    def find(self, method: str, path: str) -> tuple[Route | ApiError, str, str]:
        """Return (route or why not, what stands in the placeholder, the path as in the table)."""
        methods = self._exact.get(path)
        name, label = "", path
        if methods is None:
            methods, name, label = self._match(path)
        if methods is None:
            error = NotFound(f"There is nothing at {path[:100]}; the routes are {self._paths}.")
            return error, "", OTHER
        route = methods.get(method)
        if not name and label != path:
            placeholder = label.partition("{")[2].partition("}")[0]
            return BadRequest(f"{path} names no {placeholder}: it is {label}."), "", label
        if route is not None:
            return route, name, label
        allowed = " or ".join(methods)
        return (
            MethodNotAllowed(
                f"{path[:100]} is asked with {allowed}, not {method[:16]}.",
                allowed=", ".join((*methods, "OPTIONS")),
            ),
            name,
            label,
        )

    def _match(self, path: str) -> tuple[dict[str, Route] | None, str, str]:
        for pattern in self._patterns:
            name = _named(pattern, path)
            if name is not None:
                return pattern.methods, name, pattern.path
        return None, "", OTHER


def _named(pattern: _Pattern, path: str) -> str | None:
    """Return what stands in ``path`` for the placeholder; None where it does not fit."""
    before, after = pattern.before, pattern.after
    # Shorter than both together, and their ends overlap.
    if len(path) < len(before) + len(after):
        return None
    if not path.startswith(before) or not path.endswith(after):
        return None
    name = path[len(before) : len(path) - len(after)]
    return None if "/" in name and pattern.path not in _SEGMENTS_ANY else name
