"""What commands were run and what came of them, as a file that people can read and compare. Floor: testing."""

from __future__ import annotations

import base64
import builtins
import difflib
import inspect
import json
import os
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from ipybox import errors
from ipybox.command.request import StreamName, checked_argv
from ipybox.command.result import ExecResult
from ipybox.errors import IpyboxError, ReplayedError
from ipybox.paths import random_name

VERSION = 1
"""Of the file's format."""

Chunk = tuple[StreamName, bytes]
Fact = str | int | float | bool | tuple[str, ...]

CANCELLED = "CancelledError"
"""The name under which it is recorded that the awaiting task was cancelled."""

_TOP = ("version", "commands")
_ENTRY = ("argv", "stdin", "stdin_base64", "is_stdin_cut", "chunks", "result", "error")
_CHUNK = ("out", "out_base64", "err", "err_base64")
_ERROR = ("name", "text", "facts")
_NUMBERS_AND_FLAGS = ("exit_code", "duration", "timed_out", "truncated_stdout", "truncated_stderr", "stop_reason")
_RESULT = ("stdout", "stdout_base64", "stderr", "stderr_base64", *_NUMBERS_AND_FLAGS)
_STREAMS: tuple[tuple[StreamName, Literal["stdout", "stderr"]], ...] = (("out", "stdout"), ("err", "stderr"))
_PLAIN_NAMES = ("builtins", "asyncio.exceptions", errors.__name__)
_JSON_NAMES = {bool: "true or false", dict: "an object", int: "a whole number", list: "a list", str: "a text"}
_REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class RecordedError:
    """An error that a command ended with.

    Attributes:
        name: Its class, with the module where that is neither Python's nor ours.
        text: What it said.
        facts: What makes it again, for errors of ipybox.
    """

    name: str
    text: str
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Takes down an error."""
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ in _PLAIN_NAMES else f"{kind.__module__}.{kind.__qualname__}"
        facts: dict[str, Fact] = {}
        if isinstance(error, IpyboxError):
            for parameter in inspect.signature(kind.__init__).parameters.values():
                value = getattr(error, parameter.name, None)
                if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and value is not None and _is_fact(value):
                    facts[parameter.name] = value
        return cls(name, str(error), facts)

    def again(self) -> Exception:
        """The same error where its class is Python's or ours and it says the same again, else a ``ReplayedError``."""
        kind = getattr(errors, self.name, None) or getattr(builtins, self.name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            for arguments, facts in (((), self.facts), ((self.text,), {})):
                try:
                    error = kind(*arguments, **facts)
                except Exception:  # it wants other arguments
                    continue
                if str(error) == self.text:
                    return error
        return ReplayedError(self.name, self.text)


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: what it was, and either its result or the error that it ended with.

    Attributes:
        argv: The command and its arguments.
        stdin: What it was given to read.
        result: What it gave.
        error: What was raised instead.
        chunks: What it wrote, in the order in which it came.
        is_stdin_cut: Whether it ended before it had been given all of its input.
    """

    argv: tuple[str, ...]
    stdin: bytes = b""
    result: ExecResult | None = None
    error: RecordedError | None = None
    chunks: tuple[Chunk, ...] = ()
    is_stdin_cut: bool = False

    def __post_init__(self) -> None:
        if (self.result is None) is (self.error is None):
            raise ValueError(f"{list(self.argv)!r} must have either a result or an error")

    def has_stdin(self, stdin: bytes) -> bool:
        """Whether an input is the one that this command was given, as far as it was given to it."""
        return stdin.startswith(self.stdin) if self.is_stdin_cut else stdin == self.stdin


@dataclass(frozen=True, slots=True)
class Transcript:
    """Commands in the order in which they were started.

    As a file it is UTF-8 JSON with one value a line, text with one element a line, no times of day, and bytes that are
    no text as base64. What has its default is left out: a result that has no output besides the chunks, and chunks
    that are all of stdout and then all of stderr.

    Attributes:
        entries: The commands.
    """

    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", tuple(self.entries))

    def to_json(self) -> str:
        """The text of the file."""
        data = {"version": VERSION, "commands": [_entry_to_json(entry) for entry in self.entries]}
        text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
        return text.encode("utf-8", "backslashreplace").decode("utf-8")  # a lone surrogate becomes JSON's own escape

    @classmethod
    def from_json(cls, text: str, source: str = "transcript") -> Self:
        """Reads what :meth:`to_json` gave.

        Args:
            text: The text.
            source: Where it is from, for errors.

        Raises:
            ValueError: It is none; the text names the place.
        """
        try:
            data = json.loads(text, object_pairs_hook=_without_doubles)
        except json.JSONDecodeError as error:
            raise ValueError(f"{source}: line {error.lineno} column {error.colno}: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source}: {error}") from None
        top = _fields(source, data, _TOP)
        version = _item(source, top, "version", int)
        if version != VERSION:
            raise ValueError(f"{source}: version must be {VERSION}, got {version}; record it again")
        commands = _item(source, top, "commands", list)
        return cls(tuple(_entry(f"{source}: commands[{n}]", each) for n, each in enumerate(commands)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, whole or not at all; its directory is made. A file that is there is replaced."""
        target = Path(path).resolve()  # a link stays, and what it leads to is replaced
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.{random_name('')}")
        try:
            with open(unfinished, "x", encoding="utf-8", newline="\n") as file:
                file.write(self.to_json())
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads such a file.

        Raises:
            OSError: It can't be read.
            ValueError: It is no transcript; the text names the place.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{os.fspath(path)}: byte {error.start} is no UTF-8") from None
        return cls.from_json(text, os.fspath(path))


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    data: dict[str, Any] = {"argv": list(entry.argv)}
    if entry.stdin:
        _put(data, "stdin", entry.stdin)
    if entry.is_stdin_cut:
        data["is_stdin_cut"] = True
    if entry.chunks != _usual_chunks(entry.result):
        chunks: list[dict[str, Any]] = [{} for _ in entry.chunks]
        for each, (stream, raw) in zip(chunks, entry.chunks, strict=True):
            _put(each, stream, raw)
        data["chunks"] = chunks
    if entry.result is not None:
        data["result"] = _result_to_json(entry.result, entry.chunks)
    if entry.error is not None:
        facts = {name: list(value) if isinstance(value, tuple) else value for name, value in entry.error.facts.items()}
        data["error"] = {"name": entry.error.name, "text": entry.error.text} | ({"facts": facts} if facts else {})
    return data


def _result_to_json(result: ExecResult, chunks: tuple[Chunk, ...]) -> dict[str, Any]:
    data: dict[str, Any] = {"exit_code": result.exit_code, "duration": result.duration}
    is_usual = chunks == _usual_chunks(result)
    for stream, name in _STREAMS:
        raw = _raw(result, name)
        if raw if is_usual else raw != _joined(chunks, stream):
            _put(data, name, raw)
    for flag in _NUMBERS_AND_FLAGS[2:]:
        if value := getattr(result, flag):
            data[flag] = value
    return data


def _entry(where: str, value: Any) -> Entry:
    data = _fields(where, value, _ENTRY)
    argv = _item(where, data, "argv", list)
    try:
        command = checked_argv(argv)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None
    if ("result" in data) is ("error" in data):
        raise ValueError(f"{where} must have either 'result' or 'error'")
    chunks = None
    if "chunks" in data:
        items = _item(where, data, "chunks", list)
        chunks = tuple(_chunk(f"{where}.chunks[{n}]", each) for n, each in enumerate(items))
    result = _result(f"{where}.result", data["result"], chunks or ()) if "result" in data else None
    return Entry(
        command,
        _bytes(where, data, "stdin") or b"",
        result,
        _error(f"{where}.error", data["error"]) if "error" in data else None,
        _usual_chunks(result) if chunks is None else chunks,
        _item(where, data, "is_stdin_cut", bool, False),
    )


def _result(where: str, value: Any, chunks: tuple[Chunk, ...]) -> ExecResult:
    data = _fields(where, value, _RESULT)
    output: dict[str, Any] = {}
    for stream, name in _STREAMS:
        raw = _bytes(where, data, name)
        output[name] = _joined(chunks, stream) if raw is None else raw
    try:
        return ExecResult(**output, **{name: data[name] for name in _NUMBERS_AND_FLAGS if name in data})
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from None


def _error(where: str, value: Any) -> RecordedError:
    data = _fields(where, value, _ERROR)
    facts = _item(where, data, "facts", dict, {})
    checked = {name: tuple(fact) if isinstance(fact, list) else fact for name, fact in facts.items()}
    for name, fact in checked.items():
        if not _is_fact(fact):
            raise ValueError(
                f"{where}.facts.{name} must be text, a number or a list of text, got {reprlib.repr(facts[name])}"
            )
    return RecordedError(_item(where, data, "name", str), _item(where, data, "text", str), checked)


def _chunk(where: str, value: Any) -> Chunk:
    data = _fields(where, value, _CHUNK)
    if len(data) != 1:
        raise ValueError(f"{where} must have one of {', '.join(_CHUNK)}, got {reprlib.repr(value)}")
    (key,) = data
    stream: StreamName = "out" if key.startswith("out") else "err"
    return stream, _bytes(where, data, stream) or b""


def _usual_chunks(result: ExecResult | None) -> tuple[Chunk, ...]:
    """All of stdout and then all of stderr."""
    chunks = () if result is None else tuple((stream, _raw(result, name)) for stream, name in _STREAMS)
    return tuple((stream, raw) for stream, raw in chunks if raw)


def _raw(result: ExecResult, name: Literal["stdout", "stderr"]) -> bytes:
    return result.stdout_bytes if name == "stdout" else result.stderr_bytes


def _joined(chunks: Iterable[Chunk], stream: StreamName) -> bytes:
    return b"".join(raw for each, raw in chunks if each == stream)


def _is_fact(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(each, str) for each in value)
    return isinstance(value, str | int | float)


# ---- fields of JSON ---------------------------------------------------------------------------------------------


def _put(data: dict[str, Any], key: str, raw: bytes) -> None:
    """Puts bytes in as text, a list of lines when there are several, or else as base64."""
    try:
        lines = raw.decode("utf-8").splitlines(keepends=True)
    except UnicodeDecodeError:
        data[f"{key}_base64"] = base64.b64encode(raw).decode("ascii")
        return
    data[key] = lines if len(lines) > 1 else "".join(lines)


def _bytes(where: str, data: dict[str, Any], key: str) -> bytes | None:
    """Reads what :func:`_put` has put in; None when there is nothing."""
    encoded = f"{key}_base64"
    if key in data and encoded in data:
        raise ValueError(f"{where} must not have both {key!r} and {encoded!r}")
    if encoded in data:
        text = _item(where, data, encoded, str)
        try:
            return base64.b64decode(text, validate=True)
        except ValueError as error:
            raise ValueError(f"{where}.{encoded} must be base64, got {reprlib.repr(data[encoded])}: {error}") from None
    value = data.get(key, "")
    text = "".join(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else value
    if not isinstance(text, str):
        raise ValueError(f"{where}.{key} must be a text or a list of lines, got {reprlib.repr(value)}")
    try:
        return text.encode("utf-8") if key in data else None
    except UnicodeEncodeError:
        raise ValueError(f"{where}.{key} has a lone surrogate, so it is no text; write {encoded!r} instead") from None


def _fields(where: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, got {reprlib.repr(value)}")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"{where}: {key!r} is no key here; {meant}")
    return value


def _item(where: str, data: dict[str, Any], key: str, kind: type, default: Any = _REQUIRED) -> Any:
    if key not in data:
        if default is _REQUIRED:
            raise ValueError(f"{where} must have {key!r}")
        return default
    value = data[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where}.{key} must be {_JSON_NAMES[kind]}, got {reprlib.repr(value)}")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ValueError(f"the key {key!r} is there twice in one object")
        data[key] = value
    return data
