"""What became of the tests of a sandbox, from what it told and how it ended: no more and no less than is known."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.exit_status import ExitStatus
from ipybox.testrun import verdict
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.plan import Item, Unit
from ipybox.testrun.verdict import Account

EXITED = ExitStatus(code=0, reason="exited")


def _account(*names: str) -> Account:
    return Account(Unit(tuple(Item(f"a.py::{name}", "/p/a.py", 3) for name in names), "/p/a.py"))


def _start(name: str) -> dict[str, Any]:
    return {"kind": "start", "id": f"a.py::{name}"}


def _result(name: str, outcome: str = "passed", **facts: Any) -> dict[str, Any]:
    return {"kind": "result", "id": f"a.py::{name}", "outcome": outcome, **facts}


def _told(account: Account, *messages: dict[str, Any]) -> Account:
    for message in messages:
        account.take(message)
    return account


END = {"kind": "end", "code": 0}


# ---- what it tells ----------------------------------------------------------------------------------------------


def test_a_result_is_what_was_told() -> None:
    account = _account("x")
    assert account.take(_start("x")) is None
    result = account.take(_result("x", "failed", phase="call", message="m", details="d", stdout="o", duration=0.5))
    assert result is not None
    assert (result.id, result.file, result.line) == ("a.py::x", "a.py", 3)
    assert (result.outcome, result.phase, result.message, result.details) == ("failed", "call", "m", "d")
    assert (result.stdout, result.stderr, result.duration) == ("o", "", 0.5)
    assert account.pending == ()
    assert account.results == {"a.py::x": result}


def test_a_result_of_a_test_that_has_not_begun_is_none() -> None:
    account = _account("x", "y")
    assert account.take(_result("x")) is None
    account.take(_start("x"))
    assert account.take(_result("y")) is None
    assert account.results == {}


def test_a_second_result_of_a_test_is_none() -> None:
    account = _told(_account("x"), _start("x"), _result("x", "failed"))
    assert account.take(_result("x", "passed")) is None
    assert account.results["a.py::x"].outcome is Outcome.FAILED


def test_a_test_that_nobody_asked_for_has_no_result() -> None:
    account = _told(_account("x"), _start("other"))
    assert account.take(_result("other")) is None
    assert account.results == {}


@pytest.mark.parametrize("outcome", ["timeout", "crashed", "infrastructure_error"])
def test_what_a_sandbox_can_not_know_of_itself_is_an_error(outcome: str) -> None:
    account = _told(_account("x"), _start("x"), _result("x", outcome))
    assert account.results["a.py::x"].outcome is Outcome.ERROR


def test_a_phase_that_there_is_not_is_none() -> None:
    account = _told(_account("x"), _start("x"), _result("x", phase="splendid"))
    assert account.results["a.py::x"].phase == ""


def test_no_text_is_longer_than_is_good() -> None:
    account = _told(_account("x"), _start("x"), _result("x", "failed", stdout="x" * 1_000_000 + "end"))
    assert len(account.results["a.py::x"].stdout) <= 70_000
    assert account.results["a.py::x"].stdout.endswith("end")


@given(
    st.dictionaries(
        st.sampled_from(["kind", "id", "outcome", "phase", "message", "later"]),
        st.text(max_size=5) | st.none() | st.integers() | st.lists(st.text(max_size=3), max_size=2),
    )
)
def test_what_is_no_message_of_a_test_changes_nothing(message: dict[str, Any]) -> None:
    if message.get("kind") not in ("start", "result", "not_collected", "end"):
        account = _account("x")
        assert account.take(message) is None
        assert (account.results, account.running, account.is_complete) == ({}, None, False)


# ---- how it ended -----------------------------------------------------------------------------------------------


def _only(account: Account, status: ExitStatus = EXITED, **facts: Any) -> Any:
    (result,) = account.close(status, **facts)
    assert account.results[result.id] is result
    return result


def test_a_signal_during_a_test_is_that_tests() -> None:
    account = _told(_account("x", "y"), _start("x"))
    result = _only(account, ExitStatus(code=None, reason="signalled", signal=signal.SIGSEGV), stdout="o", stderr="e")
    assert (result.id, result.outcome, result.phase, result.signal) == ("a.py::x", "crashed", "call", signal.SIGSEGV)
    assert "SIGSEGV" in result.message
    assert (result.stdout, result.stderr) == ("o", "e")
    assert [item.id for item in account.pending] == ["a.py::y"]


def test_an_exit_during_a_test_is_that_tests() -> None:
    result = _only(_told(_account("x"), _start("x")), ExitStatus(code=0, reason="exited"))
    assert (result.outcome, result.exit_code, result.signal) == ("crashed", 0, None)
    assert "exited with 0" in result.message


def test_a_signal_without_a_name_has_its_number() -> None:
    result = _only(_told(_account("x"), _start("x")), ExitStatus(code=None, reason="signalled", signal=250))
    assert "signal 250" in result.message


def test_an_end_between_two_tests_is_nobodys() -> None:
    account = _told(_account("x", "y"), _start("x"), _result("x"))
    assert account.close(ExitStatus(code=None, reason="signalled", signal=signal.SIGKILL)) == ()
    assert [item.id for item in account.pending] == ["a.py::y"]


def test_an_end_before_the_first_test_is_all_of_theirs() -> None:
    found = _account("x", "y").close(ExitStatus(code=1, reason="exited"))
    assert [(each.outcome, each.phase) for each in found] == [("crashed", "collect")] * 2


def test_a_time_out_names_what_took_the_time() -> None:
    aborted = ExitStatus(code=None, reason="signalled", signal=signal.SIGABRT)
    during = _only(_told(_account("x"), _start("x")), aborted, timed_out=2.5)
    assert (during.outcome, during.phase, during.message) == ("timeout", "call", "took longer than 2.5 s")
    assert during.signal is None
    before = _only(_account("x"), aborted, timed_out=2.5)
    assert (before.outcome, before.phase) == ("timeout", "collect")
    assert before.message == "importing its file took longer than 2.5 s"


def test_an_end_from_outside_says_nothing_about_the_test() -> None:
    killed = ExitStatus(code=None, reason="signalled", signal=signal.SIGKILL)
    assert _only(_told(_account("x"), _start("x")), killed, from_outside=True).outcome is Outcome.INFRASTRUCTURE_ERROR


def test_memory_is_named() -> None:
    status = ExitStatus(code=None, reason="memory", signal=signal.SIGKILL, detail="it used too much")
    result = _only(_told(_account("x"), _start("x")), status)
    assert (result.outcome, result.message, result.signal) == ("out_of_memory", "it used too much", signal.SIGKILL)


def test_of_one_that_wrote_to_the_line_nothing_is_known() -> None:
    result = _only(_told(_account("x"), _start("x")), tampered=True)
    assert (result.outcome, result.phase) == ("error", "call")


def test_results_from_before_stay_what_they_were() -> None:
    account = _told(_account("x", "y"), _start("x"), _result("x", "failed"), _start("y"))
    (of_y,) = account.close(ExitStatus(code=3, reason="exited"))
    assert of_y.id == "a.py::y"
    assert account.results["a.py::x"].outcome is Outcome.FAILED


def test_a_file_that_can_not_be_imported_here_gives_its_reason() -> None:
    reason = "tests/a.py:1: in <module>\n    import nothing\nE   ModuleNotFoundError: No module named 'nothing'"
    account = _told(_account("x"), {"kind": "not_collected", "details": reason, "stdout": "o"}, END)
    result = _only(account)
    assert (result.outcome, result.phase, result.details, result.stdout) == ("error", "collect", reason, "o")
    assert result.message == "ModuleNotFoundError: No module named 'nothing'"


def test_a_test_that_is_not_there_is_told_apart_from_one_that_fails() -> None:
    account = _told(_account("x"), END)
    assert account.was_not_found
    assert _only(account).message == "it was not found in a fresh sandbox"


@pytest.mark.parametrize(
    "messages",
    [[], [_start("x"), _result("x"), END], [{"kind": "not_collected", "details": "E  no"}, END]],
    ids=["no end", "found", "not imported"],
)
def test_otherwise_it_was_found(messages: list[dict[str, Any]]) -> None:
    assert not _told(_account("x"), *messages).was_not_found


# ---- what has no sandbox ----------------------------------------------------------------------------------------


def test_a_file_that_can_not_be_collected_is_a_result() -> None:
    result = verdict.not_collected({"id": "tests/a.py", "details": "one\nE   SyntaxError: no\nE   more"})
    assert (result.id, result.file, result.outcome, result.phase) == ("tests/a.py", "tests/a.py", "error", "collect")
    assert result.message == "SyntaxError: no"


@pytest.mark.parametrize(("details", "message"), [("", "it can't be collected"), ("a\nlast", "last")])
def test_a_file_that_can_not_be_collected_always_says_something(details: str, message: str) -> None:
    assert verdict.not_collected({"id": "a.py", "details": details}).message == message


def test_a_syntax_error_is_what_is_wrong_and_not_where() -> None:
    details = 'E     File "/p/a.py", line 1\nE       def (\nE           ^\nE   SyntaxError: invalid syntax'
    assert verdict.not_collected({"id": "a.py", "details": details}).message == "SyntaxError: invalid syntax"


def test_a_file_that_is_skipped_is_a_result() -> None:
    result = verdict.skipped_file({"id": "tests/a.py", "message": "Skipped: not here"})
    assert (result.outcome, result.phase, result.message) == ("skipped", "collect", "not here")


def test_without_a_sandbox_nothing_is_known() -> None:
    result = verdict.infrastructure_error(Item("a.py::x", "/p/a.py", 3), "no more processes")
    assert (result.outcome, result.message) == ("infrastructure_error", "no more processes")
