"""What a sandbox really did is recorded exactly, and a fake does it again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.command.cancellation import Cancellation
from ipybox.command.driver import CanExecuteCommand
from ipybox.command.host import HostDriver
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.request import OnOutput, Stdin, StreamName
from ipybox.command.result import ExecResult
from ipybox.errors import ProgramStartError, ReplayedError, SandboxUnavailableError
from ipybox.testing.fake_sandbox import FakeSandbox
from ipybox.testing.recording import RecordingSandbox
from ipybox.testing.transcript import Entry, RecordedError, Transcript

Heard = list[tuple[StreamName, Any]]

TALKS = """
import sys, os
for word in sys.stdin.read().split():
    os.write(2 if word.startswith("e") else 1, word.encode())
os.write(1, b"\\xff")
sys.exit(3)
"""


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


class Plain:
    """What has only what the protocol asks for."""

    policy = ExecutionPolicy.default()

    async def execute(self, argv: Sequence[Any], stdin: Stdin = None, on_output: OnOutput | None = None) -> ExecResult:
        if on_output is not None:
            for text in argv[1:]:
                answer = on_output("out", text)
                if answer is not None:
                    await answer
        return ExecResult("".join(argv[1:]))


class Opening(Plain):
    """What has to be opened."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __aenter__(self) -> Opening:
        self.seen.append("opened")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.seen.append("closed" if kind is None else f"closed by {kind.__name__}")


@pytest.fixture
def host(tmp_path: Path) -> HostDriver:
    """A real driver."""
    return HostDriver(ExecutionPolicy.in_dir(tmp_path).with_timeout(30), waive=["isolation", "memory"])


# ---- around a real driver ---------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_real_command_is_handed_on_and_recorded_exactly(host: HostDriver) -> None:
    recording = RecordingSandbox(host)
    argv = [sys.executable, "-c", TALKS]
    raw: Heard = []
    texts: Heard = []
    result = await recording.execute(
        argv, "out err", lambda *chunk: texts.append(chunk), on_bytes=lambda *chunk: raw.append(chunk)
    )
    assert (result.stdout_bytes, result.stderr_bytes, result.exit_code) == (b"out\xff", b"err", 3)
    assert recording.transcript.entries == (Entry(tuple(argv), b"out err", result, None, tuple(raw)),)
    assert "".join(text for stream, text in texts if stream == "out") == "out\ufffd"


@pytest.mark.asyncio
async def test_a_real_session_is_replayed_as_it_was(host: HostDriver, tmp_path: Path) -> None:
    async def session(sandbox: CanExecuteCommand) -> list[object]:
        heard: Heard = []
        seen: list[object] = []
        for argv, stdin in (
            ([sys.executable, "-c", TALKS], "out err out2 err2"),
            (["cat"], b"\xff\xfe"),
            (["no-such-command"], None),
            (["cat"], "more"),
        ):
            seen.append(await sandbox.execute(argv, stdin, lambda *chunk: heard.append(chunk)))
        return [*seen, heard]

    async with RecordingSandbox(host) as recording:
        real = await session(recording)
    recording.save(tmp_path / "session.json")
    fake = FakeSandbox.replay(tmp_path / "session.json")
    assert await session(fake) == real
    fake.assert_all_used()


@pytest.mark.asyncio
async def test_stdin_in_pieces_reaches_the_command_and_the_transcript(host: HostDriver) -> None:
    recording = RecordingSandbox(host)
    result = await recording.execute(["cat"], chunks_of(b"a", b"\xff", b"c"))
    assert result.stdout_bytes == b"a\xffc"
    (entry,) = recording.transcript.entries
    assert (entry.stdin, entry.is_stdin_cut) == (b"a\xffc", False)


@pytest.mark.asyncio
async def test_of_an_endless_input_only_what_was_read_is_recorded(host: HostDriver) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"line\n" * 1000
            await asyncio.sleep(0)

    recording = RecordingSandbox(host)
    assert (await recording.execute(["head", "-n", "1"], endless())).stdout == "line\n"
    (entry,) = recording.transcript.entries
    assert entry.is_stdin_cut
    assert (b"line\n" * 1_000_000).startswith(entry.stdin)


@pytest.mark.asyncio
async def test_a_cancelled_command_is_recorded_with_its_result(host: HostDriver) -> None:
    recording = RecordingSandbox(host)
    cancellation = Cancellation()
    result = await recording.execute(
        ["sh", "-c", "echo here; sleep 60"], None, lambda *chunk: cancellation.cancel(), cancellation=cancellation
    )
    assert result.stop_reason == "cancelled"
    (entry,) = recording.transcript.entries
    assert (entry.result, entry.chunks) == (result, (("out", b"here\n"),))


@pytest.mark.asyncio
async def test_a_cancelled_task_is_recorded_and_replayed_as_one(host: HostDriver) -> None:
    recording = RecordingSandbox(host)
    for sandbox in (recording, None):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for((sandbox or FakeSandbox.replay(recording.transcript)).execute(["sleep", "60"]), 0.2)
    (entry,) = recording.transcript.entries
    assert entry.error == RecordedError("CancelledError", "")


@pytest.mark.asyncio
async def test_what_a_callback_raises_goes_on_and_is_recorded_with_what_came_before(host: HostDriver) -> None:
    def full(stream: str, text: str) -> None:
        raise OSError("no space left")

    recording = RecordingSandbox(host)
    with pytest.raises(OSError, match="no space left"):
        await recording.execute(["echo", "x"], on_output=full)
    (entry,) = recording.transcript.entries
    assert (entry.error, entry.chunks) == (RecordedError("OSError", "no space left"), (("out", b"x\n"),))


@pytest.mark.asyncio
async def test_an_error_of_the_driver_is_recorded_and_replayed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    recording = RecordingSandbox(HostDriver(ExecutionPolicy.in_dir(gone), waive=["isolation", "memory"]))
    gone.rmdir()
    for sandbox in (recording, None):
        with pytest.raises(ProgramStartError, match="is no directory"):
            await (sandbox or FakeSandbox.replay(recording.transcript)).execute(["ls"])


def test_it_can_be_used_without_asyncio(host: HostDriver) -> None:
    recording = RecordingSandbox(host)
    with recording.blocking() as sandbox:
        assert sandbox.execute(["cat"], "x").stdout == "x"
        assert sandbox.policy is host.policy
    assert [entry.argv for entry in recording.transcript.entries] == [("cat",)]


# ---- around any sandbox -----------------------------------------------------------------------------------------


def test_it_is_what_runs_commands_with_the_policy_of_the_other() -> None:
    fake = FakeSandbox(ExecutionPolicy.default().with_timeout(60))
    recording: CanExecuteCommand = RecordingSandbox(fake)
    assert isinstance(recording, CanExecuteCommand)
    assert recording.policy is fake.policy


def test_what_runs_no_commands_is_refused() -> None:
    inner: Any = object()
    with pytest.raises(TypeError, match="inner must have a policy and execute"):
        RecordingSandbox(inner)


@pytest.mark.asyncio
async def test_entries_are_in_the_order_in_which_commands_were_started() -> None:
    gate = asyncio.Event()

    async def slow(argv: tuple[str, ...], stdin: bytes) -> str:
        await gate.wait()
        return "slow"

    recording = RecordingSandbox(FakeSandbox.from_responses({"slow": slow, "fast": "fast"}))
    running = asyncio.create_task(recording.execute(["slow"]))
    await asyncio.sleep(0)
    await recording.execute(["fast"])
    assert [entry.argv for entry in recording.transcript.entries] == [("fast",)]
    gate.set()
    await running
    assert [entry.argv for entry in recording.transcript.entries] == [("slow",), ("fast",)]


@pytest.mark.asyncio
async def test_chunks_are_recorded_in_the_order_in_which_they_came() -> None:
    entry = Entry(("ls",), b"", ExecResult("2", "13"), None, (("err", b"1"), ("out", b"2"), ("err", b"3")))
    recording = RecordingSandbox(FakeSandbox.replay(Transcript((entry,))))
    await recording.execute(["ls"])
    assert recording.transcript.entries == (entry,)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from(["ls", "cat"]), st.binary(max_size=4), st.binary(max_size=6), st.binary(max_size=6)),
        max_size=6,
    )
)
def test_whatever_was_recorded_is_replayed_the_same(calls: list[tuple[str, bytes, bytes, bytes]]) -> None:
    canned = FakeSandbox()
    for name, _, stdout, stderr in calls:
        canned.enqueue((name,), ExecResult(stdout, stderr))  # type: ignore[arg-type]  # bytes become text there
    recording = RecordingSandbox(canned)

    async def session(sandbox: RecordingSandbox | FakeSandbox) -> list[object]:
        heard: list[object] = []
        for name, stdin, _, _ in calls:
            heard.append(await sandbox.execute([name], stdin, on_bytes=lambda *chunk: heard.append(chunk)))
        return heard

    real = asyncio.run(session(recording))
    transcript = Transcript.from_json(recording.transcript.to_json())
    assert asyncio.run(session(FakeSandbox.replay(transcript))) == real
    again = RecordingSandbox(FakeSandbox.replay(transcript))
    asyncio.run(session(again))
    assert again.transcript == transcript


@pytest.mark.asyncio
async def test_callbacks_that_have_to_be_awaited_are_awaited() -> None:
    heard: Heard = []

    async def slow(stream: StreamName, data: Any) -> None:
        await asyncio.sleep(0.001)
        heard.append((stream, data))

    recording = RecordingSandbox(FakeSandbox.from_responses({"ls": "x"}))
    await recording.execute(["ls"], None, slow, on_bytes=slow)
    await RecordingSandbox(Plain()).execute(["ls", "y"], None, slow)
    assert heard == [("out", b"x"), ("out", "x"), ("out", "y")]


@pytest.mark.asyncio
async def test_arguments_that_make_no_sense_are_refused_and_not_recorded() -> None:
    recording = RecordingSandbox(FakeSandbox.from_responses({}, "x"))
    wrong: Any = 7
    with pytest.raises(TypeError, match="argv must be a list"):
        await recording.execute("ls")
    with pytest.raises(TypeError, match="stdin must be"):
        await recording.execute(["ls"], wrong)
    assert recording.transcript == Transcript()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "error",
    [
        ProgramStartError("no such file"),
        SandboxUnavailableError("bwrap is missing", ["apt install bubblewrap"]),
        ConnectionResetError("gone"),
    ],
)
async def test_errors_of_the_sandbox_are_raised_again_in_a_replay(error: Exception, tmp_path: Path) -> None:
    recording = RecordingSandbox(FakeSandbox.from_responses({"ls": error}))
    with pytest.raises(type(error)) as real:
        await recording.execute(["ls"])
    assert real.value is error
    recording.save(tmp_path / "session.json")
    with pytest.raises(type(error)) as replayed:
        await FakeSandbox.replay(tmp_path / "session.json").execute(["ls"])
    assert str(replayed.value) == str(error)


@pytest.mark.asyncio
async def test_errors_that_can_not_be_made_again_are_replayed_errors() -> None:
    class PipeError(Exception):
        pass

    recording = RecordingSandbox(FakeSandbox.from_responses({"ls": PipeError("the pipe broke")}))
    with pytest.raises(PipeError):
        await recording.execute(["ls"])
    with pytest.raises(ReplayedError, match=r"PipeError: the pipe broke"):
        await FakeSandbox.replay(recording.transcript).execute(["ls"])


# ---- around what has only the three arguments of the protocol ---------------------------------------------------


@pytest.mark.asyncio
async def test_of_a_plain_sandbox_the_text_that_it_tells_is_recorded() -> None:
    recording = RecordingSandbox(Plain())
    heard: Heard = []
    result = await recording.execute(["ls", "a", "ü"], "in", lambda *chunk: heard.append(chunk))
    assert heard == [("out", "a"), ("out", "ü")]
    assert recording.transcript.entries == (
        Entry(("ls", "a", "ü"), b"in", result, None, (("out", b"a"), ("out", "ü".encode()))),
    )
    await recording.execute(["ls", "a"])
    *_, last = recording.transcript.entries
    assert last.chunks == (("out", b"a"),)


@pytest.mark.asyncio
async def test_what_a_plain_sandbox_does_not_take_is_refused_and_not_recorded() -> None:
    recording = RecordingSandbox(Plain())
    with pytest.raises(TypeError, match=r"Plain\.execute\(\) takes no on_bytes; use on_output"):
        await recording.execute(["ls"], on_bytes=lambda stream, data: None)
    with pytest.raises(TypeError, match=r"Plain\.execute\(\) takes no cancellation; cancel the task"):
        await recording.execute(["ls"], cancellation=Cancellation())
    assert recording.transcript == Transcript()


@pytest.mark.asyncio
async def test_a_sandbox_that_takes_any_keywords_is_given_them() -> None:
    class Open(Plain):
        async def execute(self, argv: Sequence[Any], *args: Any, **options: Any) -> ExecResult:
            options["on_bytes"]("err", b"\xff")
            assert options["cancellation"] is cancellation
            return ExecResult(exit_code=1)

    cancellation = Cancellation()
    recording = RecordingSandbox(Open())
    await recording.execute(["ls"], cancellation=cancellation)
    assert recording.transcript.entries[0].chunks == (("err", b"\xff"),)


@pytest.mark.asyncio
async def test_what_is_no_result_is_refused() -> None:
    class Wrong(Plain):
        async def execute(self, *args: Any, **options: Any) -> Any:
            return None

    with pytest.raises(TypeError, match=r"Wrong\.execute\(\) must give an ExecResult, got None"):
        await RecordingSandbox(Wrong()).execute(["ls"])


@pytest.mark.asyncio
async def test_what_has_to_be_opened_is_opened_and_closed() -> None:
    inner = Opening()
    async with RecordingSandbox(inner) as recording:
        assert inner.seen == ["opened"]
        await recording.execute(["ls"])
    assert inner.seen == ["opened", "closed"]
    with pytest.raises(KeyError):
        async with recording:
            raise KeyError
    assert inner.seen[2:] == ["opened", "closed by KeyError"]


@pytest.mark.asyncio
async def test_what_needs_no_opening_is_not_opened() -> None:
    async with RecordingSandbox(Plain()) as recording:
        assert (await recording.execute(["ls", "x"])).stdout == "x"
