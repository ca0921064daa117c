"""Policies that are built in code are checked as those in files are."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from ipybox.sandbox.policy import (
    HIGHEST,
    LOWEST,
    FilesystemPolicy,
    Limits,
    NetworkPolicy,
    Packages,
    SandboxPolicy,
    path_problem,
)


def test_a_policy_that_says_nothing_opens_no_network_and_hides_env_files() -> None:
    policy = SandboxPolicy()
    assert policy.network.allowed_domains == ()
    assert policy.filesystem == FilesystemPolicy(deny_read=(".env",), allow_write=(".",))


def test_every_limit_has_bounds_and_its_default_is_within() -> None:
    assert set(LOWEST) == set(HIGHEST) == {each.name for each in fields(Limits)}
    for name in LOWEST:
        for value in (LOWEST[name], HIGHEST[name]):
            assert getattr(Limits(**{name: value}), name) == value
        for value in (LOWEST[name] - 1, HIGHEST[name] + 1):
            with pytest.raises(ValueError, match=name):
                Limits(**{name: value})


@pytest.mark.parametrize("name", ["processes", "open_files", "scratch", "shared_memory"])
def test_limits_that_always_hold_are_never_none(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        Limits(**{name: None})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (NetworkPolicy, {"allowed_domains": ["example.org"]}),
        (NetworkPolicy, {"allowed_domains": "example.org"}),
        (NetworkPolicy, {"allow_local_binding": 1}),
        (NetworkPolicy, {"hosts": {"a": "b"}}),
        (NetworkPolicy, {"parent_proxy": 1}),
        (FilesystemPolicy, {"deny_read": (1,)}),
        (Limits, {"memory": True}),
        (Limits, {"memory": 1e9}),
        (Packages, {"install": "numpy"}),
    ],
)
def test_a_wrong_type_names_the_field(kind: Any, given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(given))):
        kind(**given)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (NetworkPolicy, {"hosts": (("a",),)}),
        (NetworkPolicy, {"parent_proxy": ""}),
        (FilesystemPolicy, {"deny_read": ("",)}),
        (FilesystemPolicy, {"allow_write": ("a\0b",)}),
        (FilesystemPolicy, {"allow_read": ("~joe",)}),
        (Packages, {"install": ("--index-url=x",)}),
    ],
)
def test_a_wrong_value_names_the_field(kind: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        kind(**given)


@pytest.mark.parametrize("path", [".", "~", "~/x", "/x", "a b", "./~joe", "é", "**/.env"])
def test_these_are_paths(path: str) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize("path", ["", "a\0", "~joe", "~joe/x", "\ud800"])
def test_these_are_no_paths(path: str) -> None:
    assert path_problem(path) is not None


def test_limits_within_others_are_the_lower_of_both() -> None:
    own = Limits(memory=None, processes=10, file_size=5, cpu_time=None, scratch=8192)
    most = Limits(memory=100 * 1024**2, processes=20, file_size=None, cpu_time=None, scratch=4096)
    both = own.within(most)
    assert (both.memory, both.processes, both.file_size, both.cpu_time, both.scratch) == (
        100 * 1024**2,
        10,
        5,
        None,
        4096,
    )
    assert both == most.within(own)
    assert own.within(own) == own
