"""Which app answers a request: found by its path, in one look for the paths that most ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send


class Paths:
    """Hands a request to the app of its path, else to that of the first prefix, else ``other``.

    WebSockets have ``sockets``, by their paths; any other is closed with 4404.
    """

    def __init__(
        self,
        exact: Mapping[str, ASGIApp],
        *,
        prefixes: Sequence[tuple[str, ASGIApp]] = (),
        other: ASGIApp,
        sockets: Mapping[str, ASGIApp],
    ) -> None:
        self._exact = dict(exact)
        self._prefixes = tuple(prefixes)
        self._other = other
        self._sockets = dict(sockets)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path = scope["path"]
        if scope["type"] == "websocket":
            socket = self._sockets.get(path)
            if socket is None:
                return send({"type": "websocket.close", "code": 4404})
            return socket(scope, receive, send)
        app = self._exact.get(path)
        if app is None:
            app = self._other
            for prefix, of_prefix in self._prefixes:
                if path.startswith(prefix):
                    app = of_prefix
                    break
        return app(scope, receive, send)
