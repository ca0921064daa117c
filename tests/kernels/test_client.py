"""What a client promises: turns, timeouts, options of one execution, questions, rich outputs, images, limits."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio

from ipybox.errors import (
    ConnectionLostError,
    ExecutionError,
    ExecutionTimeoutError,
    ImageWriteError,
    IpyboxError,
    KernelDiedError,
    KernelStartError,
)
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from ipybox.output_limit import OutputLimit
from ipybox.outputs import ClearOutput, DisplayOutput, ErrorOutput, Event, InputRequest, StreamOutput
from tests.kernels.helpers import HANG, MARGIN, eventually, running, runs, still_works

pytestmark = pytest.mark.kernel

AT_ONCE = 1.0 * MARGIN
"""Seconds within which the call after an interrupted one must be answered."""


async def value(client: KernelClient, expression: str) -> str:
    """What an expression's value looks like in the kernel."""
    async with asyncio.timeout(HANG):
        return (await client.execute(expression)).text or ""


# ---- turns ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_calls_made_at_once_run_in_their_order(client: KernelClient) -> None:
    await client.execute("order = []")
    calls = [asyncio.create_task(client.execute(f"order.append({i})")) for i in range(20)]
    await asyncio.gather(*calls)
    assert await value(client, "order == list(range(20))") == "True"


@pytest.mark.asyncio
async def test_an_error_does_not_stop_the_calls_behind_it(client: KernelClient) -> None:
    results = await asyncio.gather(client.execute("1 / 0"), client.execute("print(2)"), return_exceptions=True)
    assert isinstance(results[0], ExecutionError)
    assert not isinstance(results[1], BaseException)
    assert results[1].stdout == "2\n"


@pytest.mark.asyncio
async def test_a_call_that_waits_can_be_cancelled_and_never_runs(client: KernelClient) -> None:
    await client.execute("ran = []")
    first = asyncio.create_task(client.execute("import time; time.sleep(0.3); ran.append(1)"))
    second = asyncio.create_task(client.execute("ran.append(2)"))
    third = asyncio.create_task(client.execute("ran.append(3)"))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, third)
    assert await value(client, "ran") == "[1, 3]"


LONG = {
    "sleeps": "import time; time.sleep(60)",
    "computes": "while True: pass",
    "awaits": "import asyncio; await asyncio.sleep(60)",
    "floods": "while True: print('flood' * 100)",
    "waits for a child": "import subprocess; subprocess.run(['sleep', '60'])",
}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.asyncio
async def test_a_cancelled_call_is_interrupted_and_the_next_one_works_at_once(client: KernelClient, kind: str) -> None:
    await client.execute("x = 1")
    call = asyncio.create_task(client.execute("print('on', flush=True)\n" + LONG[kind]))
    assert await eventually(lambda: bool(running(client)))
    async with asyncio.timeout(HANG):
        assert await eventually(lambda: all(execution.partial().stdout for execution in running(client)))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(AT_ONCE):
        assert (await client.execute("x")).text == "1"


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 10, 20, 50])
@pytest.mark.asyncio
async def test_a_call_cancelled_while_it_is_being_sent_does_not_run_on(client: KernelClient, turns: int) -> None:
    await client.execute("x = 1")
    call = asyncio.create_task(client.execute("import time\ntime.sleep(60)"))
    for _ in range(turns):
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(AT_ONCE):
        assert (await client.execute("x")).text == "1"


@pytest.mark.asyncio
async def test_a_call_with_much_code_cancelled_while_it_is_being_sent_does_not_run_on(client: KernelClient) -> None:
    """Its request fills the connection's buffers, so the cancellation comes in the middle of sending.

    A larger one would keep the kernel busy for longer than an interrupt may take, before any code of it runs."""
    await client.execute("ran = 0\nx = 1")
    call = asyncio.create_task(client.execute("while True: ran += 1\n#" + "x" * 8_000_000))
    for _ in range(1000):  # at every turn of the loop: a moment later it would have been sent
        if running(client):
            break
        await asyncio.sleep(0)
    assert running(client)
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(15):
        assert (await client.execute("x", timeout=10)).text == "1"


@pytest.mark.asyncio
async def test_leaving_a_stream_early_interrupts(client: KernelClient) -> None:
    await client.execute("x = 1")
    async with aclosing(client.stream("print('on')\nimport time; time.sleep(60)")) as stream:  # type: ignore[type-var]
        async for _ in stream:
            break
    async with asyncio.timeout(AT_ONCE):
        assert (await client.execute("x")).text == "1"


@pytest.mark.asyncio
async def test_leaving_a_run_early_interrupts(client: KernelClient) -> None:
    await client.execute("x = 1")
    async with client.run("print('on')\nimport time; time.sleep(60)") as execution:
        first = await anext(execution)
    assert first == StreamOutput("stdout", "on\n")
    async with asyncio.timeout(AT_ONCE):
        assert (await client.execute("x")).text == "1"


@pytest.mark.asyncio
async def test_an_exception_in_the_body_of_a_run_interrupts_and_passes(client: KernelClient) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.run("while True: pass"):
            _ = 1 / 0
    async with asyncio.timeout(2 * AT_ONCE + client.interrupt_grace / 2):
        assert (await client.execute("1")).text == "1"


@pytest.mark.asyncio
async def test_a_run_that_was_not_read_to_its_end_loses_nothing_of_the_next(client: KernelClient) -> None:
    for i in range(20):
        async with client.run(f"print('old {i}')"):
            pass
        assert (await client.execute(f"print('new {i}')")).stdout == f"new {i}\n"


@pytest.mark.asyncio
async def test_timeout_around_a_call_is_a_cancellation_like_any_other(client: KernelClient) -> None:
    await client.execute("x = 1")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.execute("import time; time.sleep(60)"), 0.3)
    async with asyncio.timeout(AT_ONCE):
        assert (await client.execute("x")).text == "1"


@pytest.mark.asyncio
async def test_a_timeout_carries_the_partial_result_and_keeps_the_variables(client: KernelClient) -> None:
    with pytest.raises(ExecutionTimeoutError) as caught:
        await client.execute("a = 5\nprint('partial')\nimport time; time.sleep(60)", timeout=0.5)
    assert caught.value.timeout == 0.5
    assert caught.value.state_preserved
    assert caught.value.result is not None
    assert caught.value.result.stdout == "partial\n"
    assert await value(client, "a") == "5"


@pytest.mark.asyncio
async def test_the_time_in_the_queue_does_not_count(client: KernelClient) -> None:
    slow = asyncio.create_task(client.execute("import time; time.sleep(1.5)"))
    await asyncio.sleep(0)
    assert (await client.execute("print('in time')", timeout=1.0)).stdout == "in time\n"
    await slow


@pytest.mark.asyncio
async def test_a_thousand_timeouts_race_with_ends_and_none_lies(client: KernelClient) -> None:
    """A call either has its output or says that it ran out of time, and the next one is never hit by its interrupt."""
    for i in range(40):
        try:
            result = await client.execute(f"import time\ntime.sleep(0.02)\nprint({i})", timeout=0.015 + 0.0005 * i)
        except ExecutionTimeoutError as error:
            survived = error.state_preserved
        else:
            survived = result.stdout == f"{i}\n"
        assert survived
        assert (await client.execute(f"print('next', {i})")).stdout == f"next {i}\n"


# ---- interrupt, reset, disconnect -----------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_interrupt_raises_keyboard_interrupt_in_the_code(client: KernelClient) -> None:
    async with asyncio.timeout(HANG), client.run("x = 1\nprint('on')\nimport time; time.sleep(60)") as execution:
        await anext(execution)
        await client.interrupt()
        with pytest.raises(ExecutionError) as caught:
            await execution.result()
    assert caught.value.name == "KeyboardInterrupt"
    assert await value(client, "x") == "1"


@pytest.mark.asyncio
async def test_interrupt_without_an_execution_harms_nothing(client: KernelClient) -> None:
    for i in range(20):
        await client.interrupt()
        assert (await client.execute(f"print({i})")).stdout == f"{i}\n"


@pytest.mark.asyncio
async def test_reset_forgets_variables_and_keeps_the_kernel_id(client: KernelClient) -> None:
    await client.execute("x = 1")
    kernel_id = client.kernel_id
    await client.reset()
    with pytest.raises(ExecutionError, match="NameError"):
        await client.execute("x")
    assert client.kernel_id == kernel_id


@pytest.mark.asyncio
async def test_reset_ends_code_that_runs(client: KernelClient) -> None:
    call = asyncio.create_task(client.execute("print('on', flush=True)\nimport time; time.sleep(600)"))
    assert await eventually(lambda: any(e.partial().stdout for e in running(client)))
    async with asyncio.timeout(HANG):
        await client.reset()
        with pytest.raises(KernelDiedError) as caught:
            await call
    assert caught.value.exit.reason == "restarted"
    await still_works(client)


@pytest.mark.asyncio
async def test_calls_made_with_a_reset_all_end(client: KernelClient) -> None:
    async with asyncio.timeout(HANG):
        results = await asyncio.gather(
            client.execute("print(1)"),
            client.reset(),
            client.execute("print(2)"),
            client.reset(),
            client.execute("print(3)"),
            return_exceptions=True,
        )
    for result in results:
        assert not isinstance(result, BaseException) or isinstance(result, KernelDiedError), results
    await still_works(client)


@pytest.mark.asyncio
async def test_calls_that_run_or_wait_end_when_the_client_disconnects(gateway: KernelGateway) -> None:
    client = KernelClient(gateway.host, gateway.port)
    await client.connect()
    calls = [asyncio.create_task(client.execute("import time; time.sleep(60)")) for _ in range(3)]
    assert await eventually(lambda: bool(running(client)))
    async with asyncio.timeout(HANG):
        await client.disconnect()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], ConnectionLostError)
    assert all(isinstance(result, IpyboxError | RuntimeError) for result in results), results


@pytest.mark.asyncio
async def test_a_client_can_connect_again_after_it_disconnected_in_the_middle_of_a_call(
    gateway: KernelGateway,
) -> None:
    client = KernelClient(gateway.host, gateway.port)
    await client.connect()
    call = asyncio.create_task(client.execute("import time; time.sleep(60)"))
    assert await eventually(lambda: bool(running(client)))
    await client.disconnect()
    await asyncio.gather(call, return_exceptions=True)
    await client.connect()
    try:
        await still_works(client)
    finally:
        await client.disconnect()


@pytest.mark.asyncio
async def test_a_client_connects_only_once_and_may_disconnect_twice(client: KernelClient) -> None:
    with pytest.raises(RuntimeError, match="already connected"):
        await client.connect()
    await still_works(client)
    await client.disconnect()
    await client.disconnect()
    with pytest.raises(RuntimeError):
        await client.execute("1")


async def kernels_of(gateway: KernelGateway) -> set[str]:
    """Ids of the kernels that a gateway has."""
    async with aiohttp.ClientSession() as http, http.get(f"{gateway.url}/api/kernels") as answer:
        return {model["id"] for model in await answer.json()}


@pytest.mark.asyncio
async def test_connecting_that_is_cancelled_leaves_no_kernel() -> None:
    async with KernelGateway(port=0) as gateway:
        for delay in (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15):
            client = KernelClient(gateway.host, gateway.port)
            connecting = asyncio.create_task(client.connect())
            await asyncio.wait([connecting], timeout=delay)
            connecting.cancel()
            await asyncio.wait([connecting])
            await client.disconnect()  # of one that was quicker than the cancellation
        left = await kernels_of(gateway)
        for _ in range(100):
            if not left:
                break
            await asyncio.sleep(0.05)
            left = await kernels_of(gateway)
        assert not left


@pytest.mark.asyncio
async def test_a_kernel_of_ones_own_ends_with_its_client(gateway: KernelGateway) -> None:
    async with KernelClient(gateway.host, gateway.port) as client:
        process = psutil.Process(int(await value(client, "__import__('os').getpid()")))
        assert client.kernel_id in await kernels_of(gateway)
    assert client.is_connected is False
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


# ---- joining --------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_kept_kernel_can_be_joined_and_outlives_who_joined_it(gateway: KernelGateway) -> None:
    async with KernelClient(gateway.host, gateway.port, keep_kernel=True) as first:
        kernel_id = first.kernel_id
        await first.execute("x = 1")
    for _ in range(2):
        async with KernelClient(gateway.host, gateway.port, kernel_id=kernel_id) as second:
            assert second.kernel_id == kernel_id
            assert await value(second, "x") == "1"
    assert kernel_id in await kernels_of(gateway)


@pytest.mark.asyncio
async def test_joining_a_kernel_that_does_not_exist(gateway: KernelGateway) -> None:
    with pytest.raises(KernelStartError):
        async with asyncio.timeout(HANG):
            await KernelClient(gateway.host, gateway.port, kernel_id="00000000-0000-0000-0000-000000000000").connect()


@pytest.mark.asyncio
async def test_two_clients_of_one_kernel_get_each_their_own_output(
    gateway: KernelGateway, client: KernelClient
) -> None:
    async with KernelClient(gateway.host, gateway.port, kernel_id=client.kernel_id) as second:
        for i in range(20):
            mine, theirs = await asyncio.gather(
                client.execute(f"print('mine', {i})"), second.execute(f"print('theirs', {i})")
            )
            assert (mine.stdout, theirs.stdout) == (f"mine {i}\n", f"theirs {i}\n")
        assert (client.late_output(), second.late_output()) == ("", "")


@pytest.mark.asyncio
async def test_a_reset_by_one_is_told_to_the_other_once(gateway: KernelGateway, client: KernelClient) -> None:
    async with KernelClient(gateway.host, gateway.port, kernel_id=client.kernel_id) as second:
        await client.reset()
        await client.execute("x = 1")
        with pytest.raises(KernelDiedError) as caught:
            await second.execute("1")
        assert caught.value.exit.reason == "restarted"
        assert not caught.value.during_execution
        assert await value(second, "x") == "1"


@pytest.mark.asyncio
async def test_a_death_is_told_to_both_and_only_one_of_them_replaces_the_kernel(
    gateway: KernelGateway, client: KernelClient
) -> None:
    async with KernelClient(gateway.host, gateway.port, kernel_id=client.kernel_id) as second:
        with pytest.raises(KernelDiedError):
            await client.execute("import os; os._exit(3)")
        await client.execute("x = 1")
        with pytest.raises(KernelDiedError):
            await second.execute("1")
        assert await value(second, "'x' in globals()") == "True"
        assert await value(client, "x") == "1"


# ---- options of one execution ---------------------------------------------------------------------------------

AWKWARD = '\'; import os; os._exit(1) #\n"""\\{x} é\U0001f600 $HOME'


@pytest.mark.asyncio
async def test_environment_variables_are_those_of_one_execution(client: KernelClient) -> None:
    await client.execute("import os, subprocess\nos.environ['B'] = 'before'")
    show = "print([os.environ.get(n) for n in 'ABC'])"
    during = await client.execute(
        show + "\nprint(subprocess.run('echo $A', shell=True, text=True, capture_output=True).stdout)",
        env={"A": "a", "B": AWKWARD},
    )
    assert during.stdout == f"{['a', AWKWARD, None]}\na\n\n"
    assert (await client.execute(show)).stdout == "[None, 'before', None]\n"


@pytest.mark.asyncio
async def test_a_working_directory_is_that_of_one_execution(client: KernelClient, tmp_path: Path) -> None:
    directory = tmp_path / 'o\'dd """ é\n\\n'
    directory.mkdir()
    before = await value(client, "__import__('os').getcwd()")
    for cwd in (directory, str(directory)):
        result = await client.execute("import os\nprint(os.getcwd(), end='')\nopen('made', 'w').close()", cwd=cwd)
        assert result.stdout == str(directory)
    assert (directory / "made").exists()
    assert await value(client, "os.getcwd()") == before


@pytest.mark.asyncio
async def test_arguments_are_those_of_one_execution(client: KernelClient) -> None:
    before = await value(client, "__import__('sys').argv")
    result = await client.execute("import sys\nprint(sys.argv)", argv=["prog", AWKWARD, ""])
    assert result.stdout == f"{['prog', AWKWARD, '']}\n"
    assert await value(client, "sys.argv") == before


@pytest.mark.asyncio
async def test_a_file_name_stands_in_the_traceback_of_one_execution(client: KernelClient, tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    with pytest.raises(ExecutionError) as caught:
        await client.execute("x = 1\n\n1 / 0", file_name=str(file))
    assert "script.py" in caught.value.traceback
    assert "line 3" in caught.value.traceback or ":3" in caught.value.traceback or "> 3 " in caught.value.traceback
    with pytest.raises(ExecutionError) as caught:
        await client.execute("1 / 0")
    assert "script.py" not in caught.value.traceback


@pytest.mark.parametrize("end", ["1 / 0", "import time; time.sleep(60)", "import asyncio; await asyncio.sleep(0)"])
@pytest.mark.asyncio
async def test_options_are_restored_however_the_execution_ends(client: KernelClient, tmp_path: Path, end: str) -> None:
    state = "import os, sys\n(os.environ.get('A'), os.getcwd(), sys.argv)"
    before = await value(client, state)
    try:
        await client.execute(end, timeout=0.5, env={"A": "a"}, cwd=tmp_path, argv=["x"], file_name="f.py")
    except (ExecutionError, ExecutionTimeoutError):
        pass
    assert await value(client, state) == before


@pytest.mark.asyncio
async def test_options_are_restored_in_a_directory_that_was_renamed_meanwhile(
    client: KernelClient, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "other").mkdir()
    await client.execute(f"import os; os.chdir({str(tmp_path / 'old')!r})")
    await client.execute(f"os.rename({str(tmp_path / 'old')!r}, {str(tmp_path / 'new')!r})", cwd=tmp_path / "other")
    assert await value(client, "print(os.getcwd())") == str(tmp_path / "new")


# ---- questions ------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_questions_are_answered_by_a_function_or_a_coroutine_function(client: KernelClient) -> None:
    asked: list[tuple[str, bool]] = []

    def plainly(prompt: str, password: bool) -> str:
        asked.append((prompt, password))
        return f"answer {len(asked)} é"

    async def later(prompt: str, password: bool) -> str:
        await asyncio.sleep(0.01)
        return plainly(prompt, password)

    code = "import getpass\nprint(input('one? '), getpass.getpass('two? '), input())"
    first = await client.execute(code, on_input=plainly)
    assert first.stdout.endswith("answer 1 é answer 2 é answer 3 é\n")
    second = await client.execute(code, on_input=later)
    assert second.stdout.endswith("answer 4 é answer 5 é answer 6 é\n")
    assert asked == [("one? ", False), ("two? ", True), ("", False)] * 2


@pytest.mark.asyncio
async def test_what_was_printed_before_a_question_is_there_when_it_is_asked(client: KernelClient) -> None:
    seen: list[str] = []
    async with client.run(
        "for i in range(100):\n    print(i)\n    input()", on_input=lambda prompt, password: ""
    ) as execution:
        async for event in execution:
            if isinstance(event, InputRequest):
                seen.append("?")
            elif isinstance(event, StreamOutput):
                seen += event.text.split()
    assert seen == [item for i in range(100) for item in (str(i), "?")]


@pytest.mark.asyncio
async def test_without_a_callback_questions_raise_in_the_code(client: KernelClient) -> None:
    for code in ("input('? ')", "import getpass; getpass.getpass()"):
        with pytest.raises(ExecutionError, match="StdinNotImplementedError"):
            async with asyncio.timeout(HANG):
                await client.execute(code)


@pytest.mark.asyncio
async def test_a_callback_of_the_client_serves_all_its_executions(gateway: KernelGateway) -> None:
    async with KernelClient(gateway.host, gateway.port, on_input=lambda prompt, password: "default") as client:
        assert await value(client, "print(input())") == "default"
        assert (await client.execute("print(input())", on_input=lambda p, s: "own")).stdout == "own\n"


@pytest.mark.asyncio
async def test_a_callback_that_fails_ends_the_call_and_not_the_client(client: KernelClient) -> None:
    def fail(prompt: str, password: bool) -> str:
        raise LookupError("no answer")

    await client.execute("x = 1")
    with pytest.raises(LookupError, match="no answer"):
        async with asyncio.timeout(HANG):
            await client.execute("input()", on_input=fail)
    with pytest.raises(TypeError, match="on_input"):
        async with asyncio.timeout(HANG):
            await client.execute("input()", on_input=lambda p, s: 5)  # type: ignore[arg-type,return-value]
    async with asyncio.timeout(AT_ONCE):
        assert (await client.execute("x")).text == "1"


@pytest.mark.asyncio
async def test_a_question_nobody_answers_runs_into_the_timeout(client: KernelClient) -> None:
    async def never(prompt: str, password: bool) -> str:
        await asyncio.Event().wait()
        return ""

    await client.execute("x = 1")
    with pytest.raises(ExecutionTimeoutError) as caught:
        async with asyncio.timeout(HANG):
            await client.execute("input()", timeout=0.5, on_input=never)
    assert caught.value.state_preserved
    assert await value(client, "x") == "1"


# ---- rich outputs ---------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_every_format_of_a_display_arrives_in_order(client: KernelClient) -> None:
    result = await client.execute("""
from IPython.display import HTML, JSON, SVG, Latex, Markdown, display
print("first")
display(HTML("<b>é</b>"), metadata={"text/html": {"isolated": True}})
display(JSON({"a": [1, None, "é"]}))
display(Latex("$x$"), Markdown("*m*"))
display({"text/plain": "p", "application/x-own": {"k": 1}}, raw=True)
print("last")
[1, 2]
""")
    kinds = [type(output).__name__ for output in result.outputs]
    assert kinds == ["StreamOutput", *["DisplayOutput"] * 5, "StreamOutput", "DisplayOutput"]
    shown = [output for output in result.outputs if isinstance(output, DisplayOutput)]
    assert shown[0].data["text/html"] == "<b>é</b>"
    assert shown[0].metadata["text/html"] == {"isolated": True}
    assert shown[1].data["application/json"] == {"a": [1, None, "é"]}
    assert shown[2].data["text/latex"] == "$x$"
    assert shown[3].data["text/markdown"] == "*m*"
    assert shown[4].data["application/x-own"] == {"k": 1}
    assert [display.kind for display in shown] == ["display_data"] * 5 + ["execute_result"]
    assert shown[5].text == "[1, 2]"
    assert shown[5].execution_count == result.execution_count
    assert result.images == []


@pytest.mark.asyncio
async def test_execution_count_and_duration(client: KernelClient) -> None:
    first = await client.execute("1")
    second = await client.execute("import time; time.sleep(0.2)")
    assert first.execution_count is not None
    assert second.execution_count == first.execution_count + 1
    assert first.duration > 0
    assert second.duration >= 0.2
    assert first.execution_id
    assert first.execution_id != second.execution_id


@pytest.mark.asyncio
async def test_an_update_replaces_what_was_displayed(client: KernelClient) -> None:
    result = await client.execute("""
from IPython.display import display
handle = display("one", display_id=True)
print("between")
handle.update("two")
""")
    shown = [output for output in result.outputs if isinstance(output, DisplayOutput)]
    assert [display.text for display in shown] == ["'two'"]
    assert isinstance(result.outputs[1], StreamOutput)
    later = await client.execute("handle.update('three')")
    (update,) = later.outputs
    assert isinstance(update, DisplayOutput)
    assert (update.kind, update.text) == ("update_display_data", "'three'")
    assert update.display_id == shown[0].display_id


@pytest.mark.parametrize(
    ("wait", "after", "expected"), [(False, "", []), (True, "", ["old\n"]), (True, "new\n", ["new\n"])]
)
@pytest.mark.asyncio
async def test_clear_output(client: KernelClient, wait: bool, after: str, expected: list[str]) -> None:
    events: list[Event] = []
    code = (
        f"from IPython.display import clear_output\nprint('old')\nclear_output(wait={wait})\nprint({after!r}, end='')"
    )
    async with client.run(code) as execution:
        events = [event async for event in execution]
        result = execution.partial()
    assert ClearOutput(wait) in events
    assert [text for _, text in runs(result.outputs)] == expected
    assert result.stdout == "old\n" + after


@pytest.mark.asyncio
async def test_an_error_has_its_parts_in_plain_text(client: KernelClient) -> None:
    with pytest.raises(ExecutionError) as caught:
        await client.execute("def foo():\n    raise ValueError('\\x1b[31mred\\x1b[0m é')\nprint('before')\nfoo()")
    error = caught.value
    assert (error.name, error.value) == ("ValueError", "red é")
    assert "foo" in error.traceback
    assert "\x1b" not in str(error)
    assert error.result is not None
    assert error.result.stdout == "before\n"
    assert error.result.outputs[-1] == ErrorOutput(error.name, error.value, error.traceback)


@pytest.mark.parametrize("code", ["print('missing quote)", "1 /", "if True:\nx", "%nosuchmagic", "\x00"])
@pytest.mark.asyncio
async def test_code_that_is_no_code_is_an_error(client: KernelClient, code: str) -> None:
    with pytest.raises(ExecutionError):
        async with asyncio.timeout(HANG):
            await client.execute(code)
    await still_works(client)


# ---- images ---------------------------------------------------------------------------------------------------

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SHOW = f"from IPython.display import display\ndisplay({{'image/png': {PNG!r}, 'text/plain': '<image>'}}, raw=True)"


@pytest_asyncio.fixture
async def painter(gateway: KernelGateway, tmp_path: Path) -> AsyncIterator[KernelClient]:
    """A client with a directory of its own for images."""
    async with KernelClient(gateway.host, gateway.port, images_dir=tmp_path / "deep" / "images") as connected:
        yield connected


@pytest.mark.asyncio
async def test_images_of_all_kinds_are_saved(painter: KernelClient) -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg"/>'
    result = await painter.execute(f"""
from IPython.display import display
display({{"image/png": {PNG!r}, "image/svg+xml": "unused"}}, raw=True)
display({{"image/jpeg": "/9j/2Q=="}}, raw=True)
display({{"image/svg+xml": {svg!r}}}, raw=True)
""")
    assert [path.suffix for path in result.images] == [".png", ".jpg", ".svg"]
    assert all(path.parent == painter.images_dir for path in result.images)
    assert [path.read_bytes()[:4] for path in result.images] == [b"\x89PNG", b"\xff\xd8\xff\xd9", b"<svg"]
    assert [output.image for output in result.outputs if isinstance(output, DisplayOutput)] == result.images


@pytest.mark.asyncio
async def test_a_plot_is_saved(painter: KernelClient) -> None:
    pytest.importorskip("matplotlib")
    async with asyncio.timeout(2 * HANG):
        result = await painter.execute("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    (image,) = result.images
    assert image.read_bytes().startswith(b"\x89PNG")


@pytest.mark.asyncio
async def test_an_image_directory_that_stays_empty_is_removed_again(gateway: KernelGateway, tmp_path: Path) -> None:
    async with KernelClient(gateway.host, gateway.port, images_dir=tmp_path / "images") as client:
        await client.execute("1")
    assert not (tmp_path / "images").exists()


async def refused(client: KernelClient, code: str) -> ImageWriteError:
    """Runs code that shows an image which must not be saved."""
    with pytest.raises(ImageWriteError) as caught:
        async with asyncio.timeout(HANG):
            await client.execute(code + "\n" + SHOW + "\nprint('and on')")
    assert caught.value.result is not None
    assert caught.value.result.images == []
    assert caught.value.result.stdout == "and on\n"
    (display,) = (output for output in caught.value.result.outputs if isinstance(output, DisplayOutput))
    assert display.data["image/png"] == PNG
    return caught.value


@pytest.mark.asyncio
async def test_a_link_in_place_of_the_image_directory_is_not_followed(painter: KernelClient, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    here = str(painter.images_dir)
    await refused(
        painter, f"import os\nos.rename({here!r}, {here + '.moved'!r})\nos.symlink({str(elsewhere)!r}, {here!r})"
    )
    assert list(elsewhere.iterdir()) == []
    assert list(Path(here + ".moved").iterdir()) == []
    await still_works(painter)


@pytest.mark.parametrize(
    "plant", ["os.mkfifo({0!r})", "os.symlink('/dev/null', {0!r})", "open({0!r}, 'w').close()", "None"]
)
@pytest.mark.asyncio
async def test_nothing_planted_for_the_image_directory_is_used(painter: KernelClient, plant: str) -> None:
    here = str(painter.images_dir)
    await refused(painter, f"import os\nos.rmdir({here!r})\n" + plant.format(here))
    await still_works(painter)


@pytest.mark.asyncio
async def test_planted_files_and_fifos_are_neither_opened_nor_overwritten(painter: KernelClient) -> None:
    """Names can't be guessed; so plant after the first image is there, and look that all is as it was."""
    first = await painter.execute(SHOW)
    here = str(painter.images_dir)
    await painter.execute(
        f"import os\nfor i in range(50):\n    os.mkfifo(f'{here}/{{i}}.png')\n"
        f"os.unlink({str(first.images[0])!r})\nos.mkfifo({str(first.images[0])!r})"
    )
    async with asyncio.timeout(HANG):
        second = await painter.execute(SHOW)
    assert second.images[0].read_bytes().startswith(b"\x89PNG")
    assert stat.S_ISFIFO(os.lstat(first.images[0]).st_mode)


@pytest.mark.parametrize("data", ["'no base64!'", "5", "None", "['iVBO', 5]"])
@pytest.mark.asyncio
async def test_an_image_that_is_none_is_told(painter: KernelClient, data: str) -> None:
    with pytest.raises(ImageWriteError) as caught:
        await painter.execute(
            f"k = get_ipython().kernel\ndata = {{'image/png': {data}}}\n"
            "k.send_response(k.iopub_socket, 'display_data', {'data': data})\nprint('and on')"
        )
    assert caught.value.result is not None
    assert caught.value.result.stdout == "and on\n"


@pytest.mark.asyncio
async def test_an_image_directory_that_is_a_link_is_refused_at_once(gateway: KernelGateway, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match="images_dir"):
        await KernelClient(gateway.host, gateway.port, images_dir=tmp_path / "link").connect()


# ---- limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 29, 30, 31, 60, 5_000, 3_000_000])
@pytest.mark.asyncio
async def test_a_limit_keeps_head_and_tail_counts_the_rest_and_keeps_all_in_a_file(
    gateway: KernelGateway, tmp_path: Path, size: int
) -> None:
    limit = OutputLimit(head=10, tail=20)
    async with KernelClient(gateway.host, gateway.port, images_dir=tmp_path / "images", output_limit=limit) as client:
        result = await client.execute(
            f"text = (''.join(map(chr, range(97, 123))) * {size // 26 + 1})[:{size}]\nprint(text, end='')"
        )
    whole = ("".join(map(chr, range(97, 123))) * (size // 26 + 1))[:size]
    assert result.dropped == max(0, size - 30)
    if result.dropped:
        assert result.text is not None
        assert result.text.startswith(whole[:10])
        assert result.text.endswith(whole[-20:])
        assert str(result.dropped) in result.text
        assert result.full_text is not None
        assert result.full_text.read_text() == whole
    else:
        assert (result.text or "") == whole
        assert result.full_text is None


@pytest.mark.asyncio
async def test_a_limit_of_one_execution_and_a_directory_of_its_own_leak_no_descriptor(
    client: KernelClient, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    limit = OutputLimit(head=1, tail=1, directory=tmp_path / "full")
    await client.execute("print('x' * 100)", output_limit=limit)
    before = psutil.Process().num_fds()
    for _ in range(10):
        result = await client.execute("print('x' * 100)", output_limit=limit)
        assert result.full_text is not None
        assert result.full_text.parent == tmp_path / "full"
    assert psutil.Process().num_fds() <= before
    assert (await client.execute("print('x' * 100)")).stdout == "x" * 100 + "\n"


@pytest.mark.asyncio
async def test_a_limit_whose_file_cannot_be_written_is_told_and_hangs_nobody(
    client: KernelClient, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    limit = OutputLimit(head=1, tail=1, directory=tmp_path / "link")
    with pytest.raises((IpyboxError, ValueError)):
        async with asyncio.timeout(HANG):
            await client.execute("print('x' * 100)", output_limit=limit)
    await still_works(client)


@pytest.mark.asyncio
async def test_errors_of_executions_survive_pickling(client: KernelClient) -> None:
    import pickle

    caught: list[Any] = []
    for code, timeout in (("1 / 0", None), ("import time; time.sleep(9)", 0.2), ("import os; os._exit(3)", None)):
        try:
            await client.execute(code, timeout)
        except IpyboxError as error:
            caught.append(error)
    for told in caught:
        copy = pickle.loads(pickle.dumps(told))
        assert type(copy) is type(told)
        assert str(copy) == str(told)
        assert copy.result == told.result
    assert len(caught) == 3
