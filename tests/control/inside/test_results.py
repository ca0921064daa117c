"""How an execution says what it returned."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.control.inside import results
from ipybox.control.inside.results import ResultLine
from ipybox.session.frames import Decoder


def heard(fd: int) -> list[tuple[dict[str, Any], bytes]]:
    os.set_blocking(fd, False)
    try:
        return list(Decoder().feed(os.read(fd, 1 << 20)))
    except BlockingIOError:
        return []


@given(st.recursive(st.none() | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_numbers_that_json_lacks_become_null(value: Any) -> None:
    def plain(each: Any) -> Any:
        if isinstance(each, float):
            return each if math.isfinite(each) else None
        if isinstance(each, list):
            return [plain(one) for one in each]
        return {name: plain(one) for name, one in each.items()} if isinstance(each, dict) else each

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(results.as_json(value), parse_constant=refuse) == plain(value)


@given(st.text(), st.text(), st.lists(st.text(max_size=300), max_size=200))
def test_an_error_is_of_a_size_that_can_be_taken(name: str, value: str, lines: list[str]) -> None:
    error = results.error(name, value, lines)
    assert len(json.dumps(error)) < 400_000
    kept = error["traceback"]
    assert kept == lines or (kept[0] == "..." and kept[1:] == lines[len(lines) - len(kept) + 1 :])


def test_a_value_is_said_and_what_is_none_is_said_to_be_none() -> None:
    ours, theirs = results.pair()
    line = ResultLine(theirs, 100)
    assert line.returned({"a": 1}) is None
    assert "no JSON (object)" in (line.returned(object()) or "")
    assert "103 bytes" in (line.returned("x" * 101) or "")
    circle: list[Any] = []
    circle.append(circle)
    assert "Circular" in (line.returned(circle) or "")
    (value, body), *others = heard(ours)
    assert (value["is"], json.loads(body)) == ("value", {"a": 1})
    assert [head["is"] for head, _ in others] == ["bad"] * 3
    os.close(theirs)
    os.close(ours)


def test_a_line_that_was_closed_is_not_mistaken_for_what_took_its_number(tmp_path: Any) -> None:
    ours, theirs = results.pair()
    line = ResultLine(theirs, 100)
    os.close(theirs)
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    os.dup2(fd, theirs)
    assert "closed the line" in (line.returned(1) or "")
    line.raised("E", "x", [])
    assert (tmp_path / "file").read_bytes() == b""
    for each in {fd, theirs, ours}:
        os.close(each)


def test_a_fork_has_no_line() -> None:
    ours, theirs = results.pair()
    line = ResultLine(theirs, 100)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if line.returned(1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert heard(ours) == []
    assert line.returned(2) is None
    assert len(heard(ours)) == 1
    os.close(theirs)
    os.close(ours)


def test_neither_end_is_inherited_nor_opened_by_name() -> None:
    ours, theirs = results.pair()
    for fd in (ours, theirs):
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError, match="No such device"):
            os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        os.close(fd)
