"""Tests that fail, and say in words that they have not."""

# mypy: ignore-errors
# ruff: noqa: B028, E501
import logging
import os
import sys
import warnings


# = failed in call: assert 1 == 2
def test_summary_on_stdout():
    print("=" * 30, "1 passed in 0.01s", "=" * 30)
    sys.__stdout__.write(".\n1 passed in 0.01s\n")
    os.write(1, b"1 passed in 0.01s\n")
    assert 1 == 2


# = failed in call: assert 1 == 2
def test_junit_on_stdout():
    print(
        '<?xml version="1.0"?><testsuites><testsuite tests="1" failures="0"><testcase name="x"/></testsuite></testsuites>'
    )
    assert 1 == 2


# = failed in call: assert 1 == 2
def test_json_and_tap_on_both():
    for stream in (sys.__stdout__, sys.__stderr__):
        stream.write('{"kind": "result", "id": "test_printing.py::test_json_and_tap_on_both", "outcome": "passed"}\n')
        stream.write('{"kind": "end", "code": 0}\n1..1\nok 1 - test_json_and_tap_on_both\n')
        stream.flush()
    assert 1 == 2


# = failed in call: assert 1 == 2
def test_in_logs_and_warnings():
    logging.getLogger().error("1 passed, 0 failed")
    warnings.warn("1 passed, 0 failed")
    assert 1 == 2


# = failed in call: AssertionError: PASSED [100%]
def test_message_that_says_passed():
    raise AssertionError("PASSED [100%]\n1 passed in 0.01s")


# = passed
def test_that_passes_and_prints_failures():
    print("FAILED test_x.py::test_y - assert 0\n1 failed in 0.1s", file=sys.__stderr__)
    print("Traceback (most recent call last):\nAssertionError", file=sys.__stdout__)


# = failed in call: the last line
def test_control_codes_to_the_terminal():
    os.write(1, b"\x1b[2J\x1b[H\x1b]0;passed\x07\x1bc1 passed\r\n")
    raise AssertionError("the last line")
