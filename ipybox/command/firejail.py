"""Commands in firejail. Linux only. Floor: command."""

from __future__ import annotations

import asyncio
import glob
import json
import math
import os
import platform
import pwd
import re
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from ipybox.command import firejail_inside, firejail_staging
from ipybox.command.binaries import find_binary
from ipybox.command.driver import CommandDriver, Field
from ipybox.command.enclosed_process import EnclosedProcess
from ipybox.command.environment import command_environment
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.workspace import make_workspace, new_workspace, remove_workspace
from ipybox.errors import PolicyError, ProgramStartError, SandboxUnavailableError
from ipybox.process import bootstrap
from ipybox.process.command import ExecError
from ipybox.process.descriptors import memory_file
from ipybox.sandbox import staging
from ipybox.sandbox.access import SYSTEM
from ipybox.sandbox.path_patterns import is_below
from ipybox.sandbox.policy import LOWEST
from ipybox.sandbox.python_paths import python_paths

PROCESSES = 20
"""Where the policy names no number."""
OPEN_FILES = 100
FILE_SIZE = 10 * 1024 * 1024
START_SECONDS = 30.0
"""Until firejail has to be ready; it is in a fraction of one."""

_REMEDY = "install it: apt install firejail, dnf install firejail, or pacman -S firejail"
_LIMITS_PER_SANDBOX = (5, 14)
"""Linux from here on counts the processes of a user namespace; older ones count all that a user has."""
_OPEN_TOPS = ("bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "opt", "proc", "sbin", "sys", "usr")
"""What is left as it is of the root directory. All of it is read-only, or firejail's own."""
_UNTOUCHABLE = ("/dev", "/proc", "/sys")
_NOT_AS_A_WHOLE = ("/", "/etc", "/home", "/run", "/run/user", "/tmp", "/var", "/var/lib", "/var/tmp")
_NOT_WRITABLE = ("/etc", *(path for path in SYSTEM if path != "/opt"))
_NOTHING = ".ipybox-shows-nothing-else"
"""A name that does not exist: to allow it is to hide its neighbours."""
_NOT_TAKEN = re.compile(r"""[\x00-\x1f\x7f\\&!?"'<>%^(){};,*\[\]]""")
"""Characters that firejail takes in no path, or as a pattern. As a pattern it takes ``?`` for each of them."""
_LONGEST_PATH = 3900
_LOG_BYTES = 4096


def _is_recent(release: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= _LIMITS_PER_SANDBOX


_ENFORCED: tuple[Field, ...] = ("cpu_time", "memory", "network", "readable_paths", "writable_paths")
_LIMITS_PROCESSES = sys.platform.startswith("linux") and _is_recent(platform.release())


class FirejailDriver(CommandDriver):
    """Runs each command in a firejail of its own: namespaces, no capabilities, no new privileges, seccomp.

    A command works in a private directory below ``base_dir``, at the path that it has there; it is ``HOME`` and
    ``TMPDIR`` as well. Nothing else can be written but the policy's ``writable_paths``, and ``/dev/shm`` neither. It
    can read the system (``/etc`` included), this Python, and what the policy names; homes and all other directories
    are empty or closed. Files have at most 10 MiB, 100 can be open, and no process has more processor time, for all
    its threads, than ``timeout`` and a second. Memory is limited by looking at it.

    Firejail leaves out without a word what it can't do, so each time, before the command is handed over, it is looked
    at from inside whether the sandbox is what was asked for. Root's commands run as another user (64201), to whom
    root's own files among those paths are shown as its own.

    Args:
        policy: What each command may use and touch.
        waive: Fields of the policy that need not be enforced.
        binary: Where firejail is; see :func:`~ipybox.command.binaries.find_binary`.
    """

    name: ClassVar[str] = "firejail"
    enforces: ClassVar[frozenset[Field]] = frozenset((*_ENFORCED, "processes") if _LIMITS_PROCESSES else _ENFORCED)

    def __init__(
        self, policy: ExecutionPolicy, *, waive: str | Iterable[str] = (), binary: str | os.PathLike[str] | None = None
    ) -> None:
        super().__init__(policy, waive=waive)
        if not sys.platform.startswith("linux"):
            raise SandboxUnavailableError("firejail is for Linux only", ["use the driver 'docker' or 'podman'"])
        if policy.memory < LOWEST["memory"]:
            few = f"{policy.memory} bytes are too few to start anything"
            raise PolicyError("memory", few, f"at least {LOWEST['memory']}")
        _shown(policy)  # what makes no sense is refused now; it is looked at again each time
        self._binary = find_binary(
            "firejail", "FIREJAIL_BIN", remedy=_REMEDY, binary=binary, outside=policy.writable_paths
        )
        self._account = _account()

    async def _start(self, argv: Sequence[str], stdio: tuple[int, int, int]) -> EnclosedProcess:
        shown = _shown(self.policy)
        workspace = new_workspace(_real(self.policy.base_dir))
        process: EnclosedProcess | None = None
        try:
            shown[workspace] = True
            view = firejail_view(shown, os.listdir("/"), self._account)
            with _Door(workspace, self._account.uid) as door:
                process = EnclosedProcess(
                    self._command(workspace, view),
                    env=command_environment({}, inherited=None),
                    workspace=workspace,
                    prepare=door.open,
                    stdio=(door.null, door.log, door.log),
                    memory=self.policy.memory,
                )
                number = await door.hand_over(process, self._request(argv, workspace, shown, view), stdio)
            if number is None:
                await process.started()  # from now on its memory is watched
                return process
        except OSError as error:
            await _abandon(process, workspace)
            raise ProgramStartError(f"firejail can't be started: {error}") from error
        except BaseException:
            await _abandon(process, workspace)
            raise
        await _abandon(process, workspace)
        raise ExecError(number, os.strerror(number))

    def _request(self, argv: Sequence[str], workspace: str, shown: Mapping[str, bool], view: FirejailView) -> str:
        request = {
            "argv": argv,
            "env": self._environment(workspace),
            "cpu_time": self.policy.cpu_time,
            "uid": self._account.uid,
            "namespaces": _namespaces(("mnt", "pid", "ipc", "user", *(() if self.policy.network else ("net",)))),
            "shown": [(path, *_identity(path)) for path in shown],
            "hidden": [(path, *_identity(path)) for path in view.hidden],
            "writable": [path for path, is_writable in shown.items() if is_writable],
        }
        return json.dumps(request)

    def _environment(self, workspace: str) -> dict[str, str]:
        own = {"HOME": workspace, "PWD": workspace, "TMPDIR": workspace}
        inherited = os.environ if self.policy.inherit_env else None
        return command_environment(self.policy.env, inherited=inherited, own=own)

    def _command(self, workspace: str, view: FirejailView) -> list[str]:
        # By their real names, as links to them may not be there.
        inside = [os.path.realpath(sys.executable), "-I", "-S", os.path.realpath(firejail_inside.__file__)]
        command = [self._binary, *limits(self.policy), *view.options, *inside]
        if not self._account.is_staged:
            return command
        paths = list(dict.fromkeys([*view.outermost, workspace]))  # which has an owner of its own
        steps = {"uid": self._account.uid, "workspace": workspace, "paths": paths, "argv": command}
        return bootstrap.command(sys.executable, firejail_staging.__name__, json.dumps(steps))


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs firejail.

    Attributes:
        uid: Its user id.
        home: Its home, as ``/etc/passwd`` says.
        is_staged: Whether it is somebody that root becomes for it.
    """

    uid: int
    home: str
    is_staged: bool = False


@dataclass(frozen=True, slots=True)
class FirejailView:
    """How firejail is told what to show.

    Attributes:
        options: Its options.
        outermost: Paths that are shown, without those that lie in another one of them.
        hidden: Paths of this machine that are empty or closed inside.
    """

    options: list[str]
    outermost: list[str]
    hidden: list[str]


def limits(policy: ExecutionPolicy) -> list[str]:
    """The options that are the same wherever a command works."""
    seconds = math.ceil(policy.timeout) + 1
    if policy.cpu_time is not None:
        seconds = min(seconds, policy.cpu_time + 1)  # the last second, after it was told
    options = ["--quiet", "--profile=default"]
    if policy.network is False:
        options.append("--net=none")
    if _LIMITS_PROCESSES:
        options.append(f"--rlimit-nproc={PROCESSES if policy.processes is None else policy.processes}")
    options += [f"--rlimit-nofile={OPEN_FILES}", f"--rlimit-fsize={FILE_SIZE}", f"--rlimit-cpu={seconds}"]
    options += ["--caps.drop=all", "--nonewprivs", "--nogroups", "--noroot", "--ipc-namespace", "--private-dev"]
    options += ["--no3d", "--nodvd", "--noinput", "--nosound", "--notv", "--nou2f", "--novideo"]
    return [*options, "--deterministic-exit-code", "--deterministic-shutdown"]


def firejail_view(shown: Mapping[str, bool], tops: Iterable[str], account: Account) -> FirejailView:
    """Tells firejail to show some paths at their own places, and to hide all others but the system.

    To allow something (``--whitelist``) makes firejail put an empty directory in the place of the top directory above
    it, and in that only what is allowed. A home is such a top directory of its own, and is put back where one above it
    is replaced.

    Args:
        shown: Paths without links, and whether each can be written.
        tops: Names in the root directory.
        account: Who runs it.
    """
    outermost = [path for path in shown if not is_below(path, [each for each in shown if each != path])]
    home = account.home.rstrip("/")
    runtime = f"/run/user/{account.uid}"
    allowed = [path for path in outermost if path.count("/") > 1 and _top(path) not in _OPEN_TOPS]
    closed: list[str] = []
    replaced: list[str] = []
    for top in (f"/{name}" for name in tops if name not in _OPEN_TOPS):
        if os.path.islink(top) or top in shown:
            continue
        if top == "/run" or any(is_below(path, [top]) for path in allowed):
            replaced.append(top)
        else:
            closed.append(top)
    if os.path.isdir(runtime) and not is_below(runtime, shown):
        replaced.append(runtime)
    has_home = os.path.isdir(home) and not is_below(home, shown) and not is_below(home, closed)
    if has_home and any(is_below(path, [home]) for path in allowed):
        replaced.append(home)
    elif has_home and os.stat(home).st_uid == account.uid:  # some accounts have the root directory, or /bin
        closed.append(home)
    options = [f"--whitelist={_pattern(path)}" for path in allowed]
    options += [f"--whitelist={_pattern(path)}/{_NOTHING}" for path in replaced]
    if any(is_below(path, ["/home"]) and not is_below(path, [home]) for path in allowed):
        options.append("--allusers")
    options += [f"--blacklist={_pattern(path)}" for path in closed]
    fixed = [path for path in replaced if path != "/run"]  # where firejail itself still works
    fixed += [path for path in ("/dev/shm", "/opt") if os.path.isdir(path)]
    fixed += [path for path in outermost if not shown[path] and not is_below(path, fixed)]
    options += [f"--read-only={_pattern(path)}" for path in fixed]
    options += [f"--read-write={_pattern(path)}" for path, is_writable in shown.items() if is_writable]
    return FirejailView(options, outermost, [*closed, *replaced])


def _real(path: str) -> str:
    """A path without links: firejail shows none that lead somewhere else."""
    return os.path.realpath(path)


def _top(path: str) -> str:
    return path.split("/", 2)[1]


def _pattern(path: str) -> str:
    """A path as firejail takes it. Where that is a pattern, nothing but the path must match it."""
    pattern = _NOT_TAKEN.sub("?", path)
    if len(os.fsencode(path)) > _LONGEST_PATH or ".." in path:
        raise PolicyError(path, "firejail takes no path with '..' or of that length")
    if pattern != path and not set(glob.glob(pattern, include_hidden=True)) <= {path}:
        raise PolicyError(
            path, "firejail takes no path with such characters where another one is so similar", "rename one of them"
        )
    return pattern


def _shown(policy: ExecutionPolicy) -> dict[str, bool]:
    """What can be seen besides the system, without links, and whether it can be written.

    Raises:
        PolicyError: Some of it can't be shown; names it.
    """
    shown = {os.path.realpath(path): False for path in (*python_paths(), *SYSTEM) if os.path.exists(path)}
    shown = {path: False for path in shown if path.count("/") > 1 and _top(path) not in _OPEN_TOPS}
    roots = [os.path.realpath(path) for path in policy.writable_paths]
    for name, is_writable in (("readable_paths", False), ("writable_paths", True)):
        for index, path in enumerate(getattr(policy, name)):
            where = f"{name}[{index}]"
            if not os.path.exists(path):
                raise PolicyError(where, f"{path} does not exist", "create it first, or leave it out")
            real = os.path.realpath(path)
            if not is_writable and is_below(real, roots):
                raise PolicyError(where, f"{path} is in one of writable_paths, where firejail can't keep it", "move it")
            if real in _NOT_AS_A_WHOLE or is_below(real, _UNTOUCHABLE):
                raise PolicyError(where, f"firejail can't show {path}", "name what is needed in it")
            if is_writable and is_below(real, _NOT_WRITABLE):
                raise PolicyError(where, f"{path} belongs to the system", "use a copy of it")
            if real != path and not _leads_there(path, real):
                raise PolicyError(where, f"{path} is {real}, and firejail shows no links to that", f"name {real}")
            shown[real] = shown.get(real, False) or is_writable
    resolver = os.path.realpath("/etc/resolv.conf")
    if policy.network and _top(resolver) == "run" and os.path.exists(resolver):
        shown[resolver] = False
    return shown


def _leads_there(path: str, real: str) -> bool:
    """Whether a path with links in it is the same inside: the links themselves have to be seen."""
    return _top(path) in _OPEN_TOPS and _top(real) in _OPEN_TOPS


def _account() -> Account:
    uid = os.geteuid()
    if uid == 0:
        staged = staging.sandbox_uid()
        if staged is None:
            raise SandboxUnavailableError("firejail needs the machine's own root", ["use the driver 'bubblewrap'"])
        return Account(staged, firejail_staging.HOME, is_staged=True)
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        raise SandboxUnavailableError(
            f"firejail runs for accounts only, and user {uid} has none", ["add one to /etc/passwd"]
        ) from None
    return Account(uid, home)


def _namespaces(names: Iterable[str]) -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in names}


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


class _Door:
    """Where what runs inside reports, and what firejail itself says.

    Args:
        workspace: The work directory.
        uid: Who may come.
    """

    def __init__(self, workspace: str, uid: int) -> None:
        self._workspace, self._uid = workspace, uid
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.log = os.memfd_create("ipybox-firejail", os.MFD_CLOEXEC)

    def __enter__(self) -> _Door:
        return self

    def open(self) -> None:
        """Makes the work directory, and waits for somebody in it."""
        make_workspace(self._workspace)
        directory = os.open(self._workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # By the descriptor, as an address has at most 107 bytes.
            self._socket.bind(f"/proc/self/fd/{directory}/{firejail_inside.SOCKET}")
        finally:
            os.close(directory)
        if os.geteuid() != self._uid:
            for path in (self._workspace, self._path):
                os.chown(path, self._uid, self._uid)
        self._socket.listen(1)

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
        os.close(self.null)
        os.close(self.log)

    @property
    def _path(self) -> str:
        return os.path.join(self._workspace, firejail_inside.SOCKET)

    async def hand_over(self, process: EnclosedProcess, request: str, stdio: tuple[int, int, int]) -> int | None:
        """Waits until the command was executed, or gives the system's error number with which it could not be.

        Raises:
            OSError: Firejail could not be executed.
            ProgramStartError: It did not come so far.
            SandboxUnavailableError: The sandbox is not what was asked for.
        """
        try:
            async with asyncio.timeout(START_SECONDS):
                said = await self._conversation(process, request, stdio)
        except TimeoutError:
            late = f"firejail was not ready within {START_SECONDS:g} s"
            raise ProgramStartError(f"{late}: {self._last_words()}") from None
        answers = [json.loads(line) for line in said.splitlines()]
        if not answers:
            await process.started()
            raise ProgramStartError(f"firejail did not start the command: {self._last_words()}")
        if answers[-1] == "ready":
            return None
        if "refused" in answers[-1]:
            raise SandboxUnavailableError(
                f"firejail gives no such sandbox here: {answers[-1]['refused']}", ["use the driver 'bubblewrap'"]
            )
        return int(answers[-1]["errno"])

    async def _conversation(self, process: EnclosedProcess, request: str, stdio: tuple[int, int, int]) -> bytes:
        """What somebody inside said until it became the command, or ended."""
        loop = asyncio.get_running_loop()
        ended = asyncio.ensure_future(process.ended())
        accepting = asyncio.ensure_future(loop.sock_accept(self._socket))
        try:
            await asyncio.wait([accepting, ended], return_when=asyncio.FIRST_COMPLETED)
            if not accepting.done():
                return b""
            connection, _ = accepting.result()
        finally:
            for task in (accepting, ended):
                task.cancel()
            await asyncio.gather(accepting, ended, return_exceptions=True)
        os.unlink(self._path)
        said = b""
        with connection:
            fd = memory_file(request)
            try:
                socket.send_fds(connection, [b"!"], [fd, *stdio])
            finally:
                os.close(fd)
            while data := await loop.sock_recv(connection, 65536):
                said += data
        return said

    def _last_words(self) -> str:
        size = os.fstat(self.log).st_size
        words = os.pread(self.log, _LOG_BYTES, max(0, size - _LOG_BYTES)).decode("utf-8", "replace")
        return words.strip() or "it said nothing"


async def _abandon(process: EnclosedProcess | None, workspace: str) -> None:
    if process is not None:
        process.kill()
        ended = asyncio.ensure_future(process.ended())
        while not ended.done():
            with suppress(asyncio.CancelledError):  # whoever is cancelled again still leaves nothing behind
                await asyncio.wait([ended])
        await process.close()
    remove_workspace(workspace)
