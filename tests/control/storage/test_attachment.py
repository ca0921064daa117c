"""A file's name in a header, whatever it is."""

from __future__ import annotations

from email.message import EmailMessage
from email.policy import HTTP
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.control.storage.attachment import content_disposition


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", 'attachment; filename="a.csv"'),
        ("a b.csv", 'attachment; filename="a b.csv"'),
        ("dir/a.csv", 'attachment; filename="a.csv"'),
        ('a"b.csv', "attachment; filename=\"a_b.csv\"; filename*=UTF-8''a%22b.csv"),
        ("a\\b", "attachment; filename=\"a_b\"; filename*=UTF-8''a%5Cb"),
        ("€ rates", "attachment; filename=\"_ rates\"; filename*=UTF-8''%E2%82%AC%20rates"),
        (
            "a\r\nSet-Cookie: x=1",
            "attachment; filename=\"a__Set-Cookie: x=1\"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x%3D1",
        ),
        ("50%", "attachment; filename=\"50_\"; filename*=UTF-8''50%25"),
        ("..", 'attachment; filename="download"'),
        ("", 'attachment; filename="download"'),
    ],
)
def test_a_name_is_escaped(name: str, expected: str) -> None:
    assert content_disposition(name) == expected


@given(st.text())
def test_every_name_gives_a_header_of_plain_ascii(name: str) -> None:
    header = content_disposition(name)

    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2
    if "filename*" in header:
        plain = name.rpartition("/")[2].encode("utf-8", "replace").decode()
        assert unquote(header.partition("UTF-8''")[2]) == plain


@given(st.text(st.characters(codec="utf-8", exclude_characters="/", exclude_categories=("Cc", "Cs")), min_size=1))
def test_a_client_reads_the_name_that_was_said(name: str) -> None:
    header = content_disposition(name)
    message = EmailMessage(policy=HTTP)
    message["Content-Disposition"] = header

    if "filename*" not in header and name.strip(" ."):
        assert message.get_filename() == name
