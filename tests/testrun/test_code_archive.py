"""Compiled modules: what is read is what would have been compiled, or nothing."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest
from _pytest.assertion import rewrite as rewriting

from ipybox.testrun import code_archive
from ipybox.testrun.code_archive import PLAIN, REWRITTEN, Archive, loaded_sources


def _rewrite(name: str, source: bytes) -> CodeType:
    return compile(source + b"\nrewritten = 1\n", name, "exec")


def _archive(plain: list[str], rewritten: list[str]) -> Archive:
    fd = os.memfd_create("modules")
    code_archive.write(os.dup(fd), plain, rewritten, _rewrite)
    return Archive(fd)


def _value(code: CodeType | None, name: str = "x") -> object:
    assert code is not None
    namespace: dict[str, object] = {}
    exec(code, namespace)
    return namespace.get(name)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "archived_module.py"
    path.write_text("x = 1\n")
    return path


def test_a_file_is_found_as_it_was_compiled(source: Path) -> None:
    archive = _archive([str(source)], [])
    assert _value(archive.code(PLAIN, str(source))) == 1
    assert archive.code(REWRITTEN, str(source)) is None


def test_a_file_that_the_framework_compiles_is_compiled_by_it(source: Path) -> None:
    archive = _archive([], [str(source)])
    assert _value(archive.code(REWRITTEN, str(source)), "rewritten") == 1
    assert archive.code(PLAIN, str(source)) is None


def test_both_forms_of_a_file_are_kept_apart(source: Path) -> None:
    archive = _archive([str(source)], [str(source)])
    assert _value(archive.code(PLAIN, str(source)), "rewritten") is None
    assert _value(archive.code(REWRITTEN, str(source)), "rewritten") == 1


def test_a_file_that_was_changed_is_compiled_anew(source: Path) -> None:
    archive = _archive([str(source)], [])
    status = source.stat()
    source.write_text("x = 22\n")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert archive.code(PLAIN, str(source)) is None  # by its size
    source.write_text("x = 2\n")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert archive.code(PLAIN, str(source)) is None  # by its time


def test_a_file_that_is_gone_is_not_found(source: Path) -> None:
    archive = _archive([str(source)], [])
    source.unlink()
    assert archive.code(PLAIN, str(source)) is None


@pytest.mark.parametrize("text", [b"def (", b"x = '\xff'\n", b"\0", b"(" * 500, b"# coding: nonsense\n"], ids=repr)
def test_what_can_not_be_compiled_is_left_out_and_spoils_nothing(source: Path, text: bytes) -> None:
    bad = source.with_name("bad.py")
    bad.write_bytes(text)
    archive = _archive([str(bad), str(source.with_name("not there.py")), str(source)], [str(bad)])
    assert archive.code(PLAIN, str(bad)) is None
    assert archive.code(REWRITTEN, str(bad)) is None
    assert _value(archive.code(PLAIN, str(source))) == 1


def test_no_more_is_compiled_than_is_good(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = source.with_name("a_large_one.py")
    large.write_text("y = 1\n" * 100)
    monkeypatch.setattr(code_archive, "MOST_BYTES", 100)
    archive = _archive([str(source), str(large)], [])
    assert archive.code(PLAIN, str(large)) is None
    assert archive.code(PLAIN, str(source)) is not None


def test_names_may_be_anything(tmp_path: Path) -> None:
    path = tmp_path / "a b'é\udcff\n.py"
    path.write_text("x = 1\n")
    assert _value(_archive([str(path)], []).code(PLAIN, str(path))) == 1


def test_an_archive_of_nothing_has_nothing() -> None:
    assert _archive([], []).code(PLAIN, "/x.py") is None


# ---- imports ----------------------------------------------------------------------------------------------------


@pytest.fixture
def importable(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(source.parent))
    yield source
    sys.modules.pop("archived_module", None)


def _imported() -> object:
    sys.modules.pop("archived_module", None)
    importlib.invalidate_caches()
    return importlib.import_module("archived_module").x


def test_imports_look_there_and_write_nothing(importable: Path) -> None:
    archive = _archive([str(importable)], [])
    status = importable.stat()
    importable.write_text("x = 2\n")  # of the same size, and
    os.utime(importable, ns=(status.st_atime_ns, status.st_mtime_ns))  # of the same time: only the archive says 1
    undo = archive.install()
    try:
        assert _imported() == 1
    finally:
        undo()
    assert not (importable.parent / "__pycache__").exists()


def test_what_was_done_to_imports_is_undone(importable: Path) -> None:
    before = (rewriting._rewrite_test, sys.dont_write_bytecode, importlib.machinery.SourceFileLoader.get_code)
    undo = _archive([], []).install()
    assert importlib.machinery.SourceFileLoader.get_code is not before[2]
    undo()
    after = (rewriting._rewrite_test, sys.dont_write_bytecode, importlib.machinery.SourceFileLoader.get_code)
    assert after == before


def test_what_is_not_there_is_imported_as_ever(importable: Path) -> None:
    undo = _archive([], []).install()
    try:
        assert _imported() == 1
    finally:
        undo()


def test_what_is_loaded_of_a_project_is_known(importable: Path) -> None:
    assert _imported() == 1
    plain, _ = loaded_sources(str(importable.parent))
    assert plain == [str(importable)]
    assert loaded_sources(f"{importable.parent}/other")[0] == []


def test_what_pytest_has_compiled_is_known() -> None:
    _, rewritten = loaded_sources("/nowhere")
    assert __file__ in rewritten
