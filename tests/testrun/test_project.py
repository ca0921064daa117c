"""Where a project is, what its tests may do, and what they find: the same on every machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipybox.sandbox.access import SANDBOX_HOME
from ipybox.testrun.project import environment_for, policy_for, project_root, view_for
from ipybox.testrun.settings import RunSettings


def _tree(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return root


@pytest.mark.parametrize(
    "mark", ["pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg", "setup.py", "package.json", ".git"]
)
def test_it_is_where_its_configuration_is(tmp_path: Path, mark: str) -> None:
    project = _tree(tmp_path / "p", mark, "tests/deep/test_a.py")
    assert project_root((), str(project)) == str(project)
    assert project_root((), str(project / "tests/deep")) == str(project)
    assert project_root(("deep/test_a.py::TestA::test_b[x::y]",), str(project / "tests")) == str(project)


def test_the_nearest_configuration_counts(tmp_path: Path) -> None:
    _tree(tmp_path, "pyproject.toml", "inner/pytest.ini", "inner/tests/test_a.py")
    assert project_root(("tests",), str(tmp_path / "inner")) == str(tmp_path / "inner")


def test_it_is_around_all_paths_and_the_working_directory(tmp_path: Path) -> None:
    _tree(tmp_path, "pytest.ini", "a/pytest.ini", "a/test_a.py", "b/pytest.ini", "b/test_b.py")
    assert project_root(("a/test_a.py", "b/test_b.py"), str(tmp_path)) == str(tmp_path)
    assert project_root(("../b/test_b.py",), str(tmp_path / "a")) == str(tmp_path)


def test_a_path_that_begins_at_the_root_is_no_other(tmp_path: Path) -> None:
    project = _tree(tmp_path / "p", "pytest.ini", "test_a.py")
    assert project_root((str(project / "test_a.py"),), str(project)) == str(project)


def test_without_configuration_it_is_the_innermost_directory_that_has_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _tree(tmp_path, "p/a/test_a.py", "p/b/test_b.py", "setup.cfg_is_elsewhere")
    assert project_root((), str(tmp_path / "p/a")) == str(tmp_path / "p/a")
    assert project_root(("a/test_a.py", "b/test_b.py"), str(tmp_path / "p")) == str(tmp_path / "p")


def test_a_home_that_happens_to_have_a_configuration_is_only_a_project_if_tests_are_right_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    _tree(tmp_path, "pytest.ini", "home/work/test_a.py")
    assert project_root((), str(tmp_path / "home/work")) == str(tmp_path / "home/work")


def test_links_are_followed(tmp_path: Path) -> None:
    project = _tree(tmp_path / "p", "pytest.ini", "tests/test_a.py")
    (tmp_path / "link").symlink_to(project / "tests")
    assert project_root((), str(tmp_path / "link")) == str(project)


# ---- what tests may do ------------------------------------------------------------------------------------------


def test_nothing_of_the_network_can_be_reached_unless_asked_for() -> None:
    assert policy_for(RunSettings()).network.allowed_domains == ()


def test_the_hosts_that_can_be_reached_are_those_that_were_asked_for() -> None:
    settings = RunSettings(network=("pypi.org", "*.example.com"))
    assert policy_for(settings).network.allowed_domains == ("pypi.org", "*.example.com")


def test_limits_are_those_of_the_settings() -> None:
    limits = policy_for(RunSettings(memory=2**28, processes=7, scratch=2**20)).limits
    assert (limits.memory, limits.processes, limits.scratch) == (2**28, 7, 2**20)


def test_what_tests_see_starts_in_their_project(tmp_path: Path) -> None:
    settings = RunSettings()
    assert view_for(policy_for(settings), str(tmp_path), None).working_dir == str(tmp_path)


# ---- what tests find --------------------------------------------------------------------------------------------


def test_variables_of_this_process_are_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment_for(RunSettings())
    for name in ("AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "LANG", "TZ", "HOME", "PYTHONHASHSEED", "PYTEST_ADDOPTS", "CI"):
        monkeypatch.setenv(name, "of this machine")
    found = environment_for(RunSettings())
    assert {**found, "PATH": ""} == {**before, "PATH": ""}
    assert "of this machine" not in found.values()


def test_variables_are_the_same_everywhere() -> None:
    found = environment_for(RunSettings())
    assert found["HOME"] == SANDBOX_HOME
    assert {found[name] for name in ("LANG", "LC_ALL")} == {"C.UTF-8"}
    assert (found["TZ"], found["PYTHONHASHSEED"], found["TMPDIR"]) == ("UTC", "0", "/tmp")


def test_variables_that_were_asked_for_come_before_all_others() -> None:
    settings = RunSettings(env={"TZ": "Asia/Tokyo", "MINE": "1"}, hash_seed=7, locale="de_DE.UTF-8", time_zone="EST")
    found = environment_for(settings)
    assert (found["TZ"], found["MINE"], found["PYTHONHASHSEED"], found["LANG"]) == (
        "Asia/Tokyo",
        "1",
        "7",
        "de_DE.UTF-8",
    )


def test_the_python_that_runs_the_tests_is_the_first_in_their_path() -> None:
    first = environment_for(RunSettings())["PATH"].split(":")[0]
    assert os.access(os.path.join(first, "python"), os.X_OK) or os.access(os.path.join(first, "python3"), os.X_OK)
