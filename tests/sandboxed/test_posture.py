"""What sandboxed processes are, and which calls the system refuses them."""

from __future__ import annotations

import os
import platform
import stat
from pathlib import Path

import pytest

from tests.sandboxed import probes
from tests.sandboxed.conftest import SECRET, Host, start
from tests.sandboxed.inside import DONE, FROZEN, HIDDEN, Room, host_cookie, lent

pytestmark = [pytest.mark.kernel, pytest.mark.sandbox]

NO_CAPABILITIES = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16)
X86 = platform.machine() == "x86_64"
ABSENT = ("clone3 user", "openat2", "listmount", "statmount", "no number of any call")
"""Calls that the sandbox says it does not know, so that callers use an older one."""


# ---- who we are ---------------------------------------------------------------------------------------------------


def test_every_thread_is_under_the_filter_and_has_no_capability(plain: Room) -> None:
    threads = plain.kernel.call("threads")
    assert len(threads) > 4
    assert len({str(status) for status in threads.values()}) == 1
    status = next(iter(threads.values()))
    assert {name: status[name] for name in NO_CAPABILITIES} == NO_CAPABILITIES
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_programs_that_are_executed_are_under_the_filter_too(plain: Room) -> None:
    status = plain.kernel.call("status_of_child")
    assert {name: status[name] for name in NO_CAPABILITIES} == NO_CAPABILITIES
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_there_is_one_user_and_it_is_not_root(plain: Room) -> None:
    who = plain.kernel.call("identity")
    uid, gid = who["uids"][0], who["gids"][0]
    assert uid != 0
    assert who["uids"] == [uid] * 3
    assert who["gids"] == [gid] * 3
    assert set(who["groups"]) <= {gid}
    assert (who["uid_map"][0], *who["uid_map"][2:]) == (str(uid), "1")
    assert (who["gid_map"][0], *who["gid_map"][2:]) == (str(gid), "1")
    assert who["setgroups"] == "deny"


def test_on_the_host_no_sandboxed_process_is_root(plain: Room) -> None:
    assert plain.kernel.call("pids")
    process = plain.kernels()[0]
    assert 0 not in process.uids()
    assert 0 not in process.gids()


def test_every_namespace_is_its_own(plain: Room) -> None:
    inside = plain.kernel.call("namespaces")
    assert not {kind for kind, name in inside.items() if name == os.readlink(f"/proc/self/ns/{kind}")}


@pytest.mark.parametrize(
    "way",
    [
        "setuid",
        "setgid",
        "setresuid",
        "setreuid",
        "setfsuid",
        "setgroups",
        "setgroups own",
        "initgroups",
        "setuid other",
    ],
)
def test_nobody_becomes_somebody_else(plain: Room, way: str) -> None:
    assert plain.kernel.attempt("set_id", way) in ("EPERM", "EINVAL")


# ---- system calls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", probes.names_of_calls())
def test_call_is_refused(plain: Room, name: str) -> None:
    assert plain.kernel.attempt("call", name) == ("ENOSYS" if name in ABSENT else "EPERM")


@pytest.mark.skipif(not X86, reason="only x86-64 has two further sets of calls")
@pytest.mark.parametrize("kind", ["x32", "i386"])
def test_calls_of_another_architecture_end_the_process(plain: Room, kind: str) -> None:
    assert plain.kernel.call("foreign_call", kind) == "SIGSYS"


@pytest.mark.parametrize("request_number", [0x5412, 0x541C, 0x5423], ids=["TIOCSTI", "TIOCLINUX", "TIOCSETD"])
def test_nothing_is_typed_into_a_terminal(plain: Room, request_number: int) -> None:
    assert plain.kernel.attempt("terminal", request_number) == "EPERM"


def test_upper_bits_of_a_terminal_request_do_not_help(plain: Room) -> None:
    assert plain.kernel.attempt("high_terminal") == "EPERM"


def test_there_is_no_controlling_terminal(plain: Room) -> None:
    assert plain.kernel.attempt("read_some", "/dev/tty") == "ENXIO"


# ---- lending out rights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", probes.names_of_lending())
def test_no_file_on_the_host_lends_out_rights(plain: Room, way: str) -> None:
    plain.kernel.attempt("lent_rights", way)
    assert not lent(plain.workspace)


@pytest.mark.parametrize(
    ("kind", "major", "minor"), [("char", 1, 1), ("char", 1, 3), ("char", 5, 1), ("block", 254, 0), ("block", 8, 0)]
)
def test_no_device_is_made(plain: Room, kind: str, major: int, minor: int) -> None:
    assert plain.kernel.attempt("make_device", kind, major, minor) == "EPERM"
    assert not lent(plain.workspace)


@pytest.mark.parametrize(
    "command",
    [
        ("su", "-c", "id"),
        ("sudo", "-n", "id"),
        ("mount", "-t", "tmpfs", "none", "/tmp"),
        ("umount", "/proc"),
        ("passwd", "-d", "root"),
        ("newgrp", "root"),
        ("newuidmap", "1", "0", "0", "1"),
        ("chsh", "-s", "/bin/sh"),
        ("unshare", "-Ur", "id"),
        ("nsenter", "-t", "1", "-m", "id"),
        ("setpriv", "--reuid", "0", "id"),
        ("bwrap", "--ro-bind", "/", "/", "id"),
        ("fusermount3", "-u", "/tmp"),
        ("pkexec", "id"),
        ("crontab", "-l"),
    ],
    ids=lambda command: command[0],
)
def test_program_gains_nothing(plain: Room, command: tuple[str, ...]) -> None:
    result = plain.kernel.call("execute", *command)
    assert result["code"] != 0
    assert "uid=0" not in result["output"]


def test_no_program_of_the_system_can_lend_us_rights(plain: Room) -> None:
    assert plain.kernel.call("system_set_id_programs") == []
    assert plain.kernel.call("mounts_without", "nosuid") == []


# ---- /proc --------------------------------------------------------------------------------------------------------


def test_only_own_processes_are_seen(plain: Room) -> None:
    with plain.fresh_kernel() as kernel:
        seen = kernel.call("parentage")
    assert seen["pids"] == [1, 2]
    assert (seen["self"], seen["parent"]) == (2, 1)


@pytest.mark.parametrize(
    "name",
    [
        "environ",
        "mem",
        "fd",
        "fdinfo",
        "root",
        "cwd",
        "exe",
        "maps",
        "smaps",
        "auxv",
        "stack",
        "syscall",
        "personality",
        "map_files",
        "ns/net",
        "ns/user",
        "ns/mnt",
        "io",
        "pagemap",
        "task/1/environ",
        "task/1/mem",
        "task/1/root",
    ],
)
def test_pid_1_can_not_be_looked_into(plain: Room, name: str) -> None:
    assert plain.kernel.attempt("is_exposed", f"/proc/1/{name}") in HIDDEN


def test_the_hosts_secrets_are_nowhere_in_proc(plain: Room) -> None:
    seen = plain.kernel.call("proc_files_with", SECRET[::-1])
    assert seen["found"] == []
    assert seen["read"] > 50


def test_the_hosts_variables_are_not_ours(plain: Room) -> None:
    variables = plain.kernel.call("environment")
    assert "CANARY_SECRET" not in variables
    assert SECRET not in str(variables)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/kernel/shmmax",
        "/proc/sys/kernel/sysrq",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/fs/suid_dumpable",
        "/proc/sys/fs/mqueue/msg_max",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv4/ping_group_range",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
        "/proc/sys/user/max_user_namespaces",
        "/proc/sysrq-trigger",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
        "/proc/self/setgroups",
        "/proc/self/timens_offsets",
        "/proc/1/oom_score_adj",
        "/proc/1/comm",
        "/proc/irq/default_smp_affinity",
        "/proc/scsi/scsi",
        "/proc/mtrr",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/cgroup.procs",
    ],
)
def test_setting_can_not_be_changed(plain: Room, path: str) -> None:
    assert plain.kernel.attempt("rewrite", path) in {*FROZEN, *HIDDEN, "EINVAL"}


def test_oom_score_is_not_lowered(plain: Room) -> None:
    assert plain.kernel.attempt("write_over", "/proc/self/oom_score_adj", "-1000") in ("EACCES", "EROFS")


@pytest.mark.parametrize(
    "path",
    [
        "/proc/kcore",
        "/proc/keys",
        "/proc/key-users",
        "/proc/kmsg",
        "/proc/kallsyms",
        "/proc/modules",
        "/proc/timer_list",
        "/proc/interrupts",
        "/proc/slabinfo",
        "/proc/vmallocinfo",
        "/proc/kpageflags",
        "/dev/kmsg",
        "/dev/mem",
        "/dev/vsock",
        "/dev/fuse",
        "/dev/kvm",
        "/dev/net/tun",
        "/dev/loop-control",
        "/dev/mapper",
        "/dev/console",
        "/sys/kernel",
        "/sys/class/net",
        "/sys/firmware",
    ],
)
def test_the_machine_can_not_be_looked_into(plain: Room, path: str) -> None:
    assert plain.kernel.attempt("is_exposed", path) in HIDDEN


# ---- core dumps, limits -------------------------------------------------------------------------------------------


def test_a_crash_leaves_nothing_behind(plain: Room) -> None:
    assert plain.kernel.call("crash") == {"code": -6, "left": []}
    limits = plain.kernel.call("limits")
    # One byte is no core file, and with this very value no core handler of the host is started either.
    assert limits == {"RLIMIT_CORE": [1, 1], "RLIMIT_RTPRIO": [0, 0]}


# ---- descriptors --------------------------------------------------------------------------------------------------

_OURS = ("pipe:", "anon_inode:[eventfd]", "anon_inode:[eventpoll]", "/memfd:ipybox-output")


def test_a_fresh_kernel_holds_nothing_of_the_host(plain: Room) -> None:
    with plain.fresh_kernel() as kernel:
        found = kernel.call("descriptors")
    odd = [
        fact
        for fact in found
        if fact["kind"] != "socket" and fact["link"] != "/dev/null" and not fact["link"].startswith(_OURS)
    ]
    assert odd == []
    sockets = [fact for fact in found if fact["kind"] == "socket"]
    assert {fact["family"] for fact in sockets} <= {"AF_UNIX", "AF_INET"}
    assert host_cookie() not in {fact["cookie"] for fact in sockets}
    assert len({fact["cookie"] for fact in sockets}) == 2  # its own, and the gateway's for its five listeners


def test_inherited_sockets_give_nothing_of_their_makers_away(plain: Room) -> None:
    with plain.fresh_kernel() as kernel:
        assert kernel.call("socket_tricks") == []


@pytest.mark.parametrize("by", ["subprocess", "posix_spawn"])
def test_programs_inherit_no_descriptor(plain: Room, by: str) -> None:
    assert plain.kernel.call("inherited", by) == [0, 1, 2]


# ---- modules that somebody planted --------------------------------------------------------------------------------

PLANTED = (
    "matplotlib_inline",
    "sitecustomize",
    "usercustomize",
    "zmq",
    "IPython",
    "ipykernel",
    "ipybox",
    "json",
    "tornado",
    "comm",
)


def test_planted_modules_run_under_the_filter_or_not_at_all(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = host.workspace("planted")
    source = Path(__file__).with_name("planted.py")
    for name in PLANTED:
        (workspace / f"{name}.py").write_text(source.read_text())
    monkeypatch.chdir(workspace)
    room = start(host, Room(workspace))
    try:
        assert room.kernel.call("environment")
        assert room.kernel.run("print(6 * 7)") == "42\n"
    finally:
        room.__exit__()
    for note in workspace.glob("*.note"):
        assert "Seccomp:\t2" in note.read_text(), note
        assert "CapEff:\t0000000000000000" in note.read_text(), note
        assert stat.S_ISREG(note.lstat().st_mode)


def test_outcomes_are_names_of_errors(plain: Room) -> None:
    """If probes did not do what they say, no test here would mean anything."""
    assert plain.kernel.attempt("create", "proof") == DONE
    assert (plain.workspace / "proof").read_text() == "planted"
    assert plain.kernel.attempt("create", "proof") == "EEXIST"
    assert plain.kernel.attempt("read_some", "no-such-file") == "ENOENT"
