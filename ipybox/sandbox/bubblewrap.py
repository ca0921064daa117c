"""Bubblewrap: where it is, what it can do, and how it is told to build a view. Linux only. Floor: sandbox.

It unshares everything, drops every capability, and makes what it built read-only but for what is meant to be writable.
Its options travel in a memory file, not in the command line: they may be many, and they are nobody else's business.

Whoever starts it gives it an environment without secrets, as its pid 1 keeps that and the sandbox can read it.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ipybox.errors import SandboxUnavailableError
from ipybox.sandbox.path_patterns import is_below
from ipybox.sandbox.view import Mount, View

_FIRST_STAGED = 300
"""Descriptors from here on are made by whoever stages the sources."""
OLDEST = (0, 8)
"""Older ones can't limit the size of what they make, or can't forbid further user namespaces."""

ARGUMENTS_LIMIT = 9000
"""Bubblewrap takes no more."""

_DIRECTORIES = ("/usr/bin", "/bin", "/usr/local/bin")
_INSTALL = "install it: apt install bubblewrap, dnf install bubblewrap, or apk add bubblewrap"
_SMALLEST = "4096"
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, and the descriptors that belong to it.

    Attributes:
        argv: The command.
        pass_fds: Descriptors that it must inherit under the same numbers. They are the caller's to close.
        opened: Sources that whoever stages them opens, and the descriptors under which the command expects them.
    """

    argv: tuple[str, ...]
    pass_fds: tuple[int, ...]
    opened: tuple[tuple[str, int], ...] = ()

    def close(self) -> None:
        """Closes the descriptors."""
        for fd in self.pass_fds:
            os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bubblewrap:
    """An installed bubblewrap.

    Attributes:
        path: Where it is.
        version: Its version.
        has_bind_fd: It can bind what a descriptor refers to, so that nobody can put something else in its place.
    """

    path: str
    version: tuple[int, ...]
    has_bind_fd: bool = False

    def command(
        self,
        view: View,
        *,
        argv: Sequence[str],
        sources: Mapping[str, str] | None = None,
        nested: bool = True,
        as_pid_1: bool = False,
        read_only_proc: bool = False,
        share_net: bool = False,
        working_dir: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Command:
        """The command that runs another command in a view.

        Args:
            view: What is seen.
            argv: What is run.
            sources: Where to bind from instead, for sources that were put elsewhere before.
            nested: Whether the command may make user namespaces of its own.
            as_pid_1: Whether the command is pid 1 itself, and so has to reap.
            read_only_proc: Whether nothing in ``/proc`` can be written; then nobody inside can mount another one.
            share_net: Whether it keeps the network of the caller.
            working_dir: Where it runs; None is where the caller is, or ``/`` if that is not visible.
            env: Its complete environment; None is that of bubblewrap.

        The command ends when the thread that started it does, and the descriptors have to stay open until it runs.
        Raises :class:`SandboxUnavailableError`.
        """
        options = ["--unshare-user", "--unshare-all", "--cap-drop", "ALL", "--die-with-parent", "--new-session"]
        options += ["--hostname", "sandbox"]
        if share_net:
            options.append("--share-net")
        if not nested:
            options.append("--disable-userns")
        if as_pid_1:
            options.append("--as-pid-1")
        rendering = _Rendering(sources or {}, view.write_roots if self.has_bind_fd else ())
        try:
            for mount in view.mounts:
                options += rendering.mount(mount)
            for mount in view.mounts:
                if mount.kind == "mask_dir":
                    options += ["--remount-ro", mount.target]
            options += ["--remount-ro", "/proc"] if read_only_proc else []
            options += ["--remount-ro", "/dev", "--remount-ro", "/"]
            if working_dir is not None:
                options += ["--chdir", working_dir]
            if env is not None:
                options += ["--clearenv", *(word for name, value in env.items() for word in ("--setenv", name, value))]
            if len(options) + len(argv) + 4 > ARGUMENTS_LIMIT:
                raise SandboxUnavailableError(
                    f"bubblewrap takes {ARGUMENTS_LIMIT} arguments, and {len(options)} would be needed",
                    ["deny directories instead of the files in them"],
                )
            data = b"".join(os.fsencode(option) + b"\0" for option in options)
            arguments = rendering.memory(data, "bubblewrap")
            command = (self.path, "--args", str(arguments), "--", *argv)
            return Command(command, tuple(rendering.fds), tuple(rendering.opened))
        except BaseException:
            for fd in rendering.fds:
                os.close(fd)
            raise


@dataclass
class _Rendering:
    sources: Mapping[str, str]
    pinned: Sequence[str]
    """Below these, sandboxed code may rename things while we work, so sources are opened, without links."""
    fds: list[int] = field(default_factory=list)
    opened: list[tuple[str, int]] = field(default_factory=list)

    def mount(self, mount: Mount) -> list[str]:
        """The options for one mount."""
        target = mount.target
        perms = [] if mount.mode is None else ["--perms", f"{mount.mode:04o}"]
        match mount.kind:
            case "read" | "write":
                assert mount.source is not None
                return self._bind("--bind" if mount.kind == "write" else "--ro-bind", mount.source, target)
            case "tmpfs":
                return [*perms, "--size", str(mount.size), "--tmpfs", target]
            case "mask_dir":
                return [*perms, "--size", _SMALLEST, "--tmpfs", target]
            case "mask_file":
                return ["--ro-bind", "/dev/null", target]  # a device, on a mount where devices can't be opened
            case "dir":
                return [*perms, "--dir", target]
            case "symlink":
                return ["--symlink", mount.source or "", target]
            case "data":
                return [*perms, "--file", str(self.memory(mount.data or b"", os.path.basename(target))), target]
            case "proc" | "dev":
                return [f"--{mount.kind}", target]

    def _bind(self, option: str, source: str, target: str) -> list[str]:
        if source in self.sources:
            if source not in self.pinned and is_below(source, self.pinned):
                number = _FIRST_STAGED + len(self.opened)
                self.opened.append((source, number))
                return [f"{option}-fd", str(number), target]
            return [option, self.sources[source], target]
        if is_below(source, self.pinned):
            fd = open_without_links(source)
            self.fds.append(fd)
            return [f"{option}-fd", str(fd), target]
        return [option, source, target]

    def memory(self, data: bytes, name: str) -> int:
        """A file in memory, as a descriptor at its beginning."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
        self.fds.append(fd)
        while data:
            data = data[os.write(fd, data) :]
        os.lseek(fd, 0, os.SEEK_SET)
        return fd


def find(
    *, path: str | None = None, outside: Iterable[str] = (), binary: str | os.PathLike[str] | None = None
) -> Bubblewrap:
    """Finds bubblewrap and asks it what it can do.

    Args:
        binary: Where it is; None looks for it.
        path: A search path to use after the system's own directories; None is ``$PATH``. Relative entries don't count.
        outside: Directories that sandboxed code may write, where it is not looked for.

    Raises :class:`SandboxUnavailableError` if there is none, or none that will do.
    """
    if binary is not None:
        directory, name = os.path.split(os.path.abspath(binary))
        found = next(_candidates([directory], (), name), None)
        if found is None:
            raise SandboxUnavailableError(f"{os.fspath(binary)} is no program", ["name the bwrap to use, or none"])
    else:
        entries = (os.environ.get("PATH", "") if path is None else path).split(os.pathsep)
        found = next(_candidates([*_DIRECTORIES, *entries], tuple(outside)), None)
    if found is None:
        raise SandboxUnavailableError("bwrap (bubblewrap) is not installed", [_INSTALL])
    if os.stat(found).st_mode & stat.S_ISUID and os.geteuid() != 0:
        raise SandboxUnavailableError(
            f"{found} is setuid root, and then can't limit what a sandbox uses",
            [f"chmod u-s {found}, where the kernel lets users make user namespaces"],
        )
    version = _version(_ask(found, "--version"))
    if version < OLDEST:
        text, oldest = (".".join(map(str, each)) for each in (version, OLDEST))
        raise SandboxUnavailableError(
            f"{found} is version {text}, and {oldest} is the oldest that will do",
            ["install a newer bubblewrap: 0.10, or Debian 12's"],
        )
    if "--ro-bind-fd" not in _ask(found, "--help"):
        raise SandboxUnavailableError(
            f"{found} can't bind what a descriptor refers to, so what it binds could be exchanged while it does",
            ["install a bubblewrap with the fix of CVE-2024-42472: 0.10, or Debian's 0.8.0-2+deb12u1"],
        )
    return Bubblewrap(path=found, version=version, has_bind_fd=True)


def _candidates(directories: Iterable[str], outside: Sequence[str], name: str = "bwrap") -> Iterator[str]:
    for directory in directories:
        if not os.path.isabs(directory):
            continue
        found = os.path.realpath(os.path.join(directory, name))
        if os.path.isfile(found) and os.access(found, os.X_OK) and not is_below(found, outside):
            yield found


def _ask(program: str, option: str) -> str:
    try:
        done = subprocess.run(
            [program, option],
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxUnavailableError(f"{program} does not run: {error}", [_INSTALL]) from error
    return done.stdout + done.stderr


def _version(text: str) -> tuple[int, ...]:
    found = re.search(r"\bbubblewrap (\d+(?:\.\d+)+)", text)
    if found is None:
        raise SandboxUnavailableError(f"bwrap does not say its version, but {text.strip()[:200]!r}", [_INSTALL])
    return tuple(int(number) for number in found[1].split("."))


def open_without_links(path: str) -> int:
    """Opens a path for reference only; every part of it must be what it is called, not a link."""
    fd = -1
    try:
        fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        parts = [part for part in path.split("/") if part]
        for number, part in enumerate(parts, start=1):
            kind = os.O_DIRECTORY if number < len(parts) else 0
            inner = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=fd)
            os.close(fd)
            fd = inner
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise OSError("it is a symbolic link now")
        return fd
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise SandboxUnavailableError(
            f"{path} can't be bound: {error.strerror or error}",
            ["don't change the working directory while a sandbox starts", "allow more open files: ulimit -n 8192"],
        ) from error
