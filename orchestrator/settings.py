"""Every knob of the orchestrator: name, unit, default, bounds, environment variable."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from orchestrator.errors import SettingsError

PREFIX: Final = "ZEROGPU_"
# What programs beside the server read: the examples, and a test; and what says how it is to run.
OTHER_VARIABLES: Final = frozenset(
    PREFIX + name for name in ("API_KEY", "COMPILED", "MODEL", "PROJECT_ID", "TEST_EXAMPLES", "URL")
)
_ALIKE_MIN: Final = 0.8
_REPOSITORY: Final = Path(__file__).resolve().parent.parent
_BATCHABLE: Final = frozenset({"/v1/chat/completions", "/v1/responses", "/v1/embeddings"})
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, kw_only=True)
class Knob:
    """What a setting means: a phrase, its unit and its bounds (inclusive)."""

    text: str
    unit: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All knobs. The environment variable of ``port`` is ``ZEROGPU_PORT``, and so on.

    Build it with `from_env`; only ``app.py`` and ``__main__.py`` may hand it the real environment.
    """

    host: Annotated[str, Knob(text="Address to listen on")] = "127.0.0.1"
    port: Annotated[int, Knob(text="Port to listen on; 0 takes a free one", low=0, high=65_535)] = (
        8000
    )
    data_dir: Annotated[Path, Knob(text="Folder of the database, keys, backups and sockets")] = (
        Path("var")
    )
    build_dir: Annotated[Path, Knob(text="Output of `python -m wasm_build`")] = (
        _REPOSITORY / "build"
    )
    static_dir: Annotated[Path, Knob(text="Our own pages, scripts and styles")] = (
        _REPOSITORY / "static"
    )
    public_url: Annotated[
        str | None, Knob(text="URL people reach this server by, if not host:port")
    ] = None
    allowed_hosts: Annotated[
        tuple[str, ...], Knob(text="Extra Host names to answer to; * means any")
    ] = ()
    forwarded_allow_ips: Annotated[
        tuple[str, ...], Knob(text="Proxies whose X-Forwarded-* headers are believed")
    ] = ()
    tls_cert: Annotated[Path | None, Knob(text="Certificate chain (PEM)")] = None
    tls_key: Annotated[Path | None, Knob(text="Private key of the certificate (PEM)")] = None

    cpu_worker: Annotated[bool, Knob(text="Start and supervise the trusted CPU worker process")] = (
        True
    )
    cpu_worker_threads: Annotated[
        int,
        Knob(
            text="Threads of the CPU worker; 0 uses what the machine has",
            unit="threads",
            low=0,
            high=1024,
        ),
    ] = 0

    edge_budget_s: Annotated[
        float,
        Knob(
            text="Longest expected answer time that still goes to a volunteer",
            unit="s",
            low=0,
            high=3600,
        ),
    ] = 5.0
    request_deadline_s: Annotated[
        float,
        Knob(text="A request not answered by then fails with 503", unit="s", low=0.1, high=3600),
    ] = 30.0
    queue_max_jobs: Annotated[
        int, Knob(text="Unanswered jobs held; beyond, 503", unit="jobs", low=1, high=10_000_000)
    ] = 10_000
    queue_max_bytes: Annotated[
        int,
        Knob(
            text="Request bodies held at once; beyond, 503", unit="bytes", low=1 << 16, high=1 << 40
        ),
    ] = 256 << 20
    require_project_id: Annotated[
        bool, Knob(text="Refuse requests that do not name their project in x-project-id (401)")
    ] = False
    key_concurrency: Annotated[
        int,
        Knob(
            text="Unanswered requests of one API key; beyond, 429",
            unit="requests",
            low=1,
            high=1_000_000,
        ),
    ] = 512
    body_max_bytes: Annotated[
        int, Knob(text="Longest request body; beyond, 413", unit="bytes", low=1 << 10, high=1 << 30)
    ] = 8 << 20
    body_timeout_s: Annotated[
        float,
        Knob(text="A request body not complete by then is refused", unit="s", low=0.1, high=3600),
    ] = 15.0
    inputs_max: Annotated[
        int,
        Knob(
            text="Longest input array of an embeddings request", unit="inputs", low=1, high=100_000
        ),
    ] = 2048

    headers_timeout_s: Annotated[
        float,
        Knob(
            text="Request headers not complete by then end the connection",
            unit="s",
            low=0.1,
            high=3600,
        ),
    ] = 10.0
    headers_max: Annotated[
        int,
        Knob(
            text="Most header fields of a request; beyond, 431", unit="fields", low=16, high=10_000
        ),
    ] = 100
    headers_max_bytes: Annotated[
        int,
        Knob(
            text="Longest request line and headers; beyond, 431",
            unit="bytes",
            low=1 << 10,
            high=1 << 20,
        ),
    ] = 32 << 10
    key_requests_per_minute: Annotated[
        int,
        Knob(
            text="Requests of one API key; beyond, 429", unit="requests", low=1, high=1_000_000_000
        ),
    ] = 60_000
    key_tokens_per_minute: Annotated[
        int,
        Knob(
            text="Input tokens of one API key; beyond, 429",
            unit="tokens",
            low=1,
            high=1_000_000_000_000,
        ),
    ] = 20_000_000
    project_requests_per_minute: Annotated[
        int,
        Knob(
            text="Requests of one project; beyond, 429", unit="requests", low=1, high=1_000_000_000
        ),
    ] = 120_000
    project_tokens_per_minute: Annotated[
        int,
        Knob(
            text="Input tokens of one project; beyond, 429",
            unit="tokens",
            low=1,
            high=1_000_000_000_000,
        ),
    ] = 40_000_000
    project_concurrency: Annotated[
        int,
        Knob(
            text="Unanswered requests of one project; beyond, 429",
            unit="requests",
            low=1,
            high=1_000_000,
        ),
    ] = 2048
    idempotency_ttl_s: Annotated[
        float,
        Knob(
            text="An Idempotency-Key stands for its answer this long",
            unit="s",
            low=1,
            high=30 * 86_400,
        ),
    ] = 86_400.0
    idempotency_max_bytes: Annotated[
        int,
        Knob(
            text="Answers kept in memory for Idempotency-Keys; the oldest of whoever has most go",
            unit="bytes",
            low=1 << 10,
            high=1 << 40,
        ),
    ] = 64 << 20

    storage_url: Annotated[
        str | None,
        Knob(
            text="Where files are kept: a folder, or s3://bucket/prefix; files/ in the data folder "
            "if not set"
        ),
    ] = None
    storage_endpoint: Annotated[
        str | None, Knob(text="URL of an S3-compatible service, if not Amazon's")
    ] = None
    storage_region: Annotated[str | None, Knob(text="Region of the S3 bucket")] = None
    storage_access_key_id: Annotated[str | None, Knob(text="S3 access key id")] = field(
        default=None, repr=False
    )
    storage_secret_access_key: Annotated[str | None, Knob(text="S3 secret access key")] = field(
        default=None, repr=False
    )
    file_max_bytes: Annotated[
        int, Knob(text="Longest uploaded file; beyond, 413", unit="bytes", low=1, high=1 << 40)
    ] = 100 << 20
    file_retention_s: Annotated[
        float,
        Knob(text="Files are deleted after this time", unit="s", low=1, high=10 * 366 * 86_400),
    ] = 30 * 86_400.0
    upload_idle_s: Annotated[
        float,
        Knob(
            text="An upload that sends nothing for so long is refused", unit="s", low=0.1, high=3600
        ),
    ] = 30.0
    upload_timeout_s: Annotated[
        float,
        Knob(text="An upload not complete by then is refused", unit="s", low=0.1, high=86_400),
    ] = 3600.0
    batch_endpoints: Annotated[
        tuple[str, ...],
        Knob(
            text="Routes that batches may name: /v1/chat/completions, /v1/responses, /v1/embeddings"
        ),
    ] = ("/v1/chat/completions",)
    batch_input_max_bytes: Annotated[
        int, Knob(text="Longest input file of a batch", unit="bytes", low=1, high=1 << 40)
    ] = 200 << 20
    batch_line_max_bytes: Annotated[
        int, Knob(text="Longest line of a batch", unit="bytes", low=64, high=1 << 30)
    ] = 1 << 20
    batch_lines_max: Annotated[
        int, Knob(text="Most lines of a batch", unit="lines", low=1, high=100_000_000)
    ] = 50_000
    batch_window_s: Annotated[
        float, Knob(text="A batch not complete by then expires", unit="s", low=1, high=30 * 86_400)
    ] = 86_400.0
    batch_attempts: Annotated[
        int,
        Knob(
            text="Tries of a line before it goes to the error file", unit="tries", low=1, high=100
        ),
    ] = 4
    batch_retry_s: Annotated[
        float,
        Knob(
            text="Wait before a line is tried again; doubles each time",
            unit="s",
            low=0.001,
            high=3600,
        ),
    ] = 2.0
    batch_under_way: Annotated[
        int,
        Knob(
            text="Most lines of all batches under way at once", unit="lines", low=1, high=1_000_000
        ),
    ] = 512

    sockets_max: Annotated[
        int, Knob(text="Node sockets in all", unit="sockets", low=1, high=1_000_000)
    ] = 10_000
    sockets_per_address: Annotated[
        int, Knob(text="Node sockets from one address", unit="sockets", low=1, high=1_000_000)
    ] = 64
    sockets_unauthenticated: Annotated[
        int,
        Knob(
            text="Node sockets that have not been welcomed yet",
            unit="sockets",
            low=1,
            high=1_000_000,
        ),
    ] = 256

    tabs_per_identity: Annotated[
        int, Knob(text="Node sockets of one key pair", unit="sockets", low=1, high=1_000_000)
    ] = 4

    geoip_database: Annotated[
        Path | None, Knob(text="MaxMind-format City or Country database (.mmdb)")
    ] = None
    location: Annotated[
        str | None, Knob(text="This server's latitude,longitude, such as 52.5,13.4; for distances")
    ] = None
    trust_after: Annotated[
        int,
        Knob(
            text="Agreed audits in a row before a stranger's answers are delivered unseen; "
            "0 trusts every node that calibrates",
            unit="audits",
            low=0,
            high=1000,
        ),
    ] = 10
    audit_share: Annotated[
        float, Knob(text="Least share of a trusted node's answers that is checked", low=0, high=1)
    ] = 0.05
    hedge_share: Annotated[
        float,
        Knob(
            text="Most jobs that may start a second time on the CPU worker because the first "
            "seems slow",
            low=0,
            high=1,
        ),
    ] = 0.05
    newcomers_per_network: Annotated[
        int,
        Knob(
            text="Newcomers of one network that get trial work at once",
            unit="nodes",
            low=1,
            high=1_000_000,
        ),
    ] = 4
    queue_project_share: Annotated[
        float,
        Knob(text="Largest share of the queue that one project may fill", low=0.01, high=1),
    ] = 0.5

    key_cache_ttl_s: Annotated[
        float, Knob(text="A revoked key stops working within this time", unit="s", low=0, high=60)
    ] = 2.0
    key_cache_max: Annotated[
        int, Knob(text="Keys held in memory", unit="keys", low=1, high=10_000_000)
    ] = 10_000
    log_queue_max: Annotated[
        int,
        Knob(
            text="Log rows waiting for the database; beyond, dropped and counted",
            unit="rows",
            low=1,
        ),
    ] = 20_000
    log_flush_s: Annotated[
        float, Knob(text="Longest wait of a log row before it is written", unit="s", low=0, high=10)
    ] = 0.05
    console_link_lifetime_s: Annotated[
        float,
        Knob(text="A sign-in link not used by then is void", unit="s", low=60, high=30 * 86_400),
    ] = 86_400.0
    console_session_lifetime_s: Annotated[
        float,
        Knob(text="A console session ends after this time", unit="s", low=60, high=366 * 86_400),
    ] = 30 * 86_400.0

    metrics_token: Annotated[
        str | None, Knob(text="Bearer token that opens /metrics to other machines than this one")
    ] = field(default=None, repr=False)
    drain_s: Annotated[
        float, Knob(text="Time to finish what is held after SIGTERM", unit="s", low=0, high=3600)
    ] = 10.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Knob(text="Least log level")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Knob(text="auto: console lines on a terminal, JSON lines elsewhere"),
    ] = "auto"

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("tls_cert and tls_key belong together: set both or neither")
        if unknown := set(self.batch_endpoints) - _BATCHABLE:
            raise SettingsError(
                f"batch_endpoints ({env_name('batch_endpoints')}) names {min(unknown)!r}; allowed"
                f" are {', '.join(sorted(_BATCHABLE))}"
            )
        for name, (_, knob) in _described().items():
            _check_bounds(name, knob, getattr(self, name))
        if self.location is not None:
            _parse_location(self.location)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **overrides: object) -> Settings:
        """Read the knobs from ``environ``; an override that is not None wins.

        Raises `SettingsError` with the variable, the value and what is allowed.
        """
        described = _described()
        if unknown := overrides.keys() - described.keys():
            raise SettingsError(f"there is no setting called {min(unknown)}")
        values: dict[str, Any] = {}
        for name, (hint, _) in described.items():
            variable = env_name(name)
            if overrides.get(name) is not None:
                values[name] = overrides[name]
            elif environ.get(variable, "") != "":
                values[name] = _parse(variable, environ[variable], hint)
        return cls(**values)

    @property
    def here(self) -> tuple[float, float] | None:
        """This server's latitude and longitude in degrees, if they are set."""
        return None if self.location is None else _parse_location(self.location)

    @property
    def url(self) -> str:
        """The URL people reach this server by, without a trailing slash."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        scheme = "http" if self.tls_cert is None else "https"
        # A wildcard address is not one that a browser can open.
        host = "127.0.0.1" if self.host in {"", "0.0.0.0", "::"} else self.host  # noqa: S104
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Described:
    """One line of the settings table in the documentation."""

    name: str
    variable: str
    default: str
    unit: str
    text: str


def env_name(name: str) -> str:
    """Return the environment variable of the setting called ``name``."""
    return PREFIX + name.upper()


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables that look like settings and are none, each with the one it resembles."""
    names = [name.upper() for name in _described()]
    known = OTHER_VARIABLES | {PREFIX + name for name in names}
    unknown: dict[str, str | None] = {}
    for variable in sorted(environ.keys() - known):
        if variable.startswith(PREFIX):
            written = variable.removeprefix(PREFIX)
            alike = difflib.get_close_matches(written, names, n=1, cutoff=_ALIKE_MIN)
            unknown[variable] = PREFIX + alike[0] if alike else None
    return unknown


def describe() -> list[Described]:
    """Describe every setting, in the order of their definition."""
    knobs = _described()
    return [
        Described(
            name=spec.name,
            variable=env_name(spec.name),
            default=_shown(spec.default),
            unit=knobs[spec.name][1].unit,
            text=knobs[spec.name][1].text,
        )
        for spec in dataclasses.fields(Settings)
    ]


@functools.cache
def _described() -> dict[str, tuple[Any, Knob]]:
    """Map each setting's name to its type and its knob."""
    hints = typing.get_type_hints(Settings, include_extras=True)
    return {name: typing.get_args(hint) for name, hint in hints.items()}


def _shown(default: object) -> str:
    match default:
        case None | ():
            return ""
        case bool():
            return str(default).lower()
        case tuple():
            return ",".join(map(str, default))
        case Path() if default.is_relative_to(_REPOSITORY):
            return str(default.relative_to(_REPOSITORY))
        case _:
            return str(default)


def _check_bounds(name: str, knob: Knob, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    low, high = knob.low, knob.high
    # Written so that NaN fails too.
    if not ((low is None or value >= low) and (high is None or value <= high)):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise SettingsError(f"{name} ({env_name(name)}) must be {bounds}, not {value}")


def _parse_location(text: str) -> tuple[float, float]:
    latitude, _, longitude = text.partition(",")
    try:
        here = float(latitude), float(longitude)
    except ValueError:
        here = math.nan, math.nan
    if abs(here[0]) <= 90 and abs(here[1]) <= 180:
        return here
    raise SettingsError(
        f"location ({env_name('location')}) must be a latitude of -90 to 90 and a longitude of "
        f"-180 to 180, such as 52.5,13.4, not {text!r}"
    )


def _parse(variable: str, text: str, hint: Any) -> object:
    origin = typing.get_origin(hint)
    if origin in {types.UnionType, typing.Union}:
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if origin is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if origin is Literal:
        return _parse_choice(variable, text, typing.get_args(hint))
    if hint is bool:
        return _parse_switch(variable, text)
    if hint in {int, float}:
        try:
            return hint(text)
        except ValueError:
            kind = "a whole number" if hint is int else "a number"
            raise SettingsError(f"{variable} must be {kind}, not {text!r}") from None
    return hint(text)


def _parse_choice(variable: str, text: str, choices: tuple[str, ...]) -> str:
    if text.lower() not in choices:
        raise SettingsError(f"{variable} must be one of {', '.join(choices)}, not {text!r}")
    return text.lower()


def _parse_switch(variable: str, text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise SettingsError(f"{variable} must be true or false, not {text!r}")
