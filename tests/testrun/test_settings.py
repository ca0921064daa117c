"""Settings that make no sense are refused where they are made."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from ipybox.testrun.settings import RunSettings


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("isolation", "module", "isolation must be"),
        ("framework", "nose", "framework must be"),
        ("workers", 0, "workers must be at least 1, got 0"),
        ("workers", -1, "workers"),
        ("timeout", 0.0, "timeout must be a positive number"),
        ("timeout", -1.0, "timeout"),
        ("timeout", float("nan"), "timeout"),
        ("memory", 1024, "memory must be at least"),
        ("processes", 0, "processes must be at least 1"),
        ("hash_seed", -1, "hash_seed must be from 0"),
        ("hash_seed", 4294967296, "hash_seed"),
        ("retries", -1, "retries must not be negative"),
        ("rerun_failures", -1, "rerun_failures must not be negative"),
        ("most_failures", -1, "most_failures must not be negative"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RunSettings(**{name: value})
    with pytest.raises(ValueError, match=reason):
        replace(RunSettings(), **{name: value})


def test_the_number_of_sandboxes_is_what_was_asked_for() -> None:
    assert RunSettings(workers=3).parallel == 3


def test_without_a_wish_there_is_one_for_each_processor_that_we_may_use() -> None:
    assert RunSettings().parallel == len(os.sched_getaffinity(0))


def test_it_is_what_was_asked_for_also_where_nobody_tells_which_processors_we_may_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert RunSettings(workers=3).parallel == 3
    assert RunSettings().parallel == os.cpu_count()


def test_by_default_nothing_of_the_network_can_be_reached() -> None:
    assert RunSettings().network is False


def test_variables_for_tests_may_be_secrets_so_they_are_not_shown() -> None:
    assert "hunter2" not in repr(RunSettings(env={"TOKEN": "hunter2"}))


def test_the_working_directory_is_that_of_the_moment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunSettings().cwd == os.getcwd()
