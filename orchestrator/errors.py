"""Everything that can go wrong, once: what a customer is told over HTTP, and what stops a command.

An `ApiError` carries its HTTP status, type, code and the parameter it is about. Its message is a
sentence that says what was wrong (with the value), what is allowed and what to do. Messages never
hold a prompt, an output, a key, a ticket or a sign-in link.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "rate_limit_exceeded",
    "internal_error",
    "service_unavailable",
]


class ApiError(Exception):
    """An error that a customer of the public API is answered with."""

    status: ClassVar[int] = 500
    type: ClassVar[ErrorType] = "internal_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s

    def envelope(self) -> dict[str, dict[str, object]]:
        """Return the JSON body: ``{"error": {message, type, code, param}}``."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "code": self.code,
                "param": self.param,
            }
        }


class BadRequest(ApiError):
    """The body does not say what it must, or says what is not possible."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request_error"


class InvalidInput(BadRequest):
    """A pipeline refused the input: no node would take it."""

    default_code = "invalid_input"


class Unauthorized(ApiError):
    """No key, or one that is unknown or revoked."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class Forbidden(ApiError):
    """The key is good, but not for this project."""

    status = 403
    type = "permission_error"
    default_code = "project_mismatch"


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class MethodNotAllowed(ApiError):
    """``allowed`` is the value of the Allow header."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class RequestTimeout(ApiError):
    """The client did not finish sending its request."""

    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class Conflict(ApiError):
    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class PayloadTooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class UnsupportedEncoding(ApiError):
    """The body is compressed, or otherwise encoded."""

    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_content_encoding"


class HeadersTooLarge(ApiError):
    """More header fields, or longer ones, than are read."""

    status = 431
    type = "invalid_request_error"
    default_code = "headers_too_large"


class ContextLengthExceeded(ApiError):
    """The input has more tokens than the model takes, and the model does not cut."""

    status = 420
    type = "invalid_request_error"
    default_code = "context_length_exceeded"


class RateLimited(ApiError):
    """This key or project asks for more than it may; the message names the limit."""

    status = 429
    type = "rate_limit_exceeded"
    default_code = "rate_limit_exceeded"


class InternalError(ApiError):
    """Our fault; every attempt failed, or the code did."""

    status = 500
    type = "internal_error"
    default_code = "internal_error"


class StorageError(InternalError):
    """The store of files could not be read or written."""

    default_code = "storage_error"


class InvalidBatch(BadRequest):
    """A batch's input file was refused. ``line`` is where, if it is about a line.

    ``batch_id`` names the failed batch that keeps all problems.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        line: int | None = None,
        batch_id: str | None = None,
    ) -> None:
        super().__init__(message, param=param)
        self.line = line
        self.batch_id = batch_id

    def envelope(self) -> dict[str, dict[str, object]]:
        """Return the JSON body, with ``line`` and ``batch_id`` where there are such."""
        body = super().envelope()
        if self.line is not None:
            body["error"]["line"] = self.line
        if self.batch_id is not None:
            body["error"]["batch_id"] = self.batch_id
        return body


class Unavailable(ApiError):
    """Nothing is wrong with the request; it can be sent again after ``retry_after_s``."""

    status = 503
    type = "service_unavailable"
    default_code = "service_unavailable"


class NoCapacity(Unavailable):
    """No node and no CPU worker can take the job.

    ``skipped`` counts the nodes there are by why they could not.
    """

    default_code = "no_capacity"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        skipped: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.skipped = skipped

    def envelope(self) -> dict[str, dict[str, object]]:
        """Return the JSON body, with ``skipped`` as a fifth field where that is known."""
        body = super().envelope()
        if self.skipped:
            body["error"]["skipped"] = dict(self.skipped)
        return body


class Overloaded(Unavailable):
    """The queue is full."""

    default_code = "overloaded"


class DeadlineExceeded(Unavailable):
    """Nobody answered in time."""

    default_code = "deadline_exceeded"


class ShuttingDown(Unavailable):
    """The server is finishing what it holds and takes nothing new."""

    default_code = "shutting_down"


class BodyCutOff(ShuttingDown):
    """The server stopped while the request's body was still coming."""


class OperatorError(Exception):
    """A command cannot go on; its message is a sentence for the person at the terminal."""


class SettingsError(OperatorError):
    """A setting has a value that is not allowed."""


class DataDirLocked(OperatorError):
    """Another process serves this data directory."""


class SchemaMismatch(OperatorError):
    """The database is of a newer version, or needs an upgrade that this command may not do."""


class CatalogueError(OperatorError):
    """The built models are missing or not what their index says."""
