"""What a server writes about itself, and what it never writes."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from structlog.contextvars import bound_contextvars

from ipybox.control.access.keys import mint
from ipybox.control.access.logs import ROUTED, logging_to
from ipybox.control.access.redaction import printable, redacted, redacted_text
from ipybox.control.settings import ServerSettings

KEY = mint(name="a")[1]
SECRET = KEY.rpartition("_")[2]
log = logging.getLogger("ipybox.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def written(format: str, level: str = "INFO", stream: io.StringIO | None = None) -> Iterator[io.StringIO]:
    stream = stream or io.StringIO()
    with logging_to(ServerSettings(log_format=format, log_level=level), stream):  # type: ignore[arg-type]
        yield stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_lines_are_json_unless_a_person_reads_them() -> None:
    with written("auto") as stream:
        log.info("hello %s", "you", extra={"a": 1})
    (line,) = lines(stream)
    assert (line["event"], line["a"], line["level"], line["logger"]) == ("hello you", 1, "info", "ipybox.test")
    assert line["timestamp"].endswith("Z")
    with written("auto", stream=Terminal()) as stream:
        log.info("hello")
    assert not stream.getvalue().startswith("{")


def test_ids_that_are_bound_are_in_each_line() -> None:
    with written("json") as stream:
        with bound_contextvars(request_id="r", session_id="s", execution_id="e"):
            log.info("inside")
        log.info("outside")
    inside, outside = lines(stream)
    assert (inside["request_id"], inside["session_id"], inside["execution_id"]) == ("r", "s", "e")
    assert "request_id" not in outside


def test_the_server_and_the_loop_write_the_same_way_and_others_are_left_alone() -> None:
    root = logging.getLogger().handlers[:]
    with written("json") as stream:
        for name in ("uvicorn.error", "uvicorn.access", "uvicorn", "asyncio", "ipybox"):
            logging.getLogger(name).warning("x", extra={"color_message": "\x1b[31mx"})
        logging.getLogger("ipybox").debug("not this")
        assert logging.getLogger().handlers == root
    assert [line["logger"] for line in lines(stream)] == [
        "uvicorn.error",
        "uvicorn.access",
        "uvicorn",
        "asyncio",
        "ipybox",
    ]
    assert "color_message" not in stream.getvalue()


def test_afterwards_all_loggers_are_as_they_were() -> None:
    def state() -> list[Any]:
        found = [logging.getLogger(name) for name in (*ROUTED, "uvicorn.error", "uvicorn.access")]
        return [(each.handlers[:], each.level, each.propagate) for each in found]

    before = state()
    assert logging.getLogger("ipybox").propagate
    with pytest.raises(RuntimeError), written("json", "DEBUG"):
        assert state() != before
        raise RuntimeError
    assert state() == before


# ---- secrets ----------------------------------------------------------------------------------------------------

ENVIRONMENT = {"TOKEN": SECRET, "b": "} " + SECRET}
SAYINGS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    (KEY, (), {}),
    ("key %s", (KEY,), {}),
    ("headers %r", ([(b"authorization", f"Bearer {SECRET}".encode()), (b"x-api-key", SECRET.encode())],), {}),
    ("headers %s", ({"Authorization": f"Basic {SECRET}"},), {}),
    (f"Authorization: Bearer {SECRET}", (), {}),
    (f"X-API-Key: {SECRET}", (), {}),
    (f"Cookie: session={SECRET}", (), {}),
    (f"could not connect to postgresql://user:{SECRET}@host:5432/name", (), {}),
    (f"could not connect to postgresql://user:a/b#?{SECRET}@host/name", (), {}),
    (f"redis://:{SECRET}@host", (), {}),
    (f"https://host/x?X-Amz-Signature={SECRET}&a=b", (), {}),
    (f"https://host/x?a=b&token={SECRET}", (), {}),
    ("session %r", ({"env_vars": ENVIRONMENT},), {}),
    (f"Session(id='a', env_vars={ENVIRONMENT!r}, event=None)", (), {}),
    (f"env_vars={MappingProxyType(ENVIRONMENT)!r}", (), {}),
    ("x", (), {"env_vars": ENVIRONMENT}),
    ("x", (), {"request": {"env_vars": ENVIRONMENT, "code": SECRET, "event": {"a": SECRET}}}),
    ("x", (), {"key": KEY, "deep": [[[{"x": (KEY,)}]]]}),
    ("x", (), {"headers": {"X-Api-Key": SECRET, "Authorization": SECRET}}),
    ("x", (), {"password": SECRET, "database_url": SECRET, "code": SECRET}),
    ("x", (), {KEY: 1}),
    ("x", (), {"odd": type("Odd", (), {"__repr__": lambda self: KEY})()}),
    ("x", (), {"raw": KEY.encode()}),
    ("%s", (KEY[:40],), {}),
]


@pytest.mark.parametrize("format", ["json", "text"])
@pytest.mark.parametrize("number", range(len(SAYINGS)))
def test_no_secret_gets_through(format: str, number: int) -> None:
    message, arguments, extra = SAYINGS[number]
    with written(format) as stream:
        log.warning(message, *arguments, extra=extra)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert SECRET not in text
    assert KEY[:40] not in text
    if format == "json":
        lines(stream)


@pytest.mark.parametrize("format", ["json", "text"])
def test_no_secret_gets_through_in_a_traceback_or_a_bound_value(format: str) -> None:
    with written(format) as stream, bound_contextvars(key=KEY):
        try:
            try:
                raise ValueError(f"bad key {KEY}")
            except ValueError as error:
                raise RuntimeError(f"postgresql://u:{SECRET}@h env_vars={ENVIRONMENT}") from error
        except RuntimeError:
            log.exception("failed")
    text = stream.getvalue()
    assert SECRET not in text
    assert "RuntimeError" in text
    assert "bad key ipybox_" in text  # which key it was can be seen


@given(st.text(), st.text())
def test_no_text_hides_a_key(before: str, after: str) -> None:
    assert SECRET not in redacted_text(f"{before}{KEY}{after}")
    assert SECRET not in repr(redacted({before: [after, f"{before}{KEY}{after}"]}))


def test_ordinary_text_stays_as_it_is() -> None:
    for text in (
        "session sess_20261121_abcd is running, exit code 0",
        "the authorization server is away",
        "https://example.org/a?b=c#d",
        "ipybox_sessions{status} 3",
        "import ipybox_things",
        "a@b.example and https://x.example",
    ):
        assert redacted_text(text) == text


def test_long_text_is_cut_where_nothing_secret_is_taken_apart() -> None:
    for length in range(15_950, 16_060, 3):
        assert SECRET[:8] not in str(redacted(f"{'x' * length} postgresql://user:{SECRET}@host"))
    with written("json") as stream:
        try:
            raise ValueError("\n".join(["x" * 99] * 2000) + "the end")
        except ValueError:
            log.exception("y" * 100_000)
    assert "the end" in stream.getvalue()
    assert len(stream.getvalue()) < 100_000


# ---- injection --------------------------------------------------------------------------------------------------

HOSTILE = 'x\n{"event": "forged"}\r\n2026-11-21 [info] forged\x1b[2J\x85\u2028\u202e\x00\ud800'


@pytest.mark.parametrize("format", ["json", "text"])
def test_nobody_writes_a_line_of_his_own(format: str) -> None:
    with written(format) as stream, bound_contextvars(request_id=HOSTILE):
        log.info(HOSTILE)
        log.info("%s", HOSTILE, extra={"path": HOSTILE, "more": [HOSTILE], HOSTILE: 1})
    text = stream.getvalue()
    assert len(text.splitlines()) == 2
    assert not set(text) & set("\x1b\x00\r\x85\u2028\u202e\ud800")
    text.encode()


def test_what_is_wrong_with_a_form_is_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A library would write it past all handlers."""
    parser = MultipartParser(b"x")
    with written("json") as stream, pytest.raises(FormParserError):
        parser.write(b"no form")
    assert (stream.getvalue(), caplog.text) == ("", "")


def test_only_tracebacks_have_more_lines_and_these_are_marked() -> None:
    with written("text") as stream:
        try:
            raise ValueError(HOSTILE)
        except ValueError:
            log.exception("failed")
    first, *others = stream.getvalue().splitlines()
    assert "failed" in first
    assert others
    assert all(line.startswith("  | ") for line in others)
    assert not set(stream.getvalue()) & set("\x1b\x00\r\x85\u2028\u202e\ud800")


@given(st.text())
def test_what_is_printable_is_one_line_and_nothing_is_left_out(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert len(shown) >= len(text)


def test_long_hostile_text_is_worked_through() -> None:
    for text in ("a://" * 20_000, "ipybox_" * 10_000, "authorization " * 10_000, "env_vars=" * 10_000):
        assert redacted_text(text)
    assert sys.getsizeof(redacted({str(number): "x" for number in range(10_000)})) < 20_000
