"""Code in a sandbox: what is kept, what counts as a success, what is shown, what happens when it takes too long."""

from __future__ import annotations

import asyncio
import base64
import shutil

import pytest

from ipybox.errors import SandboxEndedError, UnknownLanguageError
from ipybox.session import AsyncSandbox, CodeResult

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio]

UNITTEST = """
import unittest

class TestMath(unittest.TestCase):
    def test_addition(self):
        self.assertEqual(1 + 1, {two})

if __name__ == '__main__':
    unittest.main()
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
while True:
    time.sleep(1)
"""


async def test_variables_are_kept_from_call_to_call(sandbox: AsyncSandbox) -> None:
    assert (await sandbox.run_code("x = 40")).result is None
    assert (await sandbox.run_code("x + 2")).result == "42"
    assert (await sandbox.run_code("_ + 1")).result == "43"


async def test_code_runs_as_main_in_the_workspace_with_no_arguments(sandbox: AsyncSandbox) -> None:
    done = await sandbox.run_code("import os, sys\n__name__, sys.argv, os.getcwd(), sys.modules['__main__'].os is os")
    assert done.result == "('__main__', [''], '/workspace', True)"


async def test_a_success_is_true_and_exits_with_0(sandbox: AsyncSandbox) -> None:
    done = await sandbox.run_code("print('out'); import sys; print('err', file=sys.stderr)")
    assert done.success is True
    assert (done.stdout, done.stderr, done.exit_code, done.error) == ("out\n", "err\n", 0, None)
    assert done.execution_time > 0


async def test_an_error_has_a_traceback_of_the_code_alone(sandbox: AsyncSandbox) -> None:
    done = await sandbox.run_code("def f():\n    return 1 / 0\nprint('before')\nf()")
    assert (done.success, done.exit_code, done.stdout) == (False, 1, "before\n")
    assert done.error == "ZeroDivisionError: division by zero"
    assert "return 1 / 0" in done.stderr
    assert "ipybox" not in done.stderr


async def test_code_that_is_no_python_is_an_error(sandbox: AsyncSandbox) -> None:
    done = await sandbox.run_code("1 +")
    assert (done.success, done.exit_code) == (False, 1)
    assert done.error is not None
    assert done.error.startswith("SyntaxError")


@pytest.mark.parametrize(
    ("code", "exit_code"), [("exit()", 0), ("import sys; sys.exit(0)", 0), ("raise SystemExit(3)", 3)]
)
async def test_an_exit_ends_the_call_and_not_the_interpreter(sandbox: AsyncSandbox, code: str, exit_code: int) -> None:
    await sandbox.run_code("x = 1")
    done = await sandbox.run_code(code)
    assert (done.success, done.exit_code) == (exit_code == 0, exit_code)
    assert (await sandbox.run_code("x")).result == "1"


async def test_an_exit_with_words_is_no_success_and_shows_them(sandbox: AsyncSandbox) -> None:
    done = await sandbox.run_code("import sys; sys.exit('no way')")
    assert (done.success, done.exit_code, done.stderr) == (False, 1, "no way\n")


async def test_unittest_main_finds_the_tests_of_its_call(sandbox: AsyncSandbox) -> None:
    passed = await sandbox.run_code(UNITTEST.format(two=2))
    assert (passed.success, passed.exit_code) == (True, 0)
    assert "Ran 1 test" in passed.stderr
    failed = await sandbox.run_code(UNITTEST.format(two=3))
    assert (failed.success, failed.exit_code) == (False, 1)
    assert "2 != 3" in failed.stderr


async def test_what_processes_and_c_code_write_counts_as_output(sandbox: AsyncSandbox) -> None:
    code = """
    import ctypes, os, subprocess
    os.write(1, b"descriptor\\n")
    subprocess.run("echo child; echo error >&2", shell=True)
    ctypes.CDLL(None).puts(b"C")
    """
    done = await sandbox.run_code("if True:" + code)
    assert sorted(done.stdout.split()) == ["C", "child", "descriptor"]
    assert done.stderr == "error\n"


async def test_a_flood_is_cut_and_does_not_block(sandbox: AsyncSandbox) -> None:
    done = await sandbox.run_code("import os\nfor _ in range(500): os.write(1, b'x' * 100_000)\nprint('\u00fcend')")
    assert done.success
    assert done.truncated
    assert len(done.stdout.encode()) == 10_000_000
    assert done.stdout.endswith("xxx\u00fcend\n")
    assert set(done.stdout[:-5]) == {"x"}
    assert (await sandbox.run_code("print('next')")).stdout == "next\n"


async def test_no_half_of_a_character_is_left_of_a_flood(sandbox: AsyncSandbox) -> None:
    done = await sandbox.run_code("import os\nfor _ in range(100): os.write(1, '\u20ac'.encode() * 50_000)")
    assert done.truncated
    assert set(done.stdout) == {"\u20ac"}


async def test_a_timeout_is_heeded_however_short_it_is(sandbox: AsyncSandbox) -> None:
    for timeout in (1e-9, 1e-4, 1e-3, 1e-9, 1e-3):
        done = await sandbox.run_code("while True: pass", timeout=timeout)
        assert (done.success, done.timed_out, done.exit_code) == (False, True, 124)
        done = await sandbox.run_code("1 + 1")
        assert done.result == "2"
        assert not done.state_lost


async def test_what_is_no_utf8_is_replaced(sandbox: AsyncSandbox) -> None:
    assert (await sandbox.run_code("import os; os.write(1, b'a\\xffb'); None")).stdout == "a\ufffdb"


async def test_code_that_takes_too_long_is_interrupted_and_variables_are_kept(sandbox: AsyncSandbox) -> None:
    await sandbox.run_code("x = 7")
    done = await sandbox.run_code("print('begun')\nwhile True: pass", timeout=1)
    assert (done.success, done.exit_code, done.timed_out, done.state_lost) == (False, 124, True, False)
    assert done.stdout == "begun\n"
    assert done.error is not None
    assert "longer than 1 s" in done.error
    assert (await sandbox.run_code("x")).result == "7"


async def test_a_process_that_code_waits_for_is_interrupted_as_well(sandbox: AsyncSandbox) -> None:
    done = await sandbox.run_code("import os; x = 1; os.system('sleep 1000')", timeout=0.3)
    assert (done.timed_out, done.state_lost) == (True, False)
    assert (await sandbox.commands.run("pgrep -c sleep")).stdout in ("0\n", "")
    assert (await sandbox.run_code("x")).result == "1"


async def test_code_that_does_not_heed_is_ended_and_says_that_variables_are_lost(sandbox: AsyncSandbox) -> None:
    await sandbox.run_code("x = 7")
    done = await sandbox.run_code(STUBBORN, timeout=0.3)
    assert (done.success, done.exit_code, done.timed_out, done.state_lost) == (False, 124, True, True)
    assert "lost" in done.stderr
    after = await sandbox.run_code("x")
    assert after.error is not None
    assert after.error.startswith("NameError")
    assert not after.state_lost


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("import os; os._exit(0)", 1),
        ("import os; os._exit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("import ctypes; ctypes.string_at(0)", 139),
        ("import os; os.closerange(3, 1000)\nimport time; time.sleep(1000)", 137),
    ],
)
async def test_code_that_ends_its_interpreter_is_no_success(sandbox: AsyncSandbox, code: str, exit_code: int) -> None:
    done = await sandbox.run_code(f"print('said', flush=True)\n{code}")
    assert (done.success, done.exit_code, done.state_lost) == (False, exit_code, True)
    assert done.stdout == "said\n"
    assert "variables are lost" in done.stderr
    assert (await sandbox.run_code("1 + 1")).result == "2"


async def test_an_interpreter_that_died_between_calls_is_told_of(sandbox: AsyncSandbox) -> None:
    pid = (await sandbox.run_code("import os; os.getpid()")).result
    await sandbox.commands.run(f"kill -9 {pid}; while kill -0 {pid}; do :; done")
    done = await sandbox.run_code("1")
    assert (done.success, done.state_lost) == (True, True)
    assert not (await sandbox.run_code("1")).state_lost


async def test_a_fork_that_code_forgets_ends_where_the_code_ends(sandbox: AsyncSandbox) -> None:
    done = await sandbox.run_code("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('here', pid == 0)")
    assert sorted(done.stdout.splitlines()) == ["here False", "here True"]
    assert (await sandbox.run_code("2 * 3")).result == "6"


async def test_environment_and_directory_are_of_one_call(sandbox: AsyncSandbox) -> None:
    await sandbox.files.mkdir("sub")
    code = "import os; os.environ.get('MODE'), os.getcwd()"
    assert (await sandbox.run_code(code, env={"MODE": "a"}, working_dir="sub")).result == "('a', '/workspace/sub')"
    assert (await sandbox.run_code(code)).result == "(None, '/workspace')"


async def test_a_directory_that_is_not_there_is_an_error_of_the_call(sandbox: AsyncSandbox) -> None:
    done = await sandbox.run_code("1", working_dir="nowhere")
    assert done.error is not None
    assert done.error.startswith("FileNotFoundError")


async def test_env_vars_are_seen_by_code_of_every_language() -> None:
    async with AsyncSandbox.create(env_vars={"TEST_MODE": "true"}) as sandbox:
        assert (await sandbox.run_code("import os; os.environ['TEST_MODE']")).result == "'true'"
        assert (await sandbox.run_code("echo $TEST_MODE", "sh")).stdout == "true\n"
        assert (await sandbox.commands.run("echo $TEST_MODE")).stdout == "true\n"


async def test_what_only_a_python_that_starts_heeds_is_heeded() -> None:
    async with AsyncSandbox.create(env_vars={"PYTHONHASHSEED": "0"}) as sandbox:
        inside = (await sandbox.run_code("hash('a')")).result
        started = await sandbox.commands.run(["python", "-c", "print(hash('a'))"])
    assert inside == started.stdout.strip()


async def test_a_module_that_was_just_written_can_be_imported(sandbox: AsyncSandbox) -> None:
    for number in range(5):
        await sandbox.files.write(f"module_{number}.py", f"value = {number}")
        assert (await sandbox.run_code(f"import module_{number}; module_{number}.value")).result == str(number)


async def test_await_works_at_top_level(sandbox: AsyncSandbox) -> None:
    done = await sandbox.run_code("import asyncio\nawait asyncio.sleep(0)\nawait asyncio.sleep(0, 'slept')")
    assert done.result == "'slept'"
    assert (await sandbox.run_code("async def f(): return 5\nasyncio.run(f())")).result == "5"


async def test_other_languages_run_too(sandbox: AsyncSandbox) -> None:
    assert (await sandbox.run_code("echo $((6 * 7))", language="sh")).stdout == "42\n"
    failed = await sandbox.run_code("echo oops >&2; exit 3", language="shell")
    assert (failed.success, failed.exit_code, failed.stderr) == (False, 3, "oops\n")
    slow = await sandbox.run_code("sleep 1000", language="sh", timeout=0.3)
    assert (slow.success, slow.exit_code, slow.timed_out) == (False, 124, True)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
async def test_javascript_runs_where_node_is(sandbox: AsyncSandbox) -> None:
    assert (await sandbox.run_code("console.log(6 * 7)", language="javascript")).stdout == "42\n"


async def test_a_language_that_is_not_there_is_an_error_that_lists_what_is(sandbox: AsyncSandbox) -> None:
    with pytest.raises(UnknownLanguageError) as caught:
        await sandbox.run_code("x", language="cobol")
    assert "python" in caught.value.languages
    assert "sh" in caught.value.languages
    async with AsyncSandbox.create(env_vars={"PATH": "/nowhere"}) as bare:
        with pytest.raises(UnknownLanguageError, match=r"there are python$"):
            await bare.run_code("1", language="javascript")


async def test_rich_values_are_shown(sandbox: AsyncSandbox) -> None:
    code = """
class Table:
    def _repr_html_(self): return "<table>"
    def _repr_png_(self): return b"\\x89PNG"
display(Table())
Table()
"""
    done = await sandbox.run_code(code)
    assert [(each.type, each.format) for each in done.rich_outputs] == [("text/html", "html"), ("image/png", "png")] * 2
    assert done.html == "<table>"
    assert done.png is not None
    assert base64.b64decode(done.png) == b"\x89PNG"
    assert done.svg is None
    assert [each.metadata["kind"] for each in done.rich_outputs[::2]] == ["display_data", "execute_result"]


async def test_figures_are_pictures(sandbox: AsyncSandbox) -> None:
    pytest.importorskip("matplotlib")
    done = await sandbox.run_code("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    assert done.success, done.stderr
    assert done.png is not None
    assert base64.b64decode(done.png).startswith(b"\x89PNG")
    assert (await sandbox.run_code("plt.get_fignums()")).rich_outputs == ()


async def test_too_much_to_show_is_dropped_and_said(sandbox: AsyncSandbox) -> None:
    code = "class Big:\n    def _repr_html_(self): return 'x' * 6_000_000\ndisplay(Big()); display(Big())"
    done = await sandbox.run_code(code)
    assert (len(done.rich_outputs), done.truncated) == (1, True)
    assert len((await sandbox.run_code("'x' * 3_000_000")).result or "") < 1_100_000


async def test_calls_that_come_at_once_run_one_after_the_other(sandbox: AsyncSandbox) -> None:
    await sandbox.run_code("seen = []")
    await asyncio.gather(*(sandbox.run_code(f"seen.append({number})") for number in range(10)))
    assert (await sandbox.run_code("seen")).result == str(list(range(10)))


async def test_a_call_that_is_cancelled_is_interrupted_inside(sandbox: AsyncSandbox) -> None:
    await sandbox.run_code("x = 1")
    running = asyncio.create_task(sandbox.run_code("open('begun', 'w').close()\nwhile True: pass"))
    while not await sandbox.files.exists("begun"):
        pass
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await sandbox.run_code("x")).result == "1"


async def test_files_and_commands_work_while_code_runs(sandbox: AsyncSandbox) -> None:
    code = "import os\nopen('begun', 'w').close()\nwhile not os.path.exists('go'): pass\n'gone'"
    running = asyncio.create_task(sandbox.run_code(code))
    while not await sandbox.files.exists("begun"):
        pass
    assert (await sandbox.commands.run("ls")).stdout == "begun\n"
    await sandbox.files.write("go", "")
    assert (await running).result == "'gone'"


async def test_wrong_arguments_are_errors_that_name_them(sandbox: AsyncSandbox) -> None:
    with pytest.raises(TypeError, match="code"):
        await sandbox.run_code(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        await sandbox.run_code("1", timeout=0)
    with pytest.raises(TypeError, match="env"):
        await sandbox.run_code("1", env={"a": 1})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="code"):
        await sandbox.run_code("'\ud800'")


async def test_a_result_has_a_json_shape(sandbox: AsyncSandbox) -> None:
    shape = (await sandbox.run_code("1")).to_dict()
    assert set(shape) == {
        "success",
        "stdout",
        "stderr",
        "exit_code",
        "execution_time",
        "result",
        "error",
        "rich_outputs",
        "timed_out",
        "state_lost",
        "truncated",
    }
    assert CodeResult().to_dict()["rich_outputs"] == []


async def test_a_memory_limit_ends_the_sandbox_and_is_named() -> None:
    async with AsyncSandbox.create(memory=200_000_000) as sandbox:
        with pytest.raises(SandboxEndedError, match="memory"):
            await sandbox.run_code("x = b'x' * 400_000_000\nwhile True: pass")


async def test_an_allocation_that_can_never_be_is_an_error_of_the_code(sandbox: AsyncSandbox) -> None:
    done = await sandbox.run_code("x = bytearray(10**13)")
    assert done.error is not None
    assert done.error.startswith("MemoryError")
