"""Nothing is taken from the cache unless nothing has changed, and only what surely passed is ever put in."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ipybox.testrun import cache as cache_module
from ipybox.testrun import project_files
from ipybox.testrun.cache import Cache, Environment, Fingerprint, fingerprint
from ipybox.testrun.history import History
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.project_files import look_at
from tests.testrun.reports import NASTY, case, one_of_each, report

PYTHON = Environment(python="cpython 3.11.7", distributions=(("pytest", "9.0.1", ""),))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "tests" / "data").mkdir(parents=True)
    (root / "tests" / "test_a.py").write_text("def test_a(): pass\n")
    (root / "tests" / "data" / "numbers.csv").write_text("1,2,3\n")
    (root / "setup.cfg").write_text("")
    (root / "link").symlink_to("tests/data")
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache(tmp_path / "results.sqlite") as opened:
        yield opened


def digest(root: Path, *exclude: str) -> str:
    found = look_at(root, exclude=exclude)
    assert found.reason == ""
    return found.digest


def reason(root: Path, *exclude: str) -> str:
    found = look_at(root, exclude=exclude)
    assert found.digest == ""
    return found.reason


# ---- files ------------------------------------------------------------------------------------------------------


def _change_a_byte_and_restore_the_times(root: Path) -> None:
    path = root / "tests" / "data" / "numbers.csv"
    before = path.stat()
    path.write_text("1,2,4\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _retarget(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("tests")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a changed byte": lambda root: (root / "tests" / "test_a.py").write_text("def test_b(): pass\n"),
    "a changed byte with the same times and size": _change_a_byte_and_restore_the_times,
    "a new file": lambda root: (root / "tests" / "conftest.py").write_text(""),
    "a new directory": lambda root: (root / "empty").mkdir(),
    "a removed file": lambda root: (root / "setup.cfg").unlink(),
    "a renamed file": lambda root: (root / "setup.cfg").rename(root / "setup.cfgg"),
    "a moved file": lambda root: (root / "setup.cfg").rename(root / "tests" / "setup.cfg"),
    "a link to something else": _retarget,
    "a file that became executable": lambda root: (root / "setup.cfg").chmod(0o755),
    "two files that changed places": lambda root: (
        (root / "setup.cfg").rename(root / "x"),
        (root / "tests" / "test_a.py").rename(root / "setup.cfg"),
        (root / "x").rename(root / "tests" / "test_a.py"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_project_is_noticed(project: Path, change: str) -> None:
    before = digest(project)
    assert digest(project) == before
    CHANGES[change](project)
    assert digest(project) != before


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed_also_where_contents_are_remembered(
    project: Path, cache: Cache, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_files, "_FRESH", -(10**18))  # remember also files that have just been written
    before = cache.fingerprint(project, settings={}, environment=PYTHON)
    assert cache.fingerprint(project, settings={}, environment=PYTHON) == before
    time.sleep(0.02)  # more than the tick in which times of files go
    CHANGES[change](project)
    assert cache.fingerprint(project, settings={}, environment=PYTHON) != before


@pytest.mark.parametrize(
    "path",
    [".git/index", "__pycache__/a.pyc", "tests/__pycache__/b.pyc", ".pytest_cache/v/last", "venv/lib/a.py", ".git"],
)
def test_what_is_no_part_of_the_project_makes_no_difference(project: Path, path: str) -> None:
    if path.startswith("venv"):
        (project / "venv").mkdir()
        (project / "venv" / "pyvenv.cfg").write_text("")
    before = digest(project)
    (project / path).parent.mkdir(parents=True, exist_ok=True)
    (project / path).write_text("something")
    assert digest(project) == before


def test_what_the_caller_excludes_makes_no_difference(project: Path) -> None:
    before = digest(project, "build", "docs/*.pdf")
    (project / "build" / "deep").mkdir(parents=True)
    (project / "build" / "deep" / "a.o").write_text("x")
    assert digest(project, "build/", "docs/*.pdf") == before
    assert digest(project) != before


def test_files_that_have_not_changed_are_not_read_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in project.rglob("*.*"):
        os.utime(path, ns=(0, 0))
    monkeypatch.setattr(project_files, "_FRESH", -(10**18))
    first = look_at(project)
    assert set(first.contents) == {b"tests/test_a.py", b"tests/data/numbers.csv", b"setup.cfg"}
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert look_at(project, known=first.contents).digest == first.digest


def test_a_file_that_has_just_been_written_is_read_again_the_next_time(project: Path) -> None:
    assert look_at(project).contents == {}


def test_a_link_that_leads_out_of_the_project_is_not_followed_and_prevents_caching(project: Path) -> None:
    secret = project.parent / "secret"
    secret.write_text("x")
    for target in ("../secret", str(secret), "tests/../../secret", "/", "link/../../../secret", "nothing/../../x"):
        (project / "out").symlink_to(target)
        assert reason(project) == "out is a link that leads out of the project"
        assert digest(project, "out")
        (project / "out").unlink()


def test_links_within_the_project_are_fine_also_if_they_lead_nowhere_or_in_circles(project: Path) -> None:
    (project / "absolute").symlink_to(project.resolve() / "tests")
    (project / "nowhere").symlink_to("does/not/exist")
    (project / "root").symlink_to(".")
    (project / "one").symlink_to("two")
    (project / "two").symlink_to("one/deeper")
    (project / "tests" / "up").symlink_to("../link/numbers.csv")
    assert digest(project)


def test_a_link_to_what_is_left_out_prevents_caching(project: Path) -> None:
    (project / "build").mkdir()
    (project / "out").symlink_to("tests/../build/a.txt")
    assert reason(project, "build") == "out is a link to build, which is left out"


def test_what_is_neither_file_nor_directory_prevents_caching_and_is_not_opened(project: Path) -> None:
    os.mkfifo(project / "pipe")
    assert reason(project) == "pipe is neither a file nor a directory"
    (project / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(project / "socket"))
        assert reason(project) == "socket is neither a file nor a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_can_not_be_read_prevents_caching(project: Path) -> None:
    (project / "setup.cfg").chmod(0)
    assert "setup.cfg can't be read" in reason(project)


def test_a_file_that_can_not_be_opened_prevents_caching(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str | bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == b"setup.cfg":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse)
    assert reason(project) == "setup.cfg can't be read: Permission denied"


def test_a_project_that_is_not_there_prevents_caching(tmp_path: Path) -> None:
    assert "can't be read" in reason(tmp_path / "nothing")


def test_directories_without_end_prevent_caching(project: Path) -> None:
    deep = project
    for _ in range(110):
        deep = deep / "d"
    deep.mkdir(parents=True)
    assert "directories deep" in reason(project)


def test_names_and_targets_do_not_run_into_each_other(project: Path) -> None:
    (project / "x").symlink_to("yzlinkw")
    one = digest(project)
    (project / "x").unlink()
    (project / "x").symlink_to("y")
    (project / "z").symlink_to("w")
    assert digest(project) != one


def test_names_that_are_no_text_are_told_apart(project: Path) -> None:
    (project / os.fsdecode(b"a\xff")).write_text("")
    first = digest(project)
    (project / os.fsdecode(b"a\xff")).rename(project / os.fsdecode(b"a\xfe"))
    assert digest(project) != first


# ---- fingerprint ------------------------------------------------------------------------------------------------


def test_everything_that_can_influence_tests_is_part_of_the_fingerprint(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = look_at(project)
    settings = {"isolation": "test", "env": {"A": "1"}}
    found = [
        fingerprint(files, PYTHON, settings),
        fingerprint(files, PYTHON, {**settings, "isolation": "file"}),
        fingerprint(files, PYTHON, {**settings, "env": {"A": "2"}}),
        fingerprint(files, replace(PYTHON, python="cpython 3.12.0"), settings),
        fingerprint(files, replace(PYTHON, distributions=(("pytest", "9.0.2", ""),)), settings),
        fingerprint(files, replace(PYTHON, distributions=()), settings),
        fingerprint(replace(files, digest="other"), PYTHON, settings),
    ]
    monkeypatch.setattr(cache_module, "__version__", "9.9")
    found.append(fingerprint(files, PYTHON, settings))
    assert len({each.digest for each in found}) == len(found)
    assert len({each.key("test_a") for each in found} | {found[0].key("test_b")}) == len(found) + 1


def test_the_order_of_settings_makes_no_difference(project: Path) -> None:
    files = look_at(project)
    assert fingerprint(files, PYTHON, {"a": 1, "b": 2}) == fingerprint(files, PYTHON, {"b": 2, "a": 1})


def test_the_environment_of_this_process_names_what_is_installed() -> None:
    found = Environment.of_this_process(Path(__file__).parent.parent.parent)
    names = {name.lower() for name, _, _ in found.distributions}
    assert {"pytest", "aiohttp"} <= names
    assert "cpython" in found.python or "pypy" in found.python


def _install(site: Path, name: str, directory: Path) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "direct_url.json").write_text(json.dumps({"url": directory.as_uri(), "dir_info": {"editable": True}}))


def test_a_package_that_is_a_link_to_a_directory_elsewhere_prevents_caching(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(tmp_path / "site", "inner", project / "tests")
    monkeypatch.setattr("sys.path", [str(tmp_path / "site")])
    assert Environment.of_this_process(project).reason == ""
    _install(tmp_path / "site", "outer", tmp_path / "my other project")
    environment = Environment.of_this_process(project)
    assert "outer is installed from" in environment.reason
    found = fingerprint(look_at(project), environment, {})
    assert (found.digest, found.reason) == ("", environment.reason)


# ---- results ----------------------------------------------------------------------------------------------------

SAME = Fingerprint(digest="0" * 64)


def test_a_test_that_passed_comes_back_as_cached_and_only_under_the_same_fingerprint(cache: Cache) -> None:
    passed = case("test_a", stdout="out", id=NASTY)
    assert cache.store(SAME, [passed]) == 1
    assert cache.lookup(SAME, [NASTY, "other"]) == {NASTY: replace(passed, cached=True, attempts=0)}
    assert cache.lookup(Fingerprint(digest="1" * 64), [NASTY]) == {}


def test_only_what_passed_at_once_is_kept(cache: Cache) -> None:
    results = [
        *one_of_each().results,
        case("test_cached", cached=True, attempts=0),
        case("test_again", attempts=2),
        case("test_lucky", flaky=True),
        case("test_twice"),
        case("test_twice", Outcome.FAILED),
    ]
    assert cache.store(SAME, results) == 1
    assert set(cache.lookup(SAME, [result.id for result in results])) == {"tests/test_a.py::test_passed"}


def test_without_a_fingerprint_nothing_is_kept_and_nothing_found(cache: Cache) -> None:
    nothing = Fingerprint(reason="a pipe")
    assert cache.store(nothing, [case("test_a")]) == 0
    assert cache.lookup(nothing, ["tests/test_a.py::test_a"]) == {}
    with pytest.raises(ValueError, match="a pipe"):
        nothing.key("test_a")


def test_what_was_of_no_use_for_the_longest_time_goes_first(tmp_path: Path) -> None:
    with Cache(tmp_path / "results.sqlite", keep=2) as cache:
        for name in ("a", "b"):
            cache.store(SAME, [case(name)])
        cache.lookup(SAME, [case("a").id])
        cache.store(SAME, [case("c")])
        assert set(cache.lookup(SAME, [case(name).id for name in "abc"])) == {case("a").id, case("c").id}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"id": "x", "outcome": "passed"}', '{"id": 1, "outcome": "odd"}'])
def test_a_kept_result_that_makes_no_sense_is_forgotten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.sqlite"
    result = case("test_a")
    with Cache(path) as cache:
        cache.store(SAME, [result])
        raw = sqlite3.connect(path)
        raw.execute("UPDATE passed SET result = ?", (text,))
        raw.commit()
        raw.close()
        assert cache.lookup(SAME, [result.id]) == {}
        cache.store(SAME, [result])
        assert result.id in cache.lookup(SAME, [result.id])


def test_cache_and_history_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with Cache(path) as cache, History(path) as history:
        cache.store(SAME, [case("test_a")])
        history.record(report(case("test_a")))
        assert len(history.runs()) == len(cache.lookup(SAME, [case("test_a").id])) == 1


def test_the_contents_of_files_that_are_gone_are_forgotten(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project_files, "_FRESH", -(10**18))
    path = tmp_path / "results.sqlite"
    with Cache(path) as cache:
        cache.fingerprint(project, settings={}, environment=PYTHON)
        (project / "setup.cfg").unlink()
        cache.fingerprint(project, settings={}, environment=PYTHON)
    raw = sqlite3.connect(path)
    assert raw.execute("SELECT path FROM contents ORDER BY path").fetchall() == [
        (b"tests/data/numbers.csv",),
        (b"tests/test_a.py",),
    ]
    raw.close()
