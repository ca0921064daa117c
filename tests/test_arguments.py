"""Arguments are refused before anything starts, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ipybox import arguments

Check = Callable[[Any], object]


def _text(value: Any) -> object:
    return arguments.text("thing", value)


def _port(value: Any) -> object:
    return arguments.port(value)


def _seconds(value: Any) -> object:
    return arguments.seconds("thing", value)


def _size(value: Any) -> object:
    return arguments.size("thing", value, 10)


def _environment(value: Any) -> object:
    return arguments.environment("thing", value)


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (_text, None),
        (_text, b"x"),
        (_port, "8888"),
        (_port, 8888.0),
        (_port, True),
        (_port, None),
        (_seconds, "1"),
        (_seconds, True),
        (_seconds, None),
        (_size, 10.0),
        (_size, True),
        (_size, "10"),
        (_environment, {"A": 1}),
        (_environment, {1: "A"}),
        (_environment, {"A": None}),
        (_environment, {b"A": b"B"}),
        (_environment, [("A", "B")]),
        (_environment, "A=B"),
    ],
)
def test_a_value_of_the_wrong_type_is_a_type_error_that_names_the_argument(check: Check, value: Any) -> None:
    with pytest.raises(TypeError, match="^port must" if check is _port else "^thing must"):
        check(value)


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (_text, ""),
        (_port, 0),
        (_port, -1),
        (_port, 65536),
        (_seconds, 0),
        (_seconds, -0.5),
        (_seconds, float("nan")),
        (_seconds, float("inf")),  # None is how to say "no limit"
        (_seconds, 10**400),
        (_size, 9),
        (_size, -1),
        (_environment, {"": "x"}),
        (_environment, {"A=B": "x"}),
        (_environment, {"A\0": "x"}),
        (_environment, {"A": "x\0y"}),
        (_environment, {"A": "\ud800"}),
        (_environment, {"\ud800": "x"}),
    ],
)
def test_a_value_that_makes_no_sense_is_a_value_error_that_names_the_argument(check: Check, value: Any) -> None:
    with pytest.raises(ValueError, match="^port must" if check is _port else "^thing ") as caught:
        check(value)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    ("check", "value", "result"),
    [
        (_text, "localhost", "localhost"),
        (_port, 1, 1),
        (_port, 65535, 65535),
        (_seconds, 1, 1.0),
        (_seconds, 0.001, 0.001),
        (_size, 10, 10),
        (_environment, None, {}),
        (_environment, {}, {}),
        (_environment, {"A": "", "B": "x=y", "Ü": "ü"}, {"A": "", "B": "x=y", "Ü": "ü"}),
        (_environment, {"A": "\udc80"}, {"A": "\udc80"}),  # how Python shows a byte that is no UTF-8
    ],
)
def test_a_value_that_makes_sense_is_handed_back(check: Check, value: Any, result: object) -> None:
    assert check(value) == result


def test_seconds_are_always_a_float() -> None:
    assert type(arguments.seconds("thing", 3)) is float


def test_port_0_is_taken_where_any_free_one_will_do() -> None:
    assert arguments.port(0, lowest=0) == 0


def test_an_environment_is_copied() -> None:
    env = {"A": "1"}
    copied = arguments.environment("env", env)
    env["A"] = "2"
    assert copied == {"A": "1"}


def test_a_secret_in_an_environment_is_not_repeated_in_the_error() -> None:
    with pytest.raises(ValueError) as caught:
        arguments.environment("env", {"TOKEN": "hunter2\0"})
    assert "hunter2" not in str(caught.value)
