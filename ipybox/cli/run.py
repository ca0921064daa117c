"""``ipybox run``: one file in a fresh kernel. Floor: cli."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from ipybox.cli.env import parse_env
from ipybox.cli.sandbox import learned_text
from ipybox.errors import (
    ExecutionError,
    ExecutionTimeoutError,
    ImageWriteError,
    IpyboxError,
    KernelDiedError,
    OutputLostError,
)
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr.client import Execution, KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from ipybox.outputs import DisplayOutput, NetworkAccess, StreamOutput

FAILED, USAGE, TIMEOUT, OURSELVES, INTERRUPTED = 1, 2, 124, 125, 130
_END_OF_INPUT = "\x04"


def run_file(
    file: str,
    arguments: Sequence[str],
    *,
    timeout: float | None,
    images_dir: Path,
    env: Sequence[str],
    working_dir: Path | None,
    memory_limit: int | None,
    sandbox: bool = False,
    sandbox_config: Path | None = None,
    learn: bool = False,
) -> int:
    """Runs a file, or standard input for ``-``, and returns the exit code."""
    try:
        code = _read(file)
        gateway = KernelGateway(
            port=0,
            auth_token=True,
            log_level="WARNING",
            env=parse_env(env),
            working_dir=working_dir,
            memory_limit=memory_limit,
            sandbox=sandbox,
            sandbox_config=sandbox_config,
            learn=learn,
        )
    except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
        return _complain(str(error), USAGE)
    name = "<stdin>" if file == "-" else os.path.abspath(file)
    work = _run(gateway, code, name, [file, *arguments], timeout, images_dir, asks=file != "-")
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


async def _run(
    gateway: KernelGateway,
    code: str,
    name: str,
    argv: list[str],
    timeout: float | None,
    images_dir: Path,
    asks: bool,
) -> int:
    try:
        with _progress("starting a kernel"):
            await gateway.start()
            client = KernelClient(gateway.host, gateway.port, auth_token=gateway.auth_token, images_dir=images_dir)
            await client.connect()
        try:
            run = client.run(code, timeout, file_name=name, argv=argv, on_input=_ask if asks else None)
            async with run as execution:
                try:
                    return await _follow(execution)
                finally:
                    _tell_network(execution.partial().network, gateway.learn)
        finally:
            await client.disconnect()
    except (IpyboxError, ValueError) as error:
        return _complain(str(error), OURSELVES)
    finally:
        await gateway.stop()


async def _follow(execution: Execution) -> int:
    """Shows what comes and turns the end into an exit code."""
    try:
        async for event in execution:
            if isinstance(event, StreamOutput):
                _write(event.text, sys.stderr if event.name == "stderr" else sys.stdout)
            elif isinstance(event, DisplayOutput):
                _show(event)
    except ExecutionError as error:
        if error.name == "SystemExit":
            return _exit_code(error.value)
        _write(f"{error.traceback or error}\n", sys.stderr)
        return FAILED
    except ExecutionTimeoutError as error:
        return _complain(str(error), TIMEOUT)
    except KernelDiedError as error:
        return _complain(f"the kernel died: {error.exit}", _status_code(error.exit))
    except (OutputLostError, ImageWriteError) as error:
        return _complain(str(error), OURSELVES)
    return 0


def _tell_network(accesses: Sequence[NetworkAccess], learn: bool) -> None:
    if learn:
        _write(f"ipybox: the policy that this needed:\n{learned_text(accesses)}\n", sys.stderr)
        return
    for access in accesses:
        if not access.allowed:
            _complain(f"the sandbox refused {access.host}:{access.port} ({access.reason})", 0)


def _show(display: DisplayOutput) -> None:
    if display.text:
        _write(f"{display.text}\n", sys.stdout)
    if display.image is not None:
        _write(f"[image saved: {display.image}]\n", sys.stderr)


def _write(text: str, stream: object) -> None:
    assert hasattr(stream, "write")
    stream.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    stream.flush()  # type: ignore[attr-defined]


def _complain(text: str, code: int) -> int:
    _write(f"ipybox: {text}\n", sys.stderr)
    return code


def _read(file: str) -> str:
    raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    return raw.decode("utf-8-sig")


async def _ask(prompt: str, is_password: bool) -> str:
    """Asks the person at the terminal, in a thread that does not hold up the end of the program."""
    _write(prompt, sys.stderr)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        line = sys.stdin.readline()
        text = line.rstrip("\n") if line else _END_OF_INPUT
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if answer.done() else answer.set_result(text))

    threading.Thread(target=read, daemon=True).start()
    return await answer


def _exit_code(value: str) -> int:
    """What ``sys.exit(value)`` means to a shell."""
    if value in ("", "None"):
        return 0
    if value.lstrip("-").isdigit():
        return int(value) & 0xFF
    _write(f"{value}\n", sys.stderr)
    return FAILED


def _status_code(status: ExitStatus) -> int:
    if status.signal is not None:
        return 128 + status.signal
    # A kernel that ended "well" in the middle of an execution did not run it to its end.
    return status.code if status.code else FAILED


@contextlib.contextmanager
def _progress(text: str) -> Iterator[None]:
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        yield
