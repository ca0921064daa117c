"""Where the programs are that run sandboxes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ipybox.command import binaries
from ipybox.command.binaries import find_binary
from ipybox.errors import SandboxUnavailableError

REMEDY = "install it: apt install engine"


def program(directory: Path, name: str = "engine", mode: int = 0o755) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is found that the test did not make."""
    monkeypatch.setattr(binaries, "DIRECTORIES", (str(tmp_path / "fallback"),))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("ENGINE_BIN", raising=False)


def find(**options: Any) -> str:
    return find_binary("engine", "ENGINE_BIN", remedy=REMEDY, **options)


def test_the_variable_comes_first_then_path_then_the_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = program(tmp_path / "fallback")
    assert find() == str(last)
    second = program(tmp_path / "path")
    assert find() == str(second)
    first = program(tmp_path / "variable", "another-name")
    monkeypatch.setenv("ENGINE_BIN", str(first))
    assert find() == str(first)


def test_what_the_caller_names_comes_before_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_BIN", str(program(tmp_path / "variable")))
    named = program(tmp_path / "named")
    assert find(binary=named) == str(named)
    with pytest.raises(SandboxUnavailableError, match=r"binary='.*gone' is no executable file"):
        find(binary=tmp_path / "gone")


def test_an_empty_variable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_BIN", "")
    there = program(tmp_path / "path")
    assert find() == str(there)


@pytest.mark.parametrize("mode", [0o644, None])
def test_a_variable_that_names_no_program_is_an_error_and_nothing_else_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int | None
) -> None:
    program(tmp_path / "path")
    wrong = tmp_path / "wrong" if mode is None else program(tmp_path / "variable", mode=mode)
    monkeypatch.setenv("ENGINE_BIN", str(wrong))
    with pytest.raises(SandboxUnavailableError) as caught:
        find()
    assert f"ENGINE_BIN={str(wrong)!r} is no executable file" in str(caught.value)
    assert "unset it" in str(caught.value)


def test_a_variable_with_a_relative_path_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENGINE_BIN", "engine")
    with pytest.raises(SandboxUnavailableError, match="ENGINE_BIN='engine' is no absolute path"):
        find()


@pytest.mark.parametrize("path", ["", ".", "bin", "bin:", ":bin"])
def test_relative_entries_of_path_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    program(tmp_path)
    program(tmp_path / "bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path)
    with pytest.raises(SandboxUnavailableError):
        find()


def test_what_is_no_program_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "path" / "engine").mkdir(parents=True)
    there = program(tmp_path / "fallback")
    assert find() == str(there)


def test_what_commands_may_write_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "writable")
    (tmp_path / "path").symlink_to(tmp_path / "writable")
    there = program(tmp_path / "fallback")
    assert find(outside=[str(tmp_path / "writable")]) == str(there)


def test_a_missing_program_is_named_with_every_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATH")
    with pytest.raises(SandboxUnavailableError) as caught:
        find()
    assert caught.value.reason == "engine was not found"
    assert caught.value.remedies[0] == REMEDY
    assert "ENGINE_BIN" in caught.value.remedies[1]


def test_the_path_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find(binary="engine") == os.path.join(os.getcwd(), "engine")
