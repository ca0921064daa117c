"""A sandbox to work in: files, commands and code, as cloud sandboxes have it, on this machine. Floor: session."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Self

from ipybox import arguments
from ipybox.errors import ProgramStartError, SandboxEndedError, SandboxExpiredError, UnknownLanguageError
from ipybox.exit_status import ExitStatus
from ipybox.process import bootstrap
from ipybox.process.late_site import PythonFacts
from ipybox.process.teardown import to_the_end
from ipybox.sandbox.launcher import Program
from ipybox.sandbox.program import SandboxedProgram
from ipybox.sandbox.python_paths import site_packages
from ipybox.sandbox.supervisor import Supervisor
from ipybox.session import agent
from ipybox.session.answers import code_result
from ipybox.session.commands import AsyncCommands
from ipybox.session.connection import GONE, AgentConnection, ConnectionEndedError, Reply
from ipybox.session.files import AsyncFiles
from ipybox.session.frames import BODY_LIMIT, REPLIES, REQUESTS, FrameError, value
from ipybox.session.inside_files import WORKSPACE
from ipybox.session.results import CodeResult
from ipybox.session.settings import DISK, LIFE_SECONDS, SandboxSettings
from ipybox.session.walls import Walls, walls_here

CODE_SECONDS = 120.0
"""How long code and commands may run if nothing else is said."""
SLACK_SECONDS = 30.0
"""How much longer than that an agent may take to answer, before its sandbox is ended."""
ALIASES = {"py": "python", "python3": "python", "js": "javascript", "node": "javascript", "shell": "sh"}
"""Other names of languages."""
_PATIENCE = 2.0
_tags = itertools.count(1)


class AsyncSandbox:
    """A sandbox of its own: files in ``/workspace``, commands, and a Python that keeps its variables.

    Make one with :meth:`create`. It has no network unless it is given one, sees this Python and the system but none of
    your files, and ends with all that runs in it: by :meth:`kill`, at the end of its ``async with`` block, when its
    time is over, and with its event loop or its process, however that ends. Belongs to one event loop.

    Attributes:
        files: Its files.
        commands: Commands in it.
    """

    files: AsyncFiles
    commands: AsyncCommands

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._walls: Walls | None = None
        self._connection: AgentConnection | None = None
        self._program: SandboxedProgram | None = None
        self._life: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._end: SandboxEndedError | None = SandboxEndedError("it was never created")
        self._code_turn = asyncio.Lock()
        self.files = AsyncFiles(self._ask)
        self.commands = AsyncCommands(self._ask)

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
    ) -> Creation:
        """Creates a sandbox: ``await`` it, or use it in ``async with``.

        The first one takes half a second; while another one with the same limits is there, it takes milliseconds.

        Args:
            template: ``"code-interpreter"`` or ``"python"``: this Python with its packages.
            timeout_seconds: How long it lives; after that every call raises :class:`SandboxExpiredError`.
            env_vars: Environment of code and commands, besides what they have anyway.
            network: False for none, True for any public host, or the hosts that may be reached.
            internet_access: The same as ``network``, for those who know it by that name.
            memory: Bytes that all of it may use together, above which it is ended; None is half of the machine's.
            disk: Bytes of ``/workspace``, kept in memory, and of each other private place.
            processes: Processes and threads.
            readable_paths: Files and directories of this machine that can be read inside, at the same path.
            api_key: Unused: no account is needed.

        Raises:
            UnknownTemplateError: There is no such template.
            SandboxUnavailableError: There can be no sandbox here; it says what would help.
            PolicyError: What was asked for makes no sense on this machine.
        """
        if internet_access is not None:
            network = arguments.flag("internet_access", internet_access) or network
        settings = SandboxSettings(
            template=template,
            timeout_seconds=timeout_seconds,
            env_vars=env_vars or {},
            network=network if isinstance(network, bool) else tuple(network),
            memory=memory,
            disk=disk,
            processes=processes,
            readable_paths=tuple(os.fspath(path) for path in readable_paths),
        )
        sandbox = cls(settings)
        return Creation(sandbox, sandbox._open)

    @property
    def is_running(self) -> bool:
        """Whether it is there and can be used."""
        return self._end is None

    @property
    def settings(self) -> SandboxSettings:
        """What it was created with."""
        return self._settings

    async def run_code(
        self,
        code: str,
        language: str = "python",
        timeout: float = CODE_SECONDS,
        *,
        env: Mapping[str, str] | None = None,
        working_dir: str | None = None,
    ) -> CodeResult:
        """Runs code. Python keeps its variables from call to call; one call runs after the other.

        Python runs as the module ``__main__``, with an empty ``sys.argv``. Code that runs for too long is interrupted,
        as by Ctrl-C, and variables are kept; if it has not ended 3 seconds later, the interpreter is replaced
        and ``state_lost`` says so.

        Args:
            code: The code.
            language: ``python``, ``bash``, ``sh`` or ``javascript``, as far as they are installed.
            timeout: Seconds that it may run.
            env: Environment for this call, besides the sandbox's.
            working_dir: Where it runs; relative to ``/workspace``. None: Python stays where it is.

        Raises:
            UnknownLanguageError: There is nothing to run that language with.
            ProgramStartError: There are too many processes in the sandbox to run it.
            SandboxEndedError: The sandbox is gone, or it went meanwhile.
        """
        arguments.text("language", language)
        if not isinstance(code, str):
            raise TypeError(f"code must be a str, got {code!r}")
        head = {
            "op": "code",
            "language": ALIASES.get(language.lower(), language.lower()),
            "env": arguments.environment("env", env),
            "cwd": None if working_dir is None else arguments.path("working_dir", working_dir),
            "timeout": arguments.seconds("timeout", timeout),
        }

        def read(reply: Reply) -> CodeResult:
            if "languages" in reply[0]:
                raise UnknownLanguageError(language, [str(each)[:100] for each in value(reply[0], "languages", list)])
            if "failed" in reply[0]:
                raise ProgramStartError(str(reply[0]["failed"])[:1000])
            return code_result(*reply)

        async with self._code_turn if head["language"] == "python" else nullcontext():
            result: CodeResult = await self._ask(head, _encoded(code), seconds=timeout, read=read)
        return result

    async def kill(self) -> None:
        """Ends it with all that runs in it, and waits until that is gone. Any number of times."""
        self._finish(SandboxEndedError("it was killed"))
        if self._life is not None:
            await asyncio.wait([self._life])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await to_the_end(self.kill())

    async def _open(self) -> None:
        if self._walls is not None:
            raise RuntimeError("this sandbox was created already")
        walls = walls_here()
        supervisor = await walls.take(self._settings)
        tag = f"sandbox-{next(_tags)}"
        fds: list[int] = []
        try:
            theirs_in, requests = os.pipe()
            fds += [theirs_in, requests]
            replies, theirs_out = os.pipe()
            fds += [replies, theirs_out]
            self._program = await supervisor.start(self._agent(), [theirs_in, theirs_out], tag)
        except BaseException:
            for fd in fds:
                os.close(fd)
            await walls.give_back(self._settings)
            raise
        os.close(theirs_in)
        os.close(theirs_out)
        self._connection = AgentConnection(requests, replies, self._broken)
        self._walls, self._end = walls, None
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(
            self._settings.timeout_seconds, lambda: self._finish(SandboxExpiredError(self._settings.timeout_seconds))
        )
        self._life = loop.create_task(self._live(supervisor, walls, self._program, tag))
        try:
            await asyncio.sleep(0)  # a task that has not begun cleans nothing up when its loop ends
        except BaseException:
            await to_the_end(self.kill())
            raise

    def _agent(self) -> Program:
        facts = agent.settings(PythonFacts.of_this_one(site_packages()))
        command = bootstrap.command(
            sys.executable, agent.MODULE, facts, sites=site_packages(), ignore_environment=False
        )
        return Program(
            argv=command,
            env=self._settings.environment,
            cwd=WORKSPACE,
            fds=(REQUESTS, REPLIES),
            warm=self._settings.can_be_forked,
        )

    async def _live(self, supervisor: Supervisor, walls: Walls, program: SandboxedProgram, tag: str) -> None:
        """Until it is over, for whatever reason; also when the event loop ends."""
        try:
            status = await supervisor.finish(program, tag)
            self._finish(SandboxEndedError(_why(status)))
        except asyncio.CancelledError:
            self._finish(SandboxEndedError("its event loop has ended"))
            raise
        finally:
            await walls.give_back(self._settings)

    def _finish(self, end: SandboxEndedError) -> None:
        if self._end is None:
            self._end = end
            if self._expiry is not None:
                self._expiry.cancel()
            if self._connection is not None:
                self._connection.close()
            if self._program is not None:
                self._program.kill()

    def _broken(self, reason: str) -> None:
        """The agent can't be talked to. If it is gone, something says why in a moment."""
        if reason != GONE:
            self._finish(SandboxEndedError(reason))
        elif self._program is not None:
            asyncio.get_running_loop().call_later(_PATIENCE, self._program.kill)

    async def _ask(
        self, head: dict[str, Any], body: bytes = b"", *, seconds: float, read: Callable[[Reply], Any]
    ) -> Any:
        """Asks the agent, and reads the answer; one that makes no sense is the end."""
        connection = self._connection
        if self._end is not None or connection is None:
            raise self._ended()
        if len(body) > BODY_LIMIT:
            raise ValueError(f"{len(body)} bytes are too many, {BODY_LIMIT} can be sent at once")
        try:
            reply = await connection.ask(head, body, seconds=seconds + SLACK_SECONDS)
        except FrameError as error:
            raise ValueError(f"that is too much at once: {error}") from None
        except ConnectionEndedError:
            if self._life is not None:
                await asyncio.wait([self._life])  # which knows why
            raise self._ended() from None
        try:
            return read(reply)
        except FrameError as error:
            self._broken(f"its agent says what makes no sense: {error}")
            raise self._ended() from None

    def _ended(self) -> SandboxEndedError:
        if isinstance(self._end, SandboxExpiredError):
            return SandboxExpiredError(self._end.timeout_seconds)
        return SandboxEndedError(self._end.reason if self._end is not None else "it is gone")


class Creation:
    """A sandbox that is to be: await it, or enter it."""

    def __init__(self, sandbox: AsyncSandbox, open_: Callable[[], Awaitable[None]]) -> None:
        self._sandbox, self._open = sandbox, open_

    def __await__(self) -> Generator[Any, None, AsyncSandbox]:
        return self._make().__await__()

    async def __aenter__(self) -> AsyncSandbox:
        return await self._make()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._sandbox.__aexit__(kind, error, trace)

    async def _make(self) -> AsyncSandbox:
        await self._open()
        return self._sandbox


def _encoded(code: str) -> bytes:
    try:
        return code.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"code is not text that can be encoded: {error}") from None


def _why(status: ExitStatus) -> str:
    if status.reason == "memory":
        return f"it used too much memory: {status}"
    return f"its agent ended, as code in it can have it do: {status}"
