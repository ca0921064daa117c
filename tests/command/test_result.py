"""A result: its facts, what they mean together, and the dictionary that others may write and read."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.command.result import ExecResult, StopReason

DEFAULTS: dict[str, Any] = {
    "stdout": "",
    "stderr": "",
    "exit_code": 0,
    "duration": 0.0,
    "timed_out": False,
    "truncated_stdout": False,
    "truncated_stderr": False,
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FACTS = st.fixed_dictionaries(
    {},
    optional={
        "stdout": TEXT,
        "stderr": TEXT,
        "exit_code": st.integers(0, 255),
        "duration": st.floats(0, allow_nan=False, allow_infinity=False),
        "timed_out": st.booleans(),
        "truncated_stdout": st.booleans(),
        "truncated_stderr": st.booleans(),
    },
)


def made(**facts: Any) -> ExecResult:
    return ExecResult(**facts)


# ---- facts ------------------------------------------------------------------------------------------------------


def test_nothing_said_is_a_success_without_output() -> None:
    result = ExecResult()
    assert {name: getattr(result, name) for name in DEFAULTS} == DEFAULTS
    assert (result.stdout_bytes, result.stderr_bytes, result.stop_reason) == (b"", b"", None)
    assert result.success
    assert result.combined_output == ""


@pytest.mark.parametrize(
    ("exit_code", "timed_out", "success"), [(0, False, True), (0, True, False), (1, False, False), (124, True, False)]
)
def test_success_is_exit_code_0_and_not_timed_out(exit_code: int, timed_out: bool, success: bool) -> None:
    assert ExecResult(exit_code=exit_code, timed_out=timed_out).success is success


def test_output_that_was_cut_is_no_failure() -> None:
    assert ExecResult(truncated_stdout=True, truncated_stderr=True).success


@pytest.mark.parametrize(
    ("stdout", "stderr", "combined"),
    [
        ("out", "err", "out\nerr"),
        ("out\n", "err\n", "out\n\nerr\n"),
        ("out", "", "out"),
        ("", "err", "err"),
        ("", "", ""),
    ],
)
def test_combined_output_is_stdout_a_newline_and_stderr_where_there_are_both(
    stdout: str, stderr: str, combined: str
) -> None:
    assert ExecResult(stdout=stdout, stderr=stderr).combined_output == combined


def test_a_result_can_not_be_changed() -> None:
    result = ExecResult()
    for each in dataclasses.fields(result):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, each.name, getattr(result, each.name))


# ---- text and bytes ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=30), st.binary(max_size=30))
def test_bytes_are_kept_and_read_as_text(out: bytes, err: bytes) -> None:
    result = made(stdout=out, stderr=err)
    assert (result.stdout_bytes, result.stderr_bytes) == (out, err)
    assert (result.stdout, result.stderr) == (out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


@settings(deadline=None)
@given(TEXT)
def test_text_and_its_bytes_make_the_same_result(text: str) -> None:
    assert ExecResult(stdout=text) == made(stdout=text.encode())
    assert ExecResult(stdout=text).stdout == text
    assert ExecResult(stdout=text).stdout_bytes == text.encode()


def test_text_that_python_made_of_bytes_becomes_these_bytes_again() -> None:
    result = ExecResult(stdout="a\udcff")
    assert (result.stdout, result.stdout_bytes) == ("a\N{REPLACEMENT CHARACTER}", b"a\xff")


def test_results_with_different_bytes_differ_though_their_text_is_the_same() -> None:
    assert made(stdout=b"\xff") != made(stdout=b"\xfe")


def test_another_exit_code_does_not_change_the_bytes() -> None:
    result = made(stdout=b"\xff\0", exit_code=1)
    assert dataclasses.replace(result, exit_code=2).stdout_bytes == b"\xff\0"


@settings(deadline=None)
@given(st.binary(max_size=10), FACTS)
def test_results_survive_pickling(out: bytes, facts: dict[str, Any]) -> None:
    result = made(**{**facts, "stdout": out})
    copy = pickle.loads(pickle.dumps(result))
    assert copy == result
    assert hash(copy) == hash(result)
    assert copy.stdout_bytes == out


# ---- nonsense ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("stdout", "stderr") for value in (None, 5, ["text"], bytearray(b"x"))),
        *(("exit_code", value) for value in (None, "0", 0.0, True)),
        *(("duration", value) for value in (None, "1", True)),
        *((name, value) for name in ("timed_out", "truncated_stdout", "truncated_stderr") for value in (None, 0, "no")),
    ],
)
def test_a_value_of_the_wrong_type_is_a_type_error_that_names_it(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be "):
        made(**{name: value})
    with pytest.raises(TypeError, match=rf"^{name} must be "):
        ExecResult.from_dict({name: value})


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan, 10**400], ids=["-0.1", "inf", "nan", "10**400"])
def test_a_duration_is_finite_and_not_negative(value: float) -> None:
    with pytest.raises(ValueError, match=r"^duration must be "):
        ExecResult(duration=value)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_text_that_can_have_been_no_output_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is no text that UTF-8 can hold"):
        made(**{name: "\ud800"})


def test_a_reason_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    reasons = "wall, idle, memory, cancelled, signal"
    with pytest.raises(ValueError, match=f"^stop_reason must be one of {reasons}, got 'time'"):
        made(stop_reason="time")


@pytest.mark.parametrize("reason", get_args(StopReason))
def test_a_reason_says_whether_it_timed_out_and_must_not_contradict_that(reason: StopReason) -> None:
    timed_out = reason in ("wall", "idle")
    assert ExecResult(exit_code=124, timed_out=timed_out, stop_reason=reason).stop_reason == reason
    with pytest.raises(ValueError, match=f"^timed_out={not timed_out} contradicts stop_reason='{reason}'"):
        ExecResult(exit_code=124, timed_out=not timed_out, stop_reason=reason)


def test_a_timeout_needs_no_reason() -> None:
    assert ExecResult(exit_code=124, timed_out=True).stop_reason is None


# ---- dictionaries -----------------------------------------------------------------------------------------------


def test_a_dictionary_has_exactly_these_keys_in_this_order() -> None:
    assert list(ExecResult().to_dict()) == [*DEFAULTS, "success"]
    assert ExecResult().to_dict() == {**DEFAULTS, "success": True}


def test_a_dictionary_says_what_the_result_says() -> None:
    result = ExecResult("out", "err", 124, 30.0, True, True, False, "wall")
    assert result.to_dict() == {
        "stdout": "out",
        "stderr": "err",
        "exit_code": 124,
        "duration": 30.0,
        "timed_out": True,
        "truncated_stdout": True,
        "truncated_stderr": False,
        "success": False,
    }


@settings(deadline=None)
@given(FACTS)
def test_any_part_of_a_dictionary_will_do_and_what_is_missing_has_its_default(facts: dict[str, Any]) -> None:
    result = ExecResult.from_dict(facts)
    assert {name: getattr(result, name) for name in DEFAULTS} == DEFAULTS | facts


@settings(deadline=None)
@given(FACTS)
def test_a_result_of_text_survives_being_written_and_read_as_json(facts: dict[str, Any]) -> None:
    result = ExecResult(**facts)
    assert ExecResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_bytes_in_a_dictionary_are_kept() -> None:
    assert ExecResult.from_dict({"stdout": b"\xff"}).stdout_bytes == b"\xff"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("exitCode", "did you mean 'exit_code'?"),
        ("timedout", "did you mean 'timed_out'?"),
        ("stop_reason", "there are stdout, stderr, exit_code, duration, "),
        (1, "there are stdout, "),
    ],
)
def test_a_key_that_there_is_not_is_refused_with_the_nearest(key: object, hint: str) -> None:
    data: dict[Any, object] = {"stdout": "x", key: "y"}
    with pytest.raises(ValueError) as refusal:
        ExecResult.from_dict(data)
    assert str(refusal.value).startswith(f"{key!r} is no key of a result; ")
    assert hint in str(refusal.value)


@pytest.mark.parametrize("data", [None, [], "stdout", 5, [("stdout", "x")]])
def test_what_is_no_mapping_is_no_result(data: object) -> None:
    with pytest.raises(TypeError, match=r"^a result must be a mapping, got "):
        ExecResult.from_dict(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        {"exit_code": 1, "success": True},
        {"timed_out": True, "success": True},
        {"success": False},
        {"success": 1},
        {"success": None},
    ],
    ids=repr,
)
def test_a_success_that_contradicts_the_rest_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^success=.* contradicts the rest"):
        ExecResult.from_dict(data)


def test_reading_leaves_the_dictionary_as_it_was() -> None:
    data = {"stdout": "x", "success": True}
    ExecResult.from_dict(data)
    assert data == {"stdout": "x", "success": True}
