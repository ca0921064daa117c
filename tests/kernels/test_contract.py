"""The double behaves as the real client: the same assertions about both, the kernel of one of them made up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ipybox.errors import (
    ConnectionLostError,
    ExecutionError,
    ExecutionNotFoundError,
    ExecutionTimeoutError,
    ImageWriteError,
    IpyboxError,
    KernelDiedError,
)
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from ipybox.output_limit import OutputLimit
from ipybox.outputs import (
    ClearOutput,
    DisplayOutput,
    ErrorOutput,
    Event,
    ExecutionResult,
    InputRequest,
    StreamOutput,
)
from ipybox.testing.fake_kernel_client import FakeKernelClient
from tests.kernels.helpers import HANG

pytestmark = pytest.mark.kernel

PRINT = "print('a')"
EXPRESSION = "6 * 7"
SILENT = "x = 1"
RAISES = "print('before')\n1 / 0"
SLEEPS = "print('on', flush=True)\nimport time; time.sleep(60)"
DEAF = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print('on', flush=True)
time.sleep(60)
"""
DIES = "print('last', flush=True)\nimport os; os._exit(3)"
IN_ORDER = """
import sys
from IPython.display import display
print('out 1', flush=True)
print('err 1', file=sys.stderr, flush=True)
print('out 2', flush=True)
display({'text/plain': 'shown'}, raw=True)
print('out 3', flush=True)
'value'
"""
CLEARS = "from IPython.display import clear_output\nprint('old', flush=True)\nclear_output(wait=True)\nprint('new')"
UPDATES = "from IPython.display import display\nh = display('one', display_id='d')\nh.update('two')"
ASKS = "print(input('name? '), flush=True)"
ASKS_SECRETLY = "import getpass\nprint(getpass.getpass('word? '), flush=True)"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SHOWS = (
    f"from IPython.display import display\ndisplay({{'image/png': {PNG!r}, 'text/plain': '<image>'}}, raw=True)\n"
    "print('done')"
)
SHOWS_RUBBISH = "from IPython.display import display\ndisplay({'image/png': 'no base64!'}, raw=True)\nprint('and on')"


async def sleeps(code: str) -> AsyncIterator[str]:
    yield "on\n"
    await asyncio.sleep(60)


async def is_deaf(code: str) -> AsyncIterator[str]:
    yield "on\n"
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if released.is_set():
                raise


released = asyncio.Event()
"""When set, the double's deaf code ends as well: nothing kills it as a process is killed."""


async def echoes(code: str) -> AsyncIterator[Any]:
    answer = yield InputRequest("word? " if "getpass" in code else "name? ", "getpass" in code)
    yield f"{answer}\n"


RESPONSES: dict[Any, Any] = {
    PRINT: ["a\n"] * 30,
    EXPRESSION: [[DisplayOutput("execute_result", {"text/plain": "42"}, execution_count=1)]],
    SILENT: [""] * 30,
    RAISES: [["before\n", ExecutionError("ZeroDivisionError", "division by zero", "Traceback\n1 / 0")]] * 3,
    SLEEPS: [sleeps] * 3,
    DEAF: is_deaf,
    DIES: [["last\n", KernelDiedError(ExitStatus("exited", code=3))]],
    IN_ORDER: [
        [
            "out 1\n",
            StreamOutput("stderr", "err 1\n"),
            "out 2\n",
            DisplayOutput("display_data", {"text/plain": "shown"}),
            "out 3\n",
            DisplayOutput("execute_result", {"text/plain": "'value'"}, execution_count=1),
        ]
    ]
    * 3,
    CLEARS: [["old\n", ClearOutput(True), "new\n"]],
    UPDATES: [
        [
            DisplayOutput("display_data", {"text/plain": "'one'"}, display_id="d"),
            DisplayOutput("update_display_data", {"text/plain": "'two'"}, display_id="d"),
        ]
    ],
    ASKS: [[InputRequest("name? ", False), "Ada\n"], echoes],
    ASKS_SECRETLY: echoes,
    SHOWS: [[DisplayOutput("display_data", {"image/png": PNG, "text/plain": "<image>"}), "done\n"]],
    SHOWS_RUBBISH: [[DisplayOutput("display_data", {"image/png": "no base64!"}), "and on\n"]],
    re.compile(r"print\('[0-9]+'\)"): [lambda code: code[7:-2] + "\n"] * 30,
    re.compile(r"print\('x' \* 100\)"): ["x" * 100 + "\n"] * 3,
}

Make = Callable[..., KernelClient]


@pytest.fixture(params=["real", "double"])
def make(request: pytest.FixtureRequest, gateway: KernelGateway) -> Make:
    """Makes a client, of the one kind or the other."""
    if request.param == "real":
        return lambda **options: KernelClient(gateway.host, gateway.port, **options)
    released.clear()
    return lambda **options: FakeKernelClient(gateway.host, gateway.port, responses=RESPONSES, **options)


@pytest_asyncio.fixture
async def driven(make: Make) -> AsyncIterator[KernelClient]:
    """A client that is connected."""
    async with make(interrupt_grace=2.0) as client:
        yield client
        released.set()


async def events_of(client: KernelClient, code: str, **options: Any) -> tuple[list[Event], ExecutionResult]:
    events = []
    async with asyncio.timeout(HANG), client.run(code, **options) as execution:
        async for event in execution:
            events.append(event)
        return events, execution.partial()


async def begun(client: KernelClient, code: str) -> asyncio.Task[ExecutionResult]:
    """A call whose code runs, as its first output shows."""
    is_there = asyncio.Event()

    async def call() -> ExecutionResult:
        async with client.run(code) as execution:
            await anext(execution)
            is_there.set()
            return await execution.result()

    task = asyncio.create_task(call())
    async with asyncio.timeout(HANG):
        await is_there.wait()
    return task


async def still_works(client: KernelClient) -> None:
    async with asyncio.timeout(HANG):
        assert (await client.execute(PRINT)).stdout == "a\n"


# ---- results ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_what_is_printed(driven: KernelClient) -> None:
    result = await driven.execute(PRINT)
    assert (result.text, result.stdout, result.stderr) == ("a", "a\n", "")
    assert result.outputs == (StreamOutput("stdout", "a\n"),)
    assert (result.images, result.dropped, result.full_text, result.network) == ([], 0, None, ())
    assert re.fullmatch("[0-9a-f]{32}", result.execution_id)
    assert result.duration > 0


@pytest.mark.asyncio
async def test_the_value_of_an_expression(driven: KernelClient) -> None:
    result = await driven.execute(EXPRESSION)
    assert (result.text, result.stdout) == ("42", "")
    (value,) = result.outputs
    assert isinstance(value, DisplayOutput)
    assert (value.kind, value.text, value.execution_count, value.image) == ("execute_result", "42", 1, None)


@pytest.mark.asyncio
async def test_code_that_says_nothing(driven: KernelClient) -> None:
    result = await driven.execute(SILENT)
    assert (result.text, result.stdout, result.outputs) == (None, "", ())


@pytest.mark.asyncio
async def test_executions_are_counted(driven: KernelClient) -> None:
    assert [(await driven.execute(code)).execution_count for code in (SILENT, PRINT, SILENT)] == [1, 2, 3]


@pytest.mark.asyncio
async def test_an_error(driven: KernelClient) -> None:
    with pytest.raises(ExecutionError) as caught:
        await driven.execute(RAISES)
    error = caught.value
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")
    assert "1 / 0" in error.traceback
    assert error.result is not None
    assert error.result.stdout == error.result.text + "\n" == "before\n"  # type: ignore[operator]
    shown = ErrorOutput(error.name, error.value, error.traceback)
    assert error.result.outputs == (StreamOutput("stdout", "before\n"), shown)
    assert error.result.execution_count == 1
    await still_works(driven)


@pytest.mark.asyncio
async def test_an_error_is_an_event_and_then_raised(driven: KernelClient) -> None:
    events: list[Event] = []
    async with driven.run(RAISES) as execution:
        with pytest.raises(ExecutionError):
            async for event in execution:
                events.append(event)
        assert [event async for event in execution] == []
        assert (await execution.result()).stdout == "before\n"
    assert events[0] == StreamOutput("stdout", "before\n")
    assert [event.name for event in events[1:] if isinstance(event, ErrorOutput)] == ["ZeroDivisionError"]


# ---- order --------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_events_are_in_order(driven: KernelClient) -> None:
    events, result = await events_of(driven, IN_ORDER)
    value = DisplayOutput("execute_result", {"text/plain": "'value'"}, execution_count=1)
    shown = DisplayOutput("display_data", {"text/plain": "shown"})
    assert events == [
        StreamOutput("stdout", "out 1\n"),
        StreamOutput("stderr", "err 1\n"),
        StreamOutput("stdout", "out 2\n"),
        shown,
        StreamOutput("stdout", "out 3\n"),
        value,
    ]
    assert result.outputs == tuple(events)
    assert result.text == "out 1\nerr 1\nout 2\nshownout 3\n'value'"
    assert (result.stdout, result.stderr) == ("out 1\nout 2\nout 3\n", "err 1\n")


@pytest.mark.asyncio
async def test_a_stream_is_text_in_order_and_then_the_result(driven: KernelClient) -> None:
    pieces = [piece async for piece in driven.stream(IN_ORDER)]
    assert pieces[:-1] == ["out 1\n", "err 1\n", "out 2\n", "shown", "out 3\n", "'value'"]
    assert isinstance(pieces[-1], ExecutionResult)
    assert pieces[-1].text == "".join(str(piece) for piece in pieces[:-1])


@pytest.mark.asyncio
async def test_a_stream_gives_its_text_before_its_error(driven: KernelClient) -> None:
    pieces: list[str | ExecutionResult] = []
    with pytest.raises(ExecutionError):
        async for piece in driven.stream(RAISES):
            pieces.append(piece)
    assert pieces == ["before\n"]


@pytest.mark.asyncio
async def test_clearing_and_updating(driven: KernelClient) -> None:
    events, result = await events_of(driven, CLEARS)
    assert events == [StreamOutput("stdout", "old\n"), ClearOutput(True), StreamOutput("stdout", "new\n")]
    assert (result.stdout, result.outputs) == ("old\nnew\n", (StreamOutput("stdout", "new\n"),))
    (shown,) = (await driven.execute(UPDATES)).outputs
    assert isinstance(shown, DisplayOutput)
    assert (shown.kind, shown.text, shown.display_id) == ("display_data", "'two'", "d")


@pytest.mark.asyncio
async def test_calls_made_at_once_run_in_their_order(driven: KernelClient) -> None:
    results = await asyncio.gather(*(driven.execute(f"print('{i}')") for i in range(10)))
    assert [result.stdout for result in results] == [f"{i}\n" for i in range(10)]
    assert [result.execution_count for result in results] == list(range(1, 11))


# ---- time, interrupts, death --------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_timeout(driven: KernelClient) -> None:
    events: list[Event] = []
    async with asyncio.timeout(HANG), driven.run(SLEEPS, timeout=0.5) as execution:
        with pytest.raises(ExecutionTimeoutError) as caught:
            async for event in execution:
                events.append(event)
    error = caught.value
    assert (error.timeout, error.state_preserved) == (0.5, True)
    assert error.result is not None
    assert error.result.stdout == "on\n"
    assert [event.name for event in events if isinstance(event, ErrorOutput)] == ["KeyboardInterrupt"]
    assert events[0] == StreamOutput("stdout", "on\n")
    assert error.result.outputs == tuple(events)
    assert (await driven.execute(PRINT)).execution_count == 2


@pytest.mark.asyncio
async def test_a_timeout_of_code_that_ignores_interrupts(driven: KernelClient) -> None:
    with pytest.raises(ExecutionTimeoutError) as caught:
        async with asyncio.timeout(HANG):
            await driven.execute(DEAF, timeout=0.5)
    assert caught.value.state_preserved is False
    assert caught.value.result is not None
    assert caught.value.result.stdout == "on\n"
    assert (await driven.execute(PRINT)).execution_count == 1


@pytest.mark.asyncio
async def test_a_cancelled_call(driven: KernelClient) -> None:
    call = await begun(driven, SLEEPS)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await driven.execute(PRINT)).execution_count == 2


@pytest.mark.asyncio
async def test_a_stream_that_is_left_early(driven: KernelClient) -> None:
    async with aclosing(driven.stream(SLEEPS)) as stream:  # type: ignore[type-var]
        async for piece in stream:
            assert piece == "on\n"
            break
    await still_works(driven)


@pytest.mark.asyncio
async def test_an_interrupt(driven: KernelClient) -> None:
    call = await begun(driven, SLEEPS)
    await driven.interrupt()
    with pytest.raises(ExecutionError) as caught:
        async with asyncio.timeout(HANG):
            await call
    assert caught.value.name == "KeyboardInterrupt"
    await driven.interrupt()
    assert (await driven.execute(PRINT)).execution_count == 2


@pytest.mark.asyncio
async def test_a_kernel_that_dies(driven: KernelClient) -> None:
    kernel_id = driven.kernel_id
    await driven.execute(SILENT)
    with pytest.raises(KernelDiedError) as caught:
        async with asyncio.timeout(HANG):
            await driven.execute(DIES)
    error = caught.value
    assert (error.exit.reason, error.exit.code) == ("exited", 3)
    assert (error.during_execution, error.state_preserved) == (True, False)
    assert error.result is not None
    assert (error.result.stdout, error.result.execution_count) == ("last\n", 2)
    assert error.result.outputs == (StreamOutput("stdout", "last\n"),)
    assert (await driven.execute(PRINT)).execution_count == 1
    assert driven.kernel_id == kernel_id


@pytest.mark.asyncio
async def test_a_reset(driven: KernelClient) -> None:
    kernel_id = driven.kernel_id
    call = await begun(driven, SLEEPS)
    async with asyncio.timeout(HANG):
        await driven.reset()
        with pytest.raises(KernelDiedError) as caught:
            await call
    assert caught.value.exit == ExitStatus("restarted", detail="reset() was called")
    assert caught.value.during_execution
    assert driven.kernel_id == kernel_id
    assert (await driven.execute(PRINT)).execution_count == 1


# ---- questions ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_questions_are_answered(driven: KernelClient) -> None:
    asked: list[tuple[str, bool]] = []

    async def answer(prompt: str, password: bool) -> str:
        asked.append((prompt, password))
        return "Ada"

    for code in (ASKS, ASKS, ASKS_SECRETLY):
        events, result = await events_of(driven, code, on_input=answer)
        assert isinstance(events[0], InputRequest)
        assert events[1:] == [StreamOutput("stdout", "Ada\n")]
        assert result.stdout == "Ada\n"
    assert asked == [("name? ", False)] * 2 + [("word? ", True)]


@pytest.mark.parametrize("code", [ASKS, ASKS_SECRETLY])
@pytest.mark.asyncio
async def test_questions_that_nobody_answers_raise(driven: KernelClient, code: str) -> None:
    with pytest.raises(ExecutionError) as caught:
        async with asyncio.timeout(HANG):
            await driven.execute(code)
    assert caught.value.name == "StdinNotImplementedError"
    assert caught.value.value.endswith("was called, but this frontend does not support input requests.")
    assert caught.value.result is not None
    assert [type(output) for output in caught.value.result.outputs] == [ErrorOutput]


@pytest.mark.asyncio
async def test_a_question_that_is_never_answered_runs_into_the_timeout(driven: KernelClient) -> None:
    async def never(prompt: str, password: bool) -> str:
        await asyncio.Event().wait()
        return ""

    with pytest.raises(ExecutionTimeoutError) as caught:
        async with asyncio.timeout(HANG):
            await driven.execute(ASKS, timeout=0.5, on_input=never)
    assert caught.value.state_preserved
    await still_works(driven)


@pytest.mark.asyncio
async def test_a_callback_that_fails_ends_the_call_and_not_the_client(driven: KernelClient) -> None:
    def fail(prompt: str, password: bool) -> str:
        raise LookupError("no answer")

    with pytest.raises(LookupError, match="no answer"):
        async with asyncio.timeout(HANG):
            await driven.execute(ASKS, on_input=fail)
    await still_works(driven)


# ---- images and limits --------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_images_are_saved(make: Make, tmp_path: Path) -> None:
    async with make(images_dir=tmp_path / "images") as client:
        events, result = await events_of(client, SHOWS)
    (image,) = result.images
    assert image.parent == tmp_path / "images"
    assert image.read_bytes().startswith(b"\x89PNG")
    assert [event.image for event in events if isinstance(event, DisplayOutput)] == [image]
    assert [output.image for output in result.outputs if isinstance(output, DisplayOutput)] == [image]


@pytest.mark.asyncio
async def test_an_image_that_is_none(driven: KernelClient) -> None:
    with pytest.raises(ImageWriteError) as caught:
        await driven.execute(SHOWS_RUBBISH)
    assert caught.value.result is not None
    assert (caught.value.result.stdout, caught.value.result.images) == ("and on\n", [])


@pytest.mark.asyncio
async def test_an_image_directory_that_stays_empty(make: Make, tmp_path: Path) -> None:
    async with make(images_dir=tmp_path / "images") as client:
        await client.execute(PRINT)
    assert not (tmp_path / "images").exists()


@pytest.mark.asyncio
async def test_an_output_limit(make: Make, tmp_path: Path) -> None:
    async with make(images_dir=tmp_path / "images", output_limit=OutputLimit(head=5, tail=5)) as client:
        result = await client.execute("print('x' * 100)")
        other = await client.execute("print('x' * 100)", output_limit=OutputLimit(head=100, tail=100))
    assert result.dropped == 91
    assert result.full_text is not None
    assert result.full_text.read_text() == "x" * 100 + "\n"
    assert other.dropped == 0


# ---- connected or not ---------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_before_connecting_and_after_disconnecting(make: Make) -> None:
    client = make()

    async def refuses() -> None:
        assert not client.is_connected
        assert client.cursor is None
        with pytest.raises(RuntimeError, match="not connected to a kernel"):
            _ = client.kernel_id
        for call in (client.execute(PRINT), client.reset(), client.interrupt()):
            with pytest.raises(RuntimeError, match="not connected to a kernel"):
                await call
        with pytest.raises(RuntimeError, match="not connected to a kernel"):
            client.attach("e1")
        with pytest.raises(RuntimeError, match="not connected to a kernel"):
            async for _ in client.stream(PRINT):
                pass

    await refuses()
    await client.disconnect()
    await client.connect()
    with pytest.raises(RuntimeError, match=f"already connected to kernel {client.kernel_id}"):
        await client.connect()
    assert client.is_connected
    assert isinstance(client.cursor, int)
    await still_works(client)
    await client.disconnect()
    await client.disconnect()
    await refuses()
    async with client:
        assert (await client.execute(PRINT)).execution_count == 1


@pytest.mark.asyncio
async def test_disconnecting_while_calls_run_and_wait(make: Make) -> None:
    client = make()
    await client.connect()
    first = await begun(client, SLEEPS)
    second = asyncio.create_task(client.execute(PRINT))
    await asyncio.sleep(0)
    async with asyncio.timeout(HANG):
        await client.disconnect()
        results = await asyncio.gather(first, second, return_exceptions=True)
    assert isinstance(results[0], ConnectionLostError)
    assert results[0].reason == "the client disconnected"
    assert results[0].result is not None
    assert results[0].result.stdout == "on\n"
    assert isinstance(results[1], IpyboxError | RuntimeError)


@pytest.mark.asyncio
async def test_a_kernel_to_join(make: Make, gateway: KernelGateway) -> None:
    async with KernelClient(gateway.host, gateway.port) as owner, make(kernel_id=owner.kernel_id) as client:
        assert client.kernel_id == owner.kernel_id
        await still_works(client)


# ---- following ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_an_execution_that_is_over_is_followed_from_its_beginning_and_from_later(driven: KernelClient) -> None:
    async with driven.run(IN_ORDER) as execution:
        events = [await anext(execution) for _ in range(2)]
        cursor = execution.cursor
        events += [event async for event in execution]
    assert cursor is not None
    async with asyncio.timeout(HANG), driven.attach(execution.id) as again:
        assert [event async for event in again] == events
        assert again.partial().stdout == "out 1\nout 2\nout 3\n"
    end = driven.cursor
    assert end is not None
    async with asyncio.timeout(HANG), driven.attach(execution.id, end) as again:
        assert [event async for event in again] == []
    with pytest.raises(ExecutionNotFoundError):
        async with driven.attach("0" * 32):
            pass


@pytest.mark.asyncio
async def test_following_an_execution_gives_its_error(driven: KernelClient) -> None:
    with pytest.raises(ExecutionError) as caught:
        await driven.execute(RAISES)
    assert caught.value.result is not None
    with pytest.raises(ExecutionError) as again:
        async with asyncio.timeout(HANG), driven.attach(caught.value.result.execution_id) as execution:
            await execution.result()
    assert str(again.value) == str(caught.value)


@pytest.mark.asyncio
async def test_following_live_disturbs_nothing(driven: KernelClient) -> None:
    async with asyncio.timeout(HANG), driven.run(SLEEPS) as execution:
        await anext(execution)
        async with driven.attach(execution.id) as left_early:
            assert await anext(left_early) == StreamOutput("stdout", "on\n")
        async with driven.attach(execution.id) as followed:
            assert await anext(followed) == StreamOutput("stdout", "on\n")
            await driven.interrupt()
            for each in (followed, execution):
                with pytest.raises(ExecutionError, match="KeyboardInterrupt"):
                    await each.result()


# ---- arguments ----------------------------------------------------------------------------------------------------

NONSENSE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"code": 5}, TypeError, "code"),
    ({"code": PRINT, "timeout": 0}, ValueError, "timeout"),
    ({"code": PRINT, "timeout": "1"}, TypeError, "timeout"),
    ({"code": PRINT, "env": {"A": 1}}, TypeError, "env"),
    ({"code": PRINT, "cwd": ""}, ValueError, "cwd"),
    ({"code": PRINT, "file_name": 1}, TypeError, "file_name"),
    ({"code": PRINT, "argv": "a"}, TypeError, "argv"),
    ({"code": PRINT, "on_input": 1}, TypeError, "on_input"),
    ({"code": PRINT, "output_limit": 1}, TypeError, "output_limit"),
]


@pytest.mark.asyncio
async def test_arguments_that_make_no_sense(driven: KernelClient) -> None:
    for arguments, kind, name in NONSENSE:
        with pytest.raises(kind, match=name):
            await driven.execute(**arguments)
    for execution_id, after in (("../x", 0), ("e1", -1)):
        with pytest.raises(ValueError, match=r"execution_id|after"):
            driven.attach(execution_id, after)
    await still_works(driven)
