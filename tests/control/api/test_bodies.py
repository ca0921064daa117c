"""Request bodies: what is taken, what it becomes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ipybox.control.api.bodies import (
    DependencyBody,
    ExecuteBody,
    NetworkBody,
    SessionBody,
    TemplateBody,
    TemplateChanges,
    bytes_of,
)
from ipybox.control.records import Dependency, NetworkRules


@pytest.mark.parametrize(
    ("text", "size"), [("1Mi", 2**20), ("512Mi", 512 * 2**20), ("1Gi", 2**30), ("9999999999Gi", 9999999999 * 2**30)]
)
def test_a_size_is_an_integer_with_a_unit(text: str, size: int) -> None:
    assert bytes_of(text) == size
    assert SessionBody(template_id="t", memory=text, disk=text).memory == text


@pytest.mark.parametrize(
    "text", ["", "0Mi", "512", "512M", "512MB", "1.5Gi", "-1Mi", "1 Mi", "1Ti", "01Mi", "1Mi\n", "\u0661Mi"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Mi or Gi"):
        bytes_of(text)
    with pytest.raises(ValidationError, match="Mi or Gi"):
        SessionBody(template_id="t", disk=text)


@pytest.mark.parametrize(
    ("given", "cpu"),
    [("1", "1"), ("0.5", "0.5"), ("500m", "0.5"), (2, "2"), (1.5, "1.5"), ("64", "64"), ("100m", "0.1")],
)
def test_processors_are_a_number_or_thousandths(given: Any, cpu: str) -> None:
    assert SessionBody.model_validate({"template_id": "t", "cpu": given}).cpu == cpu


@pytest.mark.parametrize(
    "given", ["0", "0.05", "65", "", "one", "1e3", "-1", "nan", True, [], "1 ", "99m", 10**400, "9" * 400 + "m"]
)
def test_what_is_no_number_of_processors_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="number of processors"):
        SessionBody.model_validate({"template_id": "t", "cpu": given})


@pytest.mark.parametrize(
    ("name", "version", "requirement"),
    [
        ("numpy", None, "numpy"),
        ("numpy", "", "numpy"),
        ("numpy", "  ", "numpy"),
        ("numpy", "2.0", "numpy==2.0"),
        ("numpy", "==2.0", "numpy==2.0"),
        ("numpy", ">= 1, <2", "numpy>=1,<2"),
        ("numpy", "~=2.0", "numpy~=2.0"),
        ("numpy", "2.*", "numpy==2.*"),
        ("ruamel.yaml", "1!0.1+local", "ruamel.yaml==1!0.1+local"),
        ("x2", None, "x2"),
        ("Pillow_SIMD-2", None, "Pillow_SIMD-2"),
    ],
)
def test_a_version_without_an_operator_means_exactly_that_one(name: str, version: str | None, requirement: str) -> None:
    assert DependencyBody(name=name, version=version).record.requirement == requirement


@pytest.mark.parametrize(
    "name",
    ["", ".x", "x.", "-x", "x-", "a..b", "a/b", "/a", "a b", "a\n", "http://x/y", "a[b]", "a==1", "ä", "a;b", "a@b"],
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        DependencyBody(name=name)


@pytest.mark.parametrize(("name", "hint"), [("pandas2.3.3", "'pandas' and '==2.3.3'"), ("a-b1.0", "'a-b' and '==1.0'")])
def test_a_glued_version_is_refused_with_both_parts(name: str, hint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DependencyBody(name=name)
    assert hint in str(caught.value)


@pytest.mark.parametrize("version", ["1 2", "=1", "==", "1;x", "@ x", "1,,2", "-r x", "== 1 ; y", "$(x)"])
def test_a_version_that_is_none_is_refused(version: str) -> None:
    with pytest.raises(ValidationError, match="must be a version"):
        DependencyBody(name="x", version=version)


def test_the_record_of_a_dependency_is_what_the_services_take() -> None:
    assert DependencyBody(name="x", version="1").record == Dependency(name="x", version="==1")


@pytest.mark.parametrize("name", ["timeout", "timeout_sec", "timeout_seconds"])
def test_a_timeout_of_code_has_three_names(name: str) -> None:
    assert ExecuteBody.model_validate({"code": "1", name: 7}).timeout == 7


@pytest.mark.parametrize("name", ["default_timeout", "default_timeout_sec"])
def test_a_timeout_of_a_template_has_two_names(name: str) -> None:
    assert TemplateBody.model_validate({"id": "t", "name": "t", name: 99}).default_timeout == 99
    assert TemplateChanges.model_validate({name: 99}).default_timeout == 99
    both = {"default_timeout": 99, "default_timeout_sec": 99}
    assert TemplateChanges.model_validate(both).default_timeout == 99
    with pytest.raises(ValidationError, match="must not differ"):
        TemplateChanges.model_validate({**both, name: 98})


def test_what_a_change_leaves_out_is_none() -> None:
    assert set(TemplateChanges().model_dump().values()) == {None}


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), [[-float("inf")]], "\ud800", {"\udfff": 1}, {"a": ["\ud800"]}], ids=ascii
)
def test_json_that_can_not_be_written_again_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        ExecuteBody(code="1", event=value)


def test_json_may_nest_to_a_depth_and_no_further() -> None:
    value: Any = None
    for _ in range(100):
        value = [value]
    assert ExecuteBody(code="1", event=value).event == value
    with pytest.raises(ValidationError, match="100 levels"):
        ExecuteBody(code="1", event={"deeper": value})


@pytest.mark.parametrize(
    "env", [{"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "\0"}, {"A": "\ud800"}, {"A": "x" * 131_072}]
)
def test_what_is_no_environment_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        ExecuteBody(code="1", env_vars=env)


def test_an_environment_may_hold_any_other_text() -> None:
    env = {"A b": "Grüße 🎉\n=", "x": ""}
    assert ExecuteBody(code="1", env_vars=env).env_vars == env


@pytest.mark.parametrize("code", ["", "x" * 102_401, "\ud800"])
def test_code_that_is_none_or_too_much_is_refused(code: str) -> None:
    with pytest.raises(ValidationError):
        ExecuteBody(code=code)


@pytest.mark.parametrize("identifier", ["", "a" * 65, ".a", "-a", "_a", "a/b", "a..b", "a b", "a\n", "ä"])
def test_what_is_no_identifier_is_refused(identifier: str) -> None:
    with pytest.raises(ValidationError):
        SessionBody(template_id="t", id=identifier)


@pytest.mark.parametrize(
    "host", ["", "a b", "http://a", "a/b", "a@b", "a#b", "a?b", "a\\b", "x" * 261, "\ud800", "a\0"]
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ValidationError):
        NetworkBody(allowed_domains=[host])


def test_the_record_of_a_network_is_what_the_services_take() -> None:
    body = NetworkBody(allowed_domains=["a.org", "*.b.org:443"], denied_domains=["c.b.org"])
    expected = NetworkRules(allowed_domains=("a.org", "*.b.org:443"), denied_domains=("c.b.org",))
    assert body.record == expected


def test_fields_that_nobody_knows_are_left_alone() -> None:
    body = SessionBody.model_validate({"template_id": "t", "mode": "persistent", "resources": {"gpu": 1}})
    assert body.mode == "persistent"
    assert "resources" not in body.model_dump()


@pytest.mark.parametrize(("field", "most"), [("env_vars", 4096), ("tags", 32)])
def test_of_too_many_names_none_is_looked_at(field: str, most: int) -> None:
    """Each that is no good has an error of its own, and the server has time for nothing else while they are made."""
    SessionBody.model_validate({"template_id": "t", field: {f"a{number}": "" for number in range(most)}})
    with pytest.raises(ValidationError) as refused:
        SessionBody.model_validate({"template_id": "t", field: {f"!{number}": 1 for number in range(most + 1)}})
    assert [(each["loc"], each["type"]) for each in refused.value.errors()] == [((field,), "value_error")]


@pytest.mark.parametrize("of", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_json_may_nest_so_deep_and_no_deeper(of: Any) -> None:
    value: Any = "x"
    for _ in range(100):
        value = of(value)
    assert SessionBody.model_validate({"template_id": "t", "event": value}).event == value
    with pytest.raises(ValidationError, match="must not nest deeper than 100 levels"):
        SessionBody.model_validate({"template_id": "t", "event": of(value)})


@pytest.mark.parametrize("bad", [float("nan"), "\ud800"])
def test_what_is_no_json_is_found_wherever_it_is(bad: Any) -> None:
    for value in (bad, [1, [bad]], {"a": {"b": bad}}, [[], {}, bad]):
        with pytest.raises(ValidationError):
            SessionBody.model_validate({"template_id": "t", "event": value})
    with pytest.raises(ValidationError):
        SessionBody.model_validate({"template_id": "t", "event": {"a": {"\ud800": 1}}})
