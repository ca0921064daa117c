"""Which response answers a command: exact keys first, each queue in its order, and nonsense refused by name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.command.result import ExecResult
from ipybox.errors import ProgramStartError, UnexpectedCommandError
from ipybox.testing.responses import Key, Responses, checked_key, checked_response, key_text

ARGUMENTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)
ARGV = st.tuples(ARGUMENTS.filter(bool)) | st.builds(
    lambda name, rest: (name, *rest), ARGUMENTS.filter(bool), st.lists(ARGUMENTS, max_size=3)
)
A, B, C, D = (ExecResult(text) for text in "abcd")


def is_ls(argv: tuple[str, ...]) -> bool:
    return argv[0] == "ls"


def taken(responses: Responses, *argv: str) -> Any:
    return responses.take(argv, b"")


# ---- which key --------------------------------------------------------------------------------------------------


def test_a_text_stands_for_the_arguments_joined_with_single_spaces() -> None:
    assert taken(Responses({"php -r echo 1;": A}), "php", "-r", "echo 1;") is A


@pytest.mark.parametrize("argv", [("php",), ("php", "-v", ""), ("PHP", "-v"), ("php", " -v"), ("php", "-v", "x")])
def test_a_text_stands_for_nothing_else(argv: tuple[str, ...]) -> None:
    with pytest.raises(UnexpectedCommandError):
        taken(Responses({"php -v": A}), *argv)


def test_a_tuple_stands_for_exactly_these_arguments() -> None:
    responses = Responses({("a b",): A, ("a", "b"): B})
    assert taken(responses, "a", "b") is B
    assert taken(responses, "a b") is A


def test_a_pattern_has_to_match_all_of_the_quoted_line() -> None:
    responses = Responses({re.compile(r"php -r '.*'"): [A, B]})
    assert taken(responses, "php", "-r", "echo 1;") is A
    with pytest.raises(UnexpectedCommandError):
        taken(responses, "php", "-r", "echo 1;", "x")
    with pytest.raises(UnexpectedCommandError):
        taken(responses, "sudo", "php", "-r", "echo 1;")


def test_a_function_is_asked_with_the_arguments_as_a_tuple() -> None:
    asked = []

    def knows(argv: tuple[str, ...]) -> bool:
        asked.append(argv)
        return True

    assert taken(Responses({knows: A}), "ls", "-l") is A
    assert asked == [("ls", "-l")]


def test_a_tuple_comes_before_a_text_and_a_text_before_patterns_and_functions() -> None:
    keys: dict[Key, ExecResult] = {is_ls: D, re.compile("ls.*"): C, "ls -l": B, ("ls", "-l"): A}
    assert taken(Responses(keys), "ls", "-l") is A
    del keys["ls", "-l"]
    assert taken(Responses(keys), "ls", "-l") is B
    del keys["ls -l"]
    assert taken(Responses(keys), "ls", "-l") is D


def test_patterns_and_functions_are_tried_in_the_order_in_which_they_were_given() -> None:
    assert taken(Responses({is_ls: A, re.compile("ls.*"): B}), "ls") is A
    assert taken(Responses({re.compile("ls.*"): B, is_ls: A}), "ls") is B
    later = Responses({re.compile("ls -l"): B})
    later.add(is_ls, [A])
    assert taken(later, "ls", "-l") is B
    assert taken(later, "ls") is A


def test_the_first_key_that_matches_decides_even_when_it_is_used_up() -> None:
    responses = Responses({"ls": A, is_ls: B}, default=C)
    assert [taken(responses, "ls"), taken(responses, "ls"), taken(responses, "ls", "-l")] == [A, C, B]


def test_a_text_that_stood_for_other_arguments_before_is_an_error_that_names_both() -> None:
    responses = Responses({"a b": [A, B]}, default=C)
    assert taken(responses, "a b") is A
    with pytest.raises(UnexpectedCommandError, match="tuples") as caught:
        taken(responses, "a", "b")
    assert "('a b',)" in str(caught.value)
    assert "('a', 'b')" in str(caught.value)
    assert taken(responses, "a b") is B


@settings(deadline=None)
@given(ARGV)
def test_every_command_is_found_by_each_of_its_keys(argv: tuple[str, ...]) -> None:
    keys: list[Key] = [argv, " ".join(argv), re.compile(re.escape(shlex.join(argv))), lambda each: each == argv]
    for key in keys:
        assert Responses({key: A}).take(argv, b"") is A


@settings(deadline=None)
@given(st.lists(ARGV, unique=True, min_size=1, max_size=6), st.data())
def test_tuples_never_get_mixed_up(commands: list[tuple[str, ...]], data: st.DataObject) -> None:
    responses = Responses({argv: [f"{n}", f"{n} again"] for n, argv in enumerate(commands)})
    for again in ("", " again"):
        for argv in data.draw(st.permutations(commands)):
            answer = responses.take(argv, b"")
            assert isinstance(answer, ExecResult)
            assert answer.stdout == f"{commands.index(argv)}{again}"
    assert responses.unused == {}


# ---- queues and the default -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.sampled_from("xyz"), max_size=12))
def test_each_queue_is_first_in_first_out_whatever_comes_between(calls: list[str]) -> None:
    responses = Responses({name: [f"{name}{n}" for n in range(3)] for name in "xyz"}, default="default")
    seen = dict.fromkeys("xyz", 0)
    for name in calls:
        answer = taken(responses, name)
        assert answer.stdout == (f"{name}{seen[name]}" if seen[name] < 3 else "default")
        seen[name] += 1
    assert sum(responses.unused.values()) == sum(max(0, 3 - count) for count in seen.values())


def test_a_single_response_is_a_list_of_one() -> None:
    responses = Responses({"ls": A})
    assert taken(responses, "ls") is A
    with pytest.raises(UnexpectedCommandError):
        taken(responses, "ls")


def test_a_tuple_of_responses_is_a_list_of_them() -> None:
    responses = Responses({"ls": (A, B)})
    assert [taken(responses, "ls"), taken(responses, "ls")] == [A, B]


def test_the_default_is_never_used_up() -> None:
    responses = Responses({}, default=A)
    assert [taken(responses, "ls"), taken(responses, "ls"), taken(responses, "cat")] == [A, A, A]
    assert responses.unused == {}


@pytest.mark.parametrize(
    ("given_responses", "reason"),
    [([], "is empty"), ([A], "its only response is used up"), ([A, B], "all 2 responses for it are used up")],
)
def test_a_queue_without_responses_says_how_many_there_were(given_responses: list[ExecResult], reason: str) -> None:
    responses = Responses({"ls": given_responses})
    for _ in given_responses:
        taken(responses, "ls")
    with pytest.raises(UnexpectedCommandError, match=reason):
        taken(responses, "ls")


def test_equal_patterns_and_the_same_function_share_a_queue() -> None:
    responses = Responses({re.compile("ls"): A, is_ls: C})
    responses.add(re.compile("ls"), [B])
    responses.add(is_ls, [D])
    assert [taken(responses, "ls"), taken(responses, "ls")] == [A, B]
    assert responses.unused == {is_ls: 2}


def test_what_is_unused_counts_what_is_left_and_keys_that_nothing_matched() -> None:
    pattern = re.compile("x")
    responses = Responses({"ls": [A, B], "cat": A, pattern: [], is_ls: []})
    taken(responses, "ls")
    assert responses.unused == {"ls": 1, "cat": 1, pattern: 0, is_ls: 0}
    assert responses.unused_text()[:3] == [
        "'ls': 1 of 2 left",
        "'cat': 1 of 1 left; no command matched it",
        "re.compile('x'): 0 of 0 left; no command matched it",
    ]


# ---- forms of responses -----------------------------------------------------------------------------------------


def test_a_mapping_may_have_any_part_of_a_result() -> None:
    assert checked_response("it", {}) == ExecResult()
    assert checked_response("it", {"exit_code": 3, "stderr": "no"}) == ExecResult(stderr="no", exit_code=3)


def test_text_and_bytes_are_stdout() -> None:
    assert checked_response("it", "ü\n") == ExecResult("ü\n")
    raw = checked_response("it", b"\xff")
    assert isinstance(raw, ExecResult)
    assert raw.stdout_bytes == b"\xff"


def test_what_needs_no_change_is_kept_as_it_is() -> None:
    error = ProgramStartError("no")
    for value in (A, error, TimeoutError, lambda argv, stdin: "x"):
        assert checked_response("it", value) is value


@pytest.mark.parametrize("value", [None, 1, True, ["x"], ("x",), object(), ExecResult, str, bytearray(b"x")])
def test_what_is_no_response_is_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^response 2 for 'php -v' must be"):
        Responses({"php -v": ["fine", value]})


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"stdot": "x"}, "did you mean 'stdout'"),
        ({"exit_code": "1"}, "exit_code must be an int"),
        ({"duration": -1}, "duration"),
        ({"success": True, "exit_code": 1}, "contradicts"),
        ({1: 2}, "1 is no key"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused_by_name(value: dict[Any, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told) as caught:
        Responses({"php -v": [value]})
    assert str(caught.value).startswith("response 1 for 'php -v': ")


@pytest.mark.parametrize("function", [lambda: "x", lambda argv: "x", lambda argv, stdin, more: "x"])
def test_a_function_that_does_not_take_command_and_stdin_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="two arguments, argv and stdin"):
        Responses({"ls": function})


def test_a_class_of_exceptions_that_needs_arguments_is_refused_when_it_is_given() -> None:
    with pytest.raises(TypeError, match=r"response 1 for 'ls': ProgramStartError needs arguments"):
        Responses({"ls": ProgramStartError})


def test_a_default_that_makes_no_sense_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"^default_response must be .* got \['x'\]; give several one by one"):
        Responses({}, default=["x"])  # type: ignore[arg-type]


def test_none_or_all_of_several_responses_are_added() -> None:
    responses = Responses()
    with pytest.raises(TypeError, match="response 2 for 'ls'"):
        responses.add("ls", ["fine", 7])  # type: ignore[list-item]
    assert responses.unused == {}


# ---- keys -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("", "matches no command"),
        ((), "must name a command"),
        (("",), "must name a command"),
        (("php", 8), r"argv\[1\] must be a str"),
        (("php", "a\0"), "NUL"),
        (re.compile(b"php"), "not of bytes"),
        (b"php", "a key must be"),
        (None, "a key must be"),
        (7, "a key must be"),
        (str, "a key must be"),
        (["php", "-v"], r"write \('php', '-v'\)"),
        (lambda: True, "one argument"),
        (lambda argv, stdin: True, "one argument"),
    ],
)
def test_what_no_command_can_match_is_refused_as_a_key(key: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        Responses().add(key, [A])


def test_an_asynchronous_function_is_no_key_as_its_answer_would_always_be_true() -> None:
    async def knows(argv: tuple[str, ...]) -> bool:
        return False

    with pytest.raises(TypeError, match=r"knows \(line \d+\) must be a plain function"):
        Responses().add(knows, [A])  # type: ignore[arg-type]


def test_keys_are_told_as_they_are_written() -> None:
    assert key_text("a b") == "'a b'"
    assert key_text(("a", "b")) == "('a', 'b')"
    assert key_text(re.compile("a.*")) == "re.compile('a.*')"
    assert key_text(is_ls).startswith("is_ls (line ")
    assert key_text(checked_key(str.isdigit)) == "str.isdigit"


def test_responses_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(TypeError, match="responses must be a mapping"):
        Responses([("ls", "x")])  # type: ignore[arg-type]
