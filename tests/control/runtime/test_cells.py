"""Cells of a stateful session: an IPython that keeps its variables, and tells when it could not."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
from typing import Any

import pytest

from ipybox.control.states import ExecutionStatus, Reason
from tests.control.runtime.boxes import OUTPUT, Box, Boxes

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


def _plain(shown: Any) -> str:
    return str(shown["data"]["text/plain"])


async def test_variables_are_kept_and_the_last_value_is_the_result(notebook: Box) -> None:
    assert (await notebook.cell("x = 20")).events == []
    ran = await notebook.cell("x + 1")
    assert [_plain(each) for each in ran.shown("result")] == ["21"]
    assert (ran.status, ran.outcome.exit_code) == (ExecutionStatus.COMPLETED, 0)
    assert _plain((await notebook.cell("_ + 1")).shown("result")[0]) == "22"
    assert (await notebook.cell("x;")).events == []


async def test_cells_and_handlers_share_files_only(notebook: Box) -> None:
    await notebook.cell("y = 1; open('f', 'w').write('x');")
    assert await notebook.value("handler = lambda e: ['y' in globals(), open('f').read()]") == [False, "x"]


async def test_magics_and_commands_work(notebook: Box) -> None:
    assert (await notebook.cell("!echo sub; echo err >&2")).text() == "sub\n"
    assert "Wall time" in (await notebook.cell("%time 1")).text()
    assert (await notebook.cell("%%bash\necho from bash")).text() == "from bash\n"
    assert _plain((await notebook.cell("names = !echo a b\nnames")).shown("result")[0]) == "['a b']"
    ran = await notebook.cell("%no_such_magic")
    assert (ran.status, ran.outcome.error_name) == (ExecutionStatus.FAILED, "UsageError")


async def test_a_cell_can_await(notebook: Box) -> None:
    ran = await notebook.cell("import asyncio\nawait asyncio.sleep(0)\n'slept'")
    assert _plain(ran.shown("result")[0]) == "'slept'"


async def test_an_exception_is_told_without_colours(notebook: Box) -> None:
    ran = await notebook.cell("def f(): 1/0\nprint('a')\nf()")
    assert (ran.status, ran.outcome.reason, ran.outcome.exit_code) == (ExecutionStatus.FAILED, Reason.RAISED, 1)
    assert ran.outcome.error_name == "ZeroDivisionError"
    (error,) = ran.shown("error")
    assert (error["name"], error["value"]) == ("ZeroDivisionError", "division by zero")
    assert "\x1b" not in ran.text("stderr")
    assert "----> 3 f()" in ran.text("stderr")
    assert "interpreter.py" not in ran.text("stderr")
    ran = await notebook.cell("def f(:")
    assert ran.outcome.error_name == "SyntaxError"
    assert len(ran.shown("error")) == 1


async def test_text_and_pictures_come_in_the_order_in_which_they_were_made(notebook: Box) -> None:
    code = """
import os
for i in range(5):
    print(i)
    os.write(1, b'fd\\n')
    display(i)
!echo last
display('end')
"""
    ran = await notebook.cell(code)
    told = ""
    for kind, data in ran.events:
        told += data["text"] if kind == "stdout" else f"<{_plain(data)}>"
    assert told == "".join(f"{i}\nfd\n<{i}>" for i in range(5)) + "last\n<'end'>"


async def test_rich_things_are_shown_in_all_their_forms(notebook: Box) -> None:
    code = """
from IPython.display import HTML, Image, clear_output, display
class Rich:
    def _repr_html_(self): return '<b>x</b>'
    def _repr_png_(self): return b'png'
    def __repr__(self): return 'rich'
handle = display(HTML('one'), display_id='mine')
handle.update(HTML('two'))
clear_output(wait=True)
Rich()
"""
    ran = await notebook.cell(code)
    first, second = ran.shown("display")
    assert (first["display_id"], first["update"], first["data"]["text/html"]) == ("mine", False, "one")
    assert (second["display_id"], second["update"], second["data"]["text/html"]) == ("mine", True, "two")
    assert ran.shown("clear") == [{"wait": True}]
    (result,) = ran.shown("result")
    assert result["data"] == {"text/plain": "rich", "text/html": "<b>x</b>", "image/png": "cG5n\n"} | {
        "image/png": result["data"]["image/png"]
    }
    assert base64.b64decode(result["data"]["image/png"]) == b"png"


@pytest.mark.skipif(importlib.util.find_spec("matplotlib_inline") is None, reason="there is no matplotlib")
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="there is no matplotlib")
async def test_figures_are_shown_at_the_end_of_the_cell_and_when_asked_for(notebook: Box) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint('between')\nplt.plot([3]);"
    ran = await notebook.cell(code)
    kinds = [kind for kind, _ in ran.events if kind != "stderr"]
    assert kinds == ["display", "stdout", "display"]
    for shown in ran.shown("display"):
        assert base64.b64decode(shown["data"]["image/png"]).startswith(b"\x89PNG")


async def test_a_handler_does_not_open_windows(notebook: Box) -> None:
    assert await notebook.value("import os\nhandler = lambda e: os.environ['MPLBACKEND']") == "agg"


async def test_input_has_nobody_to_ask(notebook: Box) -> None:
    ran = await notebook.cell("input('name? ')")
    assert (ran.status, ran.outcome.error_name) == (ExecutionStatus.FAILED, "EOFError")
    assert "nobody to ask" in (ran.outcome.error_message or "")


async def test_nothing_is_kept_in_the_home(notebook: Box) -> None:
    await notebook.cell("%history\nx = 1")
    assert (await notebook.shell("ls -A ~")).text() == ""


@pytest.mark.parametrize(("code", "exit_code"), [("import sys; sys.exit(4)", 4), ("exit", 0), ("raise SystemExit", 0)])
async def test_leaving_a_cell_leaves_the_interpreter(notebook: Box, code: str, exit_code: int) -> None:
    await notebook.cell("kept = 1")
    ran = await notebook.cell(code)
    assert ran.outcome.exit_code == exit_code
    assert ran.status is (ExecutionStatus.FAILED if exit_code else ExecutionStatus.COMPLETED)
    assert ran.events == []
    assert _plain((await notebook.cell("kept")).shown("result")[0]) == "1"


async def test_variables_of_a_request_are_for_its_cell(notebook: Box) -> None:
    ran = await notebook.cell("import os; os.environ['MINE']", env={"MINE": "yes"})
    assert _plain(ran.shown("result")[0]) == "'yes'"
    assert _plain((await notebook.cell("'MINE' in os.environ")).shown("result")[0]) == "False"


async def test_cells_run_one_after_the_other_and_everything_else_beside_them(notebook: Box) -> None:
    started = asyncio.Event()
    code = "import os, time\nprint('up', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\nz = 5"
    first = asyncio.ensure_future(notebook.cell(code, on_event=lambda *_: started.set()))
    second = asyncio.ensure_future(notebook.cell("z"))
    third = asyncio.ensure_future(notebook.cell("never", id="third"))
    await started.wait()
    await notebook.value("def handler(e): open('go', 'w')")
    assert await notebook.session.interrupt("third")
    assert (await third).outcome.reason is Reason.INTERRUPTED
    assert (await first).status is ExecutionStatus.COMPLETED
    assert _plain((await second).shown("result")[0]) == "5"


@pytest.mark.parametrize(
    "code", ["import time; time.sleep(99)", "import asyncio; await asyncio.sleep(99)", "!sleep 99"]
)
async def test_a_timeout_costs_the_cell_and_not_the_variables(notebook: Box, code: str) -> None:
    await notebook.cell("kept = 1\nprint()")
    ran = await notebook.cell(f"print('said')\n{code}", timeout=0.3)
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.TIMEOUT, Reason.TIMED_OUT)
    assert not ran.outcome.state_lost
    assert ran.text() == "said\n"
    assert _plain((await notebook.cell("kept")).shown("result")[0]) == "1"
    assert (await notebook.shell("ps -eo args 2>/dev/null | grep -c '[s]leep 99'")).text() in ("0\n", "")


async def test_an_interrupt_costs_the_cell_and_not_the_variables(notebook: Box) -> None:
    started = asyncio.Event()
    code = "kept = 2\nprint('up', flush=True)\nimport time; time.sleep(99)"
    running = asyncio.ensure_future(notebook.cell(code, id="mine", on_event=lambda *_: started.set()))
    await started.wait()
    assert await notebook.session.interrupt("mine")
    ran = await running
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.INTERRUPTED)
    assert "interrupts.py" not in ran.text("stderr")
    assert _plain((await notebook.cell("kept")).shown("result")[0]) == "2"


async def test_an_interrupt_can_not_hit_what_is_shown(notebook: Box) -> None:
    """In the middle of a frame it would be the end of the conversation."""
    await notebook.cell("kept = 3")
    for _ in range(5):
        ran = await notebook.cell("while True: display('x' * 100)", timeout=0.05)
        assert ran.status is ExecutionStatus.TIMEOUT
        assert not ran.outcome.state_lost
    assert _plain((await notebook.cell("kept")).shown("result")[0]) == "3"


async def test_who_swallows_interrupts_loses_the_variables_and_is_told(notebook: Box) -> None:
    code = "import time\nwhile True:\n    try: time.sleep(99)\n    except KeyboardInterrupt: pass"
    ran = await notebook.cell(code, timeout=0.1)
    assert (ran.status, ran.outcome.state_lost) == (ExecutionStatus.TIMEOUT, True)
    assert "variables are lost" in ran.text("stderr")
    after = await notebook.cell("'time' in globals()")
    assert (_plain(after.shown("result")[0]), after.outcome.state_lost) == ("False", False)


async def test_an_interpreter_that_ends_takes_its_variables_and_that_is_told(notebook: Box) -> None:
    ran = await notebook.cell("import os\nprint('said', flush=True)\nos._exit(3)")
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.INTERPRETER_ENDED)
    assert (ran.outcome.state_lost, ran.outcome.exit_code) == (True, 3)
    assert ran.text() == "said\n"
    assert "variables are lost" in ran.text("stderr")
    assert not (await notebook.cell("1")).outcome.state_lost


async def test_an_interpreter_that_ends_between_cells_is_told_by_the_next(notebook: Box) -> None:
    await notebook.cell("import os, threading\nthreading.Timer(0.1, os._exit, [0]).start()\npid = os.getpid()")
    for _ in range(100):
        ran = await notebook.cell("1")
        if ran.outcome.state_lost:
            break
        await asyncio.sleep(0.02)
    assert ran.outcome.state_lost
    assert "variables" in ran.text("stderr")


async def test_what_is_written_between_cells_comes_with_the_next(notebook: Box) -> None:
    code = "import threading\nt = threading.Timer(0.1, lambda: print('late', flush=True))\nt.start()"
    assert (await notebook.cell(code)).text() == ""
    await asyncio.sleep(0.3)
    assert (await notebook.cell("1")).text() == "late\n"


async def test_a_fork_that_comes_back_does_not_answer(notebook: Box) -> None:
    ran = await notebook.cell("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\ndisplay('one')\n'two'")
    assert ran.status is ExecutionStatus.COMPLETED
    assert len(ran.shown("display")) == 1
    assert _plain((await notebook.cell("pid > 0")).shown("result")[0]) == "True"


async def test_what_is_too_large_to_be_shown_is_not_and_that_is_told(notebook: Box) -> None:
    ran = await notebook.cell(f"display('x' * {2 * OUTPUT})\nprint('after')")
    assert ran.shown("display") == []
    assert ran.shown("truncated") == [{"stream": "display"}]
    assert (ran.outcome.truncated, ran.text()) == (True, "after\n")


async def test_a_flood_of_a_cell_is_cut_and_the_next_has_room_again(notebook: Box) -> None:
    ran = await notebook.cell("for _ in range(100): print('x' * 100_000)")
    assert ran.outcome.truncated
    assert len(ran.text()) == OUTPUT
    assert (await notebook.cell("print('ok')")).text() == "ok\n"


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="there is no matplotlib")
async def test_figures_are_shown_where_matplotlib_was_preloaded(boxes: Boxes) -> None:
    box = await boxes.make(stateful=True, warm=boxes.warm_spec(preload=("matplotlib.pyplot",)))
    ran = await box.cell("import matplotlib.pyplot as plt\nplt.plot([1]);")
    assert len(ran.shown("display")) == 1


async def test_what_a_cell_used_is_measured_for_itself(notebook: Box) -> None:
    await notebook.cell("for _ in range(3_000_000): pass")
    quick = (await notebook.cell("1")).outcome.metrics
    assert quick.cpu_time_ms is not None
    assert quick.cpu_time_ms < 50


async def test_what_is_nested_too_deep_is_not_shown_and_costs_no_variables(notebook: Box) -> None:
    await notebook.cell("x = 1")
    code = """
def nested(depth):
    found = []
    for _ in range(depth - 1):
        found = [found]
    return found
display({'application/json': nested(198)}, raw=True)
display({'application/json': nested(199)}, raw=True)
"""
    ran = await notebook.cell(code)
    assert [kind for kind, _ in ran.events] == ["display", "truncated"]
    assert (await notebook.cell("print(x)")).text() == "1\n"
