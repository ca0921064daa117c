"""Which system calls sandboxed code may make: a table, the BPF program that is made of it, and its installation.

It is a deny-list, as Docker's, Flatpak's and Codex' filters are in effect: what an ordinary program needs stays. Denied
are calls that reach beyond the sandbox (namespaces, mounts, other processes, sockets that no namespace holds) and large
parts of the kernel that code in a notebook has no use for. ``EPERM`` says that the sandbox forbids something;
``ENOSYS`` makes callers fall back to an older call, whose arguments can be looked at. Floor: sandbox.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ipybox.sandbox.syscalls import AUDIT_ARCH, IN_USE, MACHINES, number

MACHINE = os.uname().machine

# What a program answers, from linux/seccomp.h.
ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
EPERM = 0x00050000 | 1  # SECCOMP_RET_ERRNO, with Linux' numbers wherever the program is made
ENOSYS = 0x00050000 | 38

_X32 = 0x40000000  # bit of x86_64's second set of numbers
_LAST = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What is let through besides the base.

    Attributes:
        unix_sockets: ``socket(AF_UNIX)``. Socket pairs are always possible.
        inet: ``AF_INET`` and ``AF_INET6``, for TCP and UDP.
        netlink_route: ``AF_NETLINK`` for the list of interfaces and routes.
        execute: Start of other programs.
        nested: Namespaces and mounts, for a process of ours that builds sandboxes inside a sandbox.
        uncounted_memory: Memory that belongs to no process, so that no limit counts it: ``memfd_create``, System V
            shared memory, semaphores and message queues. ``/dev/shm`` has a size, and is always possible.
        affinity: Choice of the processors to run on, by which a program would undo what was chosen for it.
    """

    unix_sockets: bool = False
    inet: bool = True
    netlink_route: bool = True
    execute: bool = True
    nested: bool = False
    uncounted_memory: bool = False
    affinity: bool = True


# ---- words for the table ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Test:
    """Is an argument, behind a mask, one of some values? Without values: does it have any bit of the mask?

    Only the low half of the argument is looked at: that is all of it where the kernel takes an ``int``, and where it
    takes a ``long`` all bits that are asked for here lie there.
    """

    argument: int
    mask: int
    values: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Rule:
    """The first case whose tests all hold decides."""

    cases: tuple[tuple[int, tuple[_Test, ...]], ...]
    otherwise: int


def _is(argument: int, *values: int, mask: int = 0xFFFFFFFF) -> _Test:
    return _Test(argument, mask, values)


def _has(argument: int, bits: int) -> _Test:
    return _Test(argument, bits)


def _deny(*cases: tuple[_Test, ...]) -> _Rule:
    return _Rule(tuple((EPERM, case) for case in cases), ALLOW)


def _only(*cases: tuple[_Test, ...]) -> _Rule:
    return _Rule(tuple((ALLOW, case) for case in cases), EPERM)


# ---- the table ----------------------------------------------------------------------------------------------------

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_SEQPACKET, _SOCK_TYPE_MASK = 1, 2, 5, 0xF
_IPPROTO_IP, _IPPROTO_TCP, _IPPROTO_UDP = 0, 6, 17
_NETLINK_ROUTE = 0
_CREATES = 0o100 | 0o20000000  # O_CREAT, __O_TMPFILE: without them the kernel ignores the mode
_SET_ID = 0o6000
_IS_DEVICE = (0o020000, 0o060000)  # S_IFCHR, S_IFBLK
_IFMT = 0o170000
_CLONE_NEW = 0x7E020000  # every CLONE_NEW* but NEWTIME, whose bit is part of the exit signal here
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423
_PR_SET_MM = 35
_F_SETLEASE = 1024
_MSG_FASTOPEN = 0x20000000
_FILTER_FLAG_NEW_LISTENER = 8
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # as Docker: never READ_IMPLIES_EXEC, ADDR_NO_RANDOMIZE

_MOUNTS = (
    "chroot",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "open_tree_attr",
    "pivot_root",
    "umount2",
)
_NESTING = (*_MOUNTS, "clone", "sethostname", "setns", "unshare")

_UNCOUNTED = ("memfd_create", "msgget", "semget", "shmget")

_DENIED = (
    *_MOUNTS,
    *("setns", "unshare", "sethostname", "setdomainname"),
    # Other processes. CAP_SYS_PTRACE is what Docker asks for these, process_madvise included.
    *("kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"),
    # io_uring does what a filter forbids, unseen by it; the others are what kernels are most often broken through.
    *("bpf", "io_uring_enter", "io_uring_register", "io_uring_setup", "perf_event_open", "userfaultfd"),
    # Keys are not in a namespace.
    *("add_key", "keyctl", "request_key"),
    # Files by number rather than by a name that mounts could hide; events of whole file systems.
    *("fanotify_init", "fanotify_mark", "lookup_dcookie", "name_to_handle_at", "open_by_handle_at"),
    # The machine.
    *("delete_module", "finit_module", "init_module", "kexec_file_load", "kexec_load", "reboot", "syslog"),
    *("acct", "quotactl", "quotactl_fd", "swapoff", "swapon", "vhangup"),
    *("adjtimex", "clock_adjtime", "clock_settime", "settimeofday"),
    *("ioperm", "iopl", "modify_ldt"),
    # Memory that its owner alone sees, or that says where it lies.
    *("memfd_secret", "migrate_pages", "move_pages"),
    # Old or odd.
    *("lsm_set_self_attr", "nfsservctl", "sysfs", "uselib", "ustat"),
)

_ABSENT = (
    # Their arguments are in memory, where a filter cannot look, and could change after it did. libc and language
    # run-times fall back to clone and openat.
    *("clone3", "openat2"),
    # The same as /proc/self/mountinfo, for which callers have code.
    *("listmount", "statmount"),
    # Gone since Linux 5.5.
    "_sysctl",
)

# Sockets, of which no namespace keeps AF_VSOCK and others, depend on the filter.
_JUDGED: dict[str, _Rule] = {
    "clone": _deny((_has(0, _CLONE_NEW),)),
    # Input for a terminal that others read; the kernel looks at 32 bits of the request, and so do we (CVE-2019-10063).
    "ioctl": _deny((_is(1, _TIOCSTI, _TIOCLINUX, _TIOCSETD),)),
    # A lease lets a reader hold up whoever writes the file next, outside of the sandbox as well.
    "fcntl": _deny((_is(1, _F_SETLEASE),)),
    # It connects without the check that connect() has, by which Landlock holds a socket back.
    "sendto": _deny((_has(3, _MSG_FASTOPEN),)),
    "sendmsg": _deny((_has(2, _MSG_FASTOPEN),)),
    "sendmmsg": _deny((_has(3, _MSG_FASTOPEN),)),
    "personality": _only((_is(0, *_PERSONALITIES),)),
    "prctl": _deny((_is(0, _PR_SET_MM),)),
    # More filters can only take away. A supervisor of one's own is not needed.
    "seccomp": _deny((_has(1, _FILTER_FLAG_NEW_LISTENER),)),
    # A file with these bits would lend out the rights of the user who runs ipybox, outside of the sandbox. mkdir drops
    # them by itself.
    "chmod": _deny((_has(1, _SET_ID),)),
    "fchmod": _deny((_has(1, _SET_ID),)),
    "fchmodat": _deny((_has(2, _SET_ID),)),
    "fchmodat2": _deny((_has(2, _SET_ID),)),
    "creat": _deny((_has(1, _SET_ID),)),
    "open": _deny((_has(1, _CREATES), _has(2, _SET_ID))),
    "openat": _deny((_has(2, _CREATES), _has(3, _SET_ID))),
    "mknod": _deny((_has(1, _SET_ID),), (_is(1, *_IS_DEVICE, mask=_IFMT),)),
    "mknodat": _deny((_has(2, _SET_ID),), (_is(2, *_IS_DEVICE, mask=_IFMT),)),
}


def _sockets(filter: Filter) -> _Rule:
    """An allow-list, as a family or protocol that is named here can load a module of the kernel."""
    cases: list[tuple[_Test, ...]] = []
    if filter.inet:
        cases.append(
            (
                _is(0, _AF_INET, _AF_INET6),
                _is(1, _SOCK_STREAM, _SOCK_DGRAM, mask=_SOCK_TYPE_MASK),
                _is(2, _IPPROTO_IP, _IPPROTO_TCP, _IPPROTO_UDP),
            )
        )
    if filter.unix_sockets:
        cases.append((_is(0, _AF_UNIX),))
    if filter.netlink_route:
        cases.append((_is(0, _AF_NETLINK), _is(2, _NETLINK_ROUTE)))
    return _only(*cases)


def _pairs(filter: Filter) -> _Rule:
    """One end of a pair of datagram sockets can send to any socket that has a name; the other kinds can't."""
    if filter.unix_sockets:
        return _only((_is(0, _AF_UNIX),))
    return _only((_is(0, _AF_UNIX), _is(1, _SOCK_STREAM, _SOCK_SEQPACKET, mask=_SOCK_TYPE_MASK)))


def _policy(filter: Filter) -> dict[str, int | _Rule]:
    policy: dict[str, int | _Rule] = {
        **dict.fromkeys(_DENIED, EPERM),
        **dict.fromkeys(_ABSENT, ENOSYS),
        **_JUDGED,
        "socket": _sockets(filter),
        "socketpair": _pairs(filter),
    }
    if not filter.execute:
        policy |= {"execve": EPERM, "execveat": EPERM}
    if not filter.uncounted_memory:
        policy |= dict.fromkeys(_UNCOUNTED, ENOSYS)
    if not filter.affinity:
        policy["sched_setaffinity"] = EPERM
    if filter.nested:
        policy |= dict.fromkeys(_NESTING, ALLOW)
    return policy


_FREQUENT = {"ioctl": 8, "open": 8, "openat": 16, "clone": 4, "socket": 4}
"""How much nearer than others some calls are in the program: those that are often made, and whose arguments matter.

Linux since 5.11 remembers what is allowed whatever the arguments, and does not run the program for it.
"""


# ---- from table to program ----------------------------------------------------------------------------------------

_LD_W_ABS, _ALU_AND_K, _JMP_JA, _RET_K = 0x20, 0x54, 0x05, 0x06
_JEQ, _JGE, _JSET = 0x15, 0x35, 0x45
_INSTRUCTION = struct.Struct("<HBBI")  # struct sock_filter: code, jt, jf, k
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_FARTHEST = 0xFF  # that a conditional jump can lead


class _Assembler:
    """Writes a program from its end to its start: jumps lead forward, so their targets are there already.

    A place is counted from the end. What was written once is used again.
    """

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int]] = []
        self._places: dict[tuple[int, int, int, int], int] = {}

    def answer(self, action: int) -> int:
        key = (_RET_K, action, 0, 0)
        if key not in self._places:
            self._places[key] = self._append(_RET_K, 0, 0, action)
        return self._places[key]

    def step(self, code: int, value: int, then: int) -> int:
        """An instruction that is followed by the one at `then`."""
        key = (code, value, then, then)
        if key not in self._places:
            if then != len(self._code) - 1:
                self._go(then)
            self._places[key] = self._append(code, 0, 0, value)
        return self._places[key]

    def branch(self, code: int, value: int, yes: int, no: int) -> int:
        if yes == no:
            return yes
        key = (code, value, yes, no)
        if key not in self._places:
            yes, no = self._near(yes), self._near(no)
            self._places[key] = self._append(code, self._distance(yes), self._distance(no), value)
        return self._places[key]

    def program(self, start: int) -> bytes:
        if start != len(self._code) - 1:
            self._go(start)
        return b"".join(_INSTRUCTION.pack(*each) for each in reversed(self._code))

    def _append(self, code: int, yes: int, no: int, value: int) -> int:
        self._code.append((code, yes, no, value))
        return len(self._code) - 1

    def _distance(self, target: int) -> int:
        """From the instruction that comes next, in instructions that are skipped."""
        return len(self._code) - target - 1

    def _near(self, target: int) -> int:
        """The target, or one as good that a conditional jump can reach, with one instruction between at most."""
        return target if self._distance(target) < _FARTHEST else self._go(target)

    def _go(self, target: int) -> int:
        if self._code[target][0] == _RET_K:
            return self._append(*self._code[target])
        return self._append(_JMP_JA, 0, 0, self._distance(target))


def _judge(assembler: _Assembler, verdict: int | _Rule) -> int:
    if isinstance(verdict, int):
        return assembler.answer(verdict)
    otherwise = assembler.answer(verdict.otherwise)
    for action, tests in reversed(verdict.cases):
        holds = assembler.answer(action)
        for test in reversed(tests):
            holds = _examine(assembler, test, holds, otherwise)
        otherwise = holds
    return otherwise


def _examine(assembler: _Assembler, test: _Test, yes: int, no: int) -> int:
    if test.values:
        decision = no
        for value in reversed(test.values):
            decision = assembler.branch(_JEQ, value, yes, decision)
        if test.mask != _LAST:
            decision = assembler.step(_ALU_AND_K, test.mask, decision)
    else:
        decision = assembler.branch(_JSET, test.mask, yes, no)
    # Both machines are little-endian: the low half comes first.
    return assembler.step(_LD_W_ABS, _ARGUMENTS + 8 * test.argument, decision)


@dataclass(frozen=True, slots=True)
class _Span:
    """Numbers from `start` to the next span's, and where the program deals with them."""

    start: int
    place: int
    weight: int


def _search(assembler: _Assembler, spans: Sequence[_Span]) -> int:
    """A decision tree: whichever half of the weight a number lies in."""
    if len(spans) == 1:
        return spans[0].place
    if len(spans) == 3 and spans[0].place == spans[2].place and spans[1].start + 1 == spans[2].start:
        return assembler.branch(_JEQ, spans[1].start, spans[1].place, spans[0].place)
    total = sum(span.weight for span in spans)
    below, best, middle = 0, total, 1
    for index in range(1, len(spans)):
        below += spans[index - 1].weight
        if abs(total - 2 * below) < best:
            best, middle = abs(total - 2 * below), index
    left, right = _search(assembler, spans[:middle]), _search(assembler, spans[middle:])
    return assembler.branch(_JGE, spans[middle].start, right, left)


def supported(machine: str = MACHINE) -> bool:
    return machine in MACHINES


def program(filter: Filter, machine: str = MACHINE) -> bytes:
    """The filter as an array of ``struct sock_filter``, for :func:`install`, or for bubblewrap's ``--seccomp``."""
    if not supported(machine):
        raise ValueError(f"no system call filter for {machine!r}, only for {', '.join(MACHINES)}")
    assembler = _Assembler()
    singles: dict[int, tuple[int | _Rule, int]] = {}
    for name, verdict in _policy(filter).items():
        found = number(name, machine)
        if found is not None:
            singles[found] = verdict, _FREQUENT.get(name, 1)
    edges = {0, *(found + step for found in singles for step in (0, 1))}
    edges |= {edge for numbers in IN_USE[machine] for edge in (numbers.start, numbers.stop)}
    if machine == "x86_64":
        # Those calls are made with other structures, and their numbers are not the table's. Number -1, which has the
        # bit too, is what tracers leave behind, and what probes for a filter use.
        edges |= {_X32, _LAST}
    spans: list[_Span] = []
    for edge in sorted(edges):
        verdict, weight = singles.get(edge, (_beside_the_table(edge, machine), 1))
        place = _judge(assembler, verdict)
        if not spans or spans[-1].place != place:
            spans.append(_Span(edge, place, weight))
    tree = assembler.step(_LD_W_ABS, _NUMBER, _search(assembler, spans))
    kill = assembler.answer(KILL_PROCESS)
    native = assembler.branch(_JEQ, AUDIT_ARCH[machine], tree, kill)
    return assembler.program(assembler.step(_LD_W_ABS, _ARCH, native))


def _beside_the_table(number: int, machine: str) -> int:
    if any(number in numbers for numbers in IN_USE[machine]):
        return ALLOW
    return KILL_PROCESS if machine == "x86_64" and _X32 <= number < _LAST else ENOSYS


# ---- installation -------------------------------------------------------------------------------------------------

_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_SET_MODE_FILTER = 1
_FILTER_FLAG_TSYNC = 1


def install(program: bytes, *, all_threads: bool = False) -> None:
    """Put the calling thread under a filter for good, with all that it starts from now on; privileges cannot be gained.

    Args:
        program: What :func:`program` returned for this machine.
        all_threads: The other threads of this process too. Else they stay as they are.

    Raises:
        OSError: The kernel refused. The thread may have lost the ability to gain privileges, and nothing else.
    """
    import ctypes

    if not supported():
        raise OSError(errno.ENOSYS, f"no system call filter for {MACHINE!r}")
    if not program or len(program) % _INSTRUCTION.size:
        raise OSError(errno.EINVAL, f"not a filter program: {len(program)} bytes")

    class SockFprog(ctypes.Structure):
        _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    zero, one = ctypes.c_ulong(0), ctypes.c_ulong(1)  # plain integers would leave the upper halves undefined
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, one, zero, zero, zero) != 0:
        raise _refusal(ctypes.get_errno(), "give up new privileges")
    argument = SockFprog(len(program) // _INSTRUCTION.size, program)
    flags = ctypes.c_ulong(_FILTER_FLAG_TSYNC if all_threads else 0)
    operation = ctypes.c_ulong(_SECCOMP_SET_MODE_FILTER)
    result = libc.syscall(ctypes.c_long(number("seccomp", MACHINE) or -1), operation, flags, ctypes.byref(argument))
    if result > 0:  # of a thread that has a filter which this one lacks
        raise _refusal(errno.ESRCH, f"install the system call filter in thread {result}")
    if result != 0:
        raise _refusal(ctypes.get_errno(), "install the system call filter")


def _refusal(number: int, what: str) -> OSError:
    return OSError(number, f"cannot {what}: {os.strerror(number)}")
