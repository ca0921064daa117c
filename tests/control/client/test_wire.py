"""What goes over the line: addresses, keys, paths, problems, and when something is tried again."""

from __future__ import annotations

import email.utils
import json
import time

import pytest

from ipybox.control.client import wire
from ipybox.control.errors import RequestRefusedError, ServerError


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://host", "http://", "http://u:p@host", "http://host?x=1", "http://host:99999"]
)
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        wire.checked_url(url)


def test_an_address_may_have_a_path_and_a_slash() -> None:
    assert wire.checked_url("https://host:8443/box/") == "https://host:8443/box"


@pytest.mark.parametrize(
    ("url", "is_it"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost", True),
        ("http://a.localhost", True),
        ("http://localhost.example.org", False),
        ("http://10.0.0.1", False),
    ],
)
def test_the_loopback_is_known(url: str, is_it: bool) -> None:
    assert wire.is_loopback(url) is is_it


def test_a_key_that_would_break_a_header_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError) as caught:
        wire.checked_key("ipybox_secret\r\nX: y")
    assert "secret" not in str(caught.value)
    assert wire.checked_key("") is None


@pytest.mark.parametrize("path", ["", "..", "a/../../b", "/etc/passwd", "/workspace", "/workspaces/a", "a/\udcff"])
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(RequestRefusedError):
        wire.file_in_path(path)


def test_a_path_is_one_path_whatever_is_in_it() -> None:
    assert wire.file_in_path("/workspace/a b/./c?d#e%2f") == "a%20b/c%3Fd%23e%252f"
    assert wire.id_in_path("a/b") == "a%2Fb"
    for id in ("", ".", ".."):
        with pytest.raises(RequestRefusedError):
            wire.id_in_path(id)


def test_a_problem_becomes_an_error_with_all_that_it_says() -> None:
    problem = {
        "title": "Unprocessable",
        "detail": "body.a: bad (and 1 more)",
        "request_id": "req_1",
        "errors": [{"loc": ["body", "a"], "msg": "bad"}, {"loc": ["body", "b", 0], "msg": "worse"}],
    }
    error = wire.error_of(422, "", {"retry-after": "3"}, json.dumps(problem).encode(), "http://h")
    assert (error.status, error.title, error.request_id, error.retry_after) == (422, "Unprocessable", "req_1", 3.0)
    assert "body.b.0: worse" in error.detail
    assert error.problem == problem


@pytest.mark.parametrize("content", [b"", b"<html>", b"[" * 100_000, b"[1]", b'{"title": 1, "errors": 3}', b"\xff"])
def test_any_answer_of_any_server_becomes_an_error(content: bytes) -> None:
    error = wire.error_of(404, "Not Found", {}, content, "http://h")
    assert error.status == 404
    assert "perhaps no ipybox server" in error.detail


def test_a_time_to_wait_may_be_a_date() -> None:
    seconds = wire.retry_seconds(email.utils.formatdate(time.time() + 20))
    assert seconds is not None
    assert 10 < seconds <= 20
    assert wire.retry_seconds("-5") == 0.0
    assert wire.retry_seconds("soon") is None
    assert wire.retry_seconds("nan") is None


def test_what_passes_is_tried_again_a_few_times_and_what_does_not_is_not() -> None:
    busy = ServerError(503, "Busy", "")
    patience = wire.Patience(2)
    assert 0 < patience.wait_for(busy) <= 0.2
    assert 0 < patience.wait_for(busy) <= 0.4
    with pytest.raises(ServerError):
        patience.wait_for(busy)
    patience.progress()
    assert patience.wait_for(busy) > 0
    with pytest.raises(ServerError):
        wire.Patience(2).wait_for(ServerError(404, "", ""))


def test_who_is_told_to_wait_waits_that_long_but_not_for_ever() -> None:
    assert 7.0 <= wire.Patience(1).wait_for(ServerError(429, "", "", retry_after=7.0)) <= 8.0
    with pytest.raises(ServerError):
        wire.Patience(1).wait_for(ServerError(429, "", "", retry_after=3600.0))
