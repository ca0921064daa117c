"""Reads what an agent answers, believing nothing. Floor: session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipybox.errors import SandboxFileError
from ipybox.session.frames import FrameError, optional, value
from ipybox.session.results import CodeResult, CommandResult, FileEntry, RichOutput


def check_file(path: str, answer: Mapping[str, Any]) -> None:
    """Raises :class:`SandboxFileError` if that is the answer."""
    if "failed" in answer:
        raise SandboxFileError(path, str(answer["failed"])[:1000], value(answer, "errno", int))


def command_result(answer: Mapping[str, Any], body: bytes) -> CommandResult:
    """What became of a command. Raises :class:`FrameError`."""
    stdout, stderr = _outputs(answer, body)
    return CommandResult(
        stdout=stdout,
        stderr=stderr,
        exit_code=value(answer, "exit_code", int),
        execution_time=value(answer, "execution_time", float),
        timed_out=value(answer, "timed_out", bool),
        truncated=value(answer, "truncated", bool),
    )


def code_result(answer: Mapping[str, Any], body: bytes) -> CodeResult:
    """What became of code. Raises :class:`FrameError`."""
    stdout, stderr = _outputs(answer, body)
    exit_code, error = value(answer, "exit_code", int), optional(answer, "error", str)
    timed_out, state_lost = value(answer, "timed_out", bool), bool(optional(answer, "state_lost", bool))
    return CodeResult(
        success=exit_code == 0,
        stdout=stdout,
        stderr=stderr,
        exit_code=exit_code,
        execution_time=value(answer, "execution_time", float),
        result=optional(answer, "result", str),
        error=error,
        rich_outputs=tuple(_rich(each) for each in optional(answer, "rich", list) or []),
        timed_out=timed_out,
        state_lost=state_lost,
        truncated=value(answer, "truncated", bool),
    )


def file_entries(answer: Mapping[str, Any]) -> list[FileEntry]:
    """What is in a directory. Raises :class:`FrameError`."""
    return [_entry(_mapping(each)) for each in value(answer, "entries", list)]


def _entry(found: Mapping[str, Any]) -> FileEntry:
    return FileEntry(
        name=value(found, "name", str),
        path=value(found, "path", str),
        is_dir=value(found, "is_dir", bool),
        is_link=value(found, "is_link", bool),
        size=value(found, "size", int),
        mode=value(found, "mode", int),
        modified=value(found, "modified", float),
    )


def _rich(found: Any) -> RichOutput:
    known = _mapping(found)
    return RichOutput(
        type=value(known, "type", str),
        format=value(known, "format", str),
        data=value(known, "data", str),
        metadata=value(known, "metadata", dict),
    )


def _mapping(found: Any) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise FrameError("no JSON object")
    return found


def _outputs(answer: Mapping[str, Any], body: bytes) -> tuple[str, str]:
    split = value(answer, "stdout", int)
    if not 0 <= split <= len(body):
        raise FrameError("stdout is longer than all there is")
    return body[:split].decode("utf-8", "replace"), body[split:].decode("utf-8", "replace")
