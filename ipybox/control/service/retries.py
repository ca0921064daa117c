"""What has to be written down, and is tried until the database takes it. Floor: control."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from ipybox.control.errors import NoCapacityError, StorageFullError

T = TypeVar("T")
log = logging.getLogger("ipybox.control")

NOT_NOW = (NoCapacityError, StorageFullError)
"""A database that does not answer for now, or has no room for now."""
_SECONDS = 0.5


class Retries:
    """Tries again what a database did not take, as long as that makes sense."""

    def __init__(self) -> None:
        self._over = asyncio.Event()

    def give_up(self) -> None:
        """Nothing is tried again from now on: the server ends, and the next one finds things as they are."""
        self._over.set()

    async def until_taken(self, work: Callable[[], Awaitable[T]], what: str) -> T:
        """Gives what ``work`` gives, as soon as the database answers and has room.

        It may be done twice: a commit whose answer was lost looks like one that was not made.

        Args:
            what: Named in the log while it is not there.

        Raises:
            NoCapacityError, StorageFullError: It was given up.
        """
        is_said = False
        while True:
            try:
                return await work()
            except NOT_NOW as error:
                if self._over.is_set():
                    raise
                if not is_said:
                    log.warning("%s is not written down yet: %s", what, error)
                    is_said = True
            with suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    await self._over.wait()
