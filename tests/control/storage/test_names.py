"""Names: every file that can be on a disk can be listed, asked for, and copied."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipybox.control.errors import WorkspaceFileError
from ipybox.control.storage import names

PART = st.binary(min_size=1, max_size=40).filter(lambda part: not set(part) & set(b"\0/") and part not in (b".", b".."))
TRICKY = st.lists(st.sampled_from([b"%", b"25", b"F", b"FF", b"C3", b"\xc3", b"\xa4", b"\xff", b"a", b"!"]), min_size=1)
PATH = st.lists(PART | TRICKY.map(b"".join), min_size=1, max_size=5).map(b"/".join)


@given(PATH)
@example(b"%FF")
@example(b"%25FF")
@example(b"%\xff")
@example(b"%25\xff")
@example("ä".encode())
@example(b"%C3%A4")
def test_what_is_listed_can_be_asked_for(raw: bytes) -> None:
    path = os.fsdecode(raw)

    shown = names.shown(path)

    shown.encode("utf-8")
    assert json.loads(json.dumps(shown)) == shown
    assert names.inner(shown) == path


@given(PATH)
def test_a_key_is_plain_and_can_be_turned_back(raw: bytes) -> None:
    path = os.fsdecode(raw)

    key = names.object_key(path)

    if key is not None:
        assert set(key) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/!")
        assert names.path_of_key(key) == path


@given(PATH, PATH)
def test_two_files_never_look_the_same(one: bytes, other: bytes) -> None:
    if one != other:
        assert names.shown(os.fsdecode(one)) != names.shown(os.fsdecode(other))
        assert names.object_hash(os.fsdecode(one)) != names.object_hash(os.fsdecode(other))


@given(st.text(min_size=1, max_size=40).filter(lambda text: "%" not in text))
def test_ordinary_text_is_taken_as_it_is(text: str) -> None:
    try:
        assert names.inner(text).encode("utf-8", "surrogateescape") == text.encode()
    except WorkspaceFileError:
        assert set(text) & {"/", ".", "\0"}


@pytest.mark.parametrize("text", ["100%", "50%off", "a%20b", "%C3%A4", "%25", "%41"])
def test_a_percent_sign_is_mostly_a_percent_sign(text: str) -> None:
    assert names.inner(text) == text


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc/passwd",
        "..",
        "../x",
        "a/../b",
        "a/..",
        ".",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        "a\0b",
        "x" * 256,
        "é" * 128,
        "/".join(["x" * 200] * 21),
        "\ud800",
    ],
)
def test_a_path_that_leads_elsewhere_or_nowhere_is_refused(path: str) -> None:
    with pytest.raises(WorkspaceFileError) as raised:
        names.inner(path)
    str(raised.value).encode()
    assert not raised.value.is_missing


@pytest.mark.parametrize("key", ["a!", "a!4", "a!GG", "a b", "!41", "é", "!ff"])
def test_what_is_no_key_of_ours_is_refused(key: str) -> None:
    with pytest.raises(ValueError):
        names.path_of_key(key)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a/b.csv", "text/csv"),
        ("B.PNG", "image/png"),
        ("x.tar.gz", "application/gzip"),
        ("x.csv.gz", "application/gzip"),
        ("notebook.ipynb", "application/x-ipynb+json"),
        ("data.json", "application/json"),
        ("README", "application/octet-stream"),
        (".html", "application/octet-stream"),
        ("a.html/b", "application/octet-stream"),
        ("data:text/html,x", "application/octet-stream"),
        ("x.", "application/octet-stream"),
        ("x.\udcff", "application/octet-stream"),
    ],
)
def test_a_type_is_guessed_from_the_ending(path: str, kind: str) -> None:
    assert names.mime_type(path) == kind
