"""JSON of strangers becomes something that any reader can take, or an error."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.control.runtime import untrusted_json
from ipybox.control.runtime.processors import Processors
from ipybox.control.runtime.untrusted_json import DEEPEST, UntrustedJsonError

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values, st.booleans())
def test_what_is_json_comes_out_as_it_is(value: Any, ascii: bool) -> None:
    assert untrusted_json.read(json.dumps(value, ensure_ascii=ascii).encode()) == value


@given(st.binary(max_size=30))
def test_anything_is_a_value_that_can_be_encoded_or_an_error(data: bytes) -> None:
    try:
        value = untrusted_json.read(data)
    except UntrustedJsonError:
        return
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"NaN", None),
        (b"[Infinity, -Infinity, 1e999]", [None, None, None]),
        (b'"\\ud800"', "�"),
        (b'{"\\udfff": "\\ud83d\\ude00"}', {"�": "😀"}),
        (b'"\xff"', "�"),
        (b'"[[[["', "[[[["),
        (b'"\\"[[[["', '"[[[['),
    ],
)
def test_what_others_could_not_take_is_replaced(text: bytes, expected: Any) -> None:
    assert untrusted_json.read(text) == expected


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[" * 100_000, b"1" * 5000, b"{]", b"[1] 2", b'{"a":' * 300 + b"1" + b"}" * 300]
)
def test_what_is_none_or_too_deep_or_too_long_is_an_error(text: bytes) -> None:
    with pytest.raises(UntrustedJsonError):
        untrusted_json.read(text)


def test_as_deep_as_can_be() -> None:
    assert untrusted_json.read(b"[" * DEEPEST + b"]" * DEEPEST) is not None


@given(st.lists(st.floats(0.01, 9), max_size=20))
def test_processors_are_spread(asked: list[float]) -> None:
    processors = Processors(range(4))
    given_out = [processors.take(cores) for cores in asked]
    for cores, taken in zip(asked, given_out, strict=True):
        assert len(set(taken)) == (0 if math.ceil(cores) >= 4 else math.ceil(cores))
    single = [taken[0] for taken in (processors.take(1) for _ in range(4))]
    used = [sum(number in taken for taken in given_out) + single.count(number) for number in range(4)]
    assert sum(used) == sum(map(len, given_out)) + 4
    if not any(math.ceil(cores) in (2, 3) for cores in asked):
        assert max(used) - min(used) <= 1
    for taken in given_out:
        processors.give_back(taken)


@pytest.mark.parametrize(
    "text", [b'"' + b'\\"' * 2_000_000, b'"' * 2_000_001, b'"' + b"\\" * 2_000_001, b"[" * 2_000_000]
)
def test_a_string_that_does_not_end_is_not_looked_at_again_from_each_quotation_mark(text: bytes) -> None:
    with pytest.raises(UntrustedJsonError):
        untrusted_json.read(text)
