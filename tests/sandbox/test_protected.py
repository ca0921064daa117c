"""Names that are protected are found, all of them, and no more than is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipybox.errors import PolicyError
from ipybox.sandbox.protected import (
    CREDENTIALS,
    PROTECTED_NAMES,
    existing_credentials,
    find_protected,
    is_environment,
    is_protected_name,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path.resolve()


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def found(root: Path) -> set[str]:
    return {str(Path(path).relative_to(root)) for path in find_protected(str(root)).paths}


@pytest.mark.parametrize("name", sorted(PROTECTED_NAMES))
def test_every_protected_name_is_found(root: Path, name: str) -> None:
    make(root, name, f"x/{name}/inner")
    assert found(root) == {name, f"x/{name}"}


def test_a_git_directory_is_protected_where_it_says_what_to_run(root: Path) -> None:
    make(root, *(f".git/{name}" for name in ("HEAD", "config", "hooks/pre-commit", "objects/x", "index")))
    make(root, ".git/modules/a/HEAD", ".git/modules/a/config", ".git/modules/b/c/HEAD", ".git/modules/b/c/hooks/x")
    make(root, ".git/worktrees/w/gitdir", ".git/worktrees/w/HEAD")
    assert found(root) == {
        ".git/config",
        ".git/hooks",
        ".git/modules/a/config",
        ".git/modules/b/c/hooks",
        ".git/worktrees/w/gitdir",
    }


def test_a_git_file_is_protected_and_so_is_where_it_leads_to(root: Path) -> None:
    make(root, "real/config", "tree/x")
    (root / "tree/.git").write_text("gitdir: ../real\n")
    (root / "odd").mkdir()
    (root / "odd/.git").write_text("gitdir: ../../elsewhere\n")
    (root / "broken").mkdir()
    (root / "broken/.git").write_bytes(b"\xff\0")
    assert found(root) == {"tree/.git", "real/config", "odd/.git", "broken/.git"}


def test_a_writable_directory_may_be_a_git_directory_itself(root: Path) -> None:
    make(root, ".git/config", ".git/hooks/x")
    assert found(root / ".git") == {"config", "hooks"}


def test_commands_agents_and_settings_of_claude_are_protected(root: Path) -> None:
    make(root, ".claude/commands/x", ".claude/agents/x", ".claude/settings.local.json", ".claude/notes", "a/.claude/x")
    assert found(root) == {".claude/commands", ".claude/agents", ".claude/settings.local.json"}


def test_virtual_environments_are_protected_as_a_whole(root: Path) -> None:
    make(root, ".venv/pyvenv.cfg", "env/conda-meta/history", "env/.vscode/x", "lib/x")
    assert found(root) == {".venv", "env"}
    assert is_environment(str(root / ".venv"))
    assert not is_environment(str(root))


def test_an_environment_that_is_the_workspace_leaves_room_to_work(root: Path) -> None:
    make(root, "pyvenv.cfg", "bin/python", "lib/x", "work/.envrc", "work/y")
    assert found(root) == {"pyvenv.cfg", "bin", "lib", "work/.envrc"}


def test_case_makes_no_difference(root: Path) -> None:
    make(root, ".GIT/Hooks/x", ".VSCode/x", ".Claude/Commands/x")
    assert found(root) == {".GIT/Hooks", ".VSCode", ".Claude/Commands"}


def test_it_looks_three_directories_deep(root: Path) -> None:
    make(root, "a/b/c/.envrc", "a/b/c/.git/config", "a/b/c/d/.envrc")
    assert found(root) == {"a/b/c/.envrc", "a/b/c/.git/config"}


def test_links_are_told_apart_and_what_they_lead_to_is_protected_inside(root: Path) -> None:
    work = root / "work"
    make(root, "work/dotfiles/code/x", "outside/x")
    (work / ".vscode").symlink_to("dotfiles/code")
    (work / ".idea").symlink_to("../outside")
    (work / ".envrc").symlink_to("nowhere")
    result = find_protected(str(work))
    assert result.links == tuple(str(work / name) for name in (".envrc", ".idea", ".vscode"))
    assert result.paths == (str(work / "dotfiles/code"),)


def test_links_to_directories_are_not_followed(root: Path) -> None:
    make(root, "outside/.envrc", "work/x")
    (root / "work/link").symlink_to("../outside")
    (root / "work/loop").symlink_to(".")
    assert found(root / "work") == set()


def test_too_many_entries_are_an_error_not_half_an_answer(root: Path) -> None:
    make(root, *(f"d/{number}" for number in range(20)))
    with pytest.raises(PolicyError, match="more than 10 entries"):
        find_protected(str(root), limit=10)


def test_a_file_has_nothing_below_it(root: Path) -> None:
    make(root, "x")
    assert find_protected(str(root / "x")).paths == ()


@pytest.mark.parametrize(
    ("path", "protected"),
    [
        (".git/hooks", True),
        ("a/.git/hooks/pre-commit", True),
        (".git/objects", False),
        ("hooks", False),
        (".claude/settings.json", True),
        (".claude/projects", False),
        ("x/.VSCODE/y", True),
        ("src/settings.json", False),
    ],
)
def test_a_path_alone_shows_whether_it_is_protected(path: str, protected: bool) -> None:
    assert is_protected_name(path.split("/")) is protected


def test_credentials_that_exist_are_found_and_what_they_link_to(root: Path) -> None:
    home = root / "home"
    make(home, ".ssh/id", ".config/gh/hosts.yml", "dotfiles/netrc", ".config/other")
    (home / ".netrc").symlink_to("dotfiles/netrc")
    assert {str(Path(path).relative_to(home)) for path in existing_credentials(str(home))} == {
        ".ssh",
        ".config/gh",
        ".netrc",
        "dotfiles/netrc",
    }


def test_credential_names_are_relative_and_unique() -> None:
    assert len(set(CREDENTIALS)) == len(CREDENTIALS)
    assert not [name for name in CREDENTIALS if name.startswith("/") or ".." in name.split("/")]
