"""What a control plane takes: sessions, executions and files over HTTP, from a client on the same two cores."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from benchmarks.plan import Record, Row, figure
from benchmarks.sides import Side

if TYPE_CHECKING:
    import httpx

_HANDLER = "def handler(event):\n    return event\n"
_MIB = 1024 * 1024
_FILE = 64 * _MIB
_AT_ONCE = 8
_POLL = 0.002
_CODE = """\
import sys
from ipybox.control.serve import serve
from ipybox.control.settings import ServerSettings
settings = ServerSettings(port=0, state_dir=sys.argv[1], rate_limit="1000000/second", log_level="WARNING")
raise SystemExit(serve(settings, on_ready=lambda url: print(url, flush=True)))
"""


@figure(
    "control",
    Row(key="start", title="control plane: start to first answer", unit="s"),
    Row(key="health", title="GET health, round trip", unit="ms", factor=1e3),
    Row(key="create", title="POST session of a warm template, until it is running", unit="ms", factor=1e3),
    Row(key="execute", title="execute-sync of a trivial handler, round trip", unit="ms", factor=1e3),
    Row(key="cell", title="execute-sync of 1+1 in a stateful session, round trip", unit="ms", factor=1e3),
    Row(key="rate", title="    trivial handlers, 8 sessions at a time", unit="1/s"),
    Row(key="cycle", title="    session, handler, delete; 8 at a time", unit="1/s"),
    Row(key="gets", title="    GET session, 8 at a time", unit="1/s"),
    Row(key="small", title="upload of 1 KB, round trip", unit="ms", factor=1e3),
    Row(key="up", title="upload of 64 MB", unit="MB/s", factor=1e-6),
    Row(key="down", title="download of 64 MB", unit="MB/s", factor=1e-6),
    sides=("ipybox",),
    size=200,
    quick_size=20,
    timeout=300,
)
async def control(side: Side, size: int, record: Record) -> None:
    """A server in a process of its own, plain HTTP with one connection per client."""
    async with _server(record) as api:
        for _ in range(size):
            await _timed(record, "health", api.get("/health"))
        sessions = []
        for _ in range(max(_AT_ONCE, size // 4)):
            start = time.perf_counter()
            sessions.append(await _running(api))
            record.add("create", time.perf_counter() - start)
        for _ in range(size):
            await _timed(record, "execute", _execute(api, sessions[0], _HANDLER))
        stateful = await _running(api, mode="stateful")
        await _execute(api, stateful, "1")
        for _ in range(size):
            await _timed(record, "cell", _execute(api, stateful, "1 + 1"))
        mine = iter(sessions[:_AT_ONCE] * 2)

        async def handlers() -> None:
            session = next(mine)
            for _ in range(size // 4):
                await _execute(api, session, _HANDLER)

        record.add("rate", await _rate(handlers, size // 4))

        async def cycles() -> None:
            for _ in range(size // 8):
                session = (await api.post("/sessions", json={"template_id": "python"})).json()["id"]
                await _execute(api, session, _HANDLER)
                (await api.delete(f"/sessions/{session}")).raise_for_status()

        record.add("cycle", await _rate(cycles, size // 8))

        async def gets() -> None:
            for _ in range(size):
                (await api.get(f"/sessions/{sessions[0]}")).raise_for_status()

        record.add("gets", await _rate(gets, size))
        await _files(api, sessions[0], size, record)


@figure(
    "control-memory",
    Row(key="all", title="{size} sessions alive: memory of the whole service, PSS", unit="GB", factor=1e-9),
    Row(key="each", title="    per session", unit="MB", factor=1e-6),
    Row(key="coming", title="    {size} sessions created at once, until all are running", unit="s"),
    sides=("ipybox",),
    size=100,
    quick_size=10,
    timeout=300,
)
async def control_memory(side: Side, size: int, record: Record) -> None:
    """Half of the sessions are stateful; each has run something."""
    async with _server(record, say_start=False) as api:
        start = time.perf_counter()
        modes = ("stateless", "stateful")
        sessions = await asyncio.gather(*(_running(api, mode=modes[number % 2]) for number in range(size)))
        record.add("coming", time.perf_counter() - start)
        for number, session in enumerate(sessions):
            await _execute(api, session, _HANDLER if number % 2 == 0 else "x = 1")
        used = _memory(os.getpid())
        record.add("all", used)
        record.add("each", used / size)


@asynccontextmanager
async def _server(record: Record, *, say_start: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    import httpx

    with tempfile.TemporaryDirectory() as directory:
        start = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CODE, f"{directory}/state", stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            url = (await process.stdout.readline()).decode().strip()
            limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
            async with httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=60.0, trust_env=False, limits=limits) as api:
                (await api.get("/health")).raise_for_status()
                if say_start:
                    record.add("start", time.perf_counter() - start)
                (await api.delete(f"/sessions/{await _running(api)}")).raise_for_status()
                yield api
        finally:
            process.terminate()
            await process.wait()


async def _running(api: httpx.AsyncClient, **body: str) -> str:
    answer = await api.post("/sessions", json={"template_id": "python", **body})
    answer.raise_for_status()
    session: str = answer.json()["id"]
    while True:
        found = (await api.get(f"/sessions/{session}")).json()
        status = found["status"]
        if status == "running":
            return session
        if status != "creating":
            raise RuntimeError(f"a session is {status}: {found['status_detail']}")
        await asyncio.sleep(_POLL)


async def _execute(api: httpx.AsyncClient, session: str, code: str) -> httpx.Response:
    answer = await api.post(f"/executions/sessions/{session}/execute-sync", json={"code": code, "event": {}})
    answer.raise_for_status()
    if answer.json()["status"] != "completed":
        raise RuntimeError(answer.text)
    return answer


async def _timed(record: Record, key: str, work: Awaitable[httpx.Response]) -> None:
    start = time.perf_counter()
    (await work).raise_for_status()
    record.add(key, time.perf_counter() - start)


async def _rate(work: Callable[[], Awaitable[None]], each: int) -> float:
    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    return _AT_ONCE * each / (time.perf_counter() - start)


async def _files(api: httpx.AsyncClient, session: str, size: int, record: Record) -> None:
    files = f"/sessions/{session}/files"
    for number in range(size // 4):
        await _timed(record, "small", api.put(f"{files}/small{number}", content=b"x" * 1000))
    start = time.perf_counter()
    (await api.put(f"{files}/large", content=b"x" * _FILE)).raise_for_status()
    record.add("up", _FILE / (time.perf_counter() - start))
    start = time.perf_counter()
    async with api.stream("GET", f"{files}/large") as answer:
        received = sum([len(chunk) async for chunk in answer.aiter_bytes()])
    assert received == _FILE
    record.add("down", _FILE / (time.perf_counter() - start))


def _memory(above: int) -> int:
    """Proportional set size, in bytes, of all that is below a process."""
    import psutil

    return sum(each.memory_full_info().pss for each in psutil.Process(above).children(recursive=True))
