"""Options of one execution are checked here, because in the kernel it is too late for a good error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ipybox.kernel_mgr.options import ExecutionOptions, checked


def options(**given: Any) -> ExecutionOptions:
    return checked(**{"env": None, "cwd": None, "file_name": None, "argv": None, **given})


def test_what_was_not_given_is_not_there() -> None:
    assert options() == {}


def test_what_was_given_travels_as_json(tmp_path: Path) -> None:
    given = options(env={"A": "1"}, cwd=tmp_path, file_name="main.py", argv=["main.py", "-v", ""])
    expected = {"env": {"A": "1"}, "cwd": str(tmp_path), "file_name": "main.py", "argv": ["main.py", "-v", ""]}
    assert json.loads(json.dumps(given)) == expected


def test_no_arguments_at_all_is_an_argument_list_too() -> None:
    assert options(argv=[]) == {"argv": []}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("env", {"A": 1}),
        ("env", [("A", "1")]),
        ("cwd", 3),
        ("cwd", b"/tmp"),
        ("file_name", 3),
        ("file_name", Path("main.py")),
        ("argv", [1]),
        ("argv", "main.py"),
        ("argv", 3),
    ],
)
def test_an_option_of_the_wrong_type_is_a_type_error_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must"):
        options(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("env", {"A": "\0"}),
        ("env", {"A": "\ud800"}),
        ("cwd", "a\0b"),
        ("cwd", "\ud800"),
    ],
)
def test_an_option_that_no_kernel_can_use_is_a_value_error_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        options(**{name: value})
