"""The fake keeps every promise of drivers that a test can rely on, and starts nothing."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ipybox.testing
from ipybox.command.cancellation import Cancellation
from ipybox.command.driver import CanExecuteCommand, CommandDriver
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.result import ExecResult
from ipybox.errors import ProgramStartError, ReplayedError, UnexpectedCommandError
from ipybox.testing.fake_sandbox import Call, FakeSandbox
from ipybox.testing.transcript import Entry, RecordedError, Transcript

PHP = ExecResult(stdout="PHP 8.3.0 (cli)", duration=0.01)
HEARD = list[tuple[str, Any]]


class CodeExecutor:
    """What a user of the interface writes."""

    def __init__(self, sandbox: CanExecuteCommand) -> None:
        self._sandbox = sandbox

    async def run(self, code: str) -> str:
        result = await self._sandbox.execute(["php", "-r", code])
        if not result.success:
            raise RuntimeError(f"execution failed: {result.stderr}")
        return result.stdout


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


# ---- the interface of drivers -----------------------------------------------------------------------------------


def test_it_is_what_runs_commands() -> None:
    sandbox: CanExecuteCommand = FakeSandbox()
    assert isinstance(sandbox, CanExecuteCommand)


def test_execute_has_the_very_signature_of_drivers() -> None:
    assert inspect.signature(FakeSandbox.execute) == inspect.signature(CommandDriver.execute)


@pytest.mark.asyncio
async def test_it_can_be_injected_wherever_a_sandbox_is_expected() -> None:
    fake = FakeSandbox.from_responses({'php -r echo "hello";': [ExecResult("hello", duration=0.01)]})
    assert await CodeExecutor(fake).run('echo "hello";') == "hello"
    assert fake.commands == [["php", "-r", 'echo "hello";']]


@pytest.mark.asyncio
async def test_it_is_an_async_context_manager_that_may_be_left_by_an_error() -> None:
    with pytest.raises(KeyError):
        async with FakeSandbox.from_responses({"ls": "x"}) as fake:
            assert (await fake.execute(["ls"])).stdout == "x"
            raise KeyError


@pytest.mark.asyncio
async def test_nothing_is_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> None:
        raise AssertionError("a process was to be started")

    monkeypatch.setattr(subprocess, "Popen", refused)
    monkeypatch.setattr("os.fork", refused)
    monkeypatch.setattr("os.posix_spawn", refused)
    fake = FakeSandbox.from_responses({"no-such-binary": "fine"})
    assert (await fake.execute(["no-such-binary"], "in")).stdout == "fine"


def test_it_needs_no_kernels_and_no_third_party() -> None:
    code = (
        "import sys; before = set(sys.modules); from ipybox.testing import FakeSandbox, RecordingSandbox, Transcript;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before}, 'ipybox.kernel_mgr' in sys.modules)"
    )
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    *loaded, has_kernels = done.stdout.split()
    assert set(loaded) <= {*sys.stdlib_module_names, "ipybox"}
    assert has_kernels == "False"


def test_the_public_names_are_where_the_table_says() -> None:
    assert ipybox.testing.FakeSandbox is FakeSandbox
    assert ipybox.testing.Transcript is Transcript
    assert set(dir(ipybox.testing)) == {"FakeKernelClient", "FakeSandbox", "RecordingSandbox", "Transcript"}
    with pytest.raises(AttributeError, match=r"'ipybox\.testing' has no attribute 'MockSandbox'"):
        ipybox.testing.MockSandbox  # noqa: B018


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("argv", "told"),
    [("php -v", "argv must be a list"), ([], "must name a command"), (["a\0"], "NUL"), (["php", 8], "must be a str")],
)
async def test_arguments_that_drivers_refuse_are_refused_and_not_recorded(argv: Any, told: str) -> None:
    fake = FakeSandbox.from_responses({}, "fine")
    with pytest.raises((TypeError, ValueError), match=told):
        await fake.execute(argv)
    assert fake.commands == []


@pytest.mark.asyncio
async def test_stdin_that_drivers_refuse_is_refused() -> None:
    stdin: Any = 8
    with pytest.raises(TypeError, match="stdin must be"):
        await FakeSandbox.from_responses({}, "fine").execute(["cat"], stdin)


@pytest.mark.asyncio
async def test_paths_are_arguments_too() -> None:
    fake = FakeSandbox.from_responses({"/bin/ls /tmp": "x"})
    await fake.execute([Path("/bin/ls"), Path("/tmp")])
    assert fake.commands == [["/bin/ls", "/tmp"]]


@pytest.mark.asyncio
async def test_others_run_while_a_loop_does_nothing_but_call_it() -> None:
    fake = FakeSandbox.from_responses({}, "pending")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    for _ in range(10):
        await fake.execute(["status"])
    other.cancel()
    assert turns >= 9


# ---- policy -----------------------------------------------------------------------------------------------------


def test_the_policy_is_exactly_the_one_that_was_given() -> None:
    policy = ExecutionPolicy.in_dir("/tmp").with_timeout(60)
    fake = FakeSandbox(policy=policy, responses={"php script.php": [ExecResult("done", duration=1.5)]})
    assert fake.policy is policy
    assert fake.policy.timeout == 60


def test_without_one_the_policy_is_the_default() -> None:
    assert FakeSandbox().policy == ExecutionPolicy.default()
    assert FakeSandbox.from_responses({}).policy == ExecutionPolicy.default()


def test_what_is_no_policy_is_refused() -> None:
    wrong: Any = {"php -v": "x"}
    with pytest.raises(TypeError, match=r"policy must be an ExecutionPolicy.*from_responses\(\)"):
        FakeSandbox(wrong)


@pytest.mark.asyncio
async def test_the_caps_of_the_policy_do_not_change_a_response() -> None:
    policy = ExecutionPolicy.default().with_output_caps(1024, 1024)
    result = ExecResult("x" * 5000)
    fake = FakeSandbox(policy, {"ls": result})
    assert await fake.execute(["ls"]) is result


# ---- responses --------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_response_is_found_by_the_joined_arguments() -> None:
    fake = FakeSandbox.from_responses({"php -v": [PHP]})
    assert (await fake.execute(["php", "-v"])).stdout == "PHP 8.3.0 (cli)"


@pytest.mark.asyncio
async def test_a_result_is_returned_as_it_is() -> None:
    assert await FakeSandbox.from_responses({"php -v": [PHP]}).execute(["php", "-v"]) is PHP


@pytest.mark.asyncio
async def test_responses_are_used_first_in_first_out() -> None:
    runs = [ExecResult(f"{name} run") for name in ("first", "second", "third")]
    fake = FakeSandbox.from_responses({"php script.php": runs})
    assert [await fake.execute(["php", "script.php"]) for _ in runs] == runs


@pytest.mark.asyncio
async def test_a_call_after_the_last_response_is_a_runtime_error() -> None:
    fake = FakeSandbox.from_responses({"php script.php": [PHP]})
    await fake.execute(["php", "script.php"])
    with pytest.raises(RuntimeError, match="its only response is used up"):
        await fake.execute(["php", "script.php"])


@pytest.mark.asyncio
async def test_a_command_without_any_response_is_a_runtime_error_that_names_it_and_what_there_is() -> None:
    fake = FakeSandbox.from_responses({"php -v": [PHP], ("ls", "-l"): [PHP]})
    with pytest.raises(UnexpectedCommandError) as caught:
        await fake.execute(["php", "-m"])
    assert str(caught.value).startswith("FakeSandbox has no response for command: 'php -m'")
    assert "'php -v', ('ls', '-l')" in str(caught.value)
    assert "enqueue()" in str(caught.value)
    assert caught.value.command == ("php", "-m")
    assert caught.value.expected == ("'php -v'", "('ls', '-l')")
    assert isinstance(caught.value, RuntimeError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.asyncio
async def test_the_default_response_is_for_every_command_without_one() -> None:
    missing = ExecResult(stderr="command not found", exit_code=127)
    fake = FakeSandbox.from_responses(responses={}, default_response=missing)
    assert (await fake.execute(["anything", "--help"])).exit_code == 127
    assert (await fake.execute(["something"])).exit_code == 127


@pytest.mark.asyncio
async def test_the_default_response_is_for_commands_whose_responses_are_used_up() -> None:
    fake = FakeSandbox.from_responses({"php -v": [PHP]}, ExecResult(exit_code=127))
    assert [(await fake.execute(["php", "-v"])).exit_code for _ in range(3)] == [0, 127, 127]


@pytest.mark.asyncio
async def test_responses_can_be_added_later() -> None:
    fake = FakeSandbox.from_responses({})
    fake.enqueue("php -v", ExecResult("PHP 8.3.0"))
    fake.enqueue("php -v", ExecResult("PHP 8.3.1"))
    assert [(await fake.execute(["php", "-v"])).stdout for _ in range(2)] == ["PHP 8.3.0", "PHP 8.3.1"]


@pytest.mark.asyncio
async def test_what_is_added_comes_after_what_is_there() -> None:
    fake = FakeSandbox.from_responses({"php -v": ["a"]})
    fake.enqueue("php -v", "b", {"stdout": "c"})
    assert [(await fake.execute(["php", "-v"])).stdout for _ in range(3)] == ["a", "b", "c"]


@pytest.mark.asyncio
async def test_what_is_added_after_a_queue_ran_out_is_used() -> None:
    fake = FakeSandbox.from_responses({"php -v": ["a"]})
    await fake.execute(["php", "-v"])
    fake.enqueue("php -v", "b")
    assert (await fake.execute(["php", "-v"])).stdout == "b"


def test_adding_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one response for 'php -v'"):
        FakeSandbox().enqueue("php -v")


def test_the_lists_that_were_given_are_not_changed() -> None:
    runs = [PHP]
    fake = FakeSandbox.from_responses({"php -v": runs})
    fake.enqueue("php -v", PHP)
    asyncio.run(fake.execute(["php", "-v"]))
    assert runs == [PHP]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, ExecResult("", "", 0, 0.0, False, False, False)),
        ({"stdout": "PHP 8.3.0", "exit_code": 0, "duration": 0.01}, ExecResult("PHP 8.3.0", duration=0.01)),
        ({"stdout": "output", "stderr": "warning", "exit_code": 0}, ExecResult("output", "warning")),
        ({"timed_out": True, "exit_code": 124}, ExecResult(exit_code=124, timed_out=True)),
        ({"truncated_stdout": True, "truncated_stderr": True}, ExecResult("", "", 0, 0.0, False, True, True)),
    ],
)
async def test_a_mapping_is_a_response_with_the_defaults_of_a_result(
    data: dict[str, Any], expected: ExecResult
) -> None:
    assert await FakeSandbox.from_responses({"php -v": [data]}).execute(["php", "-v"]) == expected


@settings(deadline=None)
@given(
    st.builds(
        ExecResult,
        st.text(),
        st.text(),
        st.integers(0, 255),
        st.floats(0, 1e6),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    )
)
def test_whatever_a_result_gives_as_a_mapping_is_a_response(result: ExecResult) -> None:
    fake = FakeSandbox.from_responses({"ls": result.to_dict()})
    assert fake.blocking().execute(["ls"]) == result


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["stdot", "exitCode", "stop_reason"])
async def test_a_mapping_with_an_unknown_key_is_refused_when_it_is_given(key: str) -> None:
    with pytest.raises(ValueError, match=f"response 1 for 'php -v': '{key}' is no key of a result"):
        FakeSandbox.from_responses({"php -v": [{key: ""}]})


@pytest.mark.asyncio
async def test_text_and_bytes_are_stdout() -> None:
    fake = FakeSandbox.from_responses({"php -v": ["PHP", b"\xff"]})
    assert await fake.execute(["php", "-v"]) == ExecResult("PHP")
    assert (await fake.execute(["php", "-v"])).stdout_bytes == b"\xff"


@pytest.mark.asyncio
async def test_an_exception_is_raised_at_the_call() -> None:
    error = ProgramStartError("no such file")
    fake = FakeSandbox.from_responses({"php -v": [error, TimeoutError]})
    with pytest.raises(ProgramStartError) as caught:
        await fake.execute(["php", "-v"])
    assert caught.value is error
    with pytest.raises(TimeoutError):
        await fake.execute(["php", "-v"])


@pytest.mark.asyncio
async def test_an_exception_that_is_raised_again_and_again_does_not_grow() -> None:
    fake = FakeSandbox.from_responses({}, ProgramStartError("no such file"))
    depths = set()
    for _ in range(3):
        with pytest.raises(ProgramStartError) as caught:
            await fake.execute(["php", "-v"])
        depths.add(len(caught.traceback))
    assert len(depths) == 1


@pytest.mark.asyncio
async def test_a_function_answers_with_command_and_stdin() -> None:
    def echo(argv: tuple[str, ...], stdin: bytes) -> str:
        return f"{argv!r} {stdin!r}"

    fake = FakeSandbox.from_responses({"cat -n": echo})
    assert (await fake.execute(["cat", "-n"], "ü")).stdout == "('cat', '-n') b'\\xc3\\xbc'"


@pytest.mark.asyncio
async def test_a_function_may_be_asynchronous_and_give_any_form_of_response() -> None:
    async def late(argv: tuple[str, ...], stdin: bytes) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"exit_code": 3}

    async def failing(argv: tuple[str, ...], stdin: bytes) -> type[Exception]:
        return TimeoutError

    fake = FakeSandbox.from_responses({"cat": [late, failing]})
    assert (await fake.execute(["cat"])).exit_code == 3
    with pytest.raises(TimeoutError):
        await fake.execute(["cat"])


@pytest.mark.asyncio
async def test_what_a_function_gives_is_checked() -> None:
    def nothing(argv: tuple[str, ...], stdin: bytes) -> Any:
        return None

    fake = FakeSandbox.from_responses({"cat": nothing})
    with pytest.raises(TypeError, match=r"the response that a function gave for \['cat'\] must be"):
        await fake.execute(["cat"])


@pytest.mark.asyncio
async def test_what_a_function_raises_is_raised() -> None:
    def broken(argv: tuple[str, ...], stdin: bytes) -> str:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        await FakeSandbox.from_responses({"cat": broken}).execute(["cat"])


@pytest.mark.asyncio
async def test_commands_that_differ_only_in_where_they_are_split_are_not_mixed_up() -> None:
    fake = FakeSandbox.from_responses({"rm a b": ["first", "second"]})
    await fake.execute(["rm", "a b"])
    with pytest.raises(UnexpectedCommandError, match=r"\('rm', 'a b'\) before, and this is \('rm', 'a', 'b'\)"):
        await fake.execute(["rm", "a", "b"])


# ---- failures that tests want to see ----------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_timeout_can_be_shown() -> None:
    late = ExecResult("partial output...", "", 124, 30.0, timed_out=True)
    result = await FakeSandbox.from_responses({"php long-script.php": [late]}).execute(["php", "long-script.php"])
    assert result.timed_out
    assert result.exit_code == 124
    assert not result.success


@pytest.mark.asyncio
async def test_truncated_output_can_be_shown() -> None:
    noisy = ExecResult("...last portion of output", duration=5.0, truncated_stdout=True)
    result = await FakeSandbox.from_responses({"php noisy.php": [noisy]}).execute(["php", "noisy.php"])
    assert result.truncated_stdout
    assert not result.truncated_stderr


@pytest.mark.asyncio
async def test_a_failing_command_can_be_shown() -> None:
    broken = ExecResult("", "PHP Fatal error: ...", 255, 0.5)
    result = await FakeSandbox.from_responses({"php broken.php": [broken]}).execute(["php", "broken.php"])
    assert not result.success
    assert result.exit_code == 255


# ---- what is recorded -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_all_commands_are_recorded_in_the_order_of_the_calls() -> None:
    fake = FakeSandbox.from_responses({"php -v": [PHP], "php -r echo 1;": [ExecResult("1")]})
    await fake.execute(["php", "-v"])
    await fake.execute(["php", "-r", "echo 1;"])
    assert fake.commands == [["php", "-v"], ["php", "-r", "echo 1;"]]


@pytest.mark.asyncio
async def test_calls_at_the_same_time_are_recorded_in_the_order_of_their_start() -> None:
    fake = FakeSandbox.from_responses({}, "x")
    await asyncio.gather(
        fake.execute(["a"], chunks_of(b"1", b"2", b"3")), fake.execute(["b"]), fake.execute(["c"], chunks_of(b"4"))
    )
    assert fake.commands == [["a", "[stdin=123]"], ["b"], ["c", "[stdin=4]"]]


@pytest.mark.asyncio
async def test_stdin_is_one_more_element_of_the_recorded_command() -> None:
    fake = FakeSandbox.from_responses({"php -r echo fgets(STDIN);": [ExecResult("hello")]})
    await fake.execute(["php", "-r", "echo fgets(STDIN);"], "hello")
    assert fake.commands == [["php", "-r", "echo fgets(STDIN);", "[stdin=hello]"]]


@pytest.mark.asyncio
@pytest.mark.parametrize("stdin", [None, "", b""])
async def test_no_stdin_and_an_empty_one_are_not_recorded(stdin: str | bytes | None) -> None:
    fake = FakeSandbox.from_responses({}, "x")
    await fake.execute(["cat"], stdin)
    await fake.execute(["cat"], chunks_of())
    assert fake.commands == [["cat"], ["cat"]]


@pytest.mark.asyncio
async def test_stdin_is_no_part_of_the_key() -> None:
    fake = FakeSandbox.from_responses({"cat": ["a", "b"], ("cat", "[stdin=x]"): ["c"]})
    assert (await fake.execute(["cat"], "x")).stdout == "a"
    assert (await fake.execute(["cat"], "y")).stdout == "b"


@pytest.mark.asyncio
async def test_stdin_that_comes_in_pieces_is_collected() -> None:
    fake = FakeSandbox.from_responses({}, "x")
    await fake.execute(["cat"], chunks_of(b"hel", b"lo", b"\xc3", b"\xbc"))
    assert fake.commands == [["cat", "[stdin=helloü]"]]


@pytest.mark.asyncio
async def test_stdin_that_is_no_text_is_recorded_readably_and_exactly() -> None:
    fake = FakeSandbox.from_responses({}, "x")
    await fake.execute(["cat"], b"a\xffb")
    await fake.execute(["cat"], "a\udcffb")
    assert fake.commands == [["cat", "[stdin=a\\xffb]"]] * 2
    assert fake.calls == [Call(("cat",), b"a\xffb")] * 2


@pytest.mark.asyncio
async def test_stdin_that_fails_half_way_is_recorded_so_far_and_its_error_is_raised() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"half"
        raise LookupError("no more")

    fake = FakeSandbox.from_responses({"cat": "x"})
    with pytest.raises(LookupError):
        await fake.execute(["cat"], failing())
    assert fake.commands == [["cat", "[stdin=half]"]]
    assert fake.unused == {"cat": 1}


@pytest.mark.asyncio
async def test_pieces_of_stdin_that_are_no_bytes_are_refused() -> None:
    async def texts() -> AsyncIterator[Any]:
        yield "text"

    with pytest.raises(TypeError, match="stdin must give bytes, got 'text'"):
        await FakeSandbox.from_responses({"cat": "x"}).execute(["cat"], texts())


@pytest.mark.asyncio
async def test_a_call_that_raises_is_recorded_all_the_same() -> None:
    fake = FakeSandbox.from_responses({"php -v": ProgramStartError("no")})
    for argv in (["ls", "-l"], ["php", "-v"]):
        with pytest.raises((UnexpectedCommandError, ProgramStartError)):
            await fake.execute(argv, "in")
    assert fake.commands == [["ls", "-l", "[stdin=in]"], ["php", "-v", "[stdin=in]"]]


@pytest.mark.asyncio
async def test_what_is_recorded_can_not_be_changed_from_outside() -> None:
    fake = FakeSandbox.from_responses({}, "x")
    argv = ["ls"]
    await fake.execute(argv)
    argv.append("-l")
    fake.commands.append(["x"])
    fake.commands[0].append("x")
    fake.calls.clear()
    assert fake.commands == [["ls"]]
    assert fake.calls == [Call(("ls",))]


# ---- streaming --------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_stdout_and_then_stderr_are_told_as_one_chunk_each() -> None:
    fake = FakeSandbox.from_responses({"php script.php": [ExecResult("output", "warning", 0, 0.1)]})
    heard: HEARD = []
    await fake.execute(["php", "script.php"], None, lambda kind, text: heard.append((kind, text)))
    assert heard == [("out", "output"), ("err", "warning")]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (ExecResult(), []),
        (ExecResult("output"), [("out", "output")]),
        (ExecResult("", "warning"), [("err", "warning")]),
    ],
)
async def test_empty_streams_are_not_told(result: ExecResult, expected: HEARD) -> None:
    heard: HEARD = []
    fake = FakeSandbox.from_responses({"ls": result})
    await fake.execute(
        ["ls"],
        on_output=lambda kind, text: heard.append((kind, text)),
        on_bytes=lambda kind, data: heard.append((kind, data.decode())),
    )
    assert heard == [each for each in expected for _ in range(2)]


@pytest.mark.asyncio
async def test_bytes_are_told_exactly_and_text_as_the_result_has_it() -> None:
    fake = FakeSandbox.from_responses({"ls": b"\xffa\xc3"})
    texts: HEARD = []
    raw: HEARD = []
    result = await fake.execute(
        ["ls"],
        on_output=lambda kind, text: texts.append((kind, text)),
        on_bytes=lambda kind, data: raw.append((kind, data)),
    )
    assert raw == [("out", b"\xffa\xc3")]
    assert texts == [("out", result.stdout)]
    assert result.stdout == "\ufffda\ufffd"


@pytest.mark.asyncio
async def test_what_a_callback_returns_is_awaited_before_it_goes_on() -> None:
    order = []

    async def slow(kind: str, text: str) -> None:
        await asyncio.sleep(0.001)
        order.append(text)

    await FakeSandbox.from_responses({"ls": [ExecResult("output", "warning")]}).execute(["ls"], on_output=slow)
    assert order == ["output", "warning"]


@pytest.mark.asyncio
async def test_what_a_callback_raises_is_raised() -> None:
    def full(kind: str, text: str) -> None:
        raise OSError("no space left")

    fake = FakeSandbox.from_responses({"ls": "output"})
    with pytest.raises(OSError, match="no space left"):
        await fake.execute(["ls"], on_output=full)


# ---- cancellation -----------------------------------------------------------------------------------------------


def cancelled() -> Cancellation:
    cancellation = Cancellation()
    cancellation.cancel()
    return cancellation


@pytest.mark.asyncio
async def test_a_command_that_is_cancelled_already_gives_nothing_but_says_so() -> None:
    fake = FakeSandbox.from_responses({"ls": ["a", "b"]})
    heard: HEARD = []
    result = await fake.execute(
        ["ls"], on_output=lambda kind, text: heard.append((kind, text)), cancellation=cancelled()
    )
    assert (result.exit_code, result.stop_reason, result.combined_output) == (143, "cancelled", "")
    assert not result.timed_out
    assert heard == []
    assert fake.commands == [["ls"]]
    assert fake.unused == {"ls": 1}


@pytest.mark.asyncio
async def test_a_function_is_not_asked_when_the_command_is_cancelled_already() -> None:
    fake = FakeSandbox.from_responses({"ls": lambda argv, stdin: pytest.fail("asked")})
    assert (await fake.execute(["ls"], cancellation=cancelled())).stop_reason == "cancelled"


@pytest.mark.asyncio
async def test_a_cancelled_command_still_needs_a_response_and_still_raises_one() -> None:
    fake = FakeSandbox.from_responses({"ls": ProgramStartError("no")})
    with pytest.raises(ProgramStartError):
        await fake.execute(["ls"], cancellation=cancelled())
    with pytest.raises(UnexpectedCommandError):
        await fake.execute(["ls"], cancellation=cancelled())


@pytest.mark.asyncio
async def test_a_cancellation_that_is_not_used_changes_nothing() -> None:
    async def late(argv: tuple[str, ...], stdin: bytes) -> str:
        await asyncio.sleep(0)
        return "late"

    fake = FakeSandbox.from_responses({"ls": ["x", late]})
    cancellation = Cancellation()
    assert (await fake.execute(["ls"], cancellation=cancellation)).stdout == "x"
    assert (await fake.execute(["ls"], cancellation=cancellation)).stdout == "late"


async def hang(argv: tuple[str, ...], stdin: bytes) -> str:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.asyncio
async def test_a_command_that_hangs_can_be_cancelled_from_another_thread() -> None:
    fake = FakeSandbox.from_responses({"sleep 9": hang})
    cancellation = Cancellation()
    running = asyncio.create_task(fake.execute(["sleep", "9"], cancellation=cancellation))
    await asyncio.sleep(0.001)
    await asyncio.to_thread(cancellation.cancel)
    result = await running
    assert (result.exit_code, result.stop_reason) == (143, "cancelled")


@pytest.mark.asyncio
@pytest.mark.parametrize("cancellation", [None, Cancellation()])
async def test_a_cancelled_task_raises_as_everywhere(cancellation: Cancellation | None) -> None:
    fake = FakeSandbox.from_responses({"sleep 9": hang})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fake.execute(["sleep", "9"], cancellation=cancellation), 0.01)


@pytest.mark.asyncio
async def test_a_task_that_is_cancelled_together_with_its_command_raises() -> None:
    fake = FakeSandbox.from_responses({"sleep 9": hang})
    cancellation = Cancellation()
    running = asyncio.create_task(fake.execute(["sleep", "9"], cancellation=cancellation))
    await asyncio.sleep(0.001)
    cancellation.cancel()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# ---- without asyncio --------------------------------------------------------------------------------------------


def test_it_can_be_used_without_asyncio() -> None:
    fake = FakeSandbox.from_responses({"php -v": [PHP, PHP]})
    heard: HEARD = []
    with fake.blocking() as sandbox:
        result = sandbox.execute(["php", "-v"], "in", lambda kind, text: heard.append((kind, text)))
    assert result is PHP
    assert heard == [("out", "PHP 8.3.0 (cli)")]
    assert sandbox.policy is fake.policy
    assert fake.blocking().execute(["php", "-v"]) is PHP
    assert fake.commands == [["php", "-v", "[stdin=in]"], ["php", "-v"]]


# ---- assertions -------------------------------------------------------------------------------------------------


@pytest.fixture
def used() -> FakeSandbox:
    """A fake that ran ``php -v`` twice, once with stdin, and then ``ls``."""
    fake = FakeSandbox.from_responses({}, "x")
    sandbox = fake.blocking()
    sandbox.execute(["php", "-v"])
    sandbox.execute(["php", "-v"], "in")
    sandbox.execute(["ls"])
    return fake


def refusal(function: Callable[..., None], *args: Any, **options: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        function(*args, **options)
    return str(caught.value)


def test_that_everything_was_used_can_be_asserted() -> None:
    fake = FakeSandbox.from_responses({"php -v": ["a", "b"], "ls": "c"})
    sandbox = fake.blocking()
    sandbox.execute(["php", "-v"])
    text = refusal(fake.assert_all_used)
    assert "'php -v': 1 of 2 left" in text
    assert "'ls': 1 of 1 left; no command matched it" in text
    assert fake.unused == {"php -v": 1, "ls": 1}
    sandbox.execute(["php", "-v"])
    sandbox.execute(["ls"])
    fake.assert_all_used()
    assert fake.unused == {}


def test_a_default_need_not_be_used() -> None:
    FakeSandbox.from_responses({}, "x").assert_all_used()


def test_that_a_command_was_called_can_be_asserted(used: FakeSandbox) -> None:
    used.assert_called(["php", "-v"])
    used.assert_called(["php", "-v"], times=2)
    used.assert_called(["php", "-v"], times=1, stdin="in")
    used.assert_called(["php", "-v"], times=1, stdin="")
    used.assert_called(["php", "-v"], stdin=b"in")
    text = refusal(used.assert_called, ["php"])
    assert text.startswith(
        "['php'] was called 0 times, expected at least once; the commands were:\n  1. ['php', '-v']\n"
    )
    assert "3. ['ls']" in text
    assert "called 2 times, expected once" in refusal(used.assert_called, ["php", "-v"], times=1)
    assert "['ls'] with stdin 'in' was called 0 times" in refusal(used.assert_called, ["ls"], stdin="in")


def test_that_a_command_was_not_called_can_be_asserted(used: FakeSandbox) -> None:
    used.assert_not_called(["php"])
    FakeSandbox().assert_not_called()
    assert "['ls'] was called once, expected 0 times" in refusal(used.assert_not_called, ["ls"])
    assert "no command should have been called; the commands were:" in refusal(used.assert_not_called)


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        ([["ls"]], "command 1 is ['php', '-v'], not ['ls']"),
        ([["php", "-v"], ["php", "-v"], ["ls"]], "command 2 is ['php', '-v', '[stdin=in]'], not ['php', '-v']"),
        ([["php", "-v"], ["php", "-v", "[stdin=in]"]], "command 3 is one too many: ['ls']"),
        ([["php", "-v"], ["php", "-v", "[stdin=in]"], ["ls"], ["x"]], "command 4 did not come: ['x']"),
    ],
)
def test_all_commands_can_be_asserted(used: FakeSandbox, expected: list[list[str]], told: str) -> None:
    used.assert_commands([["php", "-v"], ("php", "-v", "[stdin=in]"), ["ls"]])
    text = refusal(used.assert_commands, expected)
    assert text.startswith(told)
    assert "  3. ['ls']" in text


def test_without_commands_an_assertion_says_so() -> None:
    FakeSandbox().assert_commands([])
    assert "there were no commands" in refusal(FakeSandbox().assert_commands, [["ls"]])
    assert "there were no commands" in refusal(FakeSandbox().assert_called, ["ls"])


def test_wrong_arguments_of_assertions_are_no_failed_assertions(used: FakeSandbox) -> None:
    with pytest.raises(TypeError, match="argv must be a list"):
        used.assert_called("php -v")
    with pytest.raises(TypeError, match="list of lists"):
        used.assert_commands(["php -v"])
    with pytest.raises(ValueError, match="times must be at least 0"):
        used.assert_called(["ls"], times=-1)


# ---- replay -----------------------------------------------------------------------------------------------------


TRANSCRIPT = Transcript(
    (
        Entry(("ls",), b"", ExecResult("a\n"), None, (("out", b"a\n"),)),
        Entry(("cat",), b"1", ExecResult("one"), None, (("out", b"one"),)),
        Entry(("cat",), b"2", ExecResult("two"), None, (("out", b"two"),)),
    )
)


@pytest.mark.asyncio
async def test_the_same_commands_in_the_same_order_are_replayed() -> None:
    fake = FakeSandbox.replay(TRANSCRIPT)
    results = [await fake.execute(["ls"]), await fake.execute(["cat"], "1"), await fake.execute(["cat"], b"2")]
    assert results == [entry.result for entry in TRANSCRIPT.entries]
    fake.assert_all_used()
    assert fake.commands == [["ls"], ["cat", "[stdin=1]"], ["cat", "[stdin=2]"]]


@pytest.mark.asyncio
async def test_another_command_than_the_next_is_refused_with_its_place() -> None:
    fake = FakeSandbox.replay(TRANSCRIPT)
    await fake.execute(["ls"])
    with pytest.raises(UnexpectedCommandError) as caught:
        await fake.execute(["ls"])
    assert "no response for command: 'ls'; command 2 of 3 in the transcript, 'cat', is next" in str(caught.value)
    assert caught.value.expected == ("('cat',)",)
    assert "strict=False" in str(caught.value)


@pytest.mark.asyncio
async def test_another_stdin_than_the_recorded_one_is_refused_with_both() -> None:
    fake = FakeSandbox.replay(TRANSCRIPT)
    await fake.execute(["ls"])
    with pytest.raises(UnexpectedCommandError, match="is next and had the input '1', not '2'"):
        await fake.execute(["cat"], "2")
    long = Transcript((Entry(("cat",), b"x" * 500, ExecResult()),))
    with pytest.raises(UnexpectedCommandError, match=r"'x{80}'\.\.\. \(500 bytes\), not ''"):
        await FakeSandbox.replay(long).execute(["cat"])


@pytest.mark.asyncio
async def test_more_commands_than_recorded_are_refused() -> None:
    fake = FakeSandbox.replay(Transcript())
    with pytest.raises(UnexpectedCommandError, match="all 0 commands of the transcript are replayed"):
        await fake.execute(["ls"])


@pytest.mark.asyncio
async def test_a_refused_command_takes_no_place_in_a_replay() -> None:
    fake = FakeSandbox.replay(TRANSCRIPT)
    with pytest.raises(UnexpectedCommandError):
        await fake.execute(["cat"])
    assert (await fake.execute(["ls"])).stdout == "a\n"


@pytest.mark.asyncio
async def test_what_was_not_replayed_is_told() -> None:
    fake = FakeSandbox.replay(TRANSCRIPT)
    await fake.execute(["ls"])
    assert fake.unused == {("cat",): 2}
    text = refusal(fake.assert_all_used)
    assert "command 2 of 3 in the transcript, 'cat', was not replayed" in text
    assert "command 3 of 3" in text


@pytest.mark.asyncio
async def test_a_lenient_replay_takes_any_order_and_repeats_the_last_one() -> None:
    runs = tuple(Entry(("date",), b"", ExecResult(str(n))) for n in range(2))
    fake = FakeSandbox.replay(Transcript((*TRANSCRIPT.entries, *runs)), strict=False)
    assert [(await fake.execute(["date"])).stdout for _ in range(4)] == ["0", "1", "1", "1"]
    assert (await fake.execute(["ls"])).stdout == "a\n"
    assert fake.unused == {("cat",): 2}


@pytest.mark.asyncio
async def test_a_lenient_replay_asks_for_stdin_only_where_it_makes_a_difference() -> None:
    fake = FakeSandbox.replay(TRANSCRIPT, strict=False)
    assert (await fake.execute(["ls"], "whatever")).stdout == "a\n"
    assert [(await fake.execute(["cat"], each)).stdout for each in "2112"] == ["two", "one", "one", "two"]
    with pytest.raises(UnexpectedCommandError, match="with the input '1', '2', not '3'"):
        await fake.execute(["cat"], "3")
    with pytest.raises(UnexpectedCommandError, match="the transcript does not have it"):
        await fake.execute(["pwd"])


@pytest.mark.asyncio
async def test_chunks_are_replayed_as_they_came() -> None:
    chunks = (("err", b"w"), ("out", b"\xc3"), ("err", b"arn"), ("out", b"\xbc"))
    entry = Entry(("ls",), b"", ExecResult("ü", "warn"), None, chunks)  # type: ignore[arg-type]
    raw: HEARD = []
    texts: HEARD = []
    result = await FakeSandbox.replay(Transcript((entry,))).execute(
        ["ls"],
        on_output=lambda kind, text: texts.append((kind, text)),
        on_bytes=lambda kind, data: raw.append((kind, data)),
    )
    assert raw == [*chunks]
    assert texts == [("err", "w"), ("err", "arn"), ("out", "ü")]
    assert result is entry.result


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [ProgramStartError("no such file"), TimeoutError("late")])
async def test_a_recorded_error_is_raised_again_after_its_chunks(error: Exception) -> None:
    entry = Entry(("ls",), b"", None, RecordedError.of(error), (("out", b"half"),))
    heard: HEARD = []
    with pytest.raises(type(error), match=str(error)):
        await FakeSandbox.replay(Transcript((entry,))).execute(["ls"], None, lambda *chunk: heard.append(chunk))
    assert heard == [("out", "half")]


@pytest.mark.asyncio
async def test_an_error_that_can_not_be_made_again_is_a_replayed_error() -> None:
    entry = Entry(("ls",), b"", None, RecordedError("acme.PipeError", "the pipe broke"))
    with pytest.raises(ReplayedError, match=r"acme\.PipeError: the pipe broke") as caught:
        await FakeSandbox.replay(Transcript((entry,))).execute(["ls"])
    assert (caught.value.name, caught.value.text) == ("acme.PipeError", "the pipe broke")


@pytest.mark.asyncio
async def test_a_recorded_cancellation_of_the_task_waits_for_it_but_not_for_ever() -> None:
    entry = Entry(("sleep", "9"), b"", None, RecordedError.of(asyncio.CancelledError()))
    transcript = Transcript((entry, entry))
    fake = FakeSandbox.replay(transcript, policy=ExecutionPolicy.default().with_timeout(0.05))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fake.execute(["sleep", "9"]), 0.001)
    with pytest.raises(ReplayedError, match=r"not cancelled here within 0\.05 s"):
        await fake.execute(["sleep", "9"])


@pytest.mark.asyncio
async def test_a_replay_answers_a_cancelled_command_as_it_was_recorded() -> None:
    fake = FakeSandbox.replay(TRANSCRIPT)
    assert (await fake.execute(["ls"], cancellation=cancelled())).stdout == "a\n"


@pytest.mark.asyncio
async def test_an_input_that_was_not_read_to_its_end_only_has_to_begin_the_same() -> None:
    fake = FakeSandbox.replay(Transcript((Entry(("head",), b"ab", ExecResult(), is_stdin_cut=True),) * 2))
    await fake.execute(["head"], chunks_of(b"a", b"bc"))
    with pytest.raises(UnexpectedCommandError, match="had the input 'ab', not 'xab'"):
        await fake.execute(["head"], "xab")


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [str, Path])
async def test_a_replay_reads_files(tmp_path: Path, kind: type) -> None:
    TRANSCRIPT.save(tmp_path / "session.json")
    policy = ExecutionPolicy.default().with_timeout(60)
    fake = FakeSandbox.replay(kind(tmp_path / "session.json"), policy=policy)
    assert (await fake.execute(["ls"])).stdout == "a\n"
    assert fake.policy is policy


def test_a_replay_takes_no_more_responses() -> None:
    with pytest.raises(RuntimeError, match="replays a transcript"):
        FakeSandbox.replay(TRANSCRIPT).enqueue("ls", "x")
