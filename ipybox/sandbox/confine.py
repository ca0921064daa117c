"""The steps by which a process gives up what it could touch. Linux only. Floor: sandbox.

Called inside the outer wall by ``launcher``, in this order: namespaces, mounts, loopback, capabilities, limits, and
last the seccomp filter (see ``seccomp``). Each step raises ``OSError`` when the system refuses it: the caller ends
then, so nothing ever runs with a step missing. Standard library only, and no threads: it runs between two forks.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

NEW_MOUNT: Final = 0x20000
NEW_CGROUP: Final = 0x2000000
NEW_UTS: Final = 0x4000000
NEW_IPC: Final = 0x8000000
NEW_USER: Final = 0x10000000
NEW_PID: Final = 0x20000000
NEW_NET: Final = 0x40000000
EVERYTHING: Final = NEW_USER | NEW_PID | NEW_MOUNT | NEW_NET | NEW_IPC | NEW_UTS | NEW_CGROUP

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18

_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_SYS_OPEN_TREE = 428  # the same on every architecture, as all numbers from 424 on
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442
_MOUNT_ATTR_RDONLY = 1
_OPEN_TREE_CLONE = 1
_AT_RECURSIVE = 0x8000
_AT_FDCWD = -100
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_AT_EMPTY_PATH = 0x1000
_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x1 | 0x40

MASKED: Final = (
    "acpi",
    "cmdline",
    "diskstats",
    "interrupts",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "modules",
    "partitions",
    "sched_debug",
    "scsi",
    "slabinfo",
    "sysrq-trigger",
    "timer_list",
    "vmallocinfo",
)
"""What nobody inside needs of /proc and what tells about the host; after Docker's list."""
FROZEN: Final = ("bus", "fs", "irq", "sys")

_FEWEST_NAMES = 4096
_BYTES_PER_NAME = 8192

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class PrivateDirectory:
    """A directory that every kernel gets anew.

    Attributes:
        path: Where.
        size: Bytes that fit in.
        mode: Its permissions.
    """

    path: str
    size: int
    mode: int = 0o700


def _call(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def new_namespaces(flags: int = EVERYTHING) -> None:
    """Leaves the caller's namespaces; the next child is pid 1 of the new pid namespace."""
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", _libc.unshare(flags))
    if flags & NEW_USER:
        # One line each: the caller's own id is the only one there is inside.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """``mount(2)``."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() if options else None,
    )
    _call(f"mount {kind or source} on {target}", result)


def private_mounts(directories: Sequence[PrivateDirectory], points: Sequence[str]) -> None:
    """A ``/proc`` of this pid namespace's own, terminals of its own, and empty, sized directories.

    What the outer wall had bound below such a directory is still there afterwards.

    Args:
        directories: Which.
        points: Every mount point, see :func:`mount_points`.
    """
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if os.path.isdir("/dev/pts"):
        mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    for directory in directories:
        kept = [(point, clone(point)) for point in outermost(points, below=directory.path)]
        # Names cost memory as well, which counts as nobody's.
        names = max(_FEWEST_NAMES, directory.size // _BYTES_PER_NAME)
        options = f"size={directory.size},nr_inodes={names},mode={directory.mode:o}"
        mount("tmpfs", directory.path, "tmpfs", MS_NOSUID | MS_NODEV, options)
        for point, tree in kept:
            attach(tree, point)
            os.close(tree)
    _mask_proc(directories[0].path)


def overlay(directory: PrivateDirectory, points: Sequence[str]) -> None:
    """Makes a directory that can only be read one that can be written, where nothing that is written lasts.

    What is mounted below it is still there afterwards, as it was. Linux 5.11 for those who are not root.

    Args:
        directory: Which; its size is what can be written into it.
        points: Every mount point, see :func:`mount_points`.
    """
    path = directory.path
    kept = [(point, clone(point)) for point in outermost(points, below=path)]
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    fds = [os.open(path, flags)]
    try:
        names = max(_FEWEST_NAMES, directory.size // _BYTES_PER_NAME)
        options = f"size={directory.size},nr_inodes={names},mode=700"
        # What is written lies in a file system that the result covers, so that nobody finds it.
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options)
        for name in ("upper", "work"):
            os.mkdir(f"{path}/{name}", 0o700)
            fds.append(os.open(f"{path}/{name}", flags))
        status = os.stat(fds[0])
        os.chmod(f"{path}/upper", status.st_mode & 0o7777)
        lower, upper, work = (f"/proc/self/fd/{fd}" for fd in fds)  # whatever characters the path has
        layers = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
        mount("overlay", path, "overlay", MS_NOSUID | MS_NODEV, layers)
    finally:
        for fd in fds:
            os.close(fd)
    for point, tree in kept:
        attach(tree, point)
        os.close(tree)


def _mask_proc(scratch: str) -> None:
    file, folder = f"{scratch}/.masked", f"{scratch}/.masked.d"
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0))
    os.mkdir(folder, 0)
    for name in MASKED:
        path = f"/proc/{name}"
        if os.path.isdir(path):
            mount(folder, path, None, MS_BIND)
        elif os.path.exists(path):
            mount(file, path, None, MS_BIND)
    for name in FROZEN:
        path = f"/proc/{name}"
        if os.path.isdir(path):
            mount(path, path, None, MS_BIND | MS_REC)
            mount(path, path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # The mounts keep what they show; only the names go.
    os.unlink(file)
    os.rmdir(folder)


def pin_link(path: str) -> None:
    """Keeps a symbolic link from being replaced, by mounting it on itself."""
    link = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    flags = _OPEN_TREE_CLONE | _AT_EMPTY_PATH | os.O_CLOEXEC
    tree = _call(f"open_tree {path}", _libc.syscall(_SYS_OPEN_TREE, link, b"", flags))
    moved = _libc.syscall(_SYS_MOVE_MOUNT, tree, b"", link, b"", _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)
    _call(f"move_mount {path}", moved)
    os.close(tree)
    os.close(link)


def mount_points() -> list[str]:
    """Every mount point that this process sees."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [_unescape(line.split(" ", 5)[4]) for line in file]


def outermost(points: Iterable[str], *, below: str) -> list[str]:
    """Those below a directory that lie in no other one below it."""
    found: list[str] = []
    for point in sorted(set(points)):
        if point.startswith(below + "/") and not any(point.startswith(other + "/") for other in found):
            found.append(point)
    return found


def _unescape(text: str) -> str:
    for escaped, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escaped, plain)
    return text


def rearrange(binds: Iterable[tuple[str, str, bool]], hidden: Iterable[str]) -> None:
    """Shows directories at other places, and then hides some.

    Args:
        binds: A directory, where it is to be seen as well, and whether it can be written there.
        hidden: Directories that nothing is seen of any more, but what was bound from there.
    """
    trees = []
    for source, target, writable in binds:
        fd = reference(source)
        try:
            flags = _OPEN_TREE_CLONE | _AT_EMPTY_PATH | _AT_RECURSIVE | os.O_CLOEXEC
            tree = _call(f"open_tree {source}", _libc.syscall(_SYS_OPEN_TREE, fd, b"", flags))
        finally:
            os.close(fd)
        if not writable:
            attributes = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
            flags = _AT_EMPTY_PATH | _AT_RECURSIVE
            result = _libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", flags, attributes, len(attributes))
            _call(f"mount_setattr {source}", result)
        trees.append((tree, target))
    for path in hidden:
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY, "size=4k,mode=0")
    for tree, target in trees:
        attach(tree, target)
        os.close(tree)


def reference(path: str) -> int:
    """Opens a path for reference only; raises ``OSError`` if any part of it is a link."""
    found = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in filter(None, path.split("/")):
            inner = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found)
            os.close(found)
            found = inner
        if os.fstat(found).st_mode & 0o170000 == 0o120000:
            raise OSError(errno.ELOOP, f"{path} is a symbolic link")
    except BaseException:
        os.close(found)
        raise
    return found


def clone(path: str) -> int:
    """A detached copy of what is mounted at a path, with everything mounted below it, as a descriptor."""
    tree = _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC)
    return _call(f"open_tree {path}", tree)


def attach(tree: int, path: str) -> None:
    """Mounts what :func:`clone` gave, at a path that is made for it."""
    if _is_directory(tree):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    moved = _libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)
    _call(f"move_mount {path}", moved)


def _is_directory(fd: int) -> bool:
    return os.stat(fd).st_mode & 0o170000 == 0o040000


def loopback_up() -> None:
    """Switches on the loopback interface, the only one of a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP_RUNNING))


def host_name(name: str) -> None:
    """Names the machine as seen from inside."""
    socket.sethostname(name)


def drop_capabilities() -> None:
    """Gives up every capability, and the right to ever get one."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # the first number that the kernel does not know
    _call("clear ambient capabilities", _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _call("capset", _libc.capset(header, b"\0" * 24))


def no_new_privileges() -> None:
    """No program that is executed from now on gains anything by being setuid."""
    _call("no_new_privs", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def not_dumpable() -> None:
    """Nobody of the same user may look into this process."""
    _call("not dumpable", _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def dumpable() -> None:
    """Undoes what a change of user or :func:`not_dumpable` did."""
    _call("dumpable", _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))


def process_name(name: str) -> None:
    """What ``ps`` shows."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def all_descriptors() -> None:
    """Lets this process have as many descriptors as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit_resources(
    *,
    processes: int,
    open_files: int,
    cpu_time: int | None = None,
    file_size: int | None = None,
    data: int | None = None,
) -> None:
    """Sets resource limits, soft and hard; those of the host stay where they are lower.

    Args:
        processes: Processes and threads of the user namespace (Linux counts them per namespace since 5.14).
        open_files: Per process.
        cpu_time: Seconds per process.
        file_size: Bytes per file.
        data: Bytes of private memory per process, which makes an allocation fail where it would pass that.
    """
    wanted: list[tuple[int, int | None]] = [
        # No core file is that small, and with this very value Linux starts no core handler of the host, see core(5).
        (resource.RLIMIT_CORE, 1),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, open_files),
        (resource.RLIMIT_CPU, None if cpu_time is None else cpu_time + 1),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_DATA, data),
        (resource.RLIMIT_MSGQUEUE, 819_200),
        (resource.RLIMIT_RTPRIO, 0),
    ]
    for kind, value in wanted:
        if value is not None:
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            # Processor time: a signal that says so first, and then one that can't be caught.
            soft = max(value - 1, 1) if kind == resource.RLIMIT_CPU else value
            resource.setrlimit(kind, (soft, value))


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
