"""A session gets what it may have, and who wants more loses the execution rather than the session."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ipybox.control.records import NetworkRules
from ipybox.control.states import ExecutionStatus, Reason
from tests.control.runtime.boxes import LIMITS, MIB, Box, Boxes, eventually

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]

HOARD = """
import time
def handler(e):
    x = [b'x' * 1048576 for _ in range({0})]
    print('has', flush=True)
    time.sleep(60)
"""


async def test_the_execution_that_uses_most_memory_is_ended_and_the_session_goes_on(boxes: Boxes) -> None:
    box = await boxes.make(limits=replace(LIMITS, memory_bytes=200 * MIB))
    small = asyncio.ensure_future(
        box.python("import time\ndef handler(e):\n    x = bytearray(30_000_000)\n    time.sleep(3)\n    return 1")
    )
    ran = await box.python(HOARD.format(400))
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.OUT_OF_MEMORY)
    assert str(200 * MIB) in (ran.outcome.error_message or "")
    assert (await small).outcome.return_value == 1
    assert await box.value("handler = lambda e: 'alive'") == "alive"


async def test_memory_of_its_children_counts(boxes: Boxes) -> None:
    box = await boxes.make(limits=replace(LIMITS, memory_bytes=200 * MIB))
    code = """
import multiprocessing as m, time
def take(n):
    x = b'x' * 80_000_000
    time.sleep(60)
def handler(e):
    p = [m.Process(target=take, args=(i,)) for i in range(4)]
    [each.start() for each in p]
    [each.join() for each in p]
"""
    ran = await box.python(code)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.OUT_OF_MEMORY)
    assert await box.value("handler = lambda e: 'alive'") == "alive"


async def test_the_execution_that_uses_most_memory_is_found_among_many_processes(boxes: Boxes) -> None:
    box = await boxes.make(limits=replace(LIMITS, memory_bytes=200 * MIB))
    small = asyncio.ensure_future(
        box.python("import time\ndef handler(e):\n    x = bytearray(30_000_000)\n    time.sleep(3)\n    return 1")
    )
    code = """
import os, time
def handler(e):
    for _ in range(30):
        if not os.fork():
            x = b'x' * 20_000_000
            time.sleep(60)
    os.wait()
"""
    ran = await box.python(code)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.OUT_OF_MEMORY)
    assert (await small).outcome.return_value == 1


async def test_an_interpreter_that_uses_too_much_memory_is_replaced(boxes: Boxes) -> None:
    box = await boxes.make(stateful=True, limits=replace(LIMITS, memory_bytes=200 * MIB))
    ran = await box.cell("import time\nx = [b'x' * 1048576 for _ in range(400)]\ntime.sleep(60)")
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.OUT_OF_MEMORY)
    assert ran.outcome.state_lost
    assert (await box.cell("print('alive')")).text() == "alive\n"


async def test_a_session_gets_no_more_than_its_template_has(boxes: Boxes) -> None:
    most = replace(LIMITS, memory_bytes=200 * MIB, max_processes=10, disk_bytes=8 * MIB)
    box = await boxes.make(warm=boxes.warm_spec(limits=most), limits=LIMITS)
    ran = await box.python(HOARD.format(400))
    assert ran.outcome.reason is Reason.OUT_OF_MEMORY
    assert "8.0M" in (await box.shell("df -h /tmp")).text()


async def test_processes_are_limited_and_the_agent_still_has_some(boxes: Boxes) -> None:
    box = await boxes.make(limits=replace(LIMITS, max_processes=12))
    bomb = asyncio.ensure_future(
        box.python(
            "import os, time\ndef handler(e):\n    while True:\n"
            "        try: os.fork()\n        except OSError: time.sleep(0.01)",
            timeout=2,
        )
    )
    await asyncio.sleep(0.5)
    other = await box.python("import os\nhandler = lambda e: sum(x.isdigit() for x in os.listdir('/proc'))")
    assert other.status is ExecutionStatus.COMPLETED
    assert other.outcome.return_value <= 12 + 2 + 1
    assert (await bomb).status is ExecutionStatus.TIMEOUT
    count = "import os\nhandler = lambda e: sum(x.isdigit() for x in os.listdir('/proc')) == 3"

    async def is_clean() -> bool:
        return bool(await box.value(count))

    assert await eventually(is_clean)


async def test_private_places_have_a_size_and_last_as_long_as_the_session(boxes: Boxes) -> None:
    box = await boxes.make(limits=replace(LIMITS, disk_bytes=4 * MIB))
    for place in ("/tmp", "/run/home", "/dev/shm"):
        ran = await box.shell(f"head -c 3000000 /dev/zero > {place}/a && head -c 3000000 /dev/zero > {place}/b")
        assert "No space left" in ran.text("stderr"), place
        assert (await box.shell(f"stat -c %s {place}/a && rm {place}/a {place}/b")).text() == "3000000\n"


async def test_a_full_workspace_ends_what_runs_and_refuses_what_comes(boxes: Boxes) -> None:
    box = await boxes.make(limits=replace(LIMITS, disk_bytes=4 * MIB))
    code = """
import time
def handler(e):
    for i in range(9):
        open(f'f{i}', 'wb').write(b'x' * 1000000)
    time.sleep(60)
"""
    ran = await box.python(code)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.DISK_FULL)
    ran = await box.shell("echo never")
    assert (ran.status, ran.outcome.reason, ran.text()) == (ExecutionStatus.FAILED, Reason.DISK_FULL, "")
    for number in range(9):
        (box.workspace / f"f{number}").unlink(missing_ok=True)
    assert (await box.shell("echo room")).text() == "room\n"


async def test_what_fills_the_workspace_and_ends_is_seen_afterwards(boxes: Boxes) -> None:
    box = await boxes.make(limits=replace(LIMITS, disk_bytes=4 * MIB))
    ran = await box.shell("for i in 1 2 3 4 5 6; do head -c 1000000 /dev/zero > f$i; done")
    assert ran.status is ExecutionStatus.COMPLETED

    async def is_refused() -> bool:
        return (await box.shell("true")).outcome.reason is Reason.DISK_FULL

    assert await eventually(is_refused)


async def test_one_file_can_not_be_larger_than_the_workspace(boxes: Boxes) -> None:
    box = await boxes.make(limits=replace(LIMITS, disk_bytes=4 * MIB))
    ran = await box.python(
        "def handler(e):\n    with open('f', 'wb') as file:\n        while True: file.write(b'x' * 1000000)"
    )
    assert ran.outcome.error_name == "OSError"
    assert (box.workspace / "f").stat().st_size <= 4 * MIB


async def test_files_that_have_no_name_any_more_count(boxes: Boxes) -> None:
    box = await boxes.make(limits=replace(LIMITS, disk_bytes=4 * MIB))
    code = (
        "import os, time\ndef handler(e):\n    kept = []\n    for i in range(8):\n"
        "        file = open(f'f{i}', 'w+b', buffering=0)\n"
        "        os.unlink(f'f{i}')\n        file.write(b'x' * 1000000)\n        kept.append(file)\n    time.sleep(60)"
    )
    ran = await box.python(code)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.DISK_FULL)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
async def test_a_session_keeps_to_its_processors(boxes: Boxes) -> None:
    first = await boxes.make(limits=replace(LIMITS, cpu_cores=0.5))
    second = await boxes.make(limits=replace(LIMITS, cpu_cores=1))
    code = (
        "import os\ndef handler(e):\n    own = sorted(os.sched_getaffinity(0))\n"
        "    try: os.sched_setaffinity(0, range(64))\n    except PermissionError: return own\n    return 'undone'"
    )
    one, two = await first.value(code), await second.value(code)
    assert (len(one), len(two)) == (1, 1)
    if len(os.sched_getaffinity(0)) == 2:
        assert one != two
    whole = await boxes.make()
    assert await whole.value("import os\nhandler = lambda e: len(os.sched_getaffinity(0))") == len(
        os.sched_getaffinity(0)
    )


async def test_there_is_no_network_unless_it_is_given(box: Box) -> None:
    code = """
import socket
def handler(e):
    with open('/proc/net/dev') as f: names = f.read().count(':')
    s = socket.socket(); s.settimeout(2)
    try: s.connect(('192.0.2.1', 80))
    except OSError as error: return [names, error.errno]
"""
    assert await box.value(code) == [1, 101]


REACH = """
import http.client
def handler(names):
    found = {}
    for name in names:
        line = http.client.HTTPConnection('127.0.0.1', 3128, timeout=10)
        try:
            line.request('GET', f'http://{name}/')
            found[name] = line.getresponse().status
        except OSError as error:
            found[name] = error.errno
    return found
"""


async def test_hosts_are_those_that_template_and_session_allow(boxes: Boxes) -> None:
    """Nothing here reaches a host: names below .invalid have no address, which is another answer than a refusal."""
    wide = NetworkRules(allowed_domains=("*.test.invalid", "one.invalid"), denied_domains=("bad.test.invalid",))
    warm = boxes.warm_spec(network=wide)
    rules = NetworkRules(
        allowed_domains=("a.test.invalid", "bad.test.invalid", "c.test.invalid", "other.invalid"),
        denied_domains=("c.test.invalid",),
    )
    names = ["a.test.invalid", "bad.test.invalid", "c.test.invalid", "one.invalid", "other.invalid"]
    box, none = await boxes.make(warm=warm, network=rules), await boxes.make(warm=warm)
    found = await box.value(REACH, event=names)
    assert {name for name, status in found.items() if status == 403} == set(names[1:])
    assert found["a.test.invalid"] in (502, 503, 504)
    assert dict(box.session.denied_hosts) == dict.fromkeys(names[1:], 1)
    assert set((await none.value(REACH, event=names[:1])).values()) == {111}
    assert dict(none.session.denied_hosts) == {}


async def test_a_workspace_that_has_gone_refuses_what_comes(boxes: Boxes) -> None:
    box = await boxes.make()
    assert (await box.shell("true")).status is ExecutionStatus.COMPLETED
    moved = Path(f"{box.workspace}-away")
    box.workspace.rename(moved)

    async def is_refused() -> bool:
        return (await box.shell("true")).outcome.reason is Reason.DISK_FULL

    assert await eventually(is_refused)
    moved.rename(box.workspace)
