"""Messages in, events and a result out, whatever their order and whatever a kernel makes up."""

from __future__ import annotations

import os
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.execution_state import ExecutionState, plain
from ipybox.kernel_mgr.wire import Message
from ipybox.output_limit import OutputLimit
from ipybox.outputs import ClearOutput, DisplayOutput, ErrorOutput, ExecutionResult, InputRequest, StreamOutput
from ipybox.paths import PinnedDirectory

EXECUTION = "e1"
PNG = {"image/png": "iVBORw0KGgo="}


def message(type: str, /, **content: Any) -> Message:
    channel = {"execute_reply": "shell", "input_request": "stdin"}.get(type, "iopub")
    return Message(channel, {"msg_id": "m", "msg_type": type}, {"msg_id": EXECUTION}, {}, content)


def stream(text: str, name: str = "stdout") -> Message:
    return message("stream", name=name, text=text)


def display(text: str, type: str = "display_data", display_id: str | None = None, **data: Any) -> Message:
    transient = {"display_id": display_id} if display_id else {}
    return message(type, data={"text/plain": text, **data}, metadata={}, transient=transient)


IDLE = message("status", execution_state="idle")
BUSY = message("status", execution_state="busy")
REPLY = message("execute_reply", status="ok", execution_count=3, payload=[])


def state_after(*messages: Message, limit: OutputLimit | None = None) -> ExecutionState:
    state = ExecutionState(EXECUTION, limit)
    for each in messages:
        state.feed(each)
    return state


def result_of(*messages: Message) -> ExecutionResult:
    return state_after(*messages).result()


# ---- the end of an execution ------------------------------------------------------------------------------------

PIECES = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(max_size=8)), max_size=12)


@settings(deadline=None)
@given(PIECES, st.data())
def test_in_any_order_all_text_arrives_and_the_end_is_both_reply_and_idle(
    pieces: list[tuple[Any, str]], data: st.DataObject
) -> None:
    feed = [stream(text, name) for name, text in pieces]
    for marker in (BUSY, IDLE, REPLY):
        feed.insert(data.draw(st.integers(0, len(feed))), marker)
    state = ExecutionState(EXECUTION)
    seen: list[Message] = []
    events = []
    for each in feed:
        events += state.feed(each)
        seen.append(each)
        assert state.is_over == (any(m is REPLY for m in seen) and any(m is IDLE for m in seen))
    result = state.result()
    assert result.text == ("".join(text for _, text in pieces).strip() or None)
    assert result.stdout == "".join(text for name, text in pieces if name == "stdout")
    assert result.stderr == "".join(text for name, text in pieces if name == "stderr")
    assert events == [StreamOutput(name, text) for name, text in pieces if text]
    runs = groupby((piece for piece in pieces if piece[1]), key=lambda piece: piece[0])
    assert result.outputs == tuple(StreamOutput(name, "".join(text for _, text in run)) for name, run in runs)


@pytest.mark.parametrize("first", [IDLE, REPLY])
def test_half_of_the_end_is_not_the_end(first: Message) -> None:
    state = state_after(stream("x"), first, first)
    assert not state.is_over
    state.feed(REPLY if first is IDLE else IDLE)
    assert state.is_over


def test_a_kernel_that_is_busy_or_starting_is_not_idle() -> None:
    state = state_after(REPLY, BUSY, message("status", execution_state="starting"), message("status"))
    assert not state.is_over


def test_the_duration_ends_with_the_execution() -> None:
    state = state_after(IDLE, REPLY)
    duration = state.result().duration
    assert duration >= 0
    assert state.result().duration == duration


def test_a_message_of_an_unknown_type_means_nothing() -> None:
    state = ExecutionState(EXECUTION)
    assert state.feed(message("comm_open", data={})) == []
    assert state.feed(Message("iopub", {})) == []
    assert state.result().outputs == ()


@pytest.mark.parametrize(
    "counted",
    [message("execute_input", code="x", execution_count=3), REPLY, message("execute_reply", execution_count=3)],
)
def test_the_number_of_the_input_is_in_the_result(counted: Message) -> None:
    assert result_of(counted).execution_count == 3


# ---- outputs ----------------------------------------------------------------------------------------------------


def test_text_of_displays_comes_between_text_of_streams() -> None:
    result = result_of(stream("a\n"), display("<x>"), stream("b", "stderr"), display("42", "execute_result"))
    assert result.text == "a\n<x>b42"
    assert (result.stdout, result.stderr) == ("a\n", "b")
    assert [type(output).__name__ for output in result.outputs] == [
        "StreamOutput",
        "DisplayOutput",
        "StreamOutput",
        "DisplayOutput",
    ]


def test_only_white_space_is_no_text() -> None:
    result = result_of(stream(" \n\t"))
    assert result.text is None
    assert result.stdout == " \n\t"


def test_a_display_keeps_all_its_formats_and_facts() -> None:
    shown = message(
        "execute_result",
        data={"text/plain": "x", **PNG},
        metadata={"image/png": {"width": 3}},
        transient={"display_id": "d"},
        execution_count=7,
    )
    expected = DisplayOutput("execute_result", {"text/plain": "x", **PNG}, {"image/png": {"width": 3}}, "d", 7)
    assert state_after().feed(shown) == [expected]


def test_an_update_replaces_what_was_shown_in_its_place() -> None:
    result = result_of(display("old", display_id="d"), stream("x"), display("new", "update_display_data", "d"))
    assert [output.text for output in result.outputs if not isinstance(output, ErrorOutput)] == ["new", "x"]
    first = result.outputs[0]
    assert isinstance(first, DisplayOutput)
    assert first.kind == "display_data"
    assert result.text == "oldxnew"


def test_an_update_of_an_earlier_executions_display_is_an_output_of_its_own() -> None:
    result = result_of(display("new", "update_display_data", "d"))
    assert [output for output in result.outputs if isinstance(output, DisplayOutput)] == list(result.outputs)
    assert len(result.outputs) == 1


def test_the_saved_image_is_noted_with_its_display() -> None:
    state = ExecutionState(EXECUTION)
    (event,) = state.feed(display("", **PNG))
    assert isinstance(event, DisplayOutput)
    saved = state.attach_image(event, Path("images/a.png"))
    assert saved.image == Path("images/a.png")
    assert state.result().images == [Path("images/a.png")]
    assert state.result().outputs == (saved,)


def test_the_saved_image_of_an_update_is_noted_with_what_it_updated() -> None:
    state = state_after(display("", display_id="d"))
    (event,) = state.feed(display("", "update_display_data", "d", **PNG))
    assert isinstance(event, DisplayOutput)
    state.attach_image(event, Path("images/a.png"))
    (output,) = state.result().outputs
    assert isinstance(output, DisplayOutput)
    assert output.image == Path("images/a.png")
    assert output.kind == "display_data"


def test_equal_displays_keep_their_own_images() -> None:
    state = ExecutionState(EXECUTION)
    for name in ("a", "b"):
        (event,) = state.feed(display("", **PNG))
        assert isinstance(event, DisplayOutput)
        state.attach_image(event, Path(name))
    assert [output.image for output in state.result().outputs if isinstance(output, DisplayOutput)] == [
        Path("a"),
        Path("b"),
    ]


def test_clearing_takes_outputs_away_and_no_text() -> None:
    result = result_of(stream("a"), display("b"), message("clear_output", wait=False), stream("c"))
    assert result.outputs == (StreamOutput("stdout", "c"),)
    assert (result.text, result.stdout) == ("abc", "ac")


@pytest.mark.parametrize(
    "following", [stream("c"), display("c"), message("error", ename="E", evalue="v", traceback=[])]
)
def test_clearing_that_waits_happens_when_the_next_output_comes(following: Message) -> None:
    state = state_after(stream("a"))
    assert state.feed(message("clear_output", wait=True)) == [ClearOutput(True)]
    assert state.result().outputs == (StreamOutput("stdout", "a"),)
    state.feed(following)
    (output,) = state.result().outputs
    assert output != StreamOutput("stdout", "a")


def test_clearing_that_waits_for_nothing_never_happens() -> None:
    result = result_of(stream("a"), message("clear_output", wait=True), stream(""), IDLE, REPLY)
    assert result.outputs == (StreamOutput("stdout", "a"),)


def test_a_question_of_the_code_is_an_event() -> None:
    events = state_after().feed(message("input_request", prompt="name? ", password=True))
    assert events == [InputRequest("name? ", True)]


# ---- failure ----------------------------------------------------------------------------------------------------


def test_code_that_ended_well_has_no_failure() -> None:
    assert state_after(REPLY, IDLE).failure() is None
    assert state_after(stream("x")).failure() is None


def test_an_exception_is_an_output_and_the_failure_without_colours() -> None:
    error = message("error", ename="E", evalue="\x1b[31mv\x1b[0m", traceback=["\x1b[1mone\x1b[0m", "two"])
    state = state_after(stream("x"), error, message("execute_reply", status="error", ename="E", evalue="v"), IDLE)
    expected = ErrorOutput("E", "v", "one\ntwo")
    assert state.failure() == expected
    assert state.result().outputs == (StreamOutput("stdout", "x"), expected)
    assert state.result().text == "x"


def test_a_failure_of_which_only_the_reply_knows_is_told() -> None:
    reply = message("execute_reply", status="error", ename="KeyboardInterrupt", evalue="", traceback=[])
    assert state_after(IDLE, reply).failure() == ErrorOutput("KeyboardInterrupt", "", "")


def test_an_exception_that_was_shown_and_not_raised_is_no_failure() -> None:
    state = state_after(message("error", ename="E", evalue="v", traceback=[]), REPLY, IDLE)
    assert state.failure() is None


def test_a_request_that_the_kernel_dropped_is_a_failure() -> None:
    failure = state_after(message("execute_reply", status="aborted"), IDLE).failure()
    assert failure is not None
    assert failure.name == "Aborted"


@pytest.mark.parametrize(
    ("payload", "asked"),
    [
        ([], False),
        (None, False),
        ([{"source": "page"}], False),
        ([{"source": "ask_exit", "keepkernel": False}], True),
        ([{"source": "page"}, {"source": "ask_exit"}], True),
        ([{"source": "ask_exit", "keepkernel": True}], False),
    ],
)
def test_exit_is_recognised_in_the_reply(payload: Any, asked: bool) -> None:
    state = ExecutionState(EXECUTION)
    assert not state.asked_to_exit
    state.feed(message("execute_reply", status="ok", payload=payload))
    assert state.asked_to_exit == asked


# ---- under a limit ----------------------------------------------------------------------------------------------


def test_under_a_limit_text_and_streams_are_cut_alike_and_the_rest_is_in_the_file(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path) as directory:
        state = ExecutionState(EXECUTION, OutputLimit(head=2, tail=2), directory)
        for each in (stream("abcdef"), display("<x>"), stream("gh", "stderr")):
            state.feed(each)
        state.close()
    result = state.result()
    assert result.full_text is not None
    assert result.full_text.read_text() == "abcdef<x>gh"
    assert result.dropped == 7
    assert result.text is not None
    assert result.text.startswith("ab\n[... 7 characters dropped; all of it: ")
    assert result.text.endswith("\ngh")
    assert result.stdout == "ab\n[... 2 characters dropped ...]\nef"
    assert result.stderr == "gh"
    assert [type(output) for output in result.outputs] == [DisplayOutput]


def test_text_below_the_limit_is_whole(tmp_path: Path) -> None:
    with PinnedDirectory(tmp_path) as directory:
        state = ExecutionState(EXECUTION, OutputLimit(head=2, tail=2), directory)
        state.feed(stream("abcd"))
        state.close()
    result = state.result()
    assert (result.text, result.dropped, result.full_text) == ("abcd", 0, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.asyncio
async def test_an_execution_that_is_over_holds_no_descriptor_of_its_limits_directory(tmp_path: Path) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open descriptors can only be listed where there is /proc")
    client = KernelClient(images_dir=tmp_path / "images")
    limit = OutputLimit(head=1, tail=1, directory=tmp_path / "long")
    execution = client.run("", output_limit=limit)
    execution.state.feed(stream("abcdef"))
    assert execution.state.result().full_text is not None
    await execution.__aexit__(None, None, None)
    targets = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert [target for target in targets if target.startswith(str(tmp_path))] == []


# ---- what hostile kernels say -----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
TYPES = [
    "stream",
    "display_data",
    "execute_result",
    "update_display_data",
    "clear_output",
    "error",
    "execute_input",
    "input_request",
    "execute_reply",
    "status",
]
FIELDS = [
    "name",
    "text",
    "data",
    "metadata",
    "transient",
    "wait",
    "ename",
    "evalue",
    "traceback",
    "execution_count",
    "prompt",
    "password",
    "status",
    "payload",
    "execution_state",
]
SOURCES = st.fixed_dictionaries({}, optional={"source": JSON, "keepkernel": JSON}) | JSON
CONTENTS = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)) | st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries({"text/plain": JSON}),
        "transient": st.fixed_dictionaries({"display_id": JSON}),
        "payload": st.lists(SOURCES, max_size=3),
        "traceback": st.lists(JSON, max_size=3),
        "status": st.sampled_from(["ok", "error", "aborted"]),
    }
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(TYPES), CONTENTS), max_size=4))
def test_whatever_a_kernel_says_there_is_a_result(said: list[tuple[str, dict[str, Any]]]) -> None:
    # Code in a kernel can send any JSON in its messages. That must not raise in the program that runs it.
    state = ExecutionState(EXECUTION)
    for kind, content in said:
        for event in state.feed(message(kind, **content)):
            if isinstance(event, DisplayOutput):
                assert isinstance(event.text, str)
    result = state.result()
    assert result.text is None or isinstance(result.text, str)
    assert result.execution_count is None or type(result.execution_count) is int
    assert isinstance(state.asked_to_exit, bool)
    failure = state.failure()
    assert failure is None or all(isinstance(text, str) for text in (failure.name, failure.value, failure.traceback))


# ---- plain text -------------------------------------------------------------------------------------------------

CODES = (
    st.from_regex(r"\x1b\[[0-?]{0,6}[ -/]{0,2}[@-~]", fullmatch=True)
    | st.from_regex(r"\x1b\][^\x07\x1b]{0,8}(\x07|\x1b\\)", fullmatch=True)
    | st.sampled_from(["\x1b[0m", "\x1b[38;5;196m", "\x1b[2K", "\x1bM", "\x1bD", "\x1b]0;title\x07", "\x1b]8;;u\x1b\\"])
)
# A control sequence is what may follow an escape character, in the words of ECMA-48.
SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(st.characters(exclude_characters="\x1b"), max_size=6)), st.data())
def test_escape_codes_go_and_the_text_stays(texts: list[str], data: st.DataObject) -> None:
    coloured = "".join(text + data.draw(CODES) for text in texts)
    assert plain(coloured) == "".join(texts)


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\x1b", exclude_categories=["Cc"]) | st.sampled_from("\n\r\t\0\x07")))
def test_text_without_escape_codes_stays_as_it_is(text: str) -> None:
    assert plain(text) == text


@settings(deadline=None, max_examples=150)
@given(st.text(st.sampled_from("\x1b[]0;mM\\\x07(Bc7 a"), max_size=12))
@example("\x1b(B")  # the character set, part of what `tput sgr0` prints
@example("\x1bc")  # a reset of the terminal
@example("\x1b\x1b[0m[31m")  # what is left when the inner code is gone is a code
def test_no_escape_code_is_left(text: str) -> None:
    assert not SEQUENCE.search(plain(text))
