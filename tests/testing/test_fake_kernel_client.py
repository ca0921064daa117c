"""What the double of a kernel client promises, beyond that it behaves as the real one (``tests/kernels``)."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.errors import (
    ConnectionLostError,
    ExecutionError,
    ExecutionTimeoutError,
    GatewayConnectionError,
    ImageWriteError,
    KernelDiedError,
    KernelStartError,
    OutputLostError,
    UnexpectedExecutionError,
)
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr.client import KernelClient
from ipybox.output_limit import OutputLimit
from ipybox.outputs import ClearOutput, DisplayOutput, ErrorOutput, Event, ExecutionResult, InputRequest, StreamOutput
from ipybox.testing.fake_kernel_client import FakeKernelClient
from ipybox.testing.scripted_messages import Call

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
HANG = 10.0
"""Seconds after which something counts as hung."""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _nothing_is_complained_of(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Asyncio logs exceptions of tasks that nobody took notice of."""
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        yield
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


async def said(client: KernelClient, *codes: str) -> list[str]:
    """What each code writes to stdout."""
    async with asyncio.timeout(HANG):
        return [(await client.execute(code)).stdout for code in codes]


async def events_of(client: KernelClient, code: str) -> list[Event]:
    async with asyncio.timeout(HANG), client.run(code) as execution:
        return [event async for event in execution]


async def forever(code: str) -> str:
    await asyncio.Event().wait()
    return ""


# ---- the interface ------------------------------------------------------------------------------------------------

PUBLIC = [name for name in dir(KernelClient) if not name.startswith("_")]


@pytest.mark.parametrize("name", [*PUBLIC, "__aenter__", "__aexit__"])
def test_each_public_name_of_the_client_is_there_with_the_same_parameters(name: str) -> None:
    real, double = (inspect.getattr_static(cls, name) for cls in (KernelClient, FakeKernelClient))
    assert type(real) is type(double)
    if not isinstance(real, property):
        assert inspect.signature(double).parameters == inspect.signature(real).parameters
        assert inspect.iscoroutinefunction(double) == inspect.iscoroutinefunction(real)
        assert inspect.isasyncgenfunction(double) == inspect.isasyncgenfunction(real)


def test_it_is_made_with_the_arguments_of_the_client_and_two_more() -> None:
    real = inspect.signature(KernelClient).parameters
    double = dict(inspect.signature(FakeKernelClient).parameters)
    own = [double.pop("responses"), double.pop("default_response")]
    assert list(double.items()) == list(real.items())
    assert {(parameter.kind, parameter.default) for parameter in own} == {(inspect.Parameter.KEYWORD_ONLY, None)}


def test_each_attribute_of_the_client_has_the_value_that_it_has_there(tmp_path: Path) -> None:
    def attributes(client: KernelClient) -> dict[str, Any]:
        return {name: value for name, value in vars(client).items() if not name.startswith("_")}

    options: dict[str, Any] = {"images_dir": tmp_path, "interrupt_grace": 1, "output_limit": OutputLimit()}
    for arguments in ({}, options):
        assert attributes(FakeKernelClient("h", 1, **arguments)) == attributes(KernelClient("h", 1, **arguments))


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"port": "x"}, TypeError), ({"connect_timeout": 0}, ValueError), ({"on_input": 1}, TypeError)],
)
def test_arguments_of_the_client_are_checked_as_there(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=next(iter(options))):
        FakeKernelClient(**options)


class Program:
    """Code under test that makes its own client."""

    client_class = KernelClient

    async def run(self) -> str:
        async with self.client_class("localhost", 4711, auth_token="t") as client:
            return (await client.execute("1")).stdout


@pytest.mark.asyncio
async def test_it_can_take_the_place_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "client_class", functools.partial(FakeKernelClient, responses={"1": "one"}))
    assert await Program().run() == "one"
    assert isinstance(FakeKernelClient(), KernelClient)


@pytest.mark.asyncio
async def test_nothing_is_connected_started_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("the double must not do that")

    monkeypatch.setattr(socket.socket, "connect", never)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    monkeypatch.setattr(subprocess, "Popen", never)
    async with FakeKernelClient.from_responses({}, "x") as client:
        await client.execute("1")
        await client.reset()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.asyncio
async def test_each_connection_has_a_kernel_of_its_own_unless_one_is_named() -> None:
    client = FakeKernelClient(default_response="")
    async with client:
        first = client.kernel_id
        assert (await client.execute("1")).execution_count == 1
    async with client:
        assert client.kernel_id != first
        assert (await client.execute("1")).execution_count == 1
    async with FakeKernelClient(kernel_id="mine") as named:
        assert named.kernel_id == "mine"


@pytest.mark.asyncio
async def test_options_need_a_kernel_of_ours_as_they_do_in_reality() -> None:
    async with FakeKernelClient(default_response="", kernel_name="python3") as client:
        with pytest.raises(ValueError, match="'python3'"):
            await client.execute("1", env={"A": "a"})
        await client.execute("1")
    assert [call.env for call in client.calls] == [None]


# ---- which response answers ---------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_exact_code_comes_first_and_then_the_order_of_registration() -> None:
    responses: dict[Any, Any] = {
        re.compile(r"p\d+"): ["pattern"] * 9,
        (lambda code: code.startswith("p")): ["function"] * 9,
        re.compile("pq"): ["too late"] * 9,
        "p1": ["exact"] * 9,
    }
    async with FakeKernelClient.from_responses(responses) as client:
        assert await said(client, "p1", "p2", "pq") == ["exact", "pattern", "function"]


@pytest.mark.asyncio
async def test_a_text_is_exactly_the_code_and_a_pattern_matches_all_of_it() -> None:
    async with FakeKernelClient.from_responses({"x.": "text", re.compile("y.*"): "pattern"}) as client:
        for code in ("x1", "x. ", " x.", "ay", "y\n2", ""):
            with pytest.raises(UnexpectedExecutionError):
                await client.execute(code)
        assert await said(client, "x.", "y = 1") == ["text", "pattern"]


@pytest.mark.asyncio
async def test_responses_are_used_in_their_order_and_once() -> None:
    async with FakeKernelClient.from_responses({"a": ["1", "2"], "b": "only"}) as client:
        assert await said(client, "a", "b", "a") == ["1", "only", "2"]
        for code, reason in (("a", "all 2 responses for it are used up"), ("b", "its only response is used up")):
            with pytest.raises(UnexpectedExecutionError, match=reason):
                await client.execute(code)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=30))
def test_queues_are_first_in_first_out_however_they_are_filled(steps: list[tuple[str, bool]]) -> None:
    async def run() -> None:
        waiting: dict[str, list[str]] = {"a": [], "b": []}
        async with FakeKernelClient(default_response="default") as client:
            for number, (key, is_filled) in enumerate(steps):
                if is_filled:
                    client.enqueue(key, str(number))
                    waiting[key].append(str(number))
                else:
                    expected = waiting[key].pop(0) if waiting[key] else "default"
                    assert await said(client, key) == [expected]
            assert {key: left for key, left in client.unused.items() if left} == {
                key: len(left) for key, left in waiting.items() if left
            }

    asyncio.run(run())


@pytest.mark.asyncio
async def test_the_default_is_for_unknown_code_and_for_what_is_used_up_and_is_never_used_up_itself() -> None:
    async with FakeKernelClient.from_responses({"a": ["1"]}, default_response=["d", "e"]) as client:
        assert await said(client, "a", "a", "b", "b") == ["1", "de", "de", "de"]
    client.assert_all_used()


@pytest.mark.asyncio
async def test_the_first_key_that_matches_decides_also_when_its_responses_are_used_up() -> None:
    responses: dict[Any, Any] = {"a": "exact", re.compile("."): "pattern"}
    async with FakeKernelClient.from_responses(responses, "default") as client:
        assert await said(client, "a", "a", "b", "c") == ["exact", "default", "pattern", "default"]


@pytest.mark.asyncio
async def test_responses_can_be_added_at_any_time() -> None:
    client = FakeKernelClient()
    client.enqueue("a", "1")
    async with client:
        client.enqueue("a", "2", "3")
        client.enqueue(re.compile("b"), ["4", StreamOutput("stdout", "5")])
        assert await said(client, "a", "a", "a", "b") == ["1", "2", "3", "45"]


def test_responses_are_added_all_or_none() -> None:
    client = FakeKernelClient()
    with pytest.raises(TypeError, match="response 2 for 'a'"):
        client.enqueue("a", "1", 2)  # type: ignore[arg-type]
    assert client.unused == {}


@pytest.mark.asyncio
async def test_code_without_a_response_is_told_with_what_there_is_and_harms_nothing() -> None:
    def own(code: str) -> bool:
        return False

    responses: dict[Any, Any] = {"a": "1", re.compile("b+"): [], own: "2"}
    async with FakeKernelClient.from_responses(responses) as client:
        with pytest.raises(UnexpectedExecutionError) as caught:
            await client.execute("c")
        assert caught.value.code == "c"
        assert caught.value.expected[:2] == ("'a'", "re.compile('b+')")
        assert "own (line " in caught.value.expected[2]
        assert isinstance(caught.value, RuntimeError)
        with pytest.raises(UnexpectedExecutionError, match="its list is empty"):
            await client.execute("bb")
        with pytest.raises(UnexpectedExecutionError):
            async with client.run("c"):
                pass
        assert await said(client, "a") == ["1"]
    assert client.executed == ["c", "bb", "c", "a"]


@pytest.mark.asyncio
async def test_a_key_that_fails_is_told_and_harms_nothing() -> None:
    def fails(code: str) -> bool:
        raise LookupError(code)

    async with FakeKernelClient.from_responses({fails: "1", "a": "2"}) as client:
        with pytest.raises(LookupError, match="b"):
            await client.execute("b")
        assert await said(client, "a") == ["2"]


# ---- what a response does -----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_result_is_returned_as_it_is() -> None:
    for result in (
        ExecutionResult("only text"),
        ExecutionResult(None),
        ExecutionResult("t", [Path("a.png")], "out", "err", (ErrorOutput("E", "v", ""),), "e1", 7, 2.5, 3, Path("f")),
    ):
        async with FakeKernelClient(default_response=result, output_limit=OutputLimit(head=1, tail=1)) as client:
            assert await client.execute("1") is result
            assert [piece async for piece in client.stream("1")][-1] is result


@pytest.mark.parametrize(
    ("result", "pieces"),
    [
        (ExecutionResult("t"), ["t"]),
        (ExecutionResult("o\ne", stdout="o\n", stderr="e"), ["o\n", "e"]),
        (ExecutionResult("oe", stdout="o", stderr="e", outputs=(StreamOutput("stderr", "e"),)), ["e"]),
        (ExecutionResult("o5", stdout="o", outputs=(DisplayOutput("display_data", {"text/plain": "5"}),)), ["o", "5"]),
        (ExecutionResult(None), []),
    ],
)
@pytest.mark.asyncio
async def test_a_result_is_streamed_as_what_it_may_have_been_made_from(
    result: ExecutionResult, pieces: list[str]
) -> None:
    async with FakeKernelClient.from_responses({"1": result}) as client:
        assert [piece async for piece in client.stream("1")] == [*pieces, result]


@pytest.mark.asyncio
async def test_events_come_in_their_order_and_make_the_result() -> None:
    events: list[Event] = [
        StreamOutput("stdout", "a"),
        StreamOutput("stderr", "b"),
        DisplayOutput("display_data", {"text/html": "<b>"}, {"text/html": {"isolated": True}}, "d1"),
        DisplayOutput("update_display_data", {"text/plain": "new"}, display_id="d1"),
        StreamOutput("stdout", "c"),
        StreamOutput("stdout", "d"),
        DisplayOutput("execute_result", {"text/plain": "e", "application/json": {"k": [1, None]}}, {}, None, 4),
    ]
    async with FakeKernelClient.from_responses({"1": [events, tuple(events)]}) as client:
        assert await events_of(client, "1") == events
        result = await client.execute("1")
    assert result.text == "abnewcde"
    assert (result.stdout, result.stderr) == ("acd", "b")
    assert result.outputs == (
        *events[:2],
        DisplayOutput("display_data", {"text/plain": "new"}, display_id="d1"),
        StreamOutput("stdout", "cd"),
        events[-1],
    )


@pytest.mark.asyncio
async def test_an_error_among_the_events_is_the_error_of_the_code() -> None:
    events = ["a", ErrorOutput("E", "v", "t1\nt2"), "from a thread"]
    async with FakeKernelClient.from_responses({"1": [events]}) as client:
        with pytest.raises(ExecutionError) as caught:
            await client.execute("1")
    assert (caught.value.name, caught.value.value, caught.value.traceback) == ("E", "v", "t1\nt2")
    assert caught.value.result is not None
    assert caught.value.result.stdout == "afrom a thread"


@pytest.mark.asyncio
async def test_an_exception_at_the_end_of_events_is_raised_after_them() -> None:
    async with FakeKernelClient.from_responses({"1": [["a", ClearOutput(False), ValueError("x")]]}) as client:
        events: list[Event] = []
        with pytest.raises(ValueError, match="x"):
            async with client.run("1") as execution:
                async for event in execution:
                    events.append(event)
    assert events == [StreamOutput("stdout", "a"), ClearOutput(False)]


ERRORS: list[Any] = [
    ExecutionError("E", "v", "t"),
    ExecutionTimeoutError(2.5),
    ExecutionTimeoutError(2.5, state_preserved=False),
    KernelDiedError(ExitStatus("memory", signal=9)),
    ConnectionLostError("reset by peer"),
    OutputLostError("3 messages are gone", lost=3),
    ImageWriteError("a.png", "it is a link"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.asyncio
async def test_an_error_of_ours_carries_the_result_of_its_own_execution(error: Any) -> None:
    async with FakeKernelClient.from_responses({"1": [["first", error]], "2": [["second", error]]}) as client:
        seen = []
        for code in ("1", "2"):
            with pytest.raises(type(error)) as caught:
                await client.execute(code, 30)
            seen.append(caught.value.result)
            assert str(caught.value) == str(error)
    assert [result.stdout for result in seen] == ["first", "second"]
    assert error.result is None


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.asyncio
async def test_an_error_without_events_is_raised_in_every_way_to_run_code(error: Any) -> None:
    async with FakeKernelClient.from_responses({}, error) as client:
        with pytest.raises(type(error)):
            await client.execute("1")
        with pytest.raises(type(error)):
            async for _ in client.stream("1"):
                pass
        async with client.run("1") as execution:
            with pytest.raises(type(error)):
                await execution.result()
            assert (await execution.result()).stdout == ""


@pytest.mark.asyncio
async def test_a_result_that_an_error_has_already_is_kept_and_its_text_comes_first() -> None:
    result = ExecutionResult("half", stdout="half\n", execution_id="e7")
    errors: list[Any] = [ExecutionError("E", "v", "", result), ExecutionTimeoutError(1, result)]
    for error in errors:
        pieces = []
        async with FakeKernelClient.from_responses({"1": error}) as client:
            with pytest.raises(type(error)) as caught:
                async for piece in client.stream("1"):
                    pieces.append(piece)
        assert caught.value.result is result
        assert pieces == ["half\n"]


@pytest.mark.asyncio
async def test_exceptions_of_others_are_raised_as_they_are() -> None:
    given = LookupError("x")
    async with FakeKernelClient.from_responses({"1": [given, OSError]}) as client:
        with pytest.raises(LookupError) as caught:
            await client.execute("1")
        assert caught.value is given
        with pytest.raises(OSError, match=r"^$"):
            await client.execute("1")


@pytest.mark.asyncio
async def test_a_timeout_as_a_class_has_the_timeout_of_the_call() -> None:
    async with FakeKernelClient.from_responses({"1": [ExecutionTimeoutError] * 3}) as client:
        for timeout in (2, 30.5):
            with pytest.raises(ExecutionTimeoutError) as caught:
                await client.execute("1", timeout)
            assert caught.value.timeout == timeout
        with pytest.raises(ValueError, match=r"this call has none; give an instance, such as ExecutionTimeoutError\(5"):
            await client.execute("1")


@pytest.mark.asyncio
async def test_a_dead_kernel_as_a_class_died_of_nobody_knows_what() -> None:
    async with FakeKernelClient.from_responses({"1": KernelDiedError}, "") as client:
        await client.execute("0")
        with pytest.raises(KernelDiedError) as caught:
            await client.execute("1")
        assert (caught.value.exit.reason, caught.value.during_execution) == ("unknown", True)
        assert (await client.execute("2")).execution_count == 1


@pytest.mark.parametrize(
    "error",
    [
        KernelDiedError(ExitStatus("exited", code=4), during_execution=False),
        KernelStartError("exit code 3"),
        GatewayConnectionError("http://localhost:1", "nobody listens"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.asyncio
async def test_an_error_for_which_code_does_not_run_is_raised_on_entering(error: Any) -> None:
    async with FakeKernelClient.from_responses({"1": [error, error]}, "") as client:
        with pytest.raises(type(error)):
            async with client.run("1"):
                raise AssertionError("entered")
        with pytest.raises(type(error)) as caught:
            await client.execute("1")
        assert vars(caught.value) == vars(error)
        assert (await client.execute("2")).execution_count == 1
    assert client.executed == ["1", "1", "2"]


@pytest.mark.asyncio
async def test_a_lost_connection_can_be_picked_up_where_it_broke() -> None:
    async with FakeKernelClient.from_responses({"1": [["a", "b", ConnectionLostError("reset by peer")]]}) as client:
        with pytest.raises(ConnectionLostError) as caught:
            await client.execute("1")
        lost = caught.value
        assert lost.execution_id is not None
        assert lost.cursor is not None
        async with client.attach(lost.execution_id, lost.cursor) as rest:
            assert (await rest.result()).stdout == ""
        async with client.attach(lost.execution_id) as everything:
            assert (await everything.result()).stdout == "ab"


@pytest.mark.asyncio
async def test_following_gives_the_result_and_the_death_that_the_caller_got() -> None:
    result = ExecutionResult("x", execution_id="else")
    dead = KernelDiedError(ExitStatus("exited", code=3))
    async with FakeKernelClient.from_responses({"1": result, "2": dead}) as client:
        async with client.run("1") as execution:
            await execution.result()
        async with client.attach(execution.id) as again:
            assert await again.result() is result
        with pytest.raises(KernelDiedError):
            async with client.run("2") as execution:
                await execution.result()
        async with client.attach(execution.id) as again:
            with pytest.raises(KernelDiedError, match="exit code 3"):
                await again.result()


@pytest.mark.asyncio
async def test_who_follows_is_told_when_the_kernel_is_replaced_or_the_client_leaves() -> None:
    client = FakeKernelClient.from_responses({}, forever)
    for leave, reason in ((client.reset, "restarted"), (client.disconnect, "unknown")):
        if not client.is_connected:
            await client.connect()
        async with asyncio.timeout(HANG), client.run("1") as execution, client.attach(execution.id) as followed:
            await leave()
            with pytest.raises(KernelDiedError) as caught:
                await followed.result()
            assert caught.value.exit.reason == reason


# ---- functions ----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_function_gets_the_code_and_gives_any_response() -> None:
    async def later(code: str) -> Any:
        await asyncio.sleep(0)
        return [code, ExecutionError("E", code)]

    result = ExecutionResult("r")
    responses: dict[Any, Any] = {"a": str.upper, "b": lambda code: result, "c": later, "d": lambda code: LookupError}
    async with FakeKernelClient.from_responses(responses) as client:
        assert await said(client, "a") == ["A"]
        assert await client.execute("b") is result
        with pytest.raises(ExecutionError) as caught:
            await client.execute("c")
        assert caught.value.result is not None
        assert caught.value.result.stdout == "c"
        with pytest.raises(LookupError):
            await client.execute("d")


@pytest.mark.asyncio
async def test_what_a_function_raises_is_what_the_code_raises() -> None:
    def fails(code: str) -> str:
        raise ExecutionError("E", code)

    async def fails_later(code: str) -> str:
        raise LookupError(code)

    async def fails_on_the_way(code: str) -> AsyncIterator[str]:
        yield "before"
        raise ExecutionError("E", code)

    def gives_up(code: str) -> str:
        pytest.fail(f"unexpected {code}")

    responses = {"a": fails, "b": fails_later, "c": fails_on_the_way, "d": gives_up}
    async with FakeKernelClient.from_responses(responses, "") as client:
        with pytest.raises(ExecutionError, match="E: a"):
            await client.execute("a")
        with pytest.raises(LookupError, match="b"):
            await client.execute("b")
        with pytest.raises(ExecutionError, match="E: c") as caught:
            await client.execute("c")
        assert caught.value.result is not None
        assert caught.value.result.outputs == (StreamOutput("stdout", "before"), ErrorOutput("E", "c", ""))
        with pytest.raises(pytest.fail.Exception, match="unexpected d"):
            await client.execute("d")
        await client.execute("e")


@pytest.mark.parametrize("given", [5, None, {"stdout": "x"}, lambda code: "x", ["x", 5], StreamOutput("stdout", "x")])
@pytest.mark.asyncio
async def test_a_function_that_gives_no_response_is_told(given: Any) -> None:
    async def later(code: str) -> Any:
        return given

    async with FakeKernelClient.from_responses({"now": lambda code: given, "later": later}, "") as client:
        for code in ("now", "later"):
            with pytest.raises(TypeError, match=f"the response to '{code}'"):
                await client.execute(code)
        await client.execute("1")


@pytest.mark.asyncio
async def test_an_async_generator_gives_events_when_they_happen_and_gets_answers() -> None:
    go_on = asyncio.Event()

    async def live(code: str) -> AsyncIterator[Any]:
        yield "first"
        await go_on.wait()
        name = yield InputRequest("name? ", False)
        yield StreamOutput("stderr", f"hello {name}")

    async with FakeKernelClient(responses={"1": live}, on_input=lambda prompt, password: "Ada") as client:
        async with asyncio.timeout(HANG), client.run("1") as execution:
            assert await anext(execution) == StreamOutput("stdout", "first")
            assert execution.partial().text == "first"
            go_on.set()
            assert (await execution.result()).stderr == "hello Ada"
    assert client.calls[0].answers == ["Ada"]


@pytest.mark.asyncio
async def test_an_async_generator_that_yields_nonsense_is_told() -> None:
    async def live(code: str) -> AsyncIterator[Any]:
        yield "first"
        yield 5

    async with FakeKernelClient.from_responses({"1": live}) as client:
        with pytest.raises(TypeError, match="each part must be an event"):
            await client.execute("1")


@pytest.mark.asyncio
async def test_a_function_is_cancelled_by_a_timeout_a_cancellation_a_reset_and_the_end() -> None:
    begun: asyncio.Queue[str] = asyncio.Queue()
    cleaned: list[str] = []

    async def waits(code: str) -> str:
        begun.put_nowait(code)
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(code)
        return ""

    async with asyncio.timeout(HANG):
        async with FakeKernelClient.from_responses({}, waits) as client:
            with pytest.raises(ExecutionTimeoutError) as caught:
                await client.execute("timeout", 0.01)
            assert caught.value.state_preserved
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.execute("cancellation"), 0.01)
            assert [begun.get_nowait(), begun.get_nowait()] == ["timeout", "cancellation"]
            for end in (client.reset, client.disconnect):
                call = asyncio.create_task(client.execute(end.__name__))
                assert await begun.get() == end.__name__
                await end()
                with pytest.raises((KernelDiedError, ConnectionLostError)):
                    await call
    assert cleaned == ["timeout", "cancellation", "reset", "disconnect"]


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.asyncio
async def test_a_call_that_is_cancelled_at_any_moment_leaves_nothing_behind(turns: int) -> None:
    async with FakeKernelClient.from_responses({"1": forever}, "next") as client:
        for end in (client.interrupt, client.reset, None):
            client.enqueue("1", forever)
            call = asyncio.create_task(client.execute("1"))
            for _ in range(turns):
                await asyncio.sleep(0)
            if end is not None:
                await end()
            call.cancel()
            await asyncio.wait([call])
            assert await said(client, "2") == ["next"]


@pytest.mark.asyncio
async def test_a_function_can_survive_an_interrupt_as_code_can() -> None:
    async def catches(code: str) -> AsyncIterator[str]:
        try:
            yield "on"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield "caught"

    async with asyncio.timeout(HANG), FakeKernelClient.from_responses({"1": catches}) as client:
        async with client.run("1") as execution:
            await anext(execution)
            await client.interrupt()
            assert (await execution.result()).stdout == "oncaught"


@pytest.mark.asyncio
async def test_a_function_that_goes_on_after_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    begun, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def is_deaf(code: str) -> str:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                pass
        ended.set()
        return ""

    client = FakeKernelClient.from_responses({}, is_deaf)
    await client.connect()
    call = asyncio.create_task(client.execute("1"))
    await begun.wait()
    await client.disconnect()
    with pytest.raises(ConnectionLostError):
        await call
    assert "functions of responses that go on although they were cancelled: 1" in caplog.text
    release.set()
    await ended.wait()


# ---- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [{"text/plain": "<Figure>"}, {"image/png": PNG}, {"image/png": "no base64!"}])
@pytest.mark.asyncio
async def test_a_display_that_says_where_its_image_is_passes_through(data: dict[str, str], tmp_path: Path) -> None:
    shown = DisplayOutput("display_data", data, image=Path("elsewhere/plot.png"))
    async with FakeKernelClient.from_responses({"1": [[shown], [shown]]}) as client:
        assert await events_of(client, "1") == [shown]
        result = await client.execute("1")
    assert result.images == [Path("elsewhere/plot.png")]
    assert result.outputs == (shown,)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.asyncio
async def test_a_display_with_image_data_is_saved_as_the_client_saves_it(tmp_path: Path) -> None:
    shown = DisplayOutput("display_data", {"image/png": PNG})
    async with FakeKernelClient.from_responses({"1": [[shown]]}) as client:
        result = await client.execute("1")
    (image,) = result.images
    assert (tmp_path / image).read_bytes().startswith(b"\x89PNG")
    assert image.parent == Path("images")


@pytest.mark.asyncio
async def test_nothing_of_a_result_is_saved(tmp_path: Path) -> None:
    shown = DisplayOutput("display_data", {"image/png": PNG})
    result = ExecutionResult(None, outputs=(shown,))
    async with FakeKernelClient.from_responses({"1": [result, ExecutionError("E", "v", "", result)]}) as client:
        assert await events_of(client, "1") == [shown]
        with pytest.raises(ExecutionError):
            await client.execute("1")
    assert list(tmp_path.iterdir()) == []


# ---- what was asked for -------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_calls_are_recorded_with_their_arguments_in_the_order_in_which_they_run() -> None:
    def answer(prompt: str, password: bool) -> str:
        return "a"

    limit = OutputLimit()
    async with FakeKernelClient.from_responses({}, "") as client:
        await asyncio.gather(client.execute("1"), client.execute("2", 5))
        async for _ in client.stream("3", timeout=2.5, cwd="/"):
            pass
        async with client.run("4", env={"A": "a"}, file_name="f", argv=["x"], on_input=answer, output_limit=limit):
            pass
    assert client.executed == ["1", "2", "3", "4"]
    assert client.calls == [
        Call("1"),
        Call("2", 5),
        Call("3", 2.5, cwd="/"),
        Call("4", None, {"A": "a"}, None, "f", ["x"], answer, limit),
    ]


@pytest.mark.asyncio
async def test_what_never_runs_is_not_recorded() -> None:
    begun = asyncio.Event()

    async def waits(code: str) -> str:
        begun.set()
        return await forever(code)

    async with FakeKernelClient.from_responses({"1": waits}, "") as client:
        client.run("never entered")
        with pytest.raises(TypeError):
            await client.execute("wrong", argv="x")  # type: ignore[arg-type]
        first = asyncio.create_task(client.execute("1"))
        second = asyncio.create_task(client.execute("cancelled while it waits"))
        await asyncio.sleep(0)
        second.cancel()
        await begun.wait()
        await client.interrupt()
        await asyncio.gather(first, second, return_exceptions=True)
        await client.execute("3")
    assert client.executed == ["1", "3"]


@pytest.mark.asyncio
async def test_what_is_left_is_told_by_key() -> None:
    pattern = re.compile("b")
    client = FakeKernelClient.from_responses({"a": ["1", "2"], pattern: "3", "c": "4", "d": []})
    async with client:
        await said(client, "a", "c")
    assert client.unused == {"a": 1, pattern: 1, "d": 0}
    with pytest.raises(AssertionError) as caught:
        client.assert_all_used()
    assert str(caught.value).splitlines() == [
        "responses were not used:",
        "  'a': 1 of 2 left",
        "  re.compile('b'): 1 of 1 left; no code matched it",
        "  'd': 0 of 0 left; no code matched it",
    ]
    async with client:
        await said(client, "a", "b")
        with pytest.raises(UnexpectedExecutionError):
            await client.execute("d")
    client.assert_all_used()


@pytest.mark.asyncio
async def test_that_code_was_executed_can_be_asserted() -> None:
    client = FakeKernelClient.from_responses({}, "")
    with pytest.raises(AssertionError, match="'a' was not executed; nothing was executed"):
        client.assert_executed("a")
    client.assert_executed("a", times=0)
    async with client:
        await said(client, "a", "a", "b1")
    client.assert_executed("a")
    client.assert_executed("a", times=2)
    client.assert_executed("b", times=0)
    client.assert_executed(re.compile("b."), 1)
    client.assert_executed(lambda code: len(code) == 1, 2)
    with pytest.raises(AssertionError, match="'a' was executed 2 times, expected 1; executed were"):
        client.assert_executed("a", times=1)
    with pytest.raises(AssertionError) as caught:
        client.assert_executed("c")
    assert str(caught.value).splitlines() == ["'c' was not executed; executed were:", "  'a'", "  'a'", "  'b1'"]
    for times, kind in ((-1, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(kind, match="times"):
            client.assert_executed("a", times=times)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_that_exactly_this_code_was_executed_can_be_asserted() -> None:
    client = FakeKernelClient.from_responses({}, "")
    client.assert_executions([])
    async with client:
        await said(client, "a", "b")
    client.assert_executions(["a", "b"])
    client.assert_executions(["a", re.compile("[b]")])
    with pytest.raises(AssertionError, match="execution 2 was 'b' and not 'c'"):
        client.assert_executions(["a", "c"])
    with pytest.raises(AssertionError, match="there were 2 executions and not 3; 'c' is missing"):
        client.assert_executions(["a", "b", "c"])
    with pytest.raises(AssertionError, match="there were 2 executions and not 1"):
        client.assert_executions(["a"])
    with pytest.raises(TypeError, match="must be a list"):
        client.assert_executions("a")


# ---- what makes no sense ------------------------------------------------------------------------------------------


async def _coroutine_function(code: str) -> bool:
    return True


@pytest.mark.parametrize(
    ("responses", "kind", "told"),
    [
        ("x", TypeError, "responses must be a mapping"),
        ({5: "x"}, TypeError, "a key must be a str"),
        ({str: "x"}, TypeError, "a key must be a str"),
        ({re.compile(b"x"): "x"}, TypeError, "a pattern of text, not of bytes"),
        ({_coroutine_function: "x"}, TypeError, "a plain function of one argument"),
        ({(lambda: True): "x"}, TypeError, "a plain function of one argument"),
        ({"a": 5}, TypeError, "response 1 for 'a': a response must be .*, got 5"),
        ({"a": None}, TypeError, "response 1 for 'a'"),
        ({"a": b"x"}, TypeError, "response 1 for 'a'"),
        ({"a": {"stdout": "x"}}, TypeError, "response 1 for 'a'"),
        ({"a": ["x", 5]}, TypeError, "response 2 for 'a'"),
        ({"a": StreamOutput("stdout", "x")}, TypeError, "put events into a list, also a single one"),
        ({"a": [StreamOutput("stdout", "x")]}, TypeError, "put events into a list, also a single one"),
        ({"a": [["x", 5]]}, TypeError, "each part must be an event .*, got 5"),
        ({"a": [["x", ExecutionResult("y")]]}, TypeError, "each part must be an event"),
        ({"a": [[ValueError(), "x"]]}, ValueError, "an exception ends the code, so it must be the last"),
        ({"a": ExecutionError}, TypeError, "ExecutionError needs arguments, so give an instance"),
        ({"a": lambda: "x"}, TypeError, "must be a function of one argument, the code"),
        ({"a": int}, TypeError, "response 1 for 'a'"),
        ({"a": [["x", KernelStartError("y")]]}, ValueError, "this KernelStartError says that the code did not run"),
    ],
)
def test_responses_that_make_no_sense_are_refused_at_once(responses: Any, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        FakeKernelClient.from_responses(responses)


def test_a_default_that_makes_no_sense_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="default_response: a response must be"):
        FakeKernelClient.from_responses({}, 5)  # type: ignore[arg-type]
