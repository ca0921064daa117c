"""Two kernels of one gateway, a kernel and its gateway, and the gateway's own walls."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ipybox.errors import IpyboxError
from tests.kernels.helpers import command_of
from tests.sandboxed.conftest import SECRET, Host
from tests.sandboxed.inside import DONE, Kernel, Room

pytestmark = [pytest.mark.kernel, pytest.mark.sandbox]

GATEWAY = "ipybox.kernel_mgr.gateway_process"


@pytest.fixture(scope="module")
def other(plain: Room) -> Iterator[Kernel]:
    """A second kernel of the same gateway."""
    with plain.fresh_kernel() as kernel:
        yield kernel


# ---- kernel and kernel --------------------------------------------------------------------------------------------


def test_kernels_share_no_namespace(plain: Room, other: Kernel) -> None:
    mine, its = plain.kernel.call("namespaces"), other.call("namespaces")
    assert not {kind for kind in mine if mine[kind] == its[kind]}


def test_kernels_do_not_see_each_other(plain: Room, other: Kernel) -> None:
    assert other.call("parentage")["pids"] == [1, 2]
    kernels = plain.kernels()
    assert len(kernels) >= 2
    for process in kernels:
        assert plain.kernel.attempt("visible_of", f"/proc/{process.pid}") == "ENOENT"


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1"])
def test_servers_of_another_kernel_are_not_reached(plain: Room, other: Kernel, address: str) -> None:
    port = plain.kernel.call("serve", address)
    assert plain.kernel.attempt("connect", address, port) == DONE
    assert other.attempt("connect", address, port) == "ECONNREFUSED"


def test_abstract_sockets_of_another_kernel_are_not_reached(plain: Room, other: Kernel) -> None:
    plain.kernel.attempt("serve_abstract", "of-a-kernel")
    for way in ("datagram", "connected datagram"):
        assert other.attempt("unix_by_pair", "@of-a-kernel", way) in ("ECONNREFUSED", "EPERM", "ENOENT")


@pytest.mark.parametrize("kind", ["shared_segment", "message_queue", "semaphore"])
def test_ipc_that_no_limit_counts_is_not_there(plain: Room, other: Kernel, kind: str) -> None:
    assert plain.kernel.attempt(kind, 0x1B0, True) == "ENOSYS"
    assert other.attempt(kind, 0x1B0, False) == "ENOSYS"


def test_posix_queues_of_another_kernel_are_not_there(plain: Room, other: Kernel) -> None:
    assert plain.kernel.attempt("posix_queue", "of-a-kernel", True) == DONE
    assert other.attempt("posix_queue", "of-a-kernel", False) == "ENOENT"


def test_terminals_of_another_kernel_can_not_be_opened(plain: Room, other: Kernel) -> None:
    assert plain.kernel.call("open_terminal")
    assert plain.kernel.call("terminals")
    assert other.call("terminals") == []


def test_signals_reach_nobody_else(plain: Room, other: Kernel) -> None:
    plain.kernel.attempt("kill_everybody", 15)
    assert plain.kernel.attempt("kill", 1, 9) in (DONE, "EPERM")
    assert plain.kernel.run("print(6 * 7)") == "42\n"
    assert other.run("print(6 * 7)") == "42\n"


@pytest.mark.parametrize("which", ["gateway", "kernel", "wall", "top"])
def test_host_process_can_not_be_signalled(plain: Room, which: str) -> None:
    process = {
        "gateway": lambda: plain.process(GATEWAY),
        "kernel": lambda: plain.kernels()[0],
        "wall": lambda: plain.process(GATEWAY, wall=True),
        "top": lambda: psutil.Process(plain.gateway.pid),
    }[which]()
    assert plain.kernel.attempt("kill", process.pid) == "ESRCH"
    assert plain.kernel.attempt("is_exposed", f"/proc/{process.pid}") == "ENOENT"


def test_priorities_of_others_are_not_changed(plain: Room, other: Kernel) -> None:
    gateway = plain.process(GATEWAY)
    before = gateway.nice(), other.call("nice")
    with plain.fresh_kernel() as kernel:
        kernel.attempt("renice_user")
    assert (gateway.nice(), other.call("nice")) == before


def test_the_workspace_is_what_kernels_share(plain: Room, other: Kernel) -> None:
    """This is what it is for; nothing else is shared."""
    assert plain.kernel.attempt("create", "between") == DONE
    assert other.attempt("read_some", "between") == "planted"


# ---- kernel and gateway -------------------------------------------------------------------------------------------


def test_the_gateways_directory_is_not_there(plain: Room) -> None:
    for process in plain.family():
        for word in command_of(process):
            if word.startswith("/tmp/ipybox-"):
                folder = "/".join(word.split("/")[:3])
                assert plain.kernel.attempt("visible_of", folder) == "ENOENT"
    names = plain.kernel.call("listing", "/tmp")
    assert not [name for name in names if name.startswith("ipybox-")]


@pytest.mark.parametrize("way", ["recorder", "large recorder", "output", "listeners", "everything"])
def test_what_a_kernel_does_to_its_descriptors_harms_nobody_else(plain: Room, other: Kernel, way: str) -> None:
    with plain.fresh_kernel() as kernel:
        with pytest.raises(IpyboxError):
            kernel.call("abuse_descriptors", way)
    assert other.run("print(6 * 7)") == "42\n"
    assert plain.kernel.run("print(6 * 7)") == "42\n"


# ---- the gateway's own walls --------------------------------------------------------------------------------------


def _status(pid: int) -> dict[str, str]:
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {key: " ".join(value.split()) for key, _, value in lines}


def test_the_gateway_is_under_a_filter_in_every_thread(plain: Room) -> None:
    process = plain.process(GATEWAY)
    for thread in process.threads():
        status = _status(thread.id)
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, name


def test_the_gateway_is_not_root(plain: Room) -> None:
    process = plain.process(GATEWAY)
    assert 0 not in (*process.uids(), *process.gids())


@pytest.mark.parametrize("kind", ["user", "pid", "mnt", "net", "ipc", "uts"])
def test_the_gateway_has_a_namespace_of_its_own(plain: Room, kind: str) -> None:
    gateway = os.readlink(f"/proc/{plain.process(GATEWAY).pid}/ns/{kind}")
    kernel = os.readlink(f"/proc/{plain.kernels()[0].pid}/ns/{kind}")
    assert len({gateway, kernel, os.readlink(f"/proc/self/ns/{kind}")}) == 3


def test_the_gateway_sees_no_file_of_the_user(plain: Room, host: Host) -> None:
    root = Path(f"/proc/{plain.process(GATEWAY).pid}/root")
    for path in (host.home, host.file, plain.workspace, Path("/etc/shadow"), Path("/root/.ssh"), Path("/var/log")):
        assert not os.path.lexists(root / path.relative_to("/")), path


def test_the_gateway_has_nothing_of_our_environment(plain: Room) -> None:
    seen = 0
    for process in plain.family():
        with suppress(psutil.AccessDenied, psutil.NoSuchProcess):  # pid 1 of a kernel is closed, also to us
            assert SECRET not in str(process.environ()), command_of(process)
            seen += 1
    assert seen >= 3


def test_the_gateways_directory_is_private(plain: Room) -> None:
    folder = plain.gateway._run_dir
    assert folder is not None
    assert folder.stat().st_mode & 0o077 == 0
    assert folder.stat().st_uid in (plain.process(GATEWAY).uids().real, os.getuid())


def test_pid_1_of_a_kernel_holds_nothing_but_its_lead(plain: Room) -> None:
    assert plain.kernel.call("pids")
    kernel = plain.kernels()[0]
    parent = kernel.parent()
    assert parent is not None
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):
            os.listdir(f"/proc/{parent.pid}/fd")
        return
    links = [os.readlink(f"/proc/{parent.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{parent.pid}/fd")]
    assert len([link for link in links if link.startswith("socket:")]) == 1
    assert not [link for link in links if link.startswith("/") and link != "/dev/null"]
