"""What sandboxed code tries. This module is copied into a working directory and imported by the kernel there.

Standard library only. A function returns what it saw, or lets the ``OSError`` of the system through; :func:`answer`
turns both into JSON. Nothing here is to be run outside of a sandbox.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)

NUMBERS = {
    # name: x86_64, aarch64
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fchmodat2": (452, 452),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "listmount": (458, 458),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "renameat2": (316, 276),
    "request_key": (249, 218),
    "seccomp": (317, 277),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "statmount": (457, 457),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
"""Numbers of system calls."""
_AT_FDCWD = -100
_NEW_USER, _NEW_NET, _NEW_MOUNT, _NEW_PID = 0x10000000, 0x40000000, 0x20000, 0x20000000
_SO_PEERPIDFD, _SO_NETNS_COOKIE = 77, 71
_SIOCUNIXFILE, _SIOCGSKNS = 0x89E0, 0x894C


class RefusedError(Exception):
    """It did not work, and not with an ``OSError``."""


def answer(name: str, arguments: str) -> str:
    """Calls a function of this module; arguments and result travel as JSON."""
    function: Callable[..., Any] = globals()[name]
    try:
        return json.dumps({"value": function(*json.loads(arguments))})
    except OSError as error:
        number = error.errno
        return json.dumps({"refused": errno.errorcode.get(number, str(number)) if number else type(error).__name__})
    except RefusedError as error:
        return json.dumps({"refused": str(error)})


# ---- system calls ---------------------------------------------------------------------------------------------------


def _syscall(name: str, *arguments: Any) -> int:
    number = NUMBERS[name][platform.machine() == "aarch64"]
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def _in_child(action: Callable[[], object]) -> int:
    """Runs something in a forked child; its errno, 0 when it worked, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 254
        try:
            action()
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _vector() -> Any:
    memory = ctypes.create_string_buffer(8)
    return ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(memory), 8))


def _buffer(size: int, start: bytes = b"") -> Any:
    return ctypes.create_string_buffer(start, size)


def _clone(flags: int) -> int:
    result = _syscall("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    os.waitpid(result, 0)
    return result


def _namespace(kind: str) -> int:
    return os.open(f"/proc/self/ns/{kind}", os.O_RDONLY)


def _pidfd() -> int:
    return os.pidfd_open(os.getpid())


_CALLS: dict[str, Callable[[], object]] = {
    "ptrace traceme": lambda: _syscall("ptrace", 0, 0, 0, 0),
    "ptrace attach pid 1": lambda: _syscall("ptrace", 16, 1, 0, 0),
    "ptrace seize parent": lambda: _syscall("ptrace", 0x4206, os.getppid(), 0, 0),
    "process_vm_readv self": lambda: _syscall("process_vm_readv", os.getpid(), _vector(), 1, _vector(), 1, 0),
    "process_vm_readv pid 1": lambda: _syscall("process_vm_readv", 1, _vector(), 1, _vector(), 1, 0),
    "process_vm_writev pid 1": lambda: _syscall("process_vm_writev", 1, _vector(), 1, _vector(), 1, 0),
    "process_madvise": lambda: _syscall("process_madvise", _pidfd(), _vector(), 1, 21, 0),
    "kcmp": lambda: _syscall("kcmp", os.getpid(), os.getpid(), 0, 0, 0),
    "pidfd_getfd self": lambda: _syscall("pidfd_getfd", _pidfd(), 0, 0),
    "pidfd_getfd pid 1": lambda: _syscall("pidfd_getfd", os.pidfd_open(1), 3, 0),
    "unshare user": lambda: _syscall("unshare", _NEW_USER),
    "unshare network": lambda: _syscall("unshare", _NEW_NET),
    "unshare mounts": lambda: _syscall("unshare", _NEW_MOUNT),
    "unshare user and mounts": lambda: _syscall("unshare", _NEW_USER | _NEW_MOUNT),
    "clone user": lambda: _clone(_NEW_USER),
    "clone user and network": lambda: _clone(_NEW_USER | _NEW_NET),
    "clone pid": lambda: _clone(_NEW_PID),
    "clone3 user": lambda: _syscall("clone3", _buffer(88, struct.pack("Q", _NEW_USER)), 88),
    "setns own user": lambda: _syscall("setns", _namespace("user"), 0),
    "setns own mounts": lambda: _syscall("setns", _namespace("mnt"), 0),
    "setns pidfd": lambda: _syscall("setns", _pidfd(), _NEW_NET),
    "mount tmpfs": lambda: _syscall("mount", b"none", b"/tmp", b"tmpfs", 0, 0),
    "mount bind": lambda: _syscall("mount", b"/tmp", b"/etc", 0, 4096, 0),
    "mount proc": lambda: _syscall("mount", b"proc", b"/proc", b"proc", 0, 0),
    "remount writable": lambda: _syscall("mount", b"none", b"/", 0, 32, 0),
    "umount proc": lambda: _syscall("umount2", b"/proc", 2),
    "umount detach tmp": lambda: _syscall("umount2", b"/tmp", 2),
    "pivot_root": lambda: _syscall("pivot_root", b"/tmp", b"/tmp"),
    "chroot": lambda: _syscall("chroot", b"/tmp"),
    "chroot to where it is": lambda: _syscall("chroot", b"/"),
    "open_tree": lambda: _syscall("open_tree", _AT_FDCWD, b"/tmp", 0),
    "open_tree clone": lambda: _syscall("open_tree", _AT_FDCWD, b"/tmp", 1),
    "move_mount": lambda: _syscall("move_mount", _AT_FDCWD, b"/tmp", _AT_FDCWD, b"/etc", 0),
    "fsopen": lambda: _syscall("fsopen", b"tmpfs", 0),
    "fsconfig": lambda: _syscall("fsconfig", 0, 6, 0, 0, 0),
    "fsmount": lambda: _syscall("fsmount", 0, 0, 0),
    "fspick": lambda: _syscall("fspick", _AT_FDCWD, b"/", 0),
    "mount_setattr": lambda: _syscall("mount_setattr", _AT_FDCWD, b"/", 0, _buffer(32), 32),
    "io_uring_setup": lambda: _syscall("io_uring_setup", 1, _buffer(120)),
    "io_uring_enter": lambda: _syscall("io_uring_enter", 0, 0, 0, 0, 0, 0),
    "io_uring_register": lambda: _syscall("io_uring_register", -1, 0, 0, 0),
    "userfaultfd": lambda: _syscall("userfaultfd", 1),
    "bpf": lambda: _syscall("bpf", 0, _buffer(64, struct.pack("IIII", 2, 4, 4, 1)), 64),
    "perf_event_open": lambda: _syscall("perf_event_open", _buffer(112, struct.pack("IIQ", 1, 112, 0)), 0, -1, -1, 0),
    "add_key": lambda: _syscall("add_key", b"user", b"name", b"value", 5, -3),
    "request_key": lambda: _syscall("request_key", b"user", b"name", 0, -3),
    "keyctl": lambda: _syscall("keyctl", 0, -3, 0, 0, 0),
    "keyctl join session": lambda: _syscall("keyctl", 1, 0, 0, 0, 0),
    "name_to_handle_at": lambda: _syscall(
        "name_to_handle_at", _AT_FDCWD, b"/tmp", _buffer(136, struct.pack("I", 128)), _buffer(8), 0
    ),
    "open_by_handle_at": lambda: _syscall("open_by_handle_at", _AT_FDCWD, _buffer(136, struct.pack("Ii", 8, 1)), 0),
    "fanotify_init": lambda: _syscall("fanotify_init", 0x200, 0),
    "kexec_load": lambda: _syscall("kexec_load", 0, 0, 0, 0),
    "kexec_file_load": lambda: _syscall("kexec_file_load", -1, -1, 0, 0, 4),
    "init_module": lambda: _syscall("init_module", b"", 0, b""),
    "finit_module": lambda: _syscall("finit_module", 0, b"", 0),
    "delete_module": lambda: _syscall("delete_module", b"none", 0),
    "reboot": lambda: _syscall("reboot", 0xFEE1DEAD, 672274793, 0x89ABCDEF, 0),
    "swapon": lambda: _syscall("swapon", b"/tmp/swap", 0),
    "swapoff": lambda: _syscall("swapoff", b"/tmp/swap"),
    "quotactl": lambda: _syscall("quotactl", 0x80000100, 0, 0, 0),
    "quotactl_fd": lambda: _syscall("quotactl_fd", 0, 0x80000100, 0, 0),
    "acct": lambda: _syscall("acct", 0),
    "syslog": lambda: _syscall("syslog", 3, _buffer(4096), 4096),
    "memfd_secret": lambda: _syscall("memfd_secret", 0),
    "settimeofday": lambda: _syscall("settimeofday", _buffer(16), 0),
    "clock_settime": lambda: _syscall("clock_settime", 0, _buffer(16)),
    "clock_adjtime": lambda: _syscall("clock_adjtime", 0, _buffer(256)),
    "adjtimex": lambda: _syscall("adjtimex", _buffer(256)),
    "sethostname": lambda: _syscall("sethostname", b"mine", 4),
    "setdomainname": lambda: _syscall("setdomainname", b"mine", 4),
    "vhangup": lambda: _syscall("vhangup"),
    "migrate_pages": lambda: _syscall("migrate_pages", 0, 1, _buffer(8), _buffer(8)),
    "move_pages": lambda: _syscall("move_pages", 0, 0, 0, 0, 0, 0),
    "listmount": lambda: _syscall("listmount", _buffer(24), _buffer(64), 8, 0),
    "statmount": lambda: _syscall("statmount", _buffer(24), _buffer(512), 512, 0),
    "openat2": lambda: _syscall("openat2", _AT_FDCWD, b"/tmp", _buffer(24), 24),
    "personality without randomization": lambda: _syscall("personality", 0x0040000),
    "personality that executes what it reads": lambda: _syscall("personality", 0x0400000),
    "prctl set_mm": lambda: _prctl(35, 6, 0, 0, 0),
    "seccomp listener": lambda: _syscall("seccomp", 1, 8, _buffer(16)),
    "keep capabilities": lambda: _raise_ambient(),
    "capset all": lambda: _capset_all(),
    "no number of any call": lambda: _number(5000),
}


def call(name: str) -> object:
    """Makes one of the calls above, in a child: it might work."""
    number = _in_child(_CALLS[name])
    if number:
        raise OSError(number, name) if number > 0 else RefusedError(signal.Signals(-number).name)
    return "done"


def names_of_calls() -> list[str]:
    """Every name that :func:`call` takes."""
    return list(_CALLS)


def _number(number: int) -> int:
    result: int = libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0)
    if result < 0:
        raise OSError(ctypes.get_errno(), str(number))
    return result


def _prctl(*words: int) -> int:
    result: int = libc.prctl(*(ctypes.c_ulong(word) for word in words))
    if result < 0:
        raise OSError(ctypes.get_errno(), "prctl")
    return result


def _raise_ambient() -> int:
    return _prctl(47, 2, 21, 0, 0)


def _capset_all() -> None:
    header = struct.pack("=Ii", 0x20080522, 0)
    if libc.capset(header, struct.pack("=6I", *[0xFFFFFFFF] * 6)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def foreign_call(kind: str) -> str:
    """A call of another architecture's, by which a filter that looks at numbers only would be passed."""
    if kind == "x32":
        return _ended(_in_child(lambda: libc.syscall(ctypes.c_long(0x40000000 | 39))))
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return _ended(_in_child(ctypes.CFUNCTYPE(ctypes.c_int)(address)))


def _ended(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


def set_id(kind: str) -> str:
    """Changes who this process is, in a child."""
    ways: dict[str, Callable[[], object]] = {
        "setuid": lambda: os.setuid(0),
        "setgid": lambda: os.setgid(0),
        "setresuid": lambda: os.setresuid(0, 0, 0),
        "setreuid": lambda: os.setreuid(-1, 0),
        "setfsuid": lambda: _set_fsuid(),
        "setgroups": lambda: os.setgroups([0]),
        "setgroups own": lambda: os.setgroups([os.getgid()]),
        "initgroups": lambda: os.initgroups("root", 0),
        "setuid other": lambda: os.setuid(os.getuid() + 1),
    }
    number = _in_child(ways[kind])
    if number:
        raise OSError(number, kind)
    return "done"


def _set_fsuid() -> None:
    libc.setfsuid(0)
    if libc.setfsuid(-1) != 0:
        raise OSError(errno.EPERM, "setfsuid")


def terminal(request: int) -> str:
    """Puts input into a terminal of ours as if somebody had typed it."""
    _, slave = os.openpty()
    fcntl.ioctl(slave, request, b"x")
    return "done"


def high_terminal() -> str:
    """The same with bits above those that the kernel looks at."""
    _, slave = os.openpty()
    if libc.ioctl(ctypes.c_int(slave), ctypes.c_ulong(0x100005412), b"x") < 0:
        raise OSError(ctypes.get_errno(), "ioctl")
    return "done"


# ---- who and what we are --------------------------------------------------------------------------------------------

_FIELDS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups")


def threads() -> dict[str, dict[str, str]]:
    """Status of every thread, with some new ones."""
    done = threading.Event()
    extra = [threading.Thread(target=done.wait) for _ in range(3)]
    for thread in extra:
        thread.start()
    try:
        return {tid: _status(f"/proc/self/task/{tid}/status") for tid in os.listdir("/proc/self/task")}
    finally:
        done.set()
        for thread in extra:
            thread.join()


def _status(path: str) -> dict[str, str]:
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return {key: " ".join(value.split()) for key, _, value in lines if key in (*_FIELDS, "Seccomp_filters")}


def status_of_child() -> dict[str, str]:
    """Status of a program that was executed."""
    text = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    lines = (line.partition(":") for line in text.splitlines())
    return {key: " ".join(value.split()) for key, _, value in lines if key in _FIELDS}


def identity() -> dict[str, Any]:
    """User, groups, and the ids of the user namespace."""
    return {
        "uids": os.getresuid(),
        "gids": os.getresgid(),
        "groups": os.getgroups(),
        "uid_map": Path("/proc/self/uid_map").read_text().split(),
        "gid_map": Path("/proc/self/gid_map").read_text().split(),
        "setgroups": Path("/proc/self/setgroups").read_text().strip(),
    }


def namespaces(pid: str = "self") -> dict[str, str]:
    """Which namespaces a process is in."""
    kinds = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds}


def execute(*command: str) -> dict[str, Any]:
    """Runs a program without input."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    except FileNotFoundError:
        return {"code": 127, "output": ""}
    return {"code": done.returncode, "output": (done.stdout + done.stderr).decode("utf-8", "replace")}


def system_set_id_programs() -> list[str]:
    """Programs that would lend out rights if they could: those on file systems that let them."""
    found = []
    for folder in ("/usr/bin", "/usr/sbin", "/usr/lib", "/opt"):
        for path in _files(folder, depth=3):
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) and mode & 0o6000 and not os.statvfs(path).f_flag & os.ST_NOSUID:
                found.append(path)
    return found


def mounts_without(flag: str) -> list[str]:
    """Mount points that lack an option."""
    lines = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [words[4] for words in lines if flag not in words[5].split(",")]


def mounts_writable() -> list[str]:
    """Mount points on which something can be changed."""
    lines = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    points = {words[4] for words in lines}
    return sorted(point for point in points if not os.statvfs(point).f_flag & os.ST_RDONLY)


def limits() -> dict[str, tuple[int, int]]:
    """Resource limits."""
    return {name: resource.getrlimit(getattr(resource, name)) for name in ("RLIMIT_CORE", "RLIMIT_RTPRIO")}


def crash() -> dict[str, Any]:
    """Has a child dump core where it could."""
    folder = tempfile.mkdtemp()
    code = "import os, resource\ntry: resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))\nexcept ValueError: pass\n"
    ended = subprocess.run([sys.executable, "-c", code + "os.abort()"], cwd=folder, stderr=subprocess.DEVNULL)
    return {"code": ended.returncode, "left": os.listdir(folder)}


# ---- /proc ----------------------------------------------------------------------------------------------------------


def pids() -> dict[str, str]:
    """Processes that are seen."""
    return {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in os.listdir("/proc") if pid.isdigit()}


def parentage() -> dict[str, Any]:
    """Which processes are there, and which are ours."""
    return {"self": os.getpid(), "parent": os.getppid(), "pids": sorted(int(pid) for pid in pids())}


def _files(top: str, *, depth: int) -> Iterator[str]:
    try:
        with os.scandir(top) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            if depth:
                yield from _files(entry.path, depth=depth - 1)
        else:
            yield entry.path


_ENDLESS = ("kmsg", "mem", "pagemap", "clear_refs", "kpagecount", "kpageflags", "kpagecgroup")


def proc_files_with(reversed_text: str) -> dict[str, Any]:
    """Files in /proc that hold a text, which is given backwards so that it is not found in its own argument."""
    text = reversed_text[::-1].encode()
    found, read = [], 0
    for path in (*_files("/proc", depth=4), *_files("/sys", depth=1)):
        if path.rpartition("/")[2] in _ENDLESS or "/task/" in path or "/fd/" in path or "/map_files/" in path:
            continue
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            data = b""
            while len(data) < 2**20 and (more := os.read(fd, 65536)):
                data += more
            read += 1
        except OSError:
            pass
        finally:
            os.close(fd)
        if text in data:
            found.append(path)
    return {"found": found, "read": read}


def environment() -> dict[str, str]:
    """Variables."""
    return dict(os.environ)


def is_exposed(path: str) -> str:
    """Whether anything can be had of a path: read, listed, or followed."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        os.readlink(path)
        return "link"
    if stat.S_ISDIR(mode):
        os.listdir(path)
        return "directory"
    return f"read {len(read_some(path))}"


def read_some(path: str) -> str:
    """The beginning of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, 4096).decode("latin-1")
    finally:
        os.close(fd)


def write_over(path: str, text: str) -> str:
    """Writes to a file that is there."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
    return "done"


def rewrite(path: str) -> str:
    """Writes to a setting what it is already, as far as that can be read."""
    try:
        with open(path) as file:
            text = file.read(4096)
    except OSError:
        text = ""
    return write_over(path, text)


# ---- descriptors ----------------------------------------------------------------------------------------------------


def descriptors() -> list[dict[str, Any]]:
    """What is open in this process."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            number = int(name)
            mode = os.fstat(number).st_mode
            kind = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFSOCK: "socket"}.get(stat.S_IFMT(mode), "")
            fact: dict[str, Any] = {"number": number, "link": os.readlink(f"/proc/self/fd/{name}"), "kind": kind}
        except OSError:
            continue  # the listing itself
        if kind == "socket":
            with socket.socket(fileno=os.dup(number)) as each:
                fact["family"] = socket.AddressFamily(each.family).name
                fact["cookie"] = str(struct.unpack("Q", each.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])
        found.append(fact)
    return found


def socket_tricks() -> list[str]:
    """What an inherited socket gives away of those who made it: their file, their namespace, themselves."""
    got = []
    for fact in descriptors():
        if fact["kind"] != "socket":
            continue
        with socket.socket(fileno=os.dup(fact["number"])) as each:
            for name, request in (("file", _SIOCUNIXFILE), ("namespace", _SIOCGSKNS)):
                try:
                    got.append(f"{name} {fcntl.ioctl(each, request, 0)}")
                except OSError:
                    pass
            got += _peer_tricks(each)
            if each.family == socket.AF_UNIX:
                try:
                    each.connect(b"\0nobody")
                    got.append("connected")
                except OSError:
                    pass
    return got


def _peer_tricks(each: socket.socket) -> list[str]:
    try:
        peer = struct.unpack("i", each.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4))[0]
    except OSError:
        return []
    try:
        if "NSpid:\t0" not in Path(f"/proc/self/fdinfo/{peer}").read_text():
            return []  # one of ours
        got = []
        try:
            signal.pidfd_send_signal(peer, 0)
            got.append("signalled the peer")
        except OSError:
            pass
        for number in range(1, 11):
            try:
                os.close(fcntl.ioctl(peer, 0xFF00 + number, 0))
                got.append(f"namespace {number} of the peer")
            except OSError:
                pass
        return got
    finally:
        os.close(peer)


def inherited(by: str) -> list[int]:
    """Descriptors of a program that we execute without closing any."""
    code = "import os; print([int(n) for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)])"
    command = [sys.executable, "-I", "-S", "-c", code]
    if by == "subprocess":
        text = subprocess.run(command, close_fds=False, capture_output=True, text=True, check=True).stdout
    else:
        read, write = os.pipe()
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
        os.close(write)
        with os.fdopen(read) as file:
            text = file.read()
        os.waitpid(pid, 0)
    numbers: list[int] = json.loads(text)
    return numbers


# ---- files ----------------------------------------------------------------------------------------------------------


def create(path: str, text: str = "planted") -> str:
    """Makes a new file."""
    with open(path, "x") as file:
        file.write(text)
    return "done"


def make_directory(path: str) -> str:
    """Makes a directory and those above it."""
    os.makedirs(path)
    return "done"


def make_link(target: str, path: str) -> str:
    """Makes a symbolic link."""
    os.symlink(target, path)
    return "done"


def change(path: str, way: str) -> str:
    """Tries to change, move or replace what is at a path, or something in it if it is a directory."""
    mine = f"{path}.{way.replace('/', '-')}"
    _WAYS[way](path, mine)
    return "done"


def names_of_ways() -> list[str]:
    """Every way that :func:`change` knows."""
    return list(_WAYS)


def _append(path: str, mine: str) -> None:
    if os.path.isdir(path):
        create(f"{path}/planted")
    else:
        with open(path, "a") as file:
            file.write("planted")


def _reopen(path: str, mine: str) -> None:
    if os.path.isdir(path):
        fd = os.open(path, os.O_RDONLY)
        os.close(os.open(f"/proc/self/fd/{fd}/planted", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    else:
        fd = os.open(path, os.O_RDONLY)
        write_over(f"/proc/self/fd/{fd}", "planted")


def _by_root(path: str, mine: str) -> None:
    _append(f"/proc/self/root{path}", mine)


def _by_cwd(path: str, mine: str) -> None:
    _append(f"/proc/self/cwd/{os.path.relpath(path)}", mine)


def _truncate(path: str, mine: str) -> None:
    if os.path.isdir(path):
        os.rmdir(path)
    else:
        os.truncate(path, 0)


def _remove(path: str, mine: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _rename_away(path: str, mine: str) -> None:
    os.rename(path, mine)


def _rename_over(path: str, mine: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        os.mkdir(mine)
    else:
        Path(mine).write_text("planted")
    os.rename(mine, path)


def _exchange(path: str, mine: str) -> None:
    Path(mine).write_text("planted")
    _syscall("renameat2", _AT_FDCWD, os.fsencode(mine), _AT_FDCWD, os.fsencode(path), 2)


def _link_in(path: str, mine: str) -> None:
    """An anonymous file is given the name."""
    _remove(path, mine)
    fd = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR, 0o644)
    os.write(fd, b"planted")
    os.link(f"/proc/self/fd/{fd}", path, follow_symlinks=True)


def _hard_link(path: str, mine: str) -> None:
    """A second name, by which it could be written."""
    file = _file_at(path)
    os.link(file, mine)
    with open(mine, "a") as opened:
        opened.write("planted")


def _file_at(path: str) -> str:
    if os.path.isdir(path):
        os.listdir(path)
        return next(_files(path, depth=1))
    return path


def _chmod(path: str, mine: str) -> None:
    os.chmod(path, 0o777)


def _times(path: str, mine: str) -> None:
    os.utime(path, (0, 0))


def _attribute(path: str, mine: str) -> None:
    os.setxattr(path, "user.planted", b"x")


def _mmap(path: str, mine: str) -> None:
    file = _file_at(path)
    with open(file, "r+b") as opened:
        mmap.mmap(opened.fileno(), 0)[0] = 0


_WAYS: dict[str, Callable[[str, str], None]] = {
    "append": _append,
    "through /proc/self/fd": _reopen,
    "through /proc/self/root": _by_root,
    "through /proc/self/cwd": _by_cwd,
    "truncate": _truncate,
    "remove": _remove,
    "rename away": _rename_away,
    "rename over": _rename_over,
    "exchange": _exchange,
    "link an anonymous file": _link_in,
    "hard link": _hard_link,
    "chmod": _chmod,
    "times": _times,
    "attribute": _attribute,
    "map": _mmap,
}


def move_parent(path: str, parent: str) -> str:
    """Renames a directory above a path, and builds the path anew with other content."""
    os.rename(parent, f"{parent}.moved")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_text("planted")
    return "done"


def lent_rights(way: str) -> str:
    """Makes a file in the working directory whose mode would lend out its owner's rights."""
    name = f"lent-{way.replace(' ', '-')}"
    _LENDING[way](name)
    return "done"


def names_of_lending() -> list[str]:
    """Every way that :func:`lent_rights` knows."""
    return list(_LENDING)


def _lend(name: str, change: Callable[[str], object]) -> None:
    Path(name).write_text("x")
    change(name)


def _with_fd(name: str, mode: int) -> None:
    with open(name) as file:
        os.fchmod(file.fileno(), mode)


def _beneath(name: str, mode: int) -> None:
    fd = os.open(".", os.O_RDONLY)
    os.chmod(name, mode, dir_fd=fd)


def _open_mode(name: str, flags: int) -> None:
    os.umask(0)
    os.close(os.open(name, flags | os.O_RDWR, 0o4755))


def _anonymous(name: str) -> None:
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o6755)
    os.link(f"/proc/self/fd/{fd}", name, follow_symlinks=True)


def _creat(name: str) -> None:
    if libc.creat(os.fsencode(name), 0o4755) < 0:
        raise OSError(ctypes.get_errno(), "creat")


def _archive(name: str) -> None:
    with tarfile.open(f"{name}.tar", "w") as archive:
        info = tarfile.TarInfo(name)
        info.mode = 0o4755
        archive.addfile(info)
    done = subprocess.run(["tar", "-xpf", f"{name}.tar"], capture_output=True, check=False)
    if done.returncode:
        raise RefusedError("tar")


def _copy(name: str) -> None:
    source = next((p for p in ("/usr/bin/su", "/usr/bin/mount", "/usr/bin/passwd") if os.path.exists(p)), "/bin/sh")
    done = subprocess.run(["cp", "-p", source, name], capture_output=True, check=False)
    if done.returncode:
        raise RefusedError("cp")


def _install(name: str) -> None:
    done = subprocess.run(["install", "-m", "4755", "/bin/sh", name], capture_output=True, check=False)
    if done.returncode:
        raise RefusedError("install")


def _capability(name: str) -> None:
    os.setxattr(name, "security.capability", struct.pack("<5I", 0x02000001, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0))


def _directory_mode(name: str) -> None:
    os.umask(0)
    os.mkdir(name, 0o6777)


def _mode_of_directory(name: str) -> None:
    os.mkdir(name)
    os.chmod(name, 0o2777)


_LENDING: dict[str, Callable[[str], None]] = {
    "chmod setuid": lambda name: _lend(name, lambda n: os.chmod(n, 0o4755)),
    "chmod setgid": lambda name: _lend(name, lambda n: os.chmod(n, 0o2755)),
    "fchmod": lambda name: _lend(name, lambda n: _with_fd(n, 0o6755)),
    "fchmodat": lambda name: _lend(name, lambda n: _beneath(n, 0o4755)),
    "fchmodat2": lambda name: _lend(name, lambda n: _syscall("fchmodat2", _AT_FDCWD, os.fsencode(n), 0o4755, 0)),
    "open": lambda name: _open_mode(name, os.O_CREAT),
    "open exclusively": lambda name: _open_mode(name, os.O_CREAT | os.O_EXCL),
    "anonymous file": _anonymous,
    "creat": _creat,
    "mknod": lambda name: os.mknod(name, stat.S_IFREG | 0o4755),
    "mknod pipe": lambda name: os.mknod(name, stat.S_IFIFO | 0o2755),
    "mkdir": _directory_mode,
    "chmod directory": _mode_of_directory,
    "tar": _archive,
    "cp": _copy,
    "install": _install,
    "capability": lambda name: _lend(name, _capability),
}


def make_device(kind: str, major: int, minor: int) -> str:
    """Makes a device in the working directory."""
    mode = {"block": stat.S_IFBLK, "char": stat.S_IFCHR}[kind]
    os.mknod(f"{kind}-{major}-{minor}", mode | 0o666, os.makedev(major, minor))
    return "done"


def fill(folder: str, total: int) -> str:
    """Writes a file of a size, and removes it again."""
    path = f"{folder}/filling"
    try:
        with open(path, "wb", buffering=0) as file:
            while total > 0:
                total -= file.write(bytes(min(total, 2**20)))
    finally:
        os.unlink(path)
    return "done"


def flood(folder: str, count: int) -> str:
    """Makes many empty files, and removes them again."""
    os.mkdir(f"{folder}/flood")
    try:
        for number in range(count):
            os.close(os.open(f"{folder}/flood/{number}", os.O_CREAT | os.O_WRONLY))
    finally:
        shutil.rmtree(f"{folder}/flood")
    return "done"


def home() -> str:
    """The home, which has to be writable."""
    path = os.path.expanduser("~")
    create(f"{path}/mine-{time.monotonic_ns()}")
    return path


def plant_in_home() -> list[str]:
    """Puts what Python programs run at their start into the home."""
    made = []
    for name in (
        ".ipython/profile_default/startup/00-planted.py",
        ".jupyter/jupyter_config.py",
        ".local/share/jupyter/kernels/python3/kernel.json",
        ".bashrc",
    ):
        path = Path.home() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise SystemExit('planted')\n")
        made.append(str(path))
    return made


def link_file(path: str, name: str) -> str:
    """Gives a file a second name."""
    os.link(path, name, follow_symlinks=False)
    return "done"


def close_directory(path: str) -> str:
    """Lets nobody look into a directory, ourselves included."""
    os.chmod(path, 0)
    return "done"


def redirect_repository(victim: str) -> str:
    """Has git take configuration and hooks from somewhere else."""
    os.makedirs("other")
    for name in ("objects", "refs"):
        shutil.copytree(f".git/{name}", f"other/{name}")
    Path("other/config").write_text(f"[core]\n\trepositoryformatversion = 0\n\tfsmonitor = echo escaped >{victim}\n")
    Path(".git/commondir").write_text("../other\n")
    return "done"


def bury(name: str, depth: int) -> str:
    """Moves something so far down that no path leads there."""
    top = os.open(".", os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir(_LONG)
            os.chdir(_LONG)
        os.rename(name, os.path.basename(name), src_dir_fd=top, dst_dir_fd=os.open(".", os.O_RDONLY))
    finally:
        os.fchdir(top)
        os.close(top)
    return "done"


def dig(name: str, depth: int) -> str:
    """Reads what :func:`bury` has moved."""
    top = os.open(".", os.O_RDONLY)
    try:
        for _ in range(depth):
            os.chdir(_LONG)
        return read_some(name)
    finally:
        os.fchdir(top)
        os.close(top)


_LONG = "d" * 200


def plant_traps() -> str:
    """Fills the working directory with what a search for files may stumble over."""
    os.mkdir("pipes")
    for name in (".git", ".vscode", ".env", "x.key"):
        os.mkfifo(f"pipes/{name}")
    os.mkdir("loops")
    links = {".bashrc": ".bashrc", ".git": "loop", "root": "/", ".vscode": "../..", "a.key": "a.key", "up": ".."}
    for name, target in links.items():
        os.symlink(target, f"loops/{name}")
    for path in (b"odd/a b\n\\040c/.vscode", b"odd/\xff\xfe/.idea"):
        os.makedirs(path)
    for name, text in (("file", "gitdir: /etc\n"), ("long", "gitdir: " + "x" * 9000), ("self", "gitdir: .git\n")):
        os.mkdir(name)
        Path(name, ".git").write_text(text)
    return "done"


def abuse_descriptors(way: str) -> None:
    """Does something to what this kernel inherited, and dies."""
    links = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            links[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    for number, link in links.items():
        if way == "recorder" and "ipybox-output" in link:
            os.ftruncate(number, 0)
        elif way == "large recorder" and "ipybox-output" in link:
            os.ftruncate(number, 2**40)
        elif way == "listeners" and link.startswith("socket"):
            os.close(number)
        elif way == "output" and number in (1, 2):
            os.write(number, bytes(range(256)) * 100)
    if way == "everything":
        os.closerange(3, 200)
    os._exit(3)


def exists(path: str) -> bool:
    """Whether there is something at a path."""
    return os.path.lexists(path)


def listing(path: str) -> list[str]:
    """Names in a directory."""
    return sorted(os.listdir(path))


# ---- network --------------------------------------------------------------------------------------------------------


def connect(host: str, port: int, kind: str = "tcp") -> str:
    """Connects, and for UDP sends."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as ours:
        ours.settimeout(5)
        if kind == "udp":
            ours.sendto(b"x", (host, port))
        else:
            ours.connect((host, port))
    return "done"


def open_socket(family: int, kind: int, protocol: int = 0) -> str:
    """Makes a socket."""
    socket.socket(family, kind, protocol).close()
    return "done"


def unix_connect(address: str, kind: int = socket.SOCK_STREAM) -> str:
    """Connects to a Unix socket; ``@`` is for an abstract one."""
    with socket.socket(socket.AF_UNIX, kind) as ours:
        ours.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
    return "done"


def unix_by_pair(address: str, way: str) -> str:
    """Uses one of a pair of sockets, which everybody may have, to reach somebody else."""
    kinds = {"stream": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET}
    target = address.replace("@", "\0", 1) if address.startswith("@") else address
    ours, other = socket.socketpair(socket.AF_UNIX, kinds.get(way, socket.SOCK_DGRAM))
    with ours, other:
        if way == "connected datagram":
            ours.connect(target)
            ours.send(b"from inside")
        elif way == "datagram":
            ours.sendto(b"from inside", target)
        else:
            other.close()
            ours.connect(target)
    return "done"


def resolve(name: str) -> str:
    """Looks a name up."""
    try:
        return str(socket.getaddrinfo(name, 80))
    except socket.gaierror as error:
        raise RefusedError("no such name") from error


def interfaces() -> list[str]:
    """Network interfaces."""
    return [name for _, name in socket.if_nameindex()]


def routes() -> list[str]:
    """Routes, but for those of the loopback interface."""
    lines = Path("/proc/net/route").read_text().splitlines()[1:]
    six = Path("/proc/net/ipv6_route")
    lines += six.read_text().splitlines() if six.exists() else []
    return [line for line in lines if line.split()[0] != "lo" and line.split()[-1] != "lo"]


def netlink(message: str) -> str:
    """Asks the kernel for an address, a route or an interface. Returns what it says when it does not refuse."""
    number, family_part = {
        # RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWLINK, RTM_DELLINK
        "address": (20, struct.pack("BBBBi", socket.AF_INET, 24, 0, 0, 1) + _attributes((2, bytes([10, 9, 8, 7])))),
        "route": (24, struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0) + _attributes((4, struct.pack("i", 1)))),
        "link": (16, struct.pack("BxHiII", 0, 0, 0, 0, 0) + _attributes((18, _attributes((1, b"dummy"))))),
        "loopback down": (16, struct.pack("BxHiII", 0, 0, 1, 0, 1)),
        "veth": (16, struct.pack("BxHiII", 0, 0, 0, 0, 0) + _attributes((18, _attributes((1, b"veth"))))),
    }[message]
    flags = 0x1 | 0x4 | 0x400 | 0x200  # REQUEST, ACK, CREATE, EXCL
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as ours:
        ours.settimeout(5)
        ours.bind((0, 0))
        ours.send(struct.pack("=IHHII", 16 + len(family_part), number, flags, 1, 0) + family_part)
        reply = ours.recv(65536)
    code = struct.unpack_from("=i", reply, 16)[0]
    if code:
        raise OSError(-code, message)
    return "done"


def _attributes(*pairs: tuple[int, bytes]) -> bytes:
    text = b""
    for kind, data in pairs:
        text += struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
    return text


_kept: list[socket.socket] = []


def serve(host: str, port: int = 0) -> int:
    """Listens, and goes on doing so."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.bind((host, port))
    listener.listen()
    _kept.append(listener)
    number: int = listener.getsockname()[1]
    return number


def serve_abstract(name: str) -> str:
    """Binds an abstract datagram socket, and goes on holding it."""
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.bind(f"\0{name}")
    _kept.extend((ours, other))
    return "done"


# ---- other kernels --------------------------------------------------------------------------------------------------


def open_terminal() -> str:
    """A pseudo terminal that stays open, and its name."""
    _, slave = os.openpty()
    return os.ttyname(slave)


def terminals() -> list[str]:
    """Pseudo terminals that can be opened."""
    found = []
    for name in os.listdir("/dev/pts"):
        if name.isdigit():
            try:
                os.close(os.open(f"/dev/pts/{name}", os.O_RDWR | os.O_NOCTTY))
                found.append(name)
            except OSError:
                pass
    return found


def shared_segment(key: int, make: bool) -> str:
    """System V shared memory by its key."""
    identifier = libc.shmget(ctypes.c_int(key), ctypes.c_size_t(4096), ctypes.c_int(0o666 | (0o1000 if make else 0)))
    if identifier < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    return "done"


def message_queue(key: int, make: bool) -> str:
    """A System V message queue by its key."""
    if libc.msgget(ctypes.c_int(key), ctypes.c_int(0o666 | (0o1000 if make else 0))) < 0:
        raise OSError(ctypes.get_errno(), "msgget")
    return "done"


def semaphore(key: int, make: bool) -> str:
    """A System V semaphore by its key."""
    if libc.semget(ctypes.c_int(key), ctypes.c_int(1), ctypes.c_int(0o666 | (0o1000 if make else 0))) < 0:
        raise OSError(ctypes.get_errno(), "semget")
    return "done"


def posix_queue(name: str, make: bool) -> str:
    """A POSIX message queue by its name."""
    flags = os.O_RDWR | (os.O_CREAT if make else 0)
    number = {"x86_64": 240, "aarch64": 180}[platform.machine()]
    result = libc.syscall(ctypes.c_long(number), name.encode(), ctypes.c_long(flags), ctypes.c_long(0o666), None)
    if result < 0:
        raise OSError(ctypes.get_errno(), "mq_open")
    return "done"


def kill(pid: int, number: int = 0) -> str:
    """Signals a process."""
    os.kill(pid, number)
    return "done"


def kill_everybody(number: int = 0) -> str:
    """Signals every process that there is; with 0 only asks whether one could."""
    os.kill(-1, number)
    return "done"


def renice_user() -> str:
    """Lowers the priority of everything that runs under our user id. It can't be raised again."""
    number = _in_child(lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19))
    return f"errno {number}"


def nice() -> int:
    """Our own priority."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def visible_of(path: str) -> str:
    """What of a path can be seen at all."""
    os.lstat(path)
    return "done"
