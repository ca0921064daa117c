"""Messages, names and output that are hard to tell."""

# mypy: ignore-errors
# ruff: noqa: PT015, RUF001
import logging
import os
import sys

import pytest


# = failed in call: AssertionError: xxxx
def test_message_of_a_megabyte():
    raise AssertionError("x" * 1_000_000)


# = failed in call: AssertionError: line
def test_message_of_many_lines():
    raise AssertionError("line\n" * 100_000)


# = failed in call: AssertionError
def test_surrogates_and_control_characters():
    text = "\ud800\udfff\x00\x01\x1b[31m\u202e\u2028\ufffe\x85"
    print(text.encode("utf-8", "surrogatepass"), repr(text))
    os.write(1, text.encode("utf-8", "surrogatepass"))
    os.write(2, bytes(range(256)))
    raise AssertionError(text)


# = passed
@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "::",
        "a::b",
        "[",
        "]",
        "[]",
        "]::x[",
        "a/b",
        "..",
        "-x",
        "--help",
        "%s",
        "\\",
        "'",
        '"',
        "\n",
        "\t",
        "\x00",
        "\x1b[31m",
        "é",
        "\u202e",
        "𝒳",
        "\ud800",
        "a,b",
        "#",
        "@",
        "*",
        "?",
        "test_odd_ids",
        "~",
        "$HOME",
        "`id`",
        "x" * 500,
    ],
)
def test_odd_ids(value):
    pass


# = failed in call: assert '
@pytest.mark.parametrize("value", ["a", "a::b", "x]::y[z"], ids=["]", "a::b[c]", "::"])
def test_odd_ids_that_fail(value):
    assert value == ""


class Shown(Exception):
    def __str__(self):
        raise ValueError("no words")

    __repr__ = __str__


# = failed in call
def test_exception_that_can_not_be_shown():
    raise Shown


class Exits(Exception):
    def __str__(self):
        os._exit(0)

    __repr__ = __str__


# = crashed in call: exited with 0
def test_exception_that_exits_when_shown():
    raise Exits


class Leaves(Exception):
    def __str__(self):
        sys.exit(0)

    __repr__ = __str__


# = failed in call: Leaves
def test_exception_that_leaves_when_shown():
    raise Leaves


class Skips(Exception):
    def __str__(self):
        pytest.skip("no words")

    __repr__ = __str__


# = failed in call
def test_exception_that_skips_when_shown():
    raise Skips


class Value:
    def __eq__(self, other):
        return False

    def __repr__(self):
        raise KeyboardInterrupt


# = error in call: it ended the session with KeyboardInterrupt
def test_comparison_that_can_not_be_shown():
    assert Value() == 1


class Pretender(AssertionError):
    __class__ = pytest.skip.Exception
    msg = "pretended"
    allow_module_level = _use_item_location = False


# = error in call: was reported as skipped and was seen as raised
def test_exception_that_pretends_to_be_a_skip():
    raise Pretender


# = failed in call: unpicklable
def test_nothing_can_be_pickled():
    class Local(Exception):
        def __reduce__(self):
            raise TypeError

    raise Local("unpicklable", lambda: None, sys.stdout, (each for each in ()))


# = failed in call: ExceptionGroup: many
def test_group_of_exceptions():
    raise ExceptionGroup("many", [ValueError(n) for n in range(100)])


# = failed in call: ValueError
def test_cause_without_end():
    error = ValueError("a")
    error.__cause__ = error
    raise error


# = failed in call: assert 0
def test_much_on_stdout_and_stderr():
    block = b"x" * 1_000_000
    for _ in range(10):
        os.write(1, block)
        os.write(2, block)
    assert 0


# = failed in call: No space left
def test_more_than_fits():
    block = b"x" * 1_000_000
    for _ in range(100):
        os.write(1, block)


# = failed in call: assert 0
@pytest.mark.filterwarnings("ignore")
def test_much_past_the_capture(capfd):
    with capfd.disabled():
        for _ in range(100):
            os.write(1, b"y" * 1_000_000)
    assert 0


# = crashed in call: exited with 3 [exit 3]
def test_much_and_leaves(capfd):
    with capfd.disabled():
        for _ in range(20):
            os.write(2, b"z" * 1_000_000)
        os._exit(3)


# = failed in call: assert 0
def test_much_in_logs():
    for _ in range(20):
        logging.error("x" * 1_000_000)
    assert 0


# = passed
def test_replaced_streams():
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None


# = error in call: it ended the session with ValueError: I/O operation on closed file
def test_closed_streams():
    sys.stdout.close()
    sys.__stdout__.close()
    sys.__stderr__.close()
    assert 0
