"""``ipybox exec``: one command under a policy. Floor: cli."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from ipybox.cli.env import parse_env
from ipybox.cli.outlets import Outlets, write_all
from ipybox.command.cancellation import Cancellation
from ipybox.command.driver import CommandDriver
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.request import StreamName
from ipybox.command.result import ExecResult
from ipybox.command.sandbox import Sandbox
from ipybox.errors import IpyboxError

USAGE, OURSELVES, INTERRUPTED = 2, 125, 130
_CHUNK = 65536
_AHEAD = 16
_LAST_SECONDS = 1.0


def exec_command(
    argv: Sequence[str],
    *,
    driver: str,
    waive: Sequence[str],
    image: str | None,
    base_dir: Path,
    timeout: float,
    idle_timeout: float | None,
    memory: str,
    cpus: float | None,
    cpu_time: int | None,
    processes: int | None,
    read: Sequence[Path],
    write: Sequence[Path],
    env: Sequence[str],
    inherit_env: bool,
    network: bool,
    allow: Sequence[str],
    as_json: bool,
) -> int:
    """Runs a command, passes on what it reads and writes, and returns its exit code."""
    try:
        if network and allow:
            raise ValueError("--network is all hosts, --allow names some: one of them")
        policy = (
            ExecutionPolicy.in_dir(base_dir)
            .with_timeout(timeout)
            .with_idle_timeout(idle_timeout)
            .with_memory(memory)
            .with_cpus(cpus)
            .with_cpu_time(cpu_time)
            .with_processes(processes)
            .with_readable_paths(*read)
            .with_writable_paths(*write)
            .with_env(parse_env(env), inherit=inherit_env)
            .with_network(tuple(allow) or network)
        )
        options: dict[str, Any] = {"waive": waive}
        if image is not None:
            if driver not in ("docker", "podman"):
                raise ValueError(f"--image is for docker and podman, the driver is {driver!r}")
            options["image"] = image
        sandbox = Sandbox.from_policy(policy).using(driver, **options)
    except IpyboxError as error:
        return _complain(str(error), OURSELVES)
    except (ValueError, TypeError) as error:
        return _complain(str(error), USAGE)
    try:
        return asyncio.run(_run(sandbox, argv, as_json=as_json))
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except (IpyboxError, OSError, ValueError) as error:
        return _complain(str(error), OURSELVES)


async def _run(sandbox: CommandDriver, argv: Sequence[str], *, as_json: bool) -> int:
    cancellation = Cancellation()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, cancellation.cancel)
    # CPython takes a lock in its signal handler to complain of a full pipe, and may wait for itself then.
    signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)
    # Whoever reads what we write may have stopped doing that; the command's time is over all the same.
    loop.call_later(sandbox.policy.timeout + _LAST_SECONDS, cancellation.cancel)
    stdin = None if sys.stdin is None or sys.stdin.isatty() else _stdin()
    on_bytes = None if as_json else _writing_to(Outlets())
    result = await sandbox.execute(argv, stdin, on_bytes=on_bytes, cancellation=cancellation)
    if as_json:
        text = json.dumps({**result.to_dict(), "stop_reason": result.stop_reason}, indent=2) + "\n"
        write_all(1, text.encode())
    elif result.stop_reason not in (None, "signal", "cancelled"):
        _complain(_reason(result), 0)
    return INTERRUPTED if result.stop_reason == "cancelled" else result.exit_code


def _reason(result: ExecResult) -> str:
    why = {"wall": "it ran for too long", "idle": "it was silent for too long", "memory": "it used too much memory"}
    return f"stopped after {result.duration:.2f} s: {why[str(result.stop_reason)]}"


def _writing_to(outlets: Outlets) -> Callable[[StreamName, bytes], Awaitable[None]]:
    """Passes on what comes. What was closed when we started takes nothing, as everywhere."""

    async def write(stream: StreamName, data: bytes) -> None:
        if (sys.stdout if stream == "out" else sys.stderr) is not None:
            await outlets.write(1 if stream == "out" else 2, data)

    return write


async def _stdin() -> AsyncIterator[bytes]:
    """What we read, as it comes. A thread reads it, which does not hold up the end of the program."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(_AHEAD)

    def read() -> None:
        data = b"-"
        while data:
            try:
                data = os.read(0, _CHUNK)
            except BlockingIOError:  # somebody who shares it has set it so
                select.select([0], [], [])
                continue
            except OSError:
                data = b""
            put = chunks.put(data)
            try:
                asyncio.run_coroutine_threadsafe(put, loop).result()
            except (RuntimeError, CancelledError):  # the loop is closed: nobody waits any more
                put.close()
                return

    threading.Thread(target=read, name="ipybox-stdin", daemon=True).start()
    while data := await chunks.get():
        yield data


def _complain(text: str, code: int) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"ipybox: {text}\n")
    return code
