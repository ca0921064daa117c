"""The same sandbox for code that is not asynchronous. Floor: session.

A thread in the background has the event loop in which all of these live. It is there from the first sandbox on until
the process ends; walls that nobody uses are kept for a minute, so that the next sandbox comes up in milliseconds.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from ipybox.errors import SandboxEndedError
from ipybox.session import walls
from ipybox.session.commands import COMMAND_SECONDS, AsyncCommands
from ipybox.session.files import AsyncFiles, Path
from ipybox.session.inside_files import WORKSPACE
from ipybox.session.results import CodeResult, CommandResult, FileEntry
from ipybox.session.sandbox import CODE_SECONDS, AsyncSandbox
from ipybox.session.settings import DISK, LIFE_SECONDS, SandboxSettings

_of_parents: list[asyncio.AbstractEventLoop | None] = []
LINGER = 60.0
"""Seconds for which walls are kept that no sandbox uses."""
T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Background:
    """A thread with an event loop, made when it is needed first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._walls: walls.Walls | None = None
        self._living: set[AsyncSandbox] = set()

    def run(self, work: Coroutine[Any, Any, T], home: asyncio.AbstractEventLoop | None = None) -> T:
        """Does work there and waits for it; work whose caller is interrupted is cancelled.

        Args:
            work: What to do.
            home: The event loop that it belongs to; None is the one that is there.
        """
        loop = self._started() if home is None else home
        if loop is not self._loop:
            work.close()
            raise SandboxEndedError("it ended with what ran it in the background, or belongs to the parent process")
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def create(self, *arguments: Any, **options: Any) -> AsyncSandbox:
        """Creates a sandbox that ends with the thread at the latest."""
        sandbox = await AsyncSandbox.create(*arguments, **options)
        self._living = {each for each in self._living if each.is_running} | {sandbox}
        return sandbox

    def at_home(self) -> Run:
        """Does work in the event loop that is there now, for as long as it is."""
        home = self._loop

        def run(work: Coroutine[Any, Any, Any]) -> Any:
            return self.run(work, home)

        return run

    def close(self) -> None:
        """Ends all sandboxes, takes the walls down, and ends the thread; the next sandbox gets another one."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(self._close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def forget(self) -> None:
        """In a fork, where the thread is not: what it has is the parent's."""
        _of_parents.append(self._loop)  # to collect it would change what the parent waits for
        self._lock = threading.Lock()
        self._loop = self._thread = self._walls = None
        self._living = set()

    async def _close(self) -> None:
        living, self._living = self._living, set()
        await asyncio.gather(*(sandbox.kill() for sandbox in living))
        if self._walls is not None:
            await self._walls.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                ready = threading.Event()
                # What bubblewrap runs ends with the thread that started it, so this one must not end before.
                self._thread = threading.Thread(
                    target=self._serve, args=(loop, ready), name="ipybox-sandboxes", daemon=True
                )
                self._thread.start()
                ready.wait()
                self._loop = loop
            return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
        async def begin() -> None:
            self._walls = walls.keep_here(LINGER)

        asyncio.set_event_loop(loop)
        loop.run_until_complete(begin())
        loop.call_soon(ready.set)
        loop.run_forever()


_background = Background()
atexit.register(_background.close)
os.register_at_fork(after_in_child=_background.forget)


def close_background() -> None:
    """Ends all sandboxes of this process that are not asynchronous, and what is kept ready for the next ones.

    It is done anyway when the process ends.
    """
    _background.close()


class Files:
    """The files of a sandbox; see :class:`AsyncFiles`, which has the same methods."""

    def __init__(self, files: AsyncFiles, run: Run) -> None:
        self._files, self._run = files, run

    def read(self, path: Path) -> str:
        """The content of a file as text; what is no UTF-8 is replaced. At most 64 MiB."""
        found: str = self._run(self._files.read(path))
        return found

    def read_bytes(self, path: Path) -> bytes:
        """The content of a file. At most 64 MiB."""
        found: bytes = self._run(self._files.read_bytes(path))
        return found

    def write(self, path: Path, content: str | bytes, mode: int | str = 0o644) -> None:
        """Writes a file, with the directories that it is in."""
        self._run(self._files.write(path, content, mode))

    def list(self, path: Path = ".") -> list[FileEntry]:
        """What is in a directory, sorted by name."""
        found: list[FileEntry] = self._run(self._files.list(path))
        return found

    def exists(self, path: Path) -> bool:
        """Whether there is something at a path."""
        found: bool = self._run(self._files.exists(path))
        return found

    def remove(self, path: Path) -> None:
        """Removes a file, a link, or a directory with all that is in it."""
        self._run(self._files.remove(path))

    def mkdir(self, path: Path, parents: bool = True) -> None:
        """Makes a directory, and with ``parents`` those above it."""
        self._run(self._files.mkdir(path, parents))


class Commands:
    """Commands in a sandbox; see :class:`AsyncCommands`."""

    def __init__(self, commands: AsyncCommands, run: Run) -> None:
        self._commands, self._run = commands, run

    def run(
        self,
        command: str | Sequence[str],
        timeout: float = COMMAND_SECONDS,
        env: Mapping[str, str] | None = None,
        working_dir: str = WORKSPACE,
    ) -> CommandResult:
        """Runs a command to its end; see :meth:`AsyncCommands.run`."""
        result: CommandResult = self._run(self._commands.run(command, timeout, env, working_dir))
        return result


class Sandbox:
    """A sandbox of its own: files in ``/workspace``, commands, and a Python that keeps its variables.

    Make one with :meth:`create`; a context manager. It ends by :meth:`kill`, at the end of its ``with`` block, when its
    time is over, and with this process, however that ends. Any thread may use it. See :class:`AsyncSandbox`, which is
    the same for asynchronous code.

    Attributes:
        files: Its files.
        commands: Commands in it.
    """

    def __init__(self, sandbox: AsyncSandbox, run: Run) -> None:
        self._sandbox, self._run = sandbox, run
        self.files = Files(sandbox.files, run)
        self.commands = Commands(sandbox.commands, run)

    @classmethod
    def create(
        cls,
        template: str = "code-interpreter",
        *,
        timeout_seconds: float = LIFE_SECONDS,
        env_vars: Mapping[str, str] | None = None,
        network: bool | Iterable[str] = False,
        internet_access: bool | None = None,
        memory: int | None = None,
        disk: int = DISK,
        processes: int = 512,
        readable_paths: Iterable[str | os.PathLike[str]] = (),
        api_key: str | None = None,
    ) -> Self:
        """Creates a sandbox; see :meth:`AsyncSandbox.create`, which takes the same arguments and raises the same."""
        created = _background.create(
            template,
            timeout_seconds=timeout_seconds,
            env_vars=env_vars,
            network=network,
            internet_access=internet_access,
            memory=memory,
            disk=disk,
            processes=processes,
            readable_paths=readable_paths,
            api_key=api_key,
        )
        sandbox = _background.run(created)
        return cls(sandbox, _background.at_home())

    @property
    def is_running(self) -> bool:
        """Whether it is there and can be used."""
        return self._sandbox.is_running

    @property
    def settings(self) -> SandboxSettings:
        """What it was created with."""
        return self._sandbox.settings

    def run_code(
        self,
        code: str,
        language: str = "python",
        timeout: float = CODE_SECONDS,
        *,
        env: Mapping[str, str] | None = None,
        working_dir: str | None = None,
    ) -> CodeResult:
        """Runs code; see :meth:`AsyncSandbox.run_code`."""
        call = self._sandbox.run_code(code, language, timeout, env=env, working_dir=working_dir)
        result: CodeResult = self._run(call)
        return result

    def kill(self) -> None:
        """Ends it with all that runs in it, and waits until that is gone. Any number of times, from any thread."""
        try:
            self._run(self._sandbox.kill())
        except SandboxEndedError:
            pass  # with all others

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
