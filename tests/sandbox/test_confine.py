"""Each step by which a process gives something up, taken by a real process and looked at afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ipybox.sandbox import confine

HANG = 60.0


def after(steps: str, look: str) -> list[str]:
    """What a process of its own prints after some steps."""
    code = f"import os, sys; from ipybox.sandbox import confine\n{steps}\n{look}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_only_the_outermost_points_below_a_directory_count() -> None:
    points = ["/tmp", "/tmp/a", "/tmp/a/b", "/tmp/a b", "/tmp/c/d", "/tmpx", "/tmp/a"]
    assert confine.outermost(points, below="/tmp") == ["/tmp/a", "/tmp/a b", "/tmp/c/d"]
    assert confine.outermost(points, below="/none") == []


def test_mount_points_are_told_as_they_are() -> None:
    points = confine.mount_points()
    assert "/" in points
    assert "/proc" in points
    assert all(point.startswith("/") for point in points)


@pytest.mark.parametrize("name", ["a b", "tab\there", "back\\slash", "new\nline", "\\040"])
@pytest.mark.sandbox
def test_names_of_mount_points_survive(name: str) -> None:
    steps = f"""
name = {name!r}
confine.new_namespaces(confine.NEW_USER | confine.NEW_MOUNT)
confine.mount('tmpfs', '/tmp', 'tmpfs', 0)
os.mkdir('/tmp/' + name)
confine.mount('tmpfs', '/tmp/' + name, 'tmpfs', 0)
"""
    assert after(steps, "print('/tmp/' + name in confine.mount_points())") == ["True"]


@pytest.mark.sandbox
def test_a_user_namespace_maps_nobody_else() -> None:
    look = "print(os.getuid(), open('/proc/self/uid_map').read(), open('/proc/self/setgroups').read())"
    uid = str(os.getuid())
    assert after("confine.new_namespaces(confine.NEW_USER)", look) == [uid, uid, uid, "1", "deny"]


@pytest.mark.sandbox
def test_the_loopback_interface_comes_up_and_the_name_is_its_own() -> None:
    steps = """
confine.new_namespaces(confine.NEW_USER | confine.NEW_NET | confine.NEW_UTS)
confine.loopback_up()
confine.host_name('sandbox')
import socket
server = socket.create_server(('127.0.0.1', 0))
socket.create_connection(server.getsockname(), 5)
"""
    assert after(steps, "print(socket.gethostname(), [n for _, n in socket.if_nameindex()])") == ["sandbox", "['lo']"]


@pytest.mark.sandbox
def test_capabilities_go_for_good() -> None:
    steps = "confine.new_namespaces(confine.NEW_USER)\nconfine.drop_capabilities()\nconfine.no_new_privileges()"
    look = "print(*[l.split()[1] for l in open('/proc/self/status') if l[:3] == 'Cap' or l[:7] == 'NoNewPr'])"
    assert after(steps, look) == ["0" * 16] * 5 + ["1"]


def test_limits_are_soft_and_hard_and_never_above_the_host_s() -> None:
    steps = """
import resource as r
r.setrlimit(r.RLIMIT_NOFILE, (100, 100))
confine.limit_resources(processes=9999, open_files=5000, cpu_time=7, file_size=11, data=2**30)
"""
    look = (
        "print(*[r.getrlimit(getattr(r, 'RLIMIT_' + n)) for n in ('NOFILE', 'CPU', 'FSIZE', 'DATA', 'CORE')], sep='')"
    )
    assert "".join(after(steps, look)) == f"(100,100)(7,8)(11,11)({2**30},{2**30})(1,1)"


def test_what_is_not_limited_stays_as_it_was() -> None:
    steps = """
import resource as r
before = r.getrlimit(r.RLIMIT_CPU), r.getrlimit(r.RLIMIT_FSIZE), r.getrlimit(r.RLIMIT_DATA)
confine.limit_resources(processes=9999, open_files=100)
"""
    look = "print(before == (r.getrlimit(r.RLIMIT_CPU), r.getrlimit(r.RLIMIT_FSIZE), r.getrlimit(r.RLIMIT_DATA)))"
    assert after(steps, look) == ["True"]


def test_a_process_can_be_named_and_hidden_from_its_user() -> None:
    steps = "confine.process_name('a name that is too long')\nconfine.not_dumpable()"
    look = "print(os.stat('/proc/self/environ').st_uid, open('/proc/self/comm').read().replace(' ', '_'))"
    assert after(steps, look) == ["0", "a_name_that_is_"]
    look = "print(os.stat('/proc/self/environ').st_uid)"
    assert after(f"{steps}\nconfine.dumpable()", look) == [str(os.getuid())]


def test_a_step_that_is_refused_is_an_error_with_its_name() -> None:
    with pytest.raises(OSError, match="/no/such"):
        confine.mount("none", "/no/such", "tmpfs", 0)
    with pytest.raises(OSError, match="/no/such"):
        confine.clone("/no/such")
    with pytest.raises(OSError):
        confine.pin_link("/no/such")
