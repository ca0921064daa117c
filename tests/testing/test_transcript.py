"""A transcript says exactly what happened, in a file that people can read, compare and edit."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.command.request import StreamName
from ipybox.command.result import ExecResult, StopReason
from ipybox.errors import (
    ExecutionTimeoutError,
    IpyboxError,
    PolicyNotEnforcedError,
    ProgramStartError,
    ReplayedError,
    SandboxUnavailableError,
    UnexpectedCommandError,
)
from ipybox.testing.transcript import Chunk, Entry, RecordedError, Transcript

# Arguments that are no UTF-8 are lone surrogates in Python.
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\r\u2028\udcff'\"\\"), max_size=12)
ARGV = st.builds(
    lambda name, rest: (name, *rest),
    TEXT.map(lambda text: text.replace("\0", "") or "ls"),
    st.lists(TEXT.map(lambda text: text.replace("\0", "")), max_size=3),
)
RAW = st.binary(max_size=12) | st.text(max_size=12).map(lambda text: text.encode())
STREAMS: st.SearchStrategy[StreamName] = st.sampled_from(["out", "err"])
CHUNKS = st.lists(st.tuples(STREAMS, RAW), max_size=4).map(tuple)


@st.composite
def results(draw: st.DrawFn, chunks: tuple[Chunk, ...]) -> ExecResult:
    """A result: with what the chunks are together, or with anything."""
    together = [b"".join(raw for stream, raw in chunks if stream == name) for name in ("out", "err")]
    stdout, stderr = together if draw(st.booleans()) else draw(st.tuples(RAW, RAW))
    reason: StopReason | None = draw(st.sampled_from([None, "wall", "idle", "memory", "cancelled", "signal"]))
    timed_out = draw(st.booleans()) if reason is None else reason in ("wall", "idle")
    return ExecResult(
        stdout,  # type: ignore[arg-type]  # bytes become text there
        stderr,  # type: ignore[arg-type]
        draw(st.integers(0, 255)),
        draw(st.floats(0, 1e9)),
        timed_out,
        draw(st.booleans()),
        draw(st.booleans()),
        reason,
    )


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """An entry of any kind."""
    chunks = draw(CHUNKS)
    result, error = None, None
    if draw(st.booleans()):
        result = draw(results(chunks))
    else:
        facts = st.dictionaries(TEXT, TEXT | st.integers() | st.booleans() | st.lists(TEXT, max_size=2).map(tuple))
        error = RecordedError(draw(TEXT), draw(TEXT), draw(facts))
    return Entry(draw(ARGV), draw(RAW), result, error, chunks, draw(st.booleans()))


TRANSCRIPTS = st.lists(entries(), max_size=4).map(lambda found: Transcript(tuple(found)))


# ---- round trips ------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(TRANSCRIPTS)
def test_every_transcript_is_read_as_it_was_written(transcript: Transcript) -> None:
    text = transcript.to_json()
    assert Transcript.from_json(text) == transcript
    assert Transcript.from_json(text).to_json() == text
    text.encode("utf-8")


@settings(deadline=None, max_examples=20)
@given(transcript=TRANSCRIPTS)
def test_every_transcript_is_loaded_as_it_was_saved(
    transcript: Transcript, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("transcripts") / "session.json"
    transcript.save(path)
    assert Transcript.load(path) == transcript
    assert path.read_bytes() == transcript.to_json().encode()


def test_a_result_keeps_its_stop_reason() -> None:
    late = ExecResult(exit_code=124, timed_out=True, stop_reason="idle")
    again = Transcript.from_json(Transcript((Entry(("sleep",), result=late),)).to_json())
    assert again.entries[0].result == late


# ---- the file ---------------------------------------------------------------------------------------------------


def test_the_file_is_what_a_person_would_write() -> None:
    listing = ExecResult("a\nb\n", "ü", duration=0.25)
    transcript = Transcript(
        (
            Entry(("ls", "-l"), b"", listing, None, (("out", b"a\nb\n"), ("err", "ü".encode()))),
            Entry(("cat",), b"\xff", ExecResult("ab", exit_code=1), None, (("out", b"a"), ("out", b"b"))),
            Entry(("x",), b"", None, RecordedError("ProgramStartError", "no", {"reason": "no"})),
        )
    )
    assert json.loads(transcript.to_json()) == {
        "version": 1,
        "commands": [
            {
                "argv": ["ls", "-l"],
                "result": {"exit_code": 0, "duration": 0.25, "stdout": ["a\n", "b\n"], "stderr": "ü"},
            },
            {
                "argv": ["cat"],
                "stdin_base64": "/w==",
                "chunks": [{"out": "a"}, {"out": "b"}],
                "result": {"exit_code": 1, "duration": 0.0},
            },
            {"argv": ["x"], "error": {"name": "ProgramStartError", "text": "no", "facts": {"reason": "no"}}},
        ],
    }


def test_each_value_and_each_line_of_text_has_a_line_of_its_own() -> None:
    lines = Transcript((Entry(("ls",), b"", ExecResult("a\nü\n")),)).to_json().splitlines()
    assert '        "ls"' in lines
    assert '          "a\\n",' in lines
    assert '          "ü\\n"' in lines


def test_an_entry_written_by_hand_needs_only_a_command_and_a_result() -> None:
    text = '{"version": 1, "commands": [{"argv": ["ls"], "result": {"stdout": "a"}}]}'
    assert Transcript.from_json(text).entries == (Entry(("ls",), b"", ExecResult("a"), None, (("out", b"a"),)),)


def test_the_same_transcript_gives_the_same_file() -> None:
    transcript = Transcript((Entry(("ls",), b"", ExecResult("a")),))
    assert transcript.to_json() == Transcript(tuple(transcript.entries)).to_json()


def test_saving_makes_the_directory_and_leaves_only_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recordings" / "deep" / "session.json"
    Transcript().save(path)
    Transcript().save(path)
    assert list(path.parent.iterdir()) == [path]


def test_a_saved_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    Transcript().save(tmp_path / "session.json")
    assert stat.S_IMODE((tmp_path / "session.json").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_a_file_that_can_not_be_written_whole_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "session.json"
    path.write_text("old")

    def full(*args: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        Transcript().save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    Transcript().save(link)
    assert link.is_symlink()
    assert Transcript.load(target) == Transcript()


# ---- what is no transcript --------------------------------------------------------------------------------------


def commands(*items: Any, **more: Any) -> str:
    return json.dumps({"version": 1, "commands": list(items), **more})


def command(**more: Any) -> str:
    return commands({"argv": ["ls"], "result": {}}, {"argv": ["ls"], "result": {}, **more})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "t.json: line 1 column 1: Expecting value"),
        ('{"version": 1,\n  x}', "t.json: line 2 column 3"),
        ("[]", "t.json must be an object, got []"),
        ("{}", "t.json must have 'version'"),
        ('{"version": 2, "commands": []}', "t.json: version must be 1, got 2; record it again"),
        ('{"version": true, "commands": []}', "t.json.version must be a whole number, got True"),
        ('{"version": 1}', "t.json must have 'commands'"),
        ('{"version": 1, "commands": {}}', "t.json.commands must be a list, got {}"),
        ('{"version": 1, "version": 1, "commands": []}', "t.json: the key 'version' is there twice"),
        (commands(entries=[]), "t.json: 'entries' is no key here; there are version, commands"),
        (commands("ls"), "t.json: commands[0] must be an object, got 'ls'"),
        (commands({}), "t.json: commands[0] must have 'argv'"),
        (commands({"argv": "ls"}), "t.json: commands[0].argv must be a list, got 'ls'"),
        (commands({"argv": []}), "t.json: commands[0]: argv must name a command"),
        (commands({"argv": ["ls", 1]}), "t.json: commands[0]: argv[1] must be a str"),
        (commands({"argv": ["ls"]}), "t.json: commands[0] must have either 'result' or 'error'"),
        (command(error={"name": "E", "text": ""}), "t.json: commands[1] must have either"),
        (command(stdn="x"), "t.json: commands[1]: 'stdn' is no key here; did you mean 'stdin'?"),
        (command(stdin=7), "t.json: commands[1].stdin must be a text or a list of lines, got 7"),
        (command(stdin=["a", 7]), "t.json: commands[1].stdin must be a text or a list of lines, got ['a', 7]"),
        (command(stdin="\udcff"), "t.json: commands[1].stdin has a lone surrogate"),
        (command(stdin="a", stdin_base64="YQ=="), "t.json: commands[1] must not have both"),
        (command(stdin_base64="a"), "t.json: commands[1].stdin_base64 must be base64, got 'a'"),
        (command(stdin_base64="ü"), "t.json: commands[1].stdin_base64 must be base64, got 'ü'"),
        (command(stdin_base64=7), "t.json: commands[1].stdin_base64 must be a text, got 7"),
        (command(is_stdin_cut=1), "t.json: commands[1].is_stdin_cut must be true or false, got 1"),
        (command(chunks={}), "t.json: commands[1].chunks must be a list, got {}"),
        (command(chunks=["x"]), "t.json: commands[1].chunks[0] must be an object, got 'x'"),
        (command(chunks=[{"out": ""}, {}]), "t.json: commands[1].chunks[1] must have one of out, out_base64"),
        (command(chunks=[{"out": "", "err": ""}]), "t.json: commands[1].chunks[0] must have one of"),
        (command(chunks=[{"stdout": ""}]), "t.json: commands[1].chunks[0]: 'stdout' is no key here"),
        (command(result=7), "t.json: commands[1].result must be an object, got 7"),
        (command(result={"stdot": ""}), "t.json: commands[1].result: 'stdot' is no key here; did you mean 'stdout'?"),
        (command(result={"exit_code": "1"}), "t.json: commands[1].result: exit_code must be an int"),
        (command(result={"duration": float("nan")}), "t.json: commands[1].result: duration must be"),
        (command(result={"duration": 10**400}), "t.json: commands[1].result: "),
        (command(result={"stop_reason": "bored"}), "t.json: commands[1].result: stop_reason must be one of"),
        (command(result={"stop_reason": "wall"}), "t.json: commands[1].result: timed_out=False contradicts"),
        (commands({"argv": ["ls"], "error": {"text": ""}}), "t.json: commands[0].error must have 'name'"),
        (
            commands({"argv": ["ls"], "error": {"name": "E", "text": "", "facts": {"a": {}}}}),
            "t.json: commands[0].error.facts.a must be text, a number or a list of text, got {}",
        ),
        ("[" * 100_000, "t.json: "),
        ('{"version": 1, "commands": ' + "1" * 5000 + "}", "t.json: "),
    ],
)
def test_what_is_no_transcript_is_refused_with_the_place(text: str, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        Transcript.from_json(text, "t.json")
    assert str(caught.value).startswith(told)
    assert len(str(caught.value)) < 400


def test_a_broken_file_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    path.write_bytes(b'{"version": "\xff"}')
    with pytest.raises(ValueError, match=r"session\.json: byte 13 is no UTF-8"):
        Transcript.load(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"session\.json must have 'version'"):
        Transcript.load(str(path))


def test_a_missing_file_is_the_error_that_it_is_everywhere(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Transcript.load(tmp_path / "missing.json")


def test_an_entry_has_a_result_or_an_error() -> None:
    for result, error in ((None, None), (ExecResult(), RecordedError("E", ""))):
        with pytest.raises(ValueError, match="either a result or an error"):
            Entry(("ls",), b"", result, error)


# ---- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ProgramStartError("no such file"),
        SandboxUnavailableError("bwrap is missing", ["apt install bubblewrap", "use docker"]),
        PolicyNotEnforcedError("host", ["network", "memory"]),
        UnexpectedCommandError(["ls", "-l"], ["'ls'"]),
        ExecutionTimeoutError(2.5, state_preserved=False),
        IpyboxError("something is wrong"),
        RuntimeError("broken"),
        TimeoutError(),
        FileNotFoundError(2, "No such file or directory", "/x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_python_and_of_ours_come_again_as_what_they_were(error: Exception) -> None:
    recorded = Transcript((Entry(("ls",), b"", None, RecordedError.of(error)),))
    (entry,) = Transcript.from_json(recorded.to_json()).entries
    assert entry.error is not None
    again = entry.error.again()
    assert type(again) is type(error)
    assert str(again) == str(error)
    if isinstance(error, IpyboxError):
        assert vars(again) == vars(error)


class TimeoutError_(Exception):
    """Neither Python's nor ours."""


class _HalfMade(IpyboxError):
    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__("half made")


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (TimeoutError_("late"), f"{__name__}.TimeoutError_"),
        (_HalfMade(1), f"{__name__}._HalfMade"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "UnicodeDecodeError"),
        (KeyError("x"), "KeyError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
        (ExceptionGroup("several", [ValueError()]), "ExceptionGroup"),
    ],
)
def test_all_other_errors_come_again_by_name_and_text(error: BaseException, name: str) -> None:
    again = RecordedError.of(error).again()
    assert isinstance(again, ReplayedError)
    assert (again.name, again.text) == (name, str(error))


@pytest.mark.parametrize("name", ["print", "Any", "ExitStatus", "os.system", "__builtins__", "type"])
def test_a_name_that_is_no_exception_makes_nothing(name: str) -> None:
    assert isinstance(RecordedError(name, "x", {"x": 1}).again(), ReplayedError)
