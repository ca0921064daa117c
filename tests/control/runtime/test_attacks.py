"""Code that wants more than it may: out of its sandbox, at its agent, at other sessions."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from ipybox.control.states import ExecutionStatus, Reason
from ipybox.process import warden
from tests.control.runtime.boxes import HANG, Box, Boxes, eventually

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


async def _is_well(box: Box) -> bool:
    return bool(await box.value("handler = lambda e: 'well'") == "well")


async def test_a_session_sees_nothing_of_another(boxes: Boxes) -> None:
    one, two = await boxes.make(), await boxes.make()
    (one.workspace / "secret.txt").write_text("mine")
    await one.shell("echo mine > /tmp/secret.txt")
    code = """
import os
def handler(root):
    found = []
    for top, folders, files in os.walk('/'):
        folders[:] = [f for f in folders if not (top == '/' and f in ('proc', 'usr', 'lib', 'lib64', 'opt'))]
        found += [os.path.join(top, name) for name in files if name == 'secret.txt']
    denied = []
    for path in (root, '/run/sessions'):
        try:
            denied.append(os.listdir(path))
        except OSError as error:
            denied.append(type(error).__name__)
    return [found, denied]
"""
    found, denied = await two.value(code, event=str(boxes.root))
    assert found == []
    assert denied[0] == "FileNotFoundError"
    assert denied[1] in ("PermissionError", [])
    assert await _is_well(one)


async def test_what_hides_the_others_can_not_be_taken_away(boxes: Boxes) -> None:
    box = await boxes.make()
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def handler(e):
    tried = [libc.umount2(b'/run/sessions', 2), libc.chmod(b'/run/sessions', 0o777), libc.unshare(0x10000000)]
    tried.append(libc.mount(b'none', b'/run/sessions', b'tmpfs', 0, None))
    try:
        return [tried, os.listdir('/run/sessions')]
    except PermissionError:
        return [tried, []]
"""
    assert await box.value(code) == [[-1, -1, -1, -1], []]


async def test_a_workspace_that_is_a_link_is_not_used(boxes: Boxes) -> None:
    real = boxes.directory("real")
    link = boxes.root / "link"
    link.symlink_to(real)
    with pytest.raises(Exception, match="link"):
        await boxes.make(workspace=link)


async def test_a_workspace_elsewhere_is_not_used(boxes: Boxes, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="is not below"):
        await boxes.make(workspace=tmp_path)


async def test_links_in_a_workspace_lead_nowhere_outside(boxes: Boxes) -> None:
    box = await boxes.make()
    (boxes.root / "outside.txt").write_text("outside")
    os.symlink(boxes.root / "outside.txt", box.workspace / "link")
    os.symlink("/etc/shadow", box.workspace / "shadow")
    await box.shell("ln -s / all; ln -s .. up; mkdir -p a/b; ln -s ../.. a/b/loop")
    ran = await box.shell("cat link shadow")
    assert ran.text() == ""
    for _ in range(3):
        assert await _is_well(box)


async def test_the_agent_can_be_killed_which_ends_that_session_only(boxes: Boxes) -> None:
    one, two = await boxes.make(), await boxes.make()
    ran = await one.python("import os, time\ndef handler(e):\n    os.kill(os.getppid(), 9)\n    time.sleep(60)")
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.SANDBOX_ENDED)
    async with asyncio.timeout(HANG):
        ending = await one.session.ended()
    assert ending.reason is Reason.SANDBOX_ENDED
    again = await one.python("handler = lambda e: 1")
    assert (again.status, again.outcome.reason) == (ExecutionStatus.CRASHED, Reason.SANDBOX_ENDED)
    assert await _is_well(two)


async def test_pid_1_can_not_be_killed(box: Box) -> None:
    code = "import os\ndef handler(e):\n    for n in (9, 15, 2, 19): os.kill(1, n)\n    return 1"
    assert await box.value(code) == 1
    assert await _is_well(box)


async def test_everybody_can_be_killed_which_ends_that_session_only(boxes: Boxes) -> None:
    one, two = await boxes.make(stateful=True), await boxes.make()
    ran = await one.shell("kill -9 -1")
    assert ran.status is ExecutionStatus.CRASHED
    async with asyncio.timeout(HANG):
        await one.session.ended()
    assert await _is_well(two)


async def test_an_agent_that_was_stopped_is_noticed(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipybox.control.runtime.session.SLACK_SECONDS", 1.0)
    box = await boxes.make()
    ran = await box.python("import os\ndef handler(e): os.kill(os.getppid(), 19)", timeout=1)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.SANDBOX_ENDED)
    assert "within 2 s" in (ran.outcome.error_message or "")


async def test_who_closes_all_that_is_open_has_no_value_and_nobody_else_is_hurt(box: Box) -> None:
    ran = await box.python("import os\ndef handler(e):\n    os.closerange(3, 4096)\n    print('still')\n    return 1")
    assert (ran.status, ran.text()) == (ExecutionStatus.FAILED, "still\n")
    assert "closed the line" in ran.text("stderr")
    ran = await box.python("import os\ndef handler(e):\n    os.closerange(0, 4096)\n    return 1")
    assert not ran.outcome.has_return_value
    assert await _is_well(box)


GARBAGE = """
import os
def spoil():
    for fd in range(3, 64):
        head = b'\\0\\0\\0'
        value = head + b'\\x0e\\0' + head + b'{"is":"value"}'
        for data in (b'\\xff' * 5000, head + b'\\x02\\0' + head + b'{}', value * 100):
            try:
                os.set_blocking(fd, False)
                os.write(fd, data)
            except OSError:
                pass
"""


async def test_garbage_on_every_line_costs_the_execution_only(boxes: Boxes) -> None:
    box = await boxes.make(stateful=True)
    ran = await box.python(f"{GARBAGE}\ndef handler(e):\n    spoil()\n    return 1")
    assert ran.status in (ExecutionStatus.FAILED, ExecutionStatus.COMPLETED)
    ran = await box.cell(f"{GARBAGE}\nspoil()\nprint('said')")
    assert ran.status in (ExecutionStatus.CRASHED, ExecutionStatus.COMPLETED)
    assert await _is_well(box)
    assert (await box.cell("print(2)")).text() == "2\n"


async def test_what_is_printed_is_never_taken_for_a_result(box: Box) -> None:
    code = (
        'import os\ndef handler(e):\n    os.write(1, b\'\\0\\0\\0\\x0c\\0\\0\\0\\x03{"is":"value"}666\')\n    return 1'
    )
    ran = await box.python(code)
    assert ran.outcome.return_value == 1
    assert "666" in ran.text()


async def test_children_do_not_reach_the_line_for_the_result(box: Box) -> None:
    code = """
import os, subprocess, sys
WRITE = '''
import os, sys
print(sorted(os.listdir("/proc/self/fd")))
pid = os.getppid()
for name in os.listdir(f"/proc/{pid}/fd"):
    if not os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
        continue
    print("there")
    try:
        os.open(f"/proc/{pid}/fd/{name}", os.O_WRONLY | os.O_NONBLOCK)
        print("reached")
    except OSError:
        continue
'''
def handler(e):
    return subprocess.run([sys.executable, '-c', WRITE], capture_output=True, text=True, close_fds=False).stdout
"""
    value = await box.value(code)
    assert value == "['0', '1', '2', '3']\nthere\n"


PEEK = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def handler(e):
    agent, found = os.getppid(), {}
    found['ptrace'] = libc.ptrace(16, agent, 0, 0)
    for name in ('mem', 'environ', 'fd', 'maps', 'cwd', 'root'):
        try:
            path = f'/proc/{agent}/{name}'
            if name == 'fd': os.listdir(path)
            elif name in ('cwd', 'root'): os.listdir(path)
            else: open(path, 'rb').read(10)
            found[name] = 'seen'
        except OSError as error:
            found[name] = 'no'
    try:
        found['pidfd'] = libc.syscall(438, os.pidfd_open(agent), 3, 0)
    except OSError:
        found['pidfd'] = -1
    return found
"""


async def test_the_agent_can_not_be_looked_into(box: Box) -> None:
    found = await box.value(PEEK)
    expected: dict[str, Any] = dict.fromkeys(("mem", "environ", "fd", "maps", "cwd", "root"), "no")
    assert found == expected | {"ptrace": -1, "pidfd": -1}


async def test_a_bomb_of_forks_ends_with_its_execution(box: Box) -> None:
    ran = await box.shell("bomb() { bomb | bomb & }; bomb; sleep 1; true", timeout=10)
    assert ran.status in (ExecutionStatus.COMPLETED, ExecutionStatus.FAILED)
    count = "import os\nhandler = lambda e: sum(x.isdigit() for x in os.listdir('/proc'))"

    async def is_over() -> bool:
        return bool(await box.value(count) == 3)

    assert await eventually(is_over)


async def test_a_workspace_that_is_too_deep_to_be_measured_is_refused(boxes: Boxes) -> None:
    box = await boxes.make()
    await box.value("import os\ndef handler(e):\n    for _ in range(300):\n        os.mkdir('d'); os.chdir('d')")

    async def is_refused() -> bool:
        return (await box.shell("true")).outcome.reason is Reason.DISK_FULL

    assert await eventually(is_refused)
    assert "deeper than" in ((await box.shell("true")).outcome.error_message or "")
    await box.session.close()
    warden.remove_tree(str(box.workspace))


async def test_a_flood_of_things_to_show_is_held_up_and_cut(boxes: Boxes) -> None:
    box = await boxes.make(stateful=True)
    ran = await box.cell("for i in range(30000): display(i)", timeout=60)
    assert ran.outcome.truncated or len(ran.shown("display")) == 30000
    assert len(ran.events) < 40000
    assert await _is_well(box)


async def test_a_pidfd_of_nobody_outside_can_be_had(box: Box) -> None:
    code = """
import os
def handler(pids):
    found = []
    for pid in pids:
        try:
            os.kill(pid, 0)
            found.append(pid)
        except OSError:
            pass
    return found
"""
    outside = [pid for pid in (os.getpid(), os.getppid()) if pid > 1000]
    assert await box.value(code, event=outside) == []
