"""What a caller asks for is checked as a whole, and passed on as it is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.command.request import checked_argv, checked_stdin

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NATIVE = TEXT | st.binary().map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
"""What a command line of this system can hold, also where that is no text."""


class OfBytes:
    """A path that is made of bytes."""

    def __fspath__(self) -> bytes:
        return b"/usr"


# ---- argv -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(NATIVE.filter(bool), st.lists(NATIVE, max_size=5))
def test_arguments_are_taken_as_they_are(command: str, arguments: list[str]) -> None:
    assert checked_argv([command, *arguments]) == (command, *arguments)
    assert checked_argv((command, *arguments)) == (command, *arguments)


@settings(deadline=None)
@given(TEXT, TEXT)
def test_a_nul_anywhere_is_refused(before: str, after: str) -> None:
    for argv in ([f"{before}\0{after}"], ["echo", f"{before}\0{after}"]):
        with pytest.raises(ValueError, match=r"^argv\[[01]\] has a NUL character"):
            checked_argv(argv)


def test_a_path_is_taken_for_its_text() -> None:
    assert checked_argv([Path("/bin/ls"), "-l", Path("a b")]) == ("/bin/ls", "-l", "a b")


def test_the_callers_list_may_change_later() -> None:
    argv = ["echo", "one"]
    checked = checked_argv(argv)
    argv.append("two")
    assert checked == ("echo", "one")


@pytest.mark.parametrize(
    "argv", ["echo hi", "", b"echo", Path("/bin/ls"), None, 5, {"echo"}, {"echo": "hi"}, iter(["echo"])]
)
def test_what_is_no_list_is_refused_with_the_way_to_run_a_shells_line(argv: object) -> None:
    with pytest.raises(TypeError, match=r"^argv must be a list of str, .* \['sh', '-c', line\]$"):
        checked_argv(argv)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, 5, b"text", ["text"], OfBytes()])
def test_an_argument_that_is_no_text_is_refused_by_its_number(value: object) -> None:
    with pytest.raises(TypeError, match=r"^argv\[2\] must be a str, got "):
        checked_argv(["echo", "first", value])  # type: ignore[list-item]


@pytest.mark.parametrize("argv", [[], (), [""], ["", "x"]])
def test_a_command_has_to_be_named(argv: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^argv must name a command"):
        checked_argv(argv)


def test_empty_arguments_are_arguments() -> None:
    assert checked_argv(["printf", "", ""]) == ("printf", "", "")


def test_text_that_no_system_can_take_is_refused_by_its_number() -> None:
    with pytest.raises(ValueError, match=r"^argv\[1\] is no text that the system can take"):
        checked_argv(["echo", "\ud800"])


# ---- stdin ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary())
def test_bytes_are_read_as_they_are(data: bytes) -> None:
    for stdin in (data, bytearray(data), memoryview(data)):
        checked = checked_stdin(stdin)  # type: ignore[arg-type]
        assert checked == data
        assert type(checked) is bytes


@settings(deadline=None)
@given(TEXT)
def test_text_is_read_as_utf_8(text: str) -> None:
    assert checked_stdin(text) == text.encode("utf-8")


@settings(deadline=None)
@given(st.binary())
def test_text_that_python_made_of_bytes_is_these_bytes_again(data: bytes) -> None:
    assert checked_stdin(data.decode("utf-8", "surrogateescape")) == data


def test_nothing_is_an_empty_input() -> None:
    assert checked_stdin(None) == checked_stdin("") == checked_stdin(b"") == b""


def test_a_bytearray_may_change_later() -> None:
    stdin = bytearray(b"before")
    checked = checked_stdin(stdin)  # type: ignore[arg-type]
    stdin[:] = b"after!"
    assert checked == b"before"


@pytest.mark.asyncio
async def test_an_asynchronous_iterable_is_left_to_be_read_later() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"

    stdin = chunks()
    checked = checked_stdin(stdin)
    assert checked is stdin
    assert [chunk async for chunk in stdin] == [b"one"]


def _generator() -> Iterator[bytes]:
    yield b"x"


@pytest.mark.parametrize("stdin", [5, 0, False, ["x"], [b"x"], {"x": "y"}, _generator(), Path("/dev/null")])
def test_anything_else_is_no_input(stdin: object) -> None:
    with pytest.raises(TypeError, match=r"^stdin must be a str, bytes or an asynchronous iterable of bytes, got "):
        checked_stdin(stdin)  # type: ignore[arg-type]


def test_text_that_is_no_utf_8_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^stdin is no text that UTF-8 can hold"):
        checked_stdin("\ud800")
