"""Starts sandboxed programs, from inside the outer wall. Linux only. Floor: sandbox.

Run by ``supervisor`` as ``python -I -S -c ... FD``. A single thread without secrets: it reads requests from a socket,
and for each of them forks a process that takes namespaces of its own, confines itself (see ``confine``), becomes
pid 1 there, and starts the program as its child. That pid 1 collects orphans, passes signals on, and says how the
program ended; when it goes, the kernel ends everything in its pid namespace.

With ``--warm`` it is a fork-server as well: it imports beforehand what a program needs, and a program that asks for it
is not executed but goes on from there (see ``process.warm``). What it imports must not come from where sandboxed code
writes: all that confines a program is done by this process.

With ``--single`` there is one program, and bubblewrap has made its namespaces and mounts already. That is for systems
that let bubblewrap make a user namespace, but nobody inside it.

A request is one packet with descriptors: a JSON file, the *lead*, then the descriptors that the program inherits. The
lead is a socket between the program's pid 1 and the supervisor; a packet on it is a JSON object, see :func:`_report`.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import product
from typing import Any, NoReturn

from ipybox.errors import PreloadError
from ipybox.process import child_setup, warm
from ipybox.sandbox import confine, seccomp

MAX_FDS = 32
"""Descriptors in one request."""
PACKET = 4096
"""Bytes of the largest packet on the control socket."""
PROXY_PORT = 3128
"""Where the egress proxy is found inside a sandbox, on 127.0.0.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is to be started, and how it is confined.

    Attributes:
        argv: The command; an empty one is a trial, which takes every step and runs nothing.
        env: Its complete environment.
        cwd: Its working directory, as seen inside.
        fds: Numbers that the inherited descriptors get.
        private: Directories that are its own: path, size in bytes, permissions.
        overlays: Directories that it may change, and whose changes are gone with it: path, bytes of change.
        binds: What else it sees: a directory behind the wall, a directory that is there to show it at, and whether it
            can be written. No part of the first may be a link.
        hidden: Directories behind the wall that it does not see, but for what is bound from there.
        pinned_links: Symbolic links that it must not replace.
        covered: Paths in writable places at which there has to be a mount. Who renames directories while bubblewrap
            works can have it mount beside what it was to cover.
        processes, open_files, cpu_time, file_size, data: See :func:`confine.limit_resources`.
        unix_sockets: Whether Unix sockets can be made.
        proxy: Whether there is an egress proxy.
        warm: Go on from what the launcher has imported, where it has, instead of executing ``argv``.
        cpus: Processors that it runs on, for good; none for all that there are.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    cwd: str
    fds: Sequence[int] = ()
    private: Sequence[tuple[str, int, int]] = ()
    overlays: Sequence[tuple[str, int]] = ()
    binds: Sequence[tuple[str, str, bool]] = ()
    hidden: Sequence[str] = ()
    pinned_links: Sequence[str] = ()
    covered: Sequence[str] = ()
    processes: int = 512
    open_files: int = 4096
    cpu_time: int | None = None
    file_size: int | None = None
    data: int | None = None
    unix_sockets: bool = False
    proxy: bool = False
    warm: bool = False
    cpus: Sequence[int] = ()

    def to_json(self) -> str:
        """The form in which it travels."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Program:
        """Reads what :meth:`to_json` wrote."""
        return cls(**json.loads(text))


def serve(control: socket.socket, run: warm.Run | None = None, **facts: Any) -> None:
    """Starts what is asked for until the supervisor is gone.

    Args:
        control: The socket to the supervisor.
        run: What a program calls that asks to be forked only.
        facts: What else the supervisor is told in the first packet, with which it knows that we are ready.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the processes in between need no burial
    confine.all_descriptors()
    for unix_sockets, affinity in product((False, True), repeat=2):
        _filter(unix_sockets, affinity)  # made once, and not in each fork
    _mount_points()
    # With the first the supervisor can tell when all behind this wall is gone, and with both that it is about to be.
    first, ours = os.pidfd_open(1), os.pidfd_open(os.getpid())
    socket.send_fds(control, [json.dumps({"ready": True, **facts}).encode()[:PACKET]], [first, ours])
    _close([first, ours])
    while True:
        try:
            packet, fds, _, _ = socket.recv_fds(control, 64, MAX_FDS)
        except ConnectionResetError:  # it went before it had read that we are ready
            return
        if not packet:
            return
        if len(fds) < 2:  # out of descriptors; who asked sees the end of the lead
            _close(fds)
            continue
        try:
            pid = os.fork()
        except OSError as error:  # too many processes; those that run are not to suffer from it
            os.write(fds[1], json.dumps({"error": f"no process can be made: {error.strerror}"}).encode())
            pid = -1
        if pid == 0:
            control.close()
            try:
                start(fds[0], fds[1], fds[2:], nested=True, run=run)
            finally:
                os._exit(1)
        _close(fds)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def start(request: int, lead_fd: int, fds: list[int], *, nested: bool, run: warm.Run | None = None) -> None:
    """Takes namespaces, and starts the program in them. Never returns."""
    lead = socket.socket(fileno=lead_fd)
    try:
        program = Program.from_json(os.pread(request, os.fstat(request).st_size, 0))
        os.close(request)
        if nested:
            confine.new_namespaces()
            if os.fork():
                os._exit(0)
        _become_init(program, lead, fds, run if program.warm else None, nested=nested)
    except _StartError as error:
        _report(lead, error=str(error), errno=error.errno)
    except BaseException as error:
        _report(lead, error=f"it could not be confined: {type(error).__name__}: {error}")
    os._exit(1)


def _become_init(program: Program, lead: socket.socket, fds: list[int], run: warm.Run | None, *, nested: bool) -> None:
    confine.not_dumpable()
    missed = set(program.covered).difference(_mount_points())
    if missed:
        raise _StartError(f"{min(missed)} was moved while the sandbox was built")
    if nested:
        os.setsid()
        confine.private_mounts([confine.PrivateDirectory(*item) for item in program.private], _mount_points())
        for path, size in program.overlays:
            confine.overlay(confine.PrivateDirectory(path, size), _mount_points())
        for path in program.pinned_links:
            confine.pin_link(path)
        confine.rearrange(program.binds, program.hidden)
        confine.loopback_up()
        confine.host_name("sandbox")
    if program.proxy:
        _send_listener(lead)
    confine.drop_capabilities()
    if program.cpus:
        os.sched_setaffinity(0, program.cpus)
    seccomp.install(_filter(program.unix_sockets, not program.cpus))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which for pid 1 means: nothing
    wakeup, wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    failed, failure = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _execute(program, failure, fds, run)
    os.close(failure)
    reason = _read_all(failed)  # ends when the program was executed, which closes the other end
    if reason:
        raise _StartError(**reason)
    child_setup.close_all_but({lead.fileno(), wakeup, wakeup_write})
    child_setup.quiet_stdio()
    confine.process_name("ipybox-init")
    mine, its = os.pidfd_open(os.getpid()), os.pidfd_open(child)
    socket.send_fds(lead, [b'{"started": true}'], [mine, its])
    os.close(mine)
    os.close(its)
    _report(lead, exit=_until_ended(lead, child, wakeup))
    os._exit(0)


@cache
def _mount_points() -> list[str]:
    """Those of the outer wall: nobody behind it can change them any more."""
    return confine.mount_points()


@cache
def _filter(unix_sockets: bool, affinity: bool) -> bytes:
    return seccomp.program(seccomp.Filter(unix_sockets=unix_sockets, affinity=affinity))


def _until_ended(lead: socket.socket, child: int, wakeup: int) -> int | None:
    """Passes signals on and collects orphans; returns how the program ended, or None when the supervisor is gone."""
    while True:
        readable, _, _ = select.select([lead.fileno(), wakeup], [], [])
        if wakeup in readable:
            os.read(wakeup, 512)
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)  # there is a child until it is the program that ended
                if pid == child:
                    return os.waitstatus_to_exitcode(status)
                if pid == 0:
                    break
        if lead.fileno() in readable:
            packet = lead.recv(4096)
            if not packet:
                return None
            _signal(child, int(json.loads(packet)["signal"]))


def _signal(child: int, signum: int) -> None:
    try:
        os.killpg(child, signum)
    except ProcessLookupError:
        os.kill(child, signum)  # it has not got its group yet


def _execute(program: Program, failure: int, fds: list[int], run: warm.Run | None) -> None:
    """Becomes the program, or says why not."""
    try:
        os.setsid()
        failure, moved = child_setup.set_aside(fds, failure, program.fds)
        child_setup.place(moved, program.fds)
        child_setup.default_signals()
        # Here and not before: descriptors that the user's processes have sent each other count against the limit of
        # whoever sends next, and pid 1 has to send some.
        confine.limit_resources(
            processes=program.processes,
            open_files=program.open_files,
            cpu_time=program.cpu_time,
            file_size=program.file_size,
            data=program.data,
        )
        os.chdir(program.cwd)
        if not program.argv:
            os._exit(0)
    except BaseException as error:
        _fail(failure, f"can't start {program.argv[:1]!r} in {program.cwd!r}: {error}")
    if run is None:
        try:
            os.execvpe(program.argv[0], list(program.argv), dict(program.env))
        except BaseException as error:
            number = error.errno if isinstance(error, OSError) else None
            _fail(failure, f"can't start {program.argv[0]!r} in {program.cwd!r}: {error}", errno=number)
    os.close(failure)
    confine.dumpable()
    confine.process_name("ipybox-kernel")
    assert run is not None
    run(program.env)


def _fail(failure: int, error: str, **facts: Any) -> NoReturn:
    os.write(failure, json.dumps({"error": error[:1000], **facts}).encode())
    os._exit(127)


def _read_all(fd: int) -> dict[str, Any]:
    text = b""
    while data := os.read(fd, 4096):
        text += data
    os.close(fd)
    return dict(json.loads(text)) if text else {}


class _StartError(Exception):
    """The program could not be executed."""

    def __init__(self, error: str, errno: int | None = None) -> None:
        super().__init__(error)
        self.errno = errno


def _report(lead: socket.socket, **facts: Any) -> None:
    """Tells the supervisor: ``error`` (a sentence; with ``errno`` if the program can't be executed), ``exit`` (code, or
    negative signal). ``started`` comes with the pidfds of pid 1 and of the program, ``listener`` with the socket for
    the egress proxy."""
    try:
        lead.send(json.dumps(facts).encode())
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF):
            raise


def _send_listener(lead: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", PROXY_PORT))
        listener.listen(128)
        listener.setblocking(False)
        socket.send_fds(lead, [b'{"listener": true}'], [listener.fileno()])


def _is_abandoned(control: socket.socket) -> bool:
    """Whether the supervisor is gone already. Bubblewrap ends with it only if it went after that had asked for it."""
    try:
        return not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _tell(control: socket.socket, **facts: Any) -> None:
    control.send(json.dumps(facts).encode()[:PACKET])


def main(arguments: Sequence[str]) -> None:
    """``FD``: serve on that socket. ``--single REQUEST LEAD FD...``: start one program.

    ``--warm SETTINGS FD``: serve, with a :class:`~ipybox.process.warm.Warmth` from that descriptor.
    """
    if arguments[0] == "--single":
        request, lead, *fds = (int(argument) for argument in arguments[1:])
        start(request, lead, fds, nested=False)
    control = socket.socket(fileno=int(arguments[-1]))
    if arguments[0] != "--warm":
        return serve(control)
    if _is_abandoned(control):
        return
    with os.fdopen(int(arguments[1]), encoding="utf-8") as file:
        warmth = warm.Warmth.from_json(file.read())
    try:
        run = warm.prepare(warmth, lambda name: _tell(control, importing=name))
    except PreloadError as error:
        return _tell(control, preload=[error.module, error.reason])
    except Exception as error:  # not as we know it: programs are executed then, which takes longer and works
        return serve(control, cold=f"{type(error).__name__}: {error}"[:1000])
    serve(control, run)
