"""Handlers in a session: what they are given, what they say, and what is made of their end."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from ipybox.control.states import ExecutionStatus, Reason
from ipybox.errors import PolicyError
from tests.control.runtime.boxes import LIMITS, OUTPUT, Box, Boxes, eventually

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


async def test_a_handler_gets_its_event_and_returns_a_value(box: Box) -> None:
    ran = await box.python("def handler(event):\n    print('hi')\n    return {'got': event}", event={"n": [1, None]})
    assert ran.status is ExecutionStatus.COMPLETED
    assert ran.outcome.return_value == {"got": {"n": [1, None]}}
    assert ran.outcome.has_return_value
    assert ran.outcome.exit_code == 0
    assert ran.text() == "hi\n"


@pytest.mark.parametrize(
    "value", ["None", "0", "'é😀'", "[1, 2.5, True]", "{'a': {'b': []}}", "list(range(400))", "''"]
)
async def test_values_come_out_as_they_are(box: Box, value: str) -> None:
    ran = await box.python(f"def handler(event): return {value}")
    assert ran.outcome.return_value == eval(value)
    assert ran.outcome.has_return_value


async def test_numbers_that_json_lacks_are_null(box: Box) -> None:
    assert await box.value("handler = lambda e: [float('nan'), {'x': float('-inf')}, 1.5]") == [None, {"x": None}, 1.5]


async def test_text_that_can_not_be_encoded_is_replaced(box: Box) -> None:
    value = await box.value("handler = lambda e: ['\\ud800', {'\\udfff': 1}]")
    json.dumps(value, ensure_ascii=False).encode()


@pytest.mark.parametrize("value", ["object()", "{1, 2}", "b'x'", "{(1, 2): 3}", "x"])
async def test_what_is_no_json_is_a_bad_result(box: Box, value: str) -> None:
    ran = await box.python(f"x = []\nx.append(x)\nhandler = lambda e: {value}")
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.BAD_RESULT)
    assert "no JSON" in (ran.outcome.error_message or "")
    assert "no JSON" in ran.text("stderr")
    assert not ran.outcome.has_return_value


async def test_a_value_that_is_nested_too_deep_is_a_bad_result(box: Box) -> None:
    ran = await box.python("def handler(e):\n    x = []\n    for _ in range(500): x = [x]\n    return x")
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.BAD_RESULT)


async def test_a_value_that_is_too_large_is_a_bad_result(box: Box) -> None:
    ran = await box.python(f"handler = lambda e: 'x' * {OUTPUT + 1}")
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.BAD_RESULT)
    assert str(OUTPUT) in (ran.outcome.error_message or "")


async def test_an_exception_is_told_with_the_lines_of_the_code(box: Box) -> None:
    code = "class OwnError(Exception): pass\n\ndef handler(event):\n    print('before')\n    raise OwnError('why')\n"
    ran = await box.python(code)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.RAISED)
    assert ran.outcome.exit_code == 1
    assert ran.outcome.error_name == "OwnError"
    assert ran.outcome.error_message == "OwnError: why"
    assert "File \"<handler>\", line 5, in handler\n    raise OwnError('why')" in ran.text("stderr")
    assert "handler.py" not in ran.text("stderr")
    (error,) = ran.shown("error")
    assert (error["name"], error["value"]) == ("OwnError", "why")
    assert error["traceback"][-1].endswith("OwnError: why")
    assert [kind for kind, _ in ran.events][-1] == "error"
    assert ran.text() == "before\n"


async def test_code_that_is_no_python_says_where(box: Box) -> None:
    ran = await box.python("def handler(event:\n    pass")
    assert (ran.status, ran.outcome.error_name) == (ExecutionStatus.FAILED, "SyntaxError")
    assert "<handler>" in ran.text("stderr")


@pytest.mark.parametrize("code", ["x = 1", "handler = 3", ""])
async def test_without_a_handler_it_fails_and_says_so(box: Box, code: str) -> None:
    ran = await box.python(code)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.RAISED)
    assert "does not define a function handler(event)" in ran.text("stderr")


@pytest.mark.parametrize(
    ("code", "exit_code", "status"),
    [
        ("raise SystemExit", 0, ExecutionStatus.COMPLETED),
        ("raise SystemExit(7)", 7, ExecutionStatus.FAILED),
        ("raise SystemExit(10**300)", 255, ExecutionStatus.FAILED),
        ("raise SystemExit(-1)", 255, ExecutionStatus.FAILED),
        ("raise SystemExit('no')", 1, ExecutionStatus.FAILED),
        ("import os; os._exit(9)", 9, ExecutionStatus.FAILED),
    ],
)
async def test_its_exit_code_is_told(box: Box, code: str, exit_code: int, status: ExecutionStatus) -> None:
    ran = await box.python(f"def handler(event):\n    {code}")
    assert (ran.status, ran.outcome.exit_code) == (status, exit_code)
    assert ran.outcome.reason is (Reason.EXIT_CODE if exit_code else None)


async def test_a_signal_that_ends_it_is_a_crash(box: Box) -> None:
    ran = await box.python("import ctypes\ndef handler(event):\n    print('x', flush=True)\n    ctypes.string_at(0)")
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.SIGNALLED)
    assert "SIGSEGV" in (ran.outcome.error_message or "")
    assert ran.text() == "x\n"


async def test_an_async_handler_is_awaited(box: Box) -> None:
    code = "import asyncio\nasync def handler(event):\n    await asyncio.sleep(0)\n    return event + 1"
    assert await box.value(code, event=1) == 2


async def test_each_runs_in_a_fresh_main(box: Box) -> None:
    code = """
import sys
def handler(e):
    m = sys.modules['__main__']
    return [__name__, m.handler is handler, hasattr(m, 'left')]
"""
    await box.value("left = 1\nhandler = lambda e: 1")
    assert await box.value(code) == ["__main__", True, False]


async def test_files_are_shared_by_executions_of_all_kinds(box: Box) -> None:
    await box.value("def handler(e): open('/tmp/state.txt', 'w').write('kept'); open('own.txt', 'w').write('x')")
    assert (await box.shell("cat /tmp/state.txt; pwd")).text() == "kept/workspace\n"
    assert (box.workspace / "own.txt").read_text() == "x"


async def test_variables_of_the_request_go_before_those_of_the_session(boxes: Boxes) -> None:
    box = await boxes.make(env={"A": "session", "B": "session"})
    code = "import os\nhandler = lambda e: [os.environ[name] for name in 'AB'] + [os.environ['HOME']]"
    assert await box.value(code, env={"A": "request"}) == ["request", "session", "/run/home"]
    assert (await box.shell("echo $A $B", env={"B": "r"})).text() == "session r\n"


async def test_output_comes_while_it_runs(box: Box) -> None:
    heard = asyncio.Event()
    code = """
import os, time
def handler(e):
    print('first', flush=True)
    while not os.path.exists('go'): time.sleep(0.01)
"""

    def on_event(kind: str, data: Any) -> None:
        if "first" in data.get("text", ""):
            heard.set()

    running = asyncio.ensure_future(box.python(code, on_event=on_event))
    await asyncio.wait_for(heard.wait(), 10)
    assert not running.done()
    (box.workspace / "go").touch()
    assert (await running).status is ExecutionStatus.COMPLETED


async def test_any_bytes_survive_as_text(box: Box) -> None:
    code = "import os\ndef handler(e):\n    os.write(1, bytes(range(256)))\n    os.write(2, b'\\xf0\\x9f')"
    ran = await box.python(code)
    assert ran.text() == bytes(range(256)).decode("utf-8", "replace")
    assert ran.text("stderr") == b"\xf0\x9f".decode("utf-8", "replace")
    ran.text().encode()


async def test_characters_are_never_cut(box: Box) -> None:
    code = (
        "import os, time\ndef handler(e):\n    data = '😀é'.encode() * 50\n"
        "    for i in range(len(data)):\n        os.write(1, data[i:i+1])\n        time.sleep(0.0003)"
    )
    assert (await box.python(code)).text() == "😀é" * 50


async def test_a_flood_is_cut_and_holds_up_nobody(box: Box) -> None:
    code = """
import os
def handler(e):
    for _ in range(500): os.write(1, b'x' * 1048576)
    print('end')
    return 'done'
"""
    flood = asyncio.ensure_future(box.python(code))
    other = await box.python("handler = lambda e: 1")
    assert other.status is ExecutionStatus.COMPLETED
    ran = await flood
    assert ran.outcome.return_value == "done"
    assert ran.outcome.truncated
    assert ran.text() == "x" * OUTPUT
    assert ran.shown("truncated") == [{"stream": "stdout"}]
    assert "end" not in ran.text()


async def test_what_fits_is_not_cut(box: Box) -> None:
    ran = await box.python(f"def handler(e): print('y' * {OUTPUT - 1})")
    assert ran.text() == "y" * (OUTPUT - 1) + "\n"
    assert not ran.outcome.truncated


async def test_many_small_writes_are_few_events(box: Box) -> None:
    ran = await box.python("import os\ndef handler(e):\n    for _ in range(20000): os.write(1, b'z')")
    assert ran.text() == "z" * 20000
    assert len(ran.events) < 2000


async def test_what_is_too_long_is_ended_with_what_it_had_said(box: Box) -> None:
    code = "import time\ndef handler(e):\n    print('a')\n    print('b', end='')\n    time.sleep(99)"
    ran = await box.python(code, timeout=0.3)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.TIMEOUT, Reason.TIMED_OUT)
    assert "0.3 seconds" in (ran.outcome.error_message or "")
    assert ran.text() == "a\nb"


async def test_who_ignores_the_end_is_killed(box: Box) -> None:
    code = """
import signal, time
def handler(e):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: time.sleep(1)
"""
    ran = await box.python(code, timeout=0.2)
    assert (ran.status, ran.outcome.exit_code) == (ExecutionStatus.TIMEOUT, 137)


async def test_an_interrupt_is_a_keyboard_interrupt(box: Box) -> None:
    started = asyncio.Event()
    code = "import time\ndef handler(e):\n    print('up', flush=True)\n    time.sleep(99)"
    running = asyncio.ensure_future(box.python(code, id="mine", on_event=lambda kind, data: started.set()))
    await started.wait()
    assert await box.session.interrupt("mine")
    ran = await running
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.INTERRUPTED)
    assert ran.outcome.error_name == "KeyboardInterrupt"
    assert not await box.session.interrupt("mine")
    assert not await box.session.interrupt("nothing of that name")


async def test_who_swallows_interrupts_is_killed(box: Box) -> None:
    started = asyncio.Event()
    code = (
        "import time\ndef handler(e):\n    print('up', flush=True)\n    while True:\n"
        "        try: time.sleep(99)\n        except KeyboardInterrupt: pass"
    )
    running = asyncio.ensure_future(box.python(code, id="mine", on_event=lambda kind, data: started.set()))
    await started.wait()
    assert await box.session.interrupt("mine")
    ran = await running
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.INTERRUPTED)


async def test_who_is_cancelled_ends_what_runs(box: Box) -> None:
    started = asyncio.Event()
    code = "import os, time\ndef handler(e):\n    print('up', flush=True)\n    time.sleep(99)"
    running = asyncio.ensure_future(box.python(code, on_event=lambda kind, data: started.set()))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    others = "import os\nhandler = lambda e: sum(x.isdigit() for x in os.listdir('/proc'))"
    assert await box.value(others) == 3  # pid 1, the agent, and who asks


@pytest.mark.parametrize("way", ["plain", "session", "daemon"])
async def test_what_it_leaves_behind_ends_with_it(box: Box, way: str) -> None:
    """Also what has made itself a daemon; what it wrote before is not lost, what it writes later is."""
    code = """
import os, subprocess, time
def handler(way):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        if way != 'plain':
            os.setsid()
        if way == 'daemon' and os.fork():
            os._exit(0)
        os.write(1, b'child\\n')
        os.write(write, b'.')
        time.sleep(60)
    os.read(read, 1)
    return pid
"""
    ran = await box.python(code, event=way)
    assert ran.status is ExecutionStatus.COMPLETED
    assert ran.text() == "child\n"
    others = "import os\nhandler = lambda e: sum(x.isdigit() for x in os.listdir('/proc'))"
    assert await eventually(lambda: _is(box, others, 3))


async def _is(box: Box, code: str, value: Any) -> bool:
    return bool(await box.value(code) == value)


async def test_a_fork_that_comes_back_does_not_answer(box: Box) -> None:
    code = """
import os
def handler(e):
    pid = os.fork()
    if pid == 0: return 'child'
    os.waitpid(pid, 0)
    return 'parent'
"""
    assert await box.value(code) == "parent"


async def test_threads_and_exit_functions_come_to_their_end(box: Box) -> None:
    code = (
        "import atexit, threading, time\ndef later():\n    time.sleep(0.2)\n    print('thread')\n"
        "def handler(e):\n    atexit.register(lambda: print('exit'))\n"
        "    threading.Thread(target=later).start()\n    return 1"
    )
    ran = await box.python(code)
    assert ran.outcome.return_value == 1
    assert ran.text() == "thread\nexit\n"


async def test_executions_run_side_by_side(box: Box) -> None:
    code = (
        "import os, time\ndef handler(n):\n    open(f'up{n}', 'w')\n"
        "    while not all(os.path.exists(f'up{i}') for i in range(4)): time.sleep(0.005)\n    return n"
    )
    ran = await asyncio.gather(*(box.python(code, event=number) for number in range(4)))
    assert [each.outcome.return_value for each in ran] == [0, 1, 2, 3]


async def test_what_it_used_is_measured(box: Box) -> None:
    ran = await box.python("def handler(e):\n    x = bytearray(80_000_000)\n    for _ in range(10**6): pass")
    metrics = ran.outcome.metrics
    assert metrics.duration_ms > 0
    assert metrics.cpu_time_ms is not None
    assert metrics.cpu_time_ms > 1
    assert metrics.peak_memory_mb is not None
    assert metrics.peak_memory_mb > 70
    assert metrics.io_read_bytes is not None


async def test_modules_that_are_preloaded_are_there(boxes: Boxes) -> None:
    box = await boxes.make(warm=boxes.warm_spec(preload=("csv", "colorsys")))
    assert await box.value("import sys\nhandler = lambda e: 'colorsys' in sys.modules") is True


async def test_packages_of_the_session_and_of_the_template_are_found_in_this_order(boxes: Boxes) -> None:
    template = boxes.directory("template")
    warm = boxes.warm_spec(packages_dir=template, preload=("preloaded_one",))
    site = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    for name in ("preloaded_one", "both"):
        (template / site).mkdir(parents=True, exist_ok=True)
        (template / site / f"{name}.py").write_text("WHERE = 'template'")
    box = await boxes.make(warm=warm)
    (box.packages / site).mkdir(parents=True)
    (box.packages / site / "both.py").write_text("WHERE = 'session'")
    (box.packages / "bin").mkdir()
    (box.packages / "bin" / "tool").write_text("#!/bin/sh\necho tool")
    (box.packages / "bin" / "tool").chmod(0o755)
    code = "import sys, both, preloaded_one\nhandler = lambda e: [both.WHERE, preloaded_one.WHERE, sys.path[0]]"
    assert await box.value(code) == ["session", "template", f"/run/packages/{site}"]
    assert (await box.shell("tool; python -c 'import both; print(both.WHERE)'")).text() == "tool\nsession\n"
    for place in ("/run/packages", "/run/template"):
        ran = await box.shell(f"touch {place}/x")
        assert "Read-only file system" in ran.text("stderr")


async def test_variables_that_only_a_starting_python_heeds_are_heeded(boxes: Boxes) -> None:
    box = await boxes.make(env={"PYTHONHASHSEED": "77"})
    code = "import sys\nhandler = lambda e: [hash('x'), sys.flags.hash_randomization]"
    first = await box.value(code)
    assert first == await (await boxes.make(env={"PYTHONHASHSEED": "77"})).value(code)


async def test_variables_of_a_request_that_only_a_starting_python_heeds_are_heeded(box: Box) -> None:
    ran = await box.python("handler = lambda e: [hash('x'), e]", event="e", env={"PYTHONHASHSEED": "77"})
    assert ran.outcome.return_value == [
        await box.value("handler = lambda e: hash('x')", env={"PYTHONHASHSEED": "77"}),
        "e",
    ]
    ran = await box.python("def handler(e): print('said'); 1/0", env={"OMP_NUM_THREADS": "1", "LD_X": "y"})
    assert (ran.outcome.error_name, ran.text()) == ("ZeroDivisionError", "said\n")


async def test_a_version_of_its_own_goes_before_what_was_preloaded(boxes: Boxes) -> None:
    template = boxes.directory("template")
    site = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    (template / site).mkdir(parents=True)
    (template / site / "of_both.py").write_text("WHERE = 'template'")
    warm = boxes.warm_spec(packages_dir=template, preload=("of_both",))
    box = await boxes.make(warm=warm, stateful=True)
    code = "import of_both\nhandler = lambda e: of_both.WHERE"
    assert await box.value(code) == "template"
    await boxes.close()
    box = await boxes.make(warm=warm, stateful=True, own={f"{site}/of_both.py": "WHERE = 'own'"})
    assert await box.value(code) == "own"
    assert (await box.cell("import of_both; print(of_both.WHERE)")).text() == "own\n"
    assert (await box.cell("1/0")).outcome.error_name == "ZeroDivisionError"


async def test_limits_that_nothing_can_run_with_are_refused(boxes: Boxes) -> None:
    with pytest.raises(PolicyError, match="memory"):
        await boxes.make(limits=replace(LIMITS, memory_bytes=1))


async def test_a_shell_tells_its_exit_code_and_its_signals(box: Box) -> None:
    ran = await box.shell("echo out; echo err >&2; exit 3")
    assert (ran.status, ran.outcome.reason, ran.outcome.exit_code) == (ExecutionStatus.FAILED, Reason.EXIT_CODE, 3)
    assert (ran.text(), ran.text("stderr")) == ("out\n", "err\n")
    ran = await box.shell("kill -SEGV $$")
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.SIGNALLED)
    assert not ran.outcome.has_return_value
    assert (await box.shell("read x; echo $?")).text() == "1\n"


async def test_a_long_script_runs(box: Box) -> None:
    ran = await box.shell("# " + "é" * 100_000 + "\necho end\n")
    assert ran.text() == "end\n"


async def test_a_shell_that_is_too_long_keeps_what_it_said(box: Box) -> None:
    ran = await box.shell("echo a; sleep 99", timeout=0.3)
    assert (ran.status, ran.text()) == (ExecutionStatus.TIMEOUT, "a\n")


async def test_cells_need_a_session_that_keeps_state(box: Box) -> None:
    ran = await box.cell("1")
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.START_FAILED)
    assert "stateful" in ran.text("stderr")
