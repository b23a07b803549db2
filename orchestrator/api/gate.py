"""Who may come in, and how much at once: requests of a key, of a project, bytes of all bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from orchestrator.domain.model import KeyId, ProjectId
from orchestrator.errors import Forbidden, Overloaded, RateLimited, Unauthorized
from orchestrator.settings import Settings
from orchestrator.storage.keyring import Keyring
from orchestrator.storage.keys import Principal

_KEY_MAX_BYTES: Final = 256


class Gate:
    """Counts what is under way. Everything that `enter` and `hold` take, `leave` gives back."""

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        self._keyring = keyring
        self._wants_project = settings.require_project_id
        self._key_concurrency = settings.key_concurrency
        self._project_concurrency = settings.project_concurrency
        self._bytes_max = settings.queue_max_bytes
        self._bytes_held = 0
        self._under_way: dict[KeyId, int] = {}
        self._of_projects: dict[ProjectId, int] = {}

    def recognise(self, headers: Mapping[bytes, bytes]) -> Principal | None:
        """Return whose key came, revoked ones included; None where memory cannot tell.

        Raises `Unauthorized` for a key that is nobody's.
        """
        certain, principal = self._keyring.cached(_presented_key(headers))
        if certain and principal is None:
            raise _unknown_key()
        return principal

    async def identify(self, headers: Mapping[bytes, bytes]) -> Principal:
        """Return whose key came, as `recognise` does, from the database where it must."""
        principal = await self._keyring.find(_presented_key(headers))
        if principal is None:
            raise _unknown_key()
        return principal

    def check(self, principal: Principal, headers: Mapping[bytes, bytes]) -> None:
        """Raise `Unauthorized` for a revoked key and `Forbidden` for another project's.

        Where the operator wants projects named, `Unauthorized` also for one that is not.
        """
        if principal.revoked:
            raise Unauthorized(
                "This API key was revoked. Create another with `zerogpu keys create`.",
                code="revoked_api_key",
            )
        # Empty where a script's variable was: as if it had not come.
        project = headers.get(b"x-project-id", b"").strip()
        if self._wants_project and not project:
            raise Unauthorized(
                "This server wants every request to name its project: send the API key's own in"
                " x-project-id.",
                code="missing_project_id",
            )
        if project and project.lower() != principal.project_id.lower().encode():
            raise Forbidden(
                "This API key does not belong to the project that x-project-id names. Leave the"
                " header out, or send the key's own project."
            )

    def enter(self, principal: Principal) -> None:
        """Count a request of this key and of its project; raises `RateLimited`."""
        count = self._under_way.get(principal.key_id, 0)
        if count >= self._key_concurrency:
            raise _too_many("API key", count, self._key_concurrency)
        of_project = self._of_projects.get(principal.project_id, 0)
        if of_project >= self._project_concurrency:
            raise _too_many("project", of_project, self._project_concurrency)
        self._under_way[principal.key_id] = count + 1
        self._of_projects[principal.project_id] = of_project + 1

    def hold(self, size_bytes: int) -> None:
        """Count bytes of a body; raises `Overloaded`."""
        if self._bytes_held + size_bytes > self._bytes_max:
            raise Overloaded(
                "The server holds as many request bodies as it can. Try again in a few seconds.",
                retry_after_s=2,
            )
        self._bytes_held += size_bytes

    def leave(self, principal: Principal, held_bytes: int) -> None:
        """Forget a request that entered, and the bytes it held."""
        self._bytes_held -= held_bytes
        # Nothing is kept for keys and projects that are idle: there may be many.
        count = self._under_way[principal.key_id] - 1
        if count:
            self._under_way[principal.key_id] = count
        else:
            del self._under_way[principal.key_id]
        count = self._of_projects[principal.project_id] - 1
        if count:
            self._of_projects[principal.project_id] = count
        else:
            del self._of_projects[principal.project_id]


def _presented_key(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the key as sent; raises `Unauthorized` for none and for one too long to be a key.

    A Bearer key counts only without x-api-key: clients send dummies.
    """
    api_key = headers.get(b"x-api-key", b"").strip() or _bearer_key(headers)
    if len(api_key) > _KEY_MAX_BYTES:
        raise _unknown_key()
    if not api_key:
        raise Unauthorized(
            "No API key came with the request. Send it as `x-api-key: …` or as `Authorization:"
            " Bearer …`.",
            code="missing_api_key",
        )
    return api_key


def _bearer_key(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    return credentials.strip() if scheme.lower() == b"bearer" else b""


def _unknown_key() -> Unauthorized:
    return Unauthorized(
        "This API key is not known here. Check it for missing characters, or create one with"
        " `zerogpu keys create`."
    )


def _too_many(whose: str, count: int, limit: int) -> RateLimited:
    return RateLimited(
        f"This {whose} has {count:,} requests under way; {limit:,} are allowed at once. Wait for"
        " some of them to be answered.",
        retry_after_s=1,
    )
