"""Logging: events with fields, as JSON lines or for people to read, and never a secret.

No caller logs prompts, outputs, keys, tickets or sign-in links; `redact` drops them all the same,
by the names of fields and by the looks of keys and link tokens inside any text.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor

from orchestrator.settings import Settings

REDACTED: Final = "[redacted]"
# Ends of field names. `key_id`, `input_tokens` and `digest` are fine and stay.
_SECRET_FIELD: Final = re.compile(
    r"(^|_)(prompts?|inputs?|outputs?|texts?|content|messages|instructions|body|evidence|key|pepper"
    r"|secret|password|ticket|nonce|signature|link|token|cookie|authorization)$",
    re.IGNORECASE,
)
_SECRET_TEXT: Final = re.compile(
    r"zgpu-[A-Za-z0-9_-]{8,}"  # API keys
    r"|(?<=token=)[A-Za-z0-9_.-]{16,}"  # sign-in links, in whatever URL
    r"|(?<=[Bb]earer )[^\s\"']+"
)


def set_up_logs(settings: Settings, stream: TextIO | None = None) -> None:
    """Send structlog's events and the standard library's records to ``stream`` (stderr), alike."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                _renderer(settings.log_format, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    _route_libraries()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Replace the values of secret-bearing fields, and secrets inside other text."""
    for name, value in event.items():
        event[name] = REDACTED if _SECRET_FIELD.search(name) else _clean(value)
    return event


def _clean(value: Any) -> Any:
    match value:
        case str():
            return _SECRET_TEXT.sub(REDACTED, value)
        case dict():
            return redact(None, "", {str(name): inner for name, inner in value.items()})
        case list() | tuple():
            return [_clean(item) for item in value]
        case bytes() | bytearray() | memoryview():
            # Bytes are frames, vectors or keys: none is for the log.
            return f"<{len(value)} bytes>"
        case int() | float() | None:
            return value
        case _:
            # Whatever else it is, a renderer would print it: exceptions above all.
            return _SECRET_TEXT.sub(REDACTED, str(value))


def _renderer(style: str, stream: TextIO) -> Processor:
    if style == "json" or (style == "auto" and not stream.isatty()):
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
    )


def _route_libraries() -> None:
    """Let uvicorn's loggers end in ours, without an access log.

    The access log costs half as much as a fast answer, and paths may hold a sign-in token.
    """
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        # Below a warning they tell each socket's address, which is nobody's to keep.
        logger.setLevel(logging.WARNING)
        logger.handlers.clear()
        logger.propagate = True
    # A form that cannot be read is its sender's mistake, and answered as such.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    # Alembic tells of every step; a migration is one event of ours.
    logging.getLogger("alembic").setLevel(logging.WARNING)
