"""Everything at once: see :mod:`tests.control.survival.storm`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.control.serving import Server
from tests.control.survival.storm import Storm


def weather(state: Path, seed: int, *, rounds: int, steps: int, **settings: Any) -> None:
    """Rounds of it; after every other one a server that was killed in the middle has to come back."""

    async def go(server: Server) -> None:
        storm = Storm(server, seed)
        try:
            for number in range(rounds):
                await storm.rage(5, steps, kill_after=None if number % 2 else 1.5)
                if number % 2 == 0:
                    await storm.restart()
                await storm.verify()
            await storm.end()
        finally:
            await storm.close()

    with Server(
        state,
        console=False,
        rate_limit="1000000/minute",
        drain_timeout=0.5,
        max_output_bytes=200_000,
        **settings,
    ) as server:
        asyncio.run(go(server))
    assert "Traceback" not in server.log, server.log[-4000:]
    assert "never retrieved" not in server.log, server.log[-4000:]


def test_whatever_comes_together_all_of_it_keeps_its_word(tmp_path: Path) -> None:
    weather(tmp_path / "state", 1, rounds=2, steps=12)


@pytest.mark.soak
def test_whatever_comes_together_for_long_all_of_it_keeps_its_word(tmp_path: Path) -> None:
    weather(tmp_path / "state", 2, rounds=4, steps=40)


@pytest.mark.soak
def test_whatever_comes_together_over_postgresql_all_of_it_keeps_its_word(postgres_url: str, tmp_path: Path) -> None:
    weather(tmp_path / "state", 4, rounds=2, steps=20, database_url=postgres_url)
