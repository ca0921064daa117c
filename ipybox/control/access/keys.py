"""API keys: ``ipybox_<id>_<secret>``. The secret is shown once and kept only as a hash. Floor: control."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from ipybox.control.access.scopes import DEFAULT_SCOPES, Principal, Scope, parse_scopes
from ipybox.control.errors import ConflictError, RecordNotFoundError, RequestRefusedError, UnauthenticatedError
from ipybox.control.records import ApiKey
from ipybox.process.teardown import to_the_end

log = logging.getLogger("ipybox.access")

KEY_PATTERN = re.compile(r"ipybox_([a-z2-7]{12})_([a-z2-7]{52})", re.ASCII)
"""A key as it is written. Letters and digits only, so that one double-click marks all of it."""
REFUSED = "the key is not valid; send a key that is as 'Authorization: Bearer ipybox_...' or 'X-API-Key: ipybox_...'"
"""What is said of every key that does not count, whatever the reason."""
CACHE_SECONDS = 1.0
"""After which what another process changed in the database counts here as well."""

_MOST_CACHED = 4096
_USED_EVERY = 60.0
_NAME_LENGTH = 255
_OWNER_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_NO_SECRET = hashlib.sha256(secrets.token_bytes(32)).hexdigest()
"""With what the secret of a key that does not exist is compared, so that it takes as long."""


class KeyTable(Protocol):
    """Where keys are kept. For an id that there is not, it raises :class:`RecordNotFoundError`."""

    async def add(self, key: ApiKey) -> None: ...
    async def get(self, id: str) -> ApiKey: ...
    async def list(self, owner: str | None = None) -> Sequence[ApiKey]: ...
    async def change(self, id: str, **fields: Any) -> ApiKey: ...
    async def used(self, id: str, at: datetime) -> None: ...


def parse_key(text: str) -> tuple[str, str] | None:
    """Id and secret of a key as it is written; None for what is none."""
    match = KEY_PATTERN.fullmatch(text)
    return (match[1], match[2]) if match else None


def mint(
    *,
    name: str,
    scopes: Iterable[str] = DEFAULT_SCOPES,
    owner: str | None = None,
    now: datetime | None = None,
    expires_at: datetime | None = None,
    rotated_from: str | None = None,
    max_sessions: int | None = None,
    max_executions: int | None = None,
) -> tuple[ApiKey, str]:
    """A new key, which is kept nowhere yet, and the text of it, which is kept nowhere ever.

    Args:
        owner: Whose sessions it sees; a key without one is an owner by itself.
        expires_at: Aware; None is never.

    Raises:
        RequestRefusedError: Something about it makes no sense.
    """
    now = now or datetime.now(UTC)
    id, secret = _random(60), _random(256)
    if len(name) > _NAME_LENGTH or not name.isprintable():
        raise RequestRefusedError(f"must have at most {_NAME_LENGTH} characters, all of them printable", "name")
    if owner is not None and not _OWNER_PATTERN.fullmatch(owner):
        raise RequestRefusedError("must be up to 64 letters, digits and '._@-'", "owner")
    if expires_at is not None and (expires_at.tzinfo is None or expires_at <= now):
        raise RequestRefusedError("must be a time in the future, with a time zone", "expires_at")
    for field, most in (("max_sessions", max_sessions), ("max_executions", max_executions)):
        if most is not None and most < 0:
            raise RequestRefusedError("must not be negative", field)
    key = ApiKey(
        id=id,
        owner=owner or id,
        name=name,
        secret_hash=_hashed(secret),
        scopes=tuple(str(scope) for scope in parse_scopes(scopes)),
        created_at=now,
        expires_at=expires_at,
        rotated_from=rotated_from,
        max_sessions=max_sessions,
        max_executions=max_executions,
    )
    return key, f"ipybox_{id}_{secret}"


class KeyRing:
    """All keys of a server. An async context manager: leaving it waits until the last uses are noted.

    Args:
        table: Where they are kept.
        cache_seconds: For how long a key is not looked up again.
        clock: Seconds, for the age of what is cached.
    """

    def __init__(
        self,
        table: KeyTable,
        *,
        cache_seconds: float = CACHE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._cache: OrderedDict[str, _Cached] = OrderedDict()
        self._used: OrderedDict[str, float] = OrderedDict()
        self._changes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> KeyRing:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def create(
        self,
        *,
        name: str,
        scopes: Iterable[str] = DEFAULT_SCOPES,
        owner: str | None = None,
        expires_at: datetime | None = None,
        max_sessions: int | None = None,
        max_executions: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Makes a key and keeps it. Returns it and its text, as :func:`mint`."""
        key, text = mint(
            name=name,
            scopes=scopes,
            owner=owner,
            expires_at=expires_at,
            max_sessions=max_sessions,
            max_executions=max_executions,
        )
        await self._table.add(key)
        return key, text

    async def verify(self, text: str, now: datetime | None = None) -> Principal:
        """Who has that key.

        Raises:
            UnauthenticatedError: It is no key, or unknown, expired or revoked; which of these is not said.
        """
        parts = parse_key(text)
        if parts is None:
            raise UnauthenticatedError(REFUSED)
        id, secret = parts
        key = await self._look_up(id)
        # All of it is done for a key that does not exist as well, in the same order.
        is_right = hmac.compare_digest(key.secret_hash if key else _NO_SECRET, _hashed(secret))
        now = now or datetime.now(UTC)
        if key is None or not is_right or not is_valid(key, now):
            raise UnauthenticatedError(REFUSED)
        self._note_use(id, now)
        return _principal(key)

    async def principal_of(self, id: str) -> Principal:
        """Who has the key of that id, for somebody who has shown the key itself before.

        Raises:
            UnauthenticatedError: It does not count any more.
        """
        key, now = await self._look_up(id), datetime.now(UTC)
        if key is None or not is_valid(key, now):
            raise UnauthenticatedError(REFUSED)
        self._note_use(id, now)
        return _principal(key)

    async def rotate(self, id: str, overlap_seconds: float = 0.0) -> tuple[ApiKey, str]:
        """A key in place of another one, of the same owner, scopes and quotas.

        A key that expires is followed by one that lives as long as it was to live.

        Args:
            overlap_seconds: For how long the old one still counts.

        Raises:
            RecordNotFoundError: There is no such key.
            ConflictError: It does not count any more.
        """
        if not 0 <= overlap_seconds <= 366 * 86400:
            raise RequestRefusedError("must be from 0 seconds to a year", "overlap_seconds")
        now = datetime.now(UTC)
        old = await self._table.get(id)
        if not is_valid(old, now):
            raise ConflictError("the key has expired or was revoked; make a new one")
        new, text = mint(
            name=old.name,
            scopes=old.scopes,
            owner=old.owner,
            now=now,
            expires_at=now + (old.expires_at - old.created_at) if old.expires_at else None,
            rotated_from=id,
            max_sessions=old.max_sessions,
            max_executions=old.max_executions,
        )
        end = now + timedelta(seconds=overlap_seconds)
        try:
            await self._table.add(new)
            old = await self._change(id, expires_at=min(end, old.expires_at) if old.expires_at else end)
            if old.revoked_at is not None:
                raise ConflictError("the key was revoked; make a new one")
        except BaseException:
            with suppress(RecordNotFoundError):
                await to_the_end(self._change(new.id, revoked_at=now))  # nobody will ever know its secret
            raise
        return new, text

    async def revoke(self, id: str) -> ApiKey:
        """From now on the key does not count, and no later than when this returns. Once more is no error.

        Raises:
            RecordNotFoundError: There is no such key.
        """
        key = await self._table.get(id)
        if key.revoked_at is None:
            key = await self._change(id, revoked_at=datetime.now(UTC))
        return key

    async def list(self, owner: str | None = None) -> Sequence[ApiKey]:
        """All keys, or those of an owner, also those that do not count any more."""
        return await self._table.list(owner=owner)

    def forget(self) -> None:
        """Looks everything up again, as somebody else has changed the table."""
        self._changes += 1
        self._cache.clear()

    async def _change(self, id: str, **fields: Any) -> ApiKey:
        try:
            return await self._table.change(id, **fields)
        finally:
            # Who looks it up at this moment may have read what was there before, and must not cache that.
            self._changes += 1
            self._cache.pop(id, None)

    async def _look_up(self, id: str) -> ApiKey | None:
        now = self._clock()
        cached = self._cache.get(id)
        if cached is not None and now < cached.until:
            self._cache.move_to_end(id)
            return cached.key
        changes = self._changes
        key: ApiKey | None = None
        with suppress(RecordNotFoundError):
            key = await self._table.get(id)
        if changes == self._changes:
            # Also that there is none: unknown ids must not take longer than known ones.
            self._cache[id] = _Cached(key, now + self._cache_seconds)
            self._cache.move_to_end(id)
            if len(self._cache) > _MOST_CACHED:
                self._cache.popitem(last=False)
        return key

    def _note_use(self, id: str, at: datetime) -> None:
        now = self._clock()
        last = self._used.get(id)
        if last is not None and now - last < _USED_EVERY:
            return
        self._used[id] = now
        self._used.move_to_end(id)
        if len(self._used) > _MOST_CACHED:
            self._used.popitem(last=False)
        task = asyncio.create_task(self._write_use(id, at))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write_use(self, id: str, at: datetime) -> None:
        try:
            await self._table.used(id, at)
        except Exception:
            self._used.pop(id, None)
            log.warning("it could not be noted that key %s was used", id, exc_info=True)


@dataclass(frozen=True, slots=True)
class _Cached:
    key: ApiKey | None
    until: float


def is_valid(key: ApiKey, now: datetime) -> bool:
    """Whether a key counts at that time."""
    return key.revoked_at is None and (key.expires_at is None or now < key.expires_at)


def _principal(key: ApiKey) -> Principal:
    return Principal(
        owner=key.owner,
        key_id=key.id,
        scopes=frozenset(Scope(name) for name in key.scopes if name in set(Scope)),
        max_sessions=key.max_sessions,
        max_executions=key.max_executions,
        name=key.name,
    )


def _random(bits: int) -> str:
    """Lower-case base32, which reads aloud well; without the padding at the end."""
    return base64.b32encode(secrets.token_bytes(-(-bits // 8))).decode("ascii").lower().rstrip("=")[: -(-bits // 5)]


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()
