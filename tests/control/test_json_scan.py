"""JSON that is looked at in pieces is what ``json`` takes, and each piece is small whatever the text is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.control.json_scan import JsonScan, JsonScanError

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.sampled_from('a"\\\n\t\x1fé😀{}[],:')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=40,
)
almost = st.lists(
    st.sampled_from(
        [
            *'[]{},:" \n',
            '"a"',
            '"a":',
            "1",
            "-",
            "0",
            "1.5e3",
            "1e400",
            "[]",
            "{}",
            "null",
            "NaN",
            "-Infinity",
            "\\u",
            "\\",
        ]
    ),
    max_size=12,
).map("".join)
SIZE = 300_000
LONG = {
    "numbers": "[" + "1," * SIZE + "1]",
    "empty lists": "[" + "[]," * SIZE + "1]",
    "lists in lists": "[" + "[[[[]]]]," * SIZE + "1]",
    "objects in objects": "[" + '{"":{"":{"":1}}},' * SIZE + "1]",
    "one object": "{" + '"a":[[1]],' * SIZE + '"b":1}',
    "one string": '"' + "x" * 4 * SIZE + '"',
    "escapes": '"' + "\\n" * 2 * SIZE + '"',
    "space": "[" + " \n" * 2 * SIZE + "]",
    "long lists in long lists": "[" + ",".join(["[" * 150 + "1," * 30_000 + "1" + "]" * 150] * 10) + "]",
}


def seen(text: str, deepest: int = 200) -> JsonScan:
    scan = JsonScan(text, deepest=deepest)
    for _ in scan:
        pass
    return scan


def read(text: str) -> Any:
    """What ``json`` makes of it, without what does not exist."""
    value = json.loads(text, parse_constant=lambda name: None, parse_float=lambda word: _finite(float(word)))
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _finite(number: float) -> float | None:
    return number if number - number == 0 else None


@settings(deadline=None)
@given(values, st.sampled_from([None, 1]), st.booleans())
def test_json_is_taken_and_stays_what_it_is_on_one_line(value: Any, indent: int | None, ascii: bool) -> None:
    text = seen(json.dumps(value, indent=indent, ensure_ascii=ascii)).text
    assert json.loads(text) == value
    assert "\n" not in text


def agrees(text: str) -> None:
    try:
        expected = read(text)
    except ValueError:
        with pytest.raises(JsonScanError):
            seen(text)
    else:
        assert json.loads(seen(text).text) == expected


@settings(max_examples=500, deadline=None)
@given(almost)
def test_what_is_nearly_json_is_taken_when_json_takes_it(text: str) -> None:
    agrees(text)


@settings(deadline=None)
@given(values, st.sampled_from(["", ",", "]", '"', "}"]), st.integers(0))
def test_what_is_spoiled_is_taken_when_json_takes_it(value: Any, spoil: str, at: int) -> None:
    text = json.dumps([[[value]], {"a": value}])
    at %= len(text)
    agrees(text[:at] + spoil + text[at + 1 :])


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_no_piece_of_a_long_text_is_long(text: str) -> None:
    assert sum(1 for _ in JsonScan(text, deepest=200)) >= len(text) // (3 * 64 * 1024)
    with pytest.raises(JsonScanError):
        seen(text[:-1] + "!")


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("[NaN, 1e999, -Infinity, 1e300]", "[null, null, null, 1e300]"),
        (r'"\ud800"', r'"\ufffd"'),
        (r'"\ud83d\ude00 \\ud800 \udc00\ud800"', r'"\ud83d\ude00 \\ud800 \ufffd\ufffd"'),
        ("[" + "9" * 250 + "]", "[" + "9" * 250 + "]"),
    ],
)
def test_what_does_not_exist_is_replaced(text: str, better: str) -> None:
    scan = seen(text)
    assert scan.text == better
    assert scan.has_what_is_not_there == (better != text)


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("inner", ["", "1", '"' + "x" * 100_000 + '"'])
def test_depth_is_counted_whether_a_value_is_short_or_long(depth: int, inner: str) -> None:
    text = "[" * depth + inner + "]" * depth
    if depth <= 3:
        seen(text, deepest=3)
        return
    with pytest.raises(JsonScanError, match="deeper than 3"):
        seen(text, deepest=3)


def test_so_much_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(JsonScanError, match="do not exist"):
        seen("[" + "NaN," * 200_000 + "1]")


@settings(deadline=None)
@given(st.dictionaries(st.text(), values), st.sampled_from([None, 2]))
def test_members_are_where_they_are(value: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(value, indent=indent)
    scan = JsonScan(text, deepest=200, wants_members=True)
    for _ in scan:
        pass
    assert {json.loads(name): json.loads(text[place]) for name, place in scan.members.items()} == value


def test_an_object_of_very_many_names_has_no_members() -> None:
    with pytest.raises(JsonScanError, match="names"):
        for _ in JsonScan(json.dumps(dict.fromkeys(map(str, range(2000)))), deepest=200, wants_members=True):
            pass
