"""What other processes do with a database: ``python -m tests.control.db.worker COMMAND URL ...``

Each line that it prints is something that was acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from ipybox.control.db.database import Database
from ipybox.control.errors import QuotaExceededError
from tests.control.made import NOW, a_session


async def claim(url: str, count: str) -> None:
    """Eight tasks want to start all executions."""
    async with Database(url) as database:
        begin()

        async def one() -> None:
            for number in range(int(count)):
                if await database.executions.start(f"e{number}", NOW) is not None:
                    print(f"e{number}", flush=True)

        await asyncio.gather(*(one() for _ in range(8)))


async def add(url: str, prefix: str, count: str, quota: str) -> None:
    """Adds sessions, all at once."""
    async with Database(url) as database:
        begin()

        async def one(number: int) -> None:
            try:
                await database.sessions.add(a_session(f"{prefix}{number}"), per_owner=int(quota))
            except QuotaExceededError:
                return
            print(f"{prefix}{number}", flush=True)

        await asyncio.gather(*(one(number) for number in range(int(count))))


async def write(url: str, prefix: str) -> None:
    """Writes until it is killed."""
    async with Database(url) as database:
        begin()
        for number in itertools.count(1):
            await database.sessions.add(a_session(f"{prefix}-{number}", tags={"n": str(number)}))
            print(f"{prefix}-{number}", flush=True)


async def open_and_close(url: str) -> None:
    """Opens it, which may be the first time."""
    async with Database(url) as database:
        await database.sessions.count_alive()
    print("opened", flush=True)


def begin() -> None:
    """Waits for the others."""
    print("ready", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    commands: dict[str, Callable[..., Coroutine[Any, Any, None]]]
    commands = {"claim": claim, "add": add, "write": write, "open": open_and_close}
    asyncio.run(commands[sys.argv[1]](*sys.argv[2:]))
