"""``ipybox session run``, ``exec`` and ``logs``: what code on a server says, here and now. Floor: cli."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from ipybox.cli.outlets import Outlets
from ipybox.cli.server_calls import INTERRUPTED, OURSELVES, TIMEOUT, complain, say_json
from ipybox.control.client.client import AsyncControlClient
from ipybox.control.client.handles import AsyncExecution, made, quietly
from ipybox.control.client.models import Event, ExecutionInfo
from ipybox.control.client.options import CodeOptions

LANGUAGES = {".js": "javascript", ".mjs": "javascript", ".cjs": "javascript", ".sh": "shell", ".bash": "shell"}
_LAST_SECONDS = 10.0
_REMEMBERED = 64 * 1024
_IMAGES = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp"}
_OF_SERVER = ("server_restarted", "server_stopped", "session_ended", "sandbox_ended", "start_failed")


def code_of(file: str) -> str:
    """Code of a file, or of standard input for ``-``."""
    raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    return raw.decode("utf-8-sig")


async def run_code(
    client: AsyncControlClient,
    session_id: str,
    code: str,
    options: CodeOptions,
    *,
    images_dir: Path | None,
    as_json: bool,
) -> int:
    """Runs code, shows what it says, and gives its truth. Ctrl-C interrupts it there, and then leaves."""
    shown = Shown(images_dir, is_quiet=as_json)

    async def start() -> AsyncExecution:
        session = await client.attach(session_id)
        return await session.start(code, **options)

    async with _stops() as stop:
        starting = asyncio.ensure_future(made(start(), AsyncExecution.interrupt))
        if not await _first(starting, stop):
            return INTERRUPTED
        execution = starting.result()
        following = asyncio.ensure_future(execution.wait(shown.show))
        try:
            if not await _first(following, stop, is_cancelled=False):
                complain("interrupted; Ctrl-C once more leaves at once", 0)
                stop.clear()
                await asyncio.gather(quietly(execution.interrupt()), _first(following, stop, _LAST_SECONDS))
                return INTERRUPTED
            result = following.result()
        except BaseException:
            await quietly(execution.interrupt())
            raise
    if as_json:
        say_json(result)
    return exit_code(result, tells=not as_json)


async def follow(client: AsyncControlClient, execution_id: str, after: int, images_dir: Path | None) -> int:
    """Shows what an execution says, until its end, and gives its truth. Ctrl-C leaves it alone."""
    execution = await client.execution(execution_id)
    shown = Shown(images_dir)
    async with aclosing(execution.stream(after)) as events:
        async for event in events:
            await shown.show(event)
    return exit_code(await execution.info())


async def show_logs(
    client: AsyncControlClient, execution_id: str, after: int, images_dir: Path | None, *, as_json: bool
) -> None:
    """Shows what an execution has said until now."""
    shown = Shown(images_dir, is_quiet=as_json)
    found: list[Event] = []
    while True:
        page = await client.executions.events(execution_id, after)
        for event in page.items:
            await shown.show(event)
            if as_json:
                found.append(event)
        if not page.items:
            break
        after = page.items[-1].seq
    if as_json:
        say_json(found)


def exit_code(result: ExecutionInfo, tells: bool = True) -> int:
    """The truth of an execution as an exit code."""
    if tells and result.has_return_value:
        complain(f"it returned {json.dumps(result.return_value, ensure_ascii=False)}", 0)
    said = result.exit_code or 0
    said = 128 - said if said < 0 else said & 0xFF
    if result.status == "completed":
        return said
    if result.status == "failed" and result.status_reason in ("raised", "exit_code"):
        return said or 1  # it has said itself what is wrong
    why = ": ".join(part for part in (result.status_reason, result.error_message) if part)
    if tells:
        complain(f"the execution {result.id} ended as {result.status}" + (f" ({why})" if why else ""), 0)
    if result.status == "timeout":
        return TIMEOUT
    if result.status_reason == "interrupted":
        return INTERRUPTED
    return OURSELVES if result.status_reason in _OF_SERVER else said or 1


class Shown:
    """Shows events: text where it belongs, images as files.

    Args:
        images_dir: Where images are saved; None saves none.
        is_quiet: Whether nothing but images is shown.
    """

    def __init__(self, images_dir: Path | None, is_quiet: bool = False) -> None:
        self._images_dir, self._is_quiet = images_dir, is_quiet
        self._outlets = Outlets()
        self._recent = ""

    async def show(self, event: Event) -> None:
        """Shows one of them."""
        if event.kind in ("stdout", "stderr"):
            await self._write(1 if event.kind == "stdout" else 2, event.text)
            if event.kind == "stderr":
                self._recent = (self._recent + event.text)[-_REMEMBERED:]
        elif event.kind in ("display", "result"):
            await self._display(event)
        elif event.kind == "error":
            await self._error(event)
        elif event.kind == "truncated":
            await self._write(2, f"\n[the server keeps no more of {_text(event.data.get('stream'))}]\n")

    async def _display(self, event: Event) -> None:
        for mime_type, ending in _IMAGES.items():
            image = event.image(mime_type) if self._images_dir is not None else None
            if image is not None and self._images_dir is not None:
                path = await asyncio.to_thread(_save, image, self._images_dir, ending)
                await self._write(2, f"[image saved: {path}]\n")
                return
        if event.text:
            await self._write(1, f"{event.text}\n")

    async def _error(self, event: Event) -> None:
        name, value = _text(event.data.get("name")), _text(event.data.get("value"))
        if name and name in self._recent:
            return  # a process of its own has written its traceback to its stderr
        lines = event.data.get("traceback")
        trace = "\n".join(map(_text, lines)) if isinstance(lines, list) else ""
        await self._write(2, f"{trace or f'{name}: {value}'}\n")

    async def _write(self, fd: int, text: str) -> None:
        if not self._is_quiet and (sys.stdout if fd == 1 else sys.stderr) is not None:
            await self._outlets.write(fd, text.encode("utf-8", "backslashreplace"))


def _save(image: bytes, directory: Path, ending: str) -> Path:
    """Under a name that nobody else chooses, in a directory that is made."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{secrets.token_hex(8)}{ending}"
    with open(path, "xb") as file:
        file.write(image)
    return path


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


@asynccontextmanager
async def _stops() -> AsyncIterator[asyncio.Event]:
    """Set when somebody asks for the end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for each in signals:
        loop.add_signal_handler(each, stop.set)
    try:
        yield stop
    finally:
        for each in signals:
            loop.remove_signal_handler(each)


async def _first(
    work: asyncio.Future[Any], stop: asyncio.Event, seconds: float | None = None, *, is_cancelled: bool = True
) -> bool:
    """Whether work was done before somebody asked for the end, or time was over; else it is cancelled."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([work, stopping], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    if not work.done() and is_cancelled:
        work.cancel()
        await asyncio.wait([work])
    return work.done() and not work.cancelled()
