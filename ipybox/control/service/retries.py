"""What has to be written down, and is tried until the database takes it. Floor: control."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ipybox.control.errors import NoCapacityError, StorageFullError

T = TypeVar("T")
log = logging.getLogger("ipybox.control")

_SECONDS = 0.5


async def until_taken(work: Callable[[], Awaitable[T]], what: str) -> T:
    """Gives what ``work`` gives, as soon as the database answers and has room.

    It may be done twice: a commit whose answer was lost looks like one that was not made.

    Args:
        what: Named in the log while it is not there.
    """
    is_said = False
    while True:
        try:
            return await work()
        except (NoCapacityError, StorageFullError) as error:
            if not is_said:
                log.warning("%s is not written down yet", what, extra={"reason": str(error)})
                is_said = True
        await asyncio.sleep(_SECONDS)
