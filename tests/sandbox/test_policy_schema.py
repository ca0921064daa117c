"""The published schema is up to date, and never stricter than the parser."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped, unused-ignore]

from ipybox.errors import PolicyError
from ipybox.sandbox.policy import SandboxPolicy
from ipybox.sandbox.policy_file import parse_policy
from ipybox.sandbox.policy_schema import (
    POLICY,
    Choice,
    Flag,
    Key,
    Many,
    Named,
    Number,
    Section,
    Size,
    schema,
    schema_text,
)

REPOSITORY = Path(__file__).parents[2]
PUBLISHED = REPOSITORY / "docs" / "sandbox.schema.json"
VALIDATOR = Draft202012Validator(schema())


def test_the_published_schema_is_up_to_date() -> None:
    """If not: python -m ipybox.sandbox.policy_schema > docs/sandbox.schema.json"""
    assert PUBLISHED.read_text(encoding="utf-8") == schema_text()


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("path", ["sandbox.json", "tests/integration/sandbox.json"])
def test_the_example_files_are_valid(path: str) -> None:
    VALIDATOR.validate(json.loads((REPOSITORY / path).read_text(encoding="utf-8")))


def _objects(part: Any) -> list[dict[str, Any]]:
    if isinstance(part, list):
        return [each for item in part for each in _objects(item)]
    if not isinstance(part, dict):
        return []
    return [part, *(each for item in part.values() for each in _objects(item))]


def test_every_object_with_known_keys_refuses_others_and_every_key_is_described() -> None:
    for each in _objects(schema()):
        if isinstance(each.get("properties"), dict) and each.get("type") == "object":
            assert each["additionalProperties"] is False
    described = [section for name in ("network", "filesystem", "limits", "packages") if (section := POLICY.key(name))]
    for key in [
        *POLICY.keys,
        *(inner for outer in described if isinstance(outer.value, Section) for inner in outer.value.keys),
    ]:
        assert key.about.endswith(".")


def test_every_field_of_a_policy_has_one_key_and_its_default_is_in_the_schema() -> None:
    policy = SandboxPolicy()
    for section in fields(policy):
        outer = POLICY.key(section.name)
        assert outer is not None
        assert isinstance(outer.value, Section)
        used = {key.field: key.name for key in outer.value.keys if key.field}
        part = getattr(policy, section.name)
        assert set(used) == {each.name for each in fields(part)}
        for field, name in used.items():
            default = schema()["properties"][section.name]["properties"][name]["default"]
            value = getattr(part, field)
            expected = dict(value) if field == "hosts" else list(value) if isinstance(value, tuple) else value
            assert default == expected


def test_the_defaults_in_the_schema_are_what_the_parser_reads() -> None:
    sections = schema()["properties"]
    data: dict[str, Any] = {
        name: {key: part["default"] for key, part in sections[name]["properties"].items() if "default" in part}
        for name in ("network", "filesystem", "limits", "packages")
    }
    VALIDATOR.validate(data)
    assert parse_policy(data, "x") == parse_policy({}, "x")


def test_unknown_and_refused_keys_are_invalid() -> None:
    wrong: list[dict[str, Any]] = [{"netwerk": {}}, {"allowAppleEvents": True}, {"network": {"httpProxyPort": 1}}]
    for data in wrong:
        assert not VALIDATOR.is_valid(data)


# ---- schema and parser ------------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.sampled_from(
        (
            *("", ".", "~", "~/x", "~joe", "**/.env", "a?", "a[b", "/", "a\0", "é", "a b", "x\n", " "),
            *("example.org", "*.example.org:8443", "[2001:db8::1]:443", "10.0.0.1", "10.0.0.1:80"),
            *("http://proxy:3128", "HTTPS://x/simple", "ftp://x", "-r x", "numpy>=2", "refuse"),
            *("512 MiB", "2GB", "1.5 gib", "7 potatoes", "17000000b"),
        )
    ),
    st.text(max_size=6),
)
ANY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 70_000),
    st.integers(2**20, 2**61),
    st.floats(allow_nan=False),
    TEXTS,
    st.lists(TEXTS, max_size=2),
    st.dictionaries(TEXTS, TEXTS, max_size=2),
    st.fixed_dictionaries({"path": TEXTS, "literal": st.booleans()}),
)


def _values(value: Any) -> st.SearchStrategy[Any]:
    """Values that are often right."""
    match value:
        case Section(keys):
            return _sections(keys)
        case Flag():
            return st.booleans()
        case Choice(of):
            return st.sampled_from(of)
        case Number(lowest, highest) | Size(lowest, highest):
            return st.one_of(st.integers(lowest, highest), ANY)
        case Many(of):
            return st.lists(_values(of), max_size=2)
        case Named(of):
            return st.dictionaries(TEXTS, _values(of), max_size=2)
    return st.one_of(TEXTS, ANY)


def _sections(keys: tuple[Key, ...]) -> st.SearchStrategy[Any]:
    pairs = [st.tuples(st.just(key.name), st.one_of(_values(key.value), _values(key.value), ANY)) for key in keys]
    return st.lists(st.one_of(*pairs, st.tuples(TEXTS, ANY)), max_size=3).map(dict)


@settings(max_examples=600, deadline=None)
@given(data=_sections(POLICY.keys))
def test_whatever_the_parser_accepts_the_schema_accepts(data: dict[str, Any]) -> None:
    try:
        parse_policy(data, "x")
    except PolicyError:
        return
    VALIDATOR.validate(data)


@settings(max_examples=300, deadline=None)
@given(data=ANY)
def test_the_parser_answers_everything_with_a_policy_or_a_policy_error(data: object) -> None:
    for document in (data, {"network": data}, {"filesystem": {"allowWrite": data}}, {"limits": {"memory": data}}):
        try:
            parse_policy(document, "x")
            message = "x: fine"
        except PolicyError as caught:
            message = str(caught)
        assert message.startswith("x: ")
