"""The tree of errors: drawn as it is, picklable, each a sentence with its facts."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import re
from pathlib import Path

import pytest

import ipybox
from ipybox import errors
from ipybox.errors import (
    CollectionError,
    ConnectionLostError,
    ExecutionError,
    ExecutionNotFoundError,
    ExecutionTimeoutError,
    GatewayConnectionError,
    GatewayError,
    GatewayFullError,
    GatewayStartError,
    ImageWriteError,
    IpyboxError,
    KernelDiedError,
    KernelError,
    KernelStartError,
    OutputLostError,
    PolicyError,
    PolicyNotEnforcedError,
    PortInUseError,
    PreloadError,
    ProgramStartError,
    ReplayedError,
    ReportFormatError,
    ResultsFileError,
    ResultsFileFormatError,
    SandboxEndedError,
    SandboxExpiredError,
    SandboxFileError,
    SandboxUnavailableError,
    UnexpectedCommandError,
    UnexpectedExecutionError,
    UnknownLanguageError,
    UnknownTemplateError,
)
from ipybox.exit_status import ExitStatus
from ipybox.outputs import DisplayOutput, ExecutionResult

CLASSES = {
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__
}
RESULT = ExecutionResult(
    text="half",
    images=[Path("images/a.png")],
    stdout="half\n",
    outputs=(DisplayOutput("display_data", {"text/plain": "x"}, display_id="d"),),
    execution_id="e1",
)

# Each error with the facts that its text has to name.
SAMPLES: list[tuple[IpyboxError, list[str]]] = [
    (IpyboxError("something is wrong"), ["something is wrong"]),
    (ExecutionError("ZeroDivisionError", "division by zero", "", RESULT), ["ZeroDivisionError", "division by zero"]),
    (ExecutionTimeoutError(2.5, RESULT), ["2.5 s", "interrupted", "preserved"]),
    (ExecutionTimeoutError(2.5, RESULT, state_preserved=False), ["2.5 s", "restarted", "lost"]),
    (KernelError("the kernel misbehaved"), ["the kernel misbehaved"]),
    (KernelStartError("exit code 3"), ["did not start", "exit code 3"]),
    (KernelDiedError(ExitStatus("signalled", signal=9), RESULT), ["during the execution", "SIGKILL", "lost"]),
    (KernelDiedError(ExitStatus("exited", code=4), None, False), ["between two calls", "exit code 4", "did not run"]),
    (GatewayError("the gateway misbehaved"), ["the gateway misbehaved"]),
    (GatewayStartError("its process ended"), ["did not start", "its process ended"]),
    (PortInUseError("localhost", 8888), ["8888", "localhost", "port=0"]),
    (PortInUseError("localhost", 8888, "pid 4711 (nginx)"), ["8888", "localhost", "pid 4711 (nginx)"]),
    (GatewayConnectionError("http://localhost:8888", "nobody listens"), ["http://localhost:8888", "nobody listens"]),
    (GatewayFullError("http://localhost:8888", "20 kernels are too many", 2.0), ["8888", "20 kernels", "2 s"]),
    (PreloadError("numpyy", "no such module"), ["numpyy", "no such module"]),
    (ConnectionLostError("reset by peer", "e1", 17, RESULT), ["lost the connection", "reset by peer"]),
    (OutputLostError("3 messages are gone", "e1", 3, RESULT), ["3 messages are gone"]),
    (ExecutionNotFoundError("e1", "k1"), ["e1", "k1"]),
    (ImageWriteError("images/a.png", "it is a link", RESULT), ["images/a.png", "it is a link"]),
    (PolicyError("sandbox.json: limits.memory", "-1 is too small", "0 is the least"), ["limits.memory", "-1", "0 is"]),
    (ProgramStartError("no such file"), ["no such file"]),
    (PolicyNotEnforcedError("host", ["network"]), ["'host'", "can't enforce network", "waive=['network']"]),
    (CollectionError("no such option", "usage: ..."), ["could not be collected", "no such option", "usage"]),
    (SandboxEndedError("it was killed"), ["has ended", "it was killed"]),
    (SandboxExpiredError(2.5), ["expired", "timeout_seconds=2.5"]),
    (SandboxFileError("a/b", "No such file or directory", 2), ["'a/b'", "No such file"]),
    (UnknownLanguageError("cobol", ["python", "bash"]), ["'cobol'", "python, bash"]),
    (UnknownTemplateError("nonsense", ["code-interpreter", "python"]), ["'nonsense'", "code-interpreter, python"]),
    (SandboxUnavailableError("bwrap is missing", ["apt install bubblewrap"]), ["bwrap is missing", "apt install"]),
    (UnexpectedCommandError(["php", "-v"]), ["'php -v'", "none at all", "enqueue()"]),
    (UnexpectedCommandError(["php", "a b"], ["'ls'"]), ["'php a b'", "['php', 'a b']", "'ls'"]),
    (
        UnexpectedCommandError(["ls"], ["'ls'"], "its list is empty", "fill it"),
        ["'ls'", "its list is empty", "fill it"],
    ),
    (UnexpectedExecutionError("x = 1"), ["'x = 1'", "none at all", "enqueue()"]),
    (UnexpectedExecutionError("x = 1", ["'y = 2'"]), ["'x = 1'", "'y = 2'", "default_response"]),
    (UnexpectedExecutionError("x" * 5_000, ["'y'"], "both are used up"), ["xxx", "5002 char", "both are used up"]),
    (ReportFormatError("JUnit XML", "line 3: mismatched tag"), ["JUnit XML", "mismatched tag"]),
    (ReplayedError("acme.PipeError", "the pipe broke"), ["acme.PipeError", "the pipe broke"]),
    (ResultsFileError("results.sqlite", "the disk is full"), ["results.sqlite", "the disk is full"]),
    (ResultsFileFormatError("results.sqlite", "it is damaged"), ["results.sqlite", "damaged", "another file"]),
]
each = pytest.mark.parametrize(("error", "facts"), SAMPLES, ids=lambda value: type(value).__name__)


def test_every_error_class_has_a_sample_here() -> None:
    assert {type(error) for error, _ in SAMPLES} == CLASSES


@each
def test_an_error_survives_pickling(error: IpyboxError, facts: list[str]) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.args == error.args
        assert vars(again) == vars(error)


@each
def test_an_error_survives_copying(error: IpyboxError, facts: list[str]) -> None:
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


@each
def test_the_text_of_an_error_names_its_facts_in_one_sentence(error: IpyboxError, facts: list[str]) -> None:
    text = str(error)
    for fact in facts:
        assert fact in text
    sentence = text.splitlines()[0]
    assert not sentence.endswith(".")
    assert sentence == sentence.strip()
    assert "None" not in text
    if not isinstance(error, ExecutionError | UnexpectedCommandError):  # begin with the name of a class
        assert not sentence[0].isupper()


def test_notes_survive_pickling() -> None:
    error = KernelStartError("exit code 3")
    error.add_note("seen on a Monday")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen on a Monday"]


def test_a_subclass_with_facts_of_its_own_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(_OwnError(1, flavour="sour")))
    assert (again.number, again.flavour, str(again)) == (1, "sour", "1 is sour")


class _OwnError(IpyboxError):
    def __init__(self, number: int, *, flavour: str) -> None:
        self.number, self.flavour = number, flavour
        super().__init__(f"{number} is {flavour}")


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"    ([│├└─ ]*)(\w+Error)\b", line)
        if found:
            column, name = len(found[1]), found[2]
            path = [item for item in path if item[0] < column]
            drawn[name] = path[-1][1] if path else "Exception"
            path.append((column, name))
    assert drawn == {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES}


def test_every_error_is_handed_on_by_the_package() -> None:
    assert {cls.__name__ for cls in CLASSES} <= set(ipybox.__all__)


def test_a_timeout_is_caught_as_the_timeout_error_that_asyncio_raises() -> None:
    with pytest.raises(asyncio.TimeoutError):
        raise ExecutionTimeoutError(1)


def test_the_traceback_follows_the_sentence_of_an_execution_error() -> None:
    assert str(ExecutionError("E", "v", "line 1\nline 2\n")) == "E: v\nline 1\nline 2"


def test_an_execution_error_without_a_value_has_no_loose_end() -> None:
    assert str(ExecutionError("KeyboardInterrupt", "")) == "KeyboardInterrupt:"


def test_the_last_log_lines_follow_the_sentence_of_a_start_error() -> None:
    for cls in (KernelStartError, GatewayStartError):
        assert str(cls("exit code 3", "line 1\nline 2")).endswith("exit code 3\nline 1\nline 2")


def test_remedies_are_listed_in_the_order_to_try() -> None:
    error = SandboxUnavailableError("no bwrap", ["first", "second"])
    assert error.remedies == ("first", "second")
    assert str(error).splitlines()[1:] == ["  - first", "  - second"]


def test_a_kernels_death_never_preserves_its_state() -> None:
    assert KernelDiedError(ExitStatus("unknown")).state_preserved is False
