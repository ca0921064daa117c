"""Answers as dataclasses: tolerant of more, not of less."""

from __future__ import annotations

from typing import Any

import pytest

from ipybox.control.client.decoding import UnexpectedAnswerError, decoded
from ipybox.control.client.models import ExecutionInfo, NewKey, SessionInfo

AT = "2026-01-02T03:04:05Z"
LEAST: dict[str, Any] = {"id": "s", "template_id": "t", "status": "running", "created_at": AT, "updated_at": AT}


def test_what_is_not_known_is_ignored_and_what_is_missing_has_its_default() -> None:
    session = decoded(SessionInfo, {**LEAST, "new_thing": {"a": 1}, "status": "hibernating"})
    assert session.status == "hibernating"
    assert session.tags == {}
    assert session.is_final


def test_all_that_can_be_in_an_answer_is_read() -> None:
    session = decoded(
        SessionInfo,
        {
            **LEAST,
            "tags": {"a": "b"},
            "network": {"allowed_domains": ["x"], "denied_domains": []},
            "installed_dependencies": [{"name": "n", "version": "1", "install_time": AT}],
            "event": [1, None],
            "completed_at": None,
        },
    )
    assert session.network.allowed_domains == ("x",)
    assert session.installed_dependencies[0].install_time is not None
    assert session.event == [1, None]


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        None,
        {},
        {**LEAST, "id": 1},
        {**LEAST, "id": None},
        {**LEAST, "created_at": "yesterday"},
        {**LEAST, "created_at": 5},
        {**LEAST, "epoch": True},
        {**LEAST, "tags": {"a": 1}},
        {**LEAST, "tags": []},
        {**LEAST, "network": "all"},
        {**LEAST, "installed_dependencies": [1]},
    ],
)
def test_what_is_of_another_type_is_refused(wrong: Any) -> None:
    with pytest.raises(UnexpectedAnswerError, match="answer"):
        decoded(SessionInfo, wrong)


def test_a_whole_number_is_a_number() -> None:
    info = decoded(ExecutionInfo, {"id": "e", "session_id": "s", "status": "completed", "timeout": 3, "created_at": AT})
    assert info.timeout == 3.0


def test_the_secret_of_a_key_is_not_shown_by_accident() -> None:
    key = {"id": "k", "owner": "o", "name": "n", "created_at": AT}
    assert "hidden" not in repr(decoded(NewKey, {"key": key, "secret": "hidden"}))
