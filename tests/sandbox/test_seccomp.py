"""The filter answers as a table says that was written for the test; and real programs live with it."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipybox.sandbox.seccomp import Filter, install, program, supported
from ipybox.sandbox.syscalls import AUDIT_ARCH, IN_USE, NUMBERS
from tests.sandbox import bpf

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OTHER_ARCHES = [0x40000003, 0x40000028, 0xC00000F3, 0x8000003E, 0, 0xFFFFFFFF]
MACHINE = os.uname().machine

NAMED_FILTERS = {
    "kernel": Filter(),
    "unix sockets": Filter(unix_sockets=True),
    "no network": Filter(inet=False, netlink_route=False),
    "gateway": Filter(execute=False, unix_sockets=True, inet=False),
    "launcher": Filter(nested=True),
    "held to its processors": Filter(affinity=False),
}
FILTERS = [
    Filter(**dict(zip(Filter.__dataclass_fields__, each, strict=True)))
    for each in itertools.product([False, True], repeat=7)
]

# ---- what we expect, by name; numbers as in the kernel's own tables ------------------------------------------------

MOUNTS = """
    chroot 161 51, fsconfig 431 431, fsmount 432 432, fsopen 430 430, fspick 433 433, mount 165 40,
    mount_setattr 442 442, move_mount 429 429, open_tree 428 428, open_tree_attr 467 467, pivot_root 155 41,
    umount2 166 39
"""
FORBIDDEN = """
    acct 163 89, add_key 248 217, adjtimex 159 171, bpf 321 280, clock_adjtime 305 266, clock_settime 227 112,
    delete_module 176 106, fanotify_init 300 262, fanotify_mark 301 263, finit_module 313 273, init_module 175 105,
    io_uring_enter 426 426, io_uring_register 427 427, io_uring_setup 425 425, ioperm 173 -, iopl 172 -,
    kcmp 312 272, kexec_file_load 320 294, kexec_load 246 104, keyctl 250 219, lookup_dcookie 212 18,
    lsm_set_self_attr 460 460, memfd_secret 447 447, migrate_pages 256 238, modify_ldt 154 -, move_pages 279 239,
    name_to_handle_at 303 264, nfsservctl 180 42, open_by_handle_at 304 265, perf_event_open 298 241,
    pidfd_getfd 438 438, process_madvise 440 440, process_vm_readv 310 270, process_vm_writev 311 271,
    ptrace 101 117, quotactl 179 60, quotactl_fd 443 443, reboot 169 142, request_key 249 218,
    setdomainname 171 162, settimeofday 164 170, swapoff 168 225, swapon 167 224, sysfs 139 -, syslog 103 116,
    uselib 134 -, userfaultfd 323 282, ustat 136 -, vhangup 153 58
"""
NAMESPACES = "setns 308 268, sethostname 170 161, unshare 272 97"
MISSING = "_sysctl 156 -, clone3 435 435, listmount 458 458, openat2 437 437, statmount 457 457"
UNCOUNTED = "memfd_create 319 279, msgget 68 186, semget 64 190, shmget 29 194"
START = "execve 59 221, execveat 322 281"
PROCESSORS = "sched_setaffinity 203 122"
JUDGED = """
    chmod 90 -, clone 56 220, creat 85 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, ioctl 16 29, mknod 133 -,
    mknodat 259 33, open 2 -, openat 257 56, personality 135 92, prctl 157 167, seccomp 317 277, socket 41 198,
    socketpair 53 199, fcntl 72 25, sendto 44 206, sendmsg 46 211, sendmmsg 307 269
"""
NEEDED = """
    accept4 288 242, arch_prctl 158 -, brk 12 214, capget 125 90, close_range 436 436, copy_file_range 326 285,
    dup3 292 24, epoll_pwait 281 22, exit_group 231 94, faccessat2 439 439, file_setattr 469 469,
    fork 57 -, futex 202 98, futex_waitv 449 449, get_mempolicy 239 236, getrandom 318 278, inotify_init1 294 26,
    kill 62 129, landlock_create_ruleset 444 444, landlock_restrict_self 446 446, mbind 237 235, membarrier 324 283,
    mkdirat 258 34, mlock 149 228, mmap 9 222, mprotect 10 226, mseal 462 462, pidfd_open 434 434,
    pidfd_send_signal 424 424, pipe2 293 59, ppoll 271 73, prlimit64 302 261, read 0 63, renameat2 316 276,
    rseq 334 293, rt_sigreturn 15 139, sched_getaffinity 204 123, set_mempolicy 238 237,
    setxattr 188 5, setxattrat 463 463, splice 275 76, statx 332 291, symlinkat 266 36, tgkill 234 131,
    vfork 58 -, vmsplice 278 75, wait4 61 260, write 1 64
"""


def rows(text: str) -> Iterator[tuple[str, dict[str, int]]]:
    for row in text.split(","):
        name, *numbers = row.split()
        yield name, {machine: int(each) for machine, each in zip(ARCHES, numbers, strict=True) if each != "-"}


@cache
def names(text: str) -> frozenset[str]:
    return frozenset(name for name, _ in rows(text))


TABLE = dict(rows(",".join([MOUNTS, FORBIDDEN, NAMESPACES, MISSING, UNCOUNTED, START, PROCESSORS, JUDGED])))
NAME_OF = {machine: {each[machine]: name for name, each in TABLE.items() if machine in each} for machine in ARCHES}
ASSIGNED = {
    "x86_64": {*range(0, 337), *range(424, 470)},
    "aarch64": {*range(0, 244), *range(260, 295), *range(424, 470)},
}


def expected(filter: Filter, machine: str, arch: int, number: int, arguments: tuple[int, ...]) -> int:
    """What the policy says, in words rather than in instructions."""
    if arch != ARCHES[machine]:
        return KILL
    if machine == "x86_64" and 0x40000000 <= number != 0xFFFFFFFF:
        return KILL
    name = NAME_OF[machine].get(number)
    if name is None:
        return ALLOW if number in ASSIGNED[machine] else ENOSYS
    if name in names(MISSING):
        return ENOSYS
    if name in names(UNCOUNTED):
        return ALLOW if filter.uncounted_memory else ENOSYS
    if name in names(FORBIDDEN):
        return EPERM
    if name in names(MOUNTS) or name in names(NAMESPACES):
        return ALLOW if filter.nested else EPERM
    if name in names(START):
        return ALLOW if filter.execute else EPERM
    if name in names(PROCESSORS):
        return ALLOW if filter.affinity else EPERM
    return EPERM if is_bad(filter, name, [each % 2**32 for each in arguments]) else ALLOW


def is_bad(filter: Filter, name: str, low: list[int]) -> bool:
    def creates(flags: int) -> bool:
        return flags & 0x40 != 0 or flags & 0x400000 != 0

    def set_id(mode: int) -> bool:
        return mode & 0o4000 != 0 or mode & 0o2000 != 0

    match name:
        case "clone":
            bits = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
            return not filter.nested and any(low[0] & bit for bit in bits)
        case "chmod" | "fchmod" | "creat":
            return set_id(low[1])
        case "fchmodat" | "fchmodat2":
            return set_id(low[2])
        case "open":
            return creates(low[1]) and set_id(low[2])
        case "openat":
            return creates(low[2]) and set_id(low[3])
        case "mknod" | "mknodat":
            mode = low[1 if name == "mknod" else 2]
            return set_id(mode) or mode & 0xF000 in {0x2000, 0x6000}
        case "ioctl":
            return low[1] in {0x5412, 0x541C, 0x5423}
        case "personality":
            return low[0] not in {0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF}
        case "prctl":
            return low[0] == 35
        case "fcntl":
            return low[1] == 1024
        case "sendto" | "sendmmsg":
            return low[3] & 0x20000000 != 0
        case "sendmsg":
            return low[2] & 0x20000000 != 0
        case "seccomp":
            return low[1] & 8 != 0
        case "socketpair":
            return low[0] != 1 or not (filter.unix_sockets or low[1] & 15 in {1, 5})
        case "socket":
            match low[0]:
                case 1:
                    return not filter.unix_sockets
                case 2 | 10:
                    return not (filter.inet and low[1] & 15 in {1, 2} and low[2] in {0, 6, 17})
                case 16:
                    return not (filter.netlink_route and low[2] == 0)
            return True
    raise AssertionError(name)


@cache
def compiled(filter: Filter, machine: str) -> list[bpf.Instruction]:
    return bpf.check(program(filter, machine))


def answers(filter: Filter, machine: str, number: int, arguments: tuple[int, ...], arch: int | None = None) -> bool:
    """Is the answer the expected one? Errors tell what differs."""
    arch = ARCHES[machine] if arch is None else arch
    action = bpf.run(compiled(filter, machine), number, arch, arguments).action
    wanted = expected(filter, machine, arch, number, arguments)
    assert action == wanted, f"{machine} {number} {[hex(each) for each in arguments]}: {action:#x}, not {wanted:#x}"
    return True


# ---- the tables ---------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_kernel() -> None:
    assert {name: tuple(each.get(machine) for machine in ARCHES) for name, each in TABLE.items()} == NUMBERS
    assert {machine: {n for each in IN_USE[machine] for n in each} for machine in ARCHES} == ASSIGNED
    assert AUDIT_ARCH == ARCHES


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("name", ["kernel", "unix sockets", "no network", "launcher"])
def test_what_ordinary_programs_need_is_allowed(machine: str, name: str) -> None:
    code = compiled(NAMED_FILTERS[name], machine)
    runs = {
        call: bpf.run(code, numbers[machine], ARCHES[machine]) for call, numbers in rows(NEEDED) if machine in numbers
    }
    assert {call for call, run in runs.items() if run.action != ALLOW} == set()


def test_only_machines_with_a_table_are_supported() -> None:
    machines = ["x86_64", "aarch64", "aarch64_be", "armv7l", "i686", "riscv64"]
    assert [machine for machine in machines if supported(machine)] == ["x86_64", "aarch64"]
    with pytest.raises(ValueError, match="no system call filter for 'riscv64', only for x86_64, aarch64"):
        program(Filter(), "riscv64")


# ---- the program --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("filter", FILTERS, ids=str)
def test_the_kernel_would_take_the_program(filter: Filter, machine: str) -> None:
    code = compiled(filter, machine)
    assert bpf.unreachable(code) == set()
    assert len(code) < 256


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"", "0 instructions"),
        (struct.pack("<HBBI", 0x06, 0, 0, 0) * 4097, "4097 instructions"),
        (struct.pack("<HBBI", 0x20, 0, 0, 0), "does not end"),
        (struct.pack("<HBBIHBBI", 0x20, 0, 0, 2, 0x06, 0, 0, 0), "load from 2"),
        (struct.pack("<HBBIHBBI", 0x20, 0, 0, 64, 0x06, 0, 0, 0), "load from 64"),
        (struct.pack("<HBBIHBBI", 0x15, 1, 0, 0, 0x06, 0, 0, 0), "out of the program"),
        (struct.pack("<HBBIHBBI", 0x05, 0, 0, 1, 0x06, 0, 0, 0), "out of the program"),
        (struct.pack("<HBBIHBBI", 0x28, 0, 0, 0, 0x06, 0, 0, 0), "unknown instruction"),
    ],
)
def test_the_emulator_refuses_what_the_kernel_refuses(broken: bytes, message: str) -> None:
    with pytest.raises(bpf.InvalidProgramError, match=message):
        bpf.check(broken)


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("filter", FILTERS, ids=str)
def test_every_number_is_answered_as_the_table_says(filter: Filter, machine: str) -> None:
    edges = [0x3FFFFFFF, 0x40000000, 0x40000001, 0x4000003B, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 5000]
    for number in [*range(601), *edges]:
        assert answers(filter, machine, number, (0,) * 6)
        assert answers(filter, machine, number, (0xFFFFFFFFFFFFFFFF,) * 6)


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("filter", NAMED_FILTERS.values(), ids=NAMED_FILTERS)
def test_random_numbers_are_answered_as_the_table_says(filter: Filter, machine: str) -> None:
    source = random.Random(machine)
    for _ in range(2000):
        assert answers(filter, machine, source.getrandbits(32), (0,) * 6)


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("filter", NAMED_FILTERS.values(), ids=NAMED_FILTERS)
def test_another_machine_is_the_end_of_the_process(filter: Filter, machine: str) -> None:
    for arch in {*OTHER_ARCHES, *ARCHES.values()} - {ARCHES[machine]}:
        for number in range(0, 601, 7):
            assert answers(filter, machine, number, (0,) * 6, arch)


@pytest.mark.parametrize("machine", ARCHES)
def test_calls_with_a_fixed_answer_are_answered_by_number_alone(machine: str) -> None:
    """Then the kernel remembers it, and does not run the program for them (seccomp_is_const_allow, Linux 5.11)."""
    code = compiled(Filter(), machine)
    looked = {number for number in range(601) if bpf.run(code, number, ARCHES[machine]).looked_at_arguments}
    assert {NAME_OF[machine][number] for number in looked} == {n for n in names(JUDGED) if machine in TABLE[n]}
    assert {each.code for each in code} <= {0x20, 0x06, 0x05, 0x15, 0x35, 0x45, 0x54}


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("farthest", range(3, 40))
def test_far_jumps_lead_to_the_same_answers(machine: str, farthest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Today's programs are so small that every target is near: so let near be nearer."""
    monkeypatch.setattr("ipybox.sandbox.seccomp._FARTHEST", farthest)
    filter = Filter(unix_sockets=True)
    code = bpf.check(program(filter, machine))
    assert max(max(each.jt, each.jf) for each in code) <= farthest
    assert bpf.JA in {each.code for each in code}
    for number, word in itertools.product(range(601), [0, 1, 0o4755, 0x5412]):
        wanted = bpf.run(compiled(filter, machine), number, ARCHES[machine], (word,) * 4)
        assert bpf.run(code, number, ARCHES[machine], (word,) * 4).action == wanted.action


@pytest.mark.parametrize("machine", ARCHES)
def test_an_answer_takes_few_instructions(machine: str) -> None:
    code = compiled(Filter(), machine)
    steps = {number: bpf.run(code, number, ARCHES[machine]).steps for number in ASSIGNED[machine]}
    assert max(steps.values()) <= 22
    assert sum(steps.values()) / len(steps) <= 12
    assert bpf.run(code, TABLE["openat"][machine], ARCHES[machine], (0, 0, 0, 0)).steps <= 10


# ---- arguments ----------------------------------------------------------------------------------------------------

WORTH_A_TRY = [
    *(0, 1, 2, 3, 5, 6, 8, 10, 16, 17, 35, 38, 40, 132, 255, 262, 0x5412, 0x541C, 0x5423, 0x5413),
    *(
        0x40,
        0x41,
        0x400000,
        0x410000,
        0x10000,
        0o4755,
        0o2755,
        0o6000,
        0o755,
        0o1777,
        0o20600,
        0o60600,
        0o104755,
        0o120600,
    ),
    *(0x20000, 0x20008, 0x40000, 0x1200011, 0x3D0F00, 0x80, 0x02000000, 0x04000011, 0x10000011, 0x40000000, 0x7E020000),
    *(1 | 0x80000, 2 | 0x800, 3 | 0x80800, 10 | 0x80000, 0xFFFFFFFF, 0x80000000),
]
UPPER = [0, 0, 1, 0xDEADBEEF, 0xFFFFFFFF]
words = st.one_of(st.sampled_from(WORTH_A_TRY), st.integers(0, 2**32 - 1))
arguments = st.builds(
    lambda low, high: tuple(each | above << 32 for each, above in zip(low, high, strict=True)),
    st.tuples(*[words] * 4),
    st.tuples(*[st.sampled_from(UPPER)] * 4),
)
calls = st.one_of(st.sampled_from(sorted(names(JUDGED))), st.sampled_from(sorted(TABLE)), st.integers(0, 600), words)


@settings(max_examples=10_000, deadline=None, database=None)
@given(st.sampled_from(FILTERS), st.sampled_from(sorted(ARCHES)), calls, arguments)
@example(Filter(), "x86_64", "ioctl", (0, 0x5412 | 1 << 32, 0, 0))
@example(Filter(), "x86_64", "socket", (40 | 1 << 32, 1, 0, 0))
@example(Filter(), "aarch64", "clone", (0x10000011 | 1 << 63, 0, 0, 0))
def test_every_call_is_answered_as_the_table_says(
    filter: Filter, machine: str, what: str | int, arguments: tuple[int, ...]
) -> None:
    number = TABLE[what].get(machine, 0) if isinstance(what, str) else what
    assert answers(filter, machine, number, arguments)


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("name", sorted(names(JUDGED)))
def test_every_pair_of_worthwhile_arguments_is_answered_as_the_table_says(name: str, machine: str) -> None:
    number = TABLE[name].get(machine)
    if number is None:
        assert machine == "aarch64"  # it has no call of this name, so there is nothing to answer
        return
    for first, second in itertools.product(WORTH_A_TRY, repeat=2):
        for places in [(first, second, 0, 0), (0xAA << 32, first, second, 0), (2, 1 | 1 << 40, first, second)]:
            assert answers(Filter(), machine, number, places)


# ---- real processes -----------------------------------------------------------------------------------------------

needs_seccomp = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not supported(), reason="system call filters are Linux', for two machines"
)


def inside(filter: dict[str, bool] | None, *actions: tuple[Any, ...], **request: object) -> list[Any]:
    """What a new process under a filter says to a list of actions."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sandbox.inside_seccomp"],
        input=json.dumps({"filter": filter, "actions": actions, **request}),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


NOT_A_FILE = 2**64 - 1
LIVE = {
    # With arguments that do no harm where the filter fails, and that the kernel would not answer in the same way
    "unshare": ((0,), "EPERM"),
    "setns": ((NOT_A_FILE, 0), "EPERM"),
    "clone": ((0x10000011, 0, 0, 0, 0), "EPERM"),
    "clone3": ((0, 0), "ENOSYS"),
    "openat2": ((NOT_A_FILE, "file", 0, 0), "ENOSYS"),
    "statmount": ((0, 0, 0, 0), "ENOSYS"),
    "mount": ((0, 0, 0, 0, 0), "EPERM"),
    "umount2": ((0, 0xFFFF), "EPERM"),
    "pivot_root": ((0, 0), "EPERM"),
    "chroot": ((0,), "EPERM"),
    "open_tree": ((NOT_A_FILE, 0, 0xFFFF), "EPERM"),
    "open_tree_attr": ((NOT_A_FILE, 0, 0xFFFF, 0, 0), "EPERM"),
    "move_mount": ((NOT_A_FILE, 0, NOT_A_FILE, 0, 0xFFFF), "EPERM"),
    "fsopen": ((0, 0xFFFF), "EPERM"),
    "mount_setattr": ((NOT_A_FILE, 0, 0xFFFF, 0, 0), "EPERM"),
    "ptrace": ((0, 0, 0, 0), "EPERM"),
    "process_vm_readv": ((0, 0, 0, 0, 0, 1), "EPERM"),
    "pidfd_getfd": ((NOT_A_FILE, 0, 0), "EPERM"),
    "kcmp": ((0, 0, 99, 0, 0), "EPERM"),
    "io_uring_setup": ((0, 0), "EPERM"),
    "userfaultfd": ((1 | 1 << 31,), "EPERM"),
    "bpf": ((9999, 0, 0), "EPERM"),
    "perf_event_open": ((0, 0, 0, NOT_A_FILE, 0), "EPERM"),
    "keyctl": ((0, 2**64 - 3, 0), "EPERM"),
    "add_key": ((0, 0, 0, 0, 0), "EPERM"),
    "request_key": ((0, 0, 0, 0), "EPERM"),
    "memfd_secret": ((0xFFFF,), "EPERM"),
    "open_by_handle_at": ((NOT_A_FILE, 0, 0), "EPERM"),
    "name_to_handle_at": ((NOT_A_FILE, 0, 0, 0, 0), "EPERM"),
    "init_module": ((0, 0, 0), "EPERM"),
    "finit_module": ((NOT_A_FILE, 0, 0xFFFF), "EPERM"),
    "kexec_load": ((0, 0, 0, 0xFFFF), "EPERM"),
    "reboot": ((0, 0, 0, 0), "EPERM"),
    "swapon": ((0, 0xFFFFFF), "EPERM"),
    "quotactl": ((0, 0, 0, 0), "EPERM"),
    "fanotify_init": ((0xFFFFFFFF, 0), "EPERM"),
    "personality": ((0x0400000,), "EPERM"),
    "prctl": ((35, 0, 0, 0, 0), "EPERM"),
    "seccomp": ((1, 8, 0), "EPERM"),
}


@pytest.fixture(scope="module")
def kernel() -> dict[str, Any]:
    """What a process says that has the filter of a kernel."""
    calls = {name: ("in_a_child", TABLE[name][MACHINE], *arguments) for name, (arguments, _) in LIVE.items()}
    extra = {
        "number 5000": ("in_a_child", 5000),
        "number -1": ("in_a_child", NOT_A_FILE),
        "set_id": ("set_id",),
        "terminal": ("terminal",),
        "sockets": ("sockets",),
        "pair": ("pair",),
        "loopback": ("loopback",),
        "files": ("files",),
        "thread": ("thread",),
        "programs": ("programs",),
        "fork": ("pool", "fork"),
        "spawn": ("pool", "spawn"),
        "numbers": ("numbers",),
        "states": ("states",),
        "again": ("again",),  # last, as it takes sockets away
    }
    said = inside({}, *calls.values(), *extra.values())
    return dict(zip([*calls, *extra], said, strict=True))


@needs_seccomp
@pytest.mark.parametrize("name", LIVE)
def test_the_kernel_denies_the_call(kernel: dict[str, Any], name: str) -> None:
    assert kernel[name] == LIVE[name][1]


@needs_seccomp
def test_without_a_filter_those_calls_do_something_else() -> None:
    if "Seccomp:\t0" not in Path("/proc/self/status").read_text():
        return  # somebody else's filter denies much of it
    certain = ("unshare", "setns", "clone3", "ptrace", "pidfd_getfd", "seccomp")
    said = inside(None, *[("in_a_child", TABLE[name][MACHINE], *LIVE[name][0]) for name in certain])
    assert {"EPERM", "ENOSYS"}.isdisjoint(said), dict(zip(certain, said, strict=True))


@needs_seccomp
def test_unknown_numbers_are_unknown(kernel: dict[str, Any]) -> None:
    assert (kernel["number 5000"], kernel["number -1"]) == ("ENOSYS", "ENOSYS")


@needs_seccomp
@pytest.mark.skipif(MACHINE != "x86_64", reason="x32 is a thing of x86_64")
def test_the_second_set_of_numbers_is_the_end_of_the_process() -> None:
    assert inside({}, ("in_a_child", 0x40000000 | 39)) == ["signal 31"]


@needs_seccomp
def test_no_file_gets_set_user_id_and_no_device_is_made(kernel: dict[str, Any]) -> None:
    left = kernel["set_id"].pop("left behind")
    assert set(kernel["set_id"].values()) == {"EPERM"}
    assert left == "file"


@needs_seccomp
def test_terminals_work_but_take_no_injected_input(kernel: dict[str, Any]) -> None:
    denied = dict.fromkeys(["TIOCSTI", "TIOCSTI, with bits above", "TIOCLINUX", "TIOCSETD"], "EPERM")
    assert kernel["terminal"] == {**denied, "TIOCGWINSZ": "ok", "read": "typed\n"}


def allowed(sockets: dict[str, str]) -> set[str]:
    assert set(sockets.values()) <= {"ok", "EPERM"}
    return {name for name, outcome in sockets.items() if outcome == "ok"}


@needs_seccomp
def test_sockets_are_of_a_few_kinds_only(kernel: dict[str, Any]) -> None:
    assert allowed(kernel["sockets"]) == {"inet stream", "inet stream tcp", "inet datagram udp", "netlink route"}


@needs_seccomp
def test_ordinary_programs_work(kernel: dict[str, Any]) -> None:
    assert kernel["pair"] == kernel["loopback"] == "through"
    assert kernel["files"] == ["fifo", "file", "folder"]
    assert kernel["thread"] == [0, 1, 2, 3]
    assert kernel["programs"] == ["42\n", "43\n", "44"]
    assert kernel["fork"] == kernel["spawn"] == [0, 1, 4, 9, 16]
    assert kernel["numbers"] == 64.0**3


@needs_seccomp
def test_filters_add_up(kernel: dict[str, Any]) -> None:
    assert kernel["again"] == "EPERM"


@needs_seccomp
def test_the_gateway_starts_no_program_and_has_unix_sockets_only() -> None:
    filter = {"execute": False, "unix_sockets": True, "inet": False, "netlink_route": False}
    start, sockets = inside(filter, ("start_nothing",), ("sockets",))
    assert start == "EPERM"
    assert allowed(sockets) == {"unix"}


@needs_seccomp
def test_a_launcher_can_build_sandboxes_and_nothing_else_more() -> None:
    names = ("unshare", "setns", "mount", "mount_setattr", "fsopen", "clone3", "ptrace", "keyctl", "io_uring_setup")
    calls = [("in_a_child", TABLE[name][MACHINE], *LIVE[name][0]) for name in names]
    said = dict(zip(names, inside({"nested": True}, *calls), strict=True))
    assert (said["unshare"], said["setns"], said["clone3"]) == ("ok", "EBADF", "ENOSYS")
    assert {said[name] for name in ("ptrace", "keyctl", "io_uring_setup")} == {"EPERM"}


@needs_seccomp
def test_every_thread_is_under_the_filter_if_asked() -> None:
    assert inside({}, ("states",), threads=3, all_threads=True) == [[["2", "1"]] * 4]
    (states,) = inside({}, ("states",), threads=3)
    assert sorted(states)[-1] == ["2", "1"]
    assert sum(state == ["2", "1"] for state in states) == 1


@needs_seccomp
def test_what_is_no_program_is_refused_before_anything_is_given_up() -> None:
    before = Path("/proc/self/status").read_text()
    for broken in (b"", b"1234567"):
        with pytest.raises(OSError, match="not a filter program") as refused:
            install(broken)
        assert refused.value.errno == errno.EINVAL
    after = Path("/proc/self/status").read_text()
    assert [line for line in before.splitlines() if "NoNew" in line] == [
        line for line in after.splitlines() if "NoNew" in line
    ]
