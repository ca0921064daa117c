"""The view is what the policy says: rule by rule, and for thousands of policies against a definition of its own."""

from __future__ import annotations

import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from ipybox.errors import PolicyError
from ipybox.sandbox import access, view
from ipybox.sandbox.policy import FilesystemPolicy, Limits, SandboxPolicy
from ipybox.sandbox.protected import CREDENTIALS, PROTECTED_NAMES
from ipybox.sandbox.view import HostFacts, Mount, View, gateway_view, kernel_view


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path.resolve() / "home"
    (home / "work").mkdir(parents=True)
    return home


def put(home: Path, *names: str) -> None:
    for name in names:
        path = home / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")


def see(home: Path, work: str = "work", python: tuple[str, ...] = (), config: str | None = None, **policy: Any) -> View:
    facts = HostFacts(home=str(home), working_dir=str(home / work), python_paths=python, config_file=config)
    return kernel_view(SandboxPolicy(filesystem=FilesystemPolicy(**policy)), facts)


def _see_with(home: Path, key: str, entry: str) -> View:
    more: dict[str, Any] = {key: (entry,)}
    return see(home, **more)


def implied(seen: View, path: str | Path) -> str:
    """What the mounts make of a path: the last one that covers it decides."""
    state = "hidden"
    for mount in seen.mounts:
        if (str(path) + "/").startswith(mount.target.rstrip("/") + "/") and mount.kind != "dir":
            state = mount.kind if mount.kind in ("read", "write") else "hidden"
    return state


def kinds(seen: View, home: Path) -> dict[str, str]:
    """The mounts in a home, by their place in it."""
    return {
        os.path.relpath(mount.target, home): mount.kind
        for mount in seen.mounts
        if mount.target.startswith(str(home)) and mount.kind != "dir"
    }


# ---- the sandbox's own ------------------------------------------------------------------------------------------


def test_nothing_of_the_host_is_seen_but_what_is_listed(home: Path) -> None:
    seen = see(home)
    for path in (
        "/",
        "/root",
        "/home",
        "/sys",
        "/boot",
        "/mnt",
        "/srv",
        "/var/log",
        "/etc/shadow",
        "/etc/ssh",
        "/tmp/x",
    ):
        assert implied(seen, path) == "hidden", path
    assert implied(seen, "/usr/bin/env") == "read"
    assert implied(seen, home / "work/x") == "write"
    assert implied(seen, home / "other") == "hidden"


def test_etc_holds_no_secret_and_nothing_about_the_host(home: Path) -> None:
    names = {mount.target.removeprefix("/etc/") for mount in see(home).mounts if mount.target.startswith("/etc/")}
    assert names & {"shadow", "gshadow", "ssh", "ssl", "sudoers", "krb5.keytab", "docker", "kubernetes"} <= {"ssl"}
    bound = {
        m.target.removeprefix("/etc/") for m in see(home).mounts if m.kind == "read" and m.target.startswith("/etc/")
    }
    assert not bound & {"passwd", "group", "hosts", "resolv.conf", "nsswitch.conf", "hostname", "machine-id", "ssl"}
    data = {mount.target: mount.data or b"" for mount in see(home).mounts if mount.kind == "data"}
    assert data["/etc/passwd"].startswith(b"sandbox:x:1000:1000:")
    assert data["/etc/passwd"].count(b"\n") == 1
    assert data["/etc/resolv.conf"] == data["/etc/machine-id"] == b""


def test_private_directories_are_sized_by_the_limits(home: Path) -> None:
    facts = HostFacts(home=str(home), working_dir=str(home / "work"))
    seen = kernel_view(SandboxPolicy(limits=Limits(scratch=8192, shared_memory=4096)), facts)
    assert {m.target: m.size for m in seen.mounts if m.kind == "tmpfs"} == {
        "/tmp": 8192,
        "/run/home": 8192,
        "/dev/shm": 4096,
    }
    assert set(seen.private) == {"/tmp", "/run/home", "/dev/shm"}
    assert seen.home == "/run/home"


def test_what_is_above_is_mounted_first_and_everything_once(home: Path) -> None:
    put(home, "work/.git/hooks/x", "work/a/.env", "work/.vscode/x")
    targets = [mount.target for mount in see(home, deny_read=("**/.env",), allow_read=("~",)).mounts]
    assert len(set(targets)) == len(targets)
    for index, target in enumerate(targets):
        assert not [later for later in targets[index:] if target.startswith(later.rstrip("/") + "/")]


def test_a_path_inside_a_bound_one_is_not_bound_again(home: Path) -> None:
    put(home, "data/a/b/x", "work/sub/x")
    seen = see(home, allow_read=("~/data", "~/data/a", "~/data/a/b/x", "sub", "/usr/share"), allow_write=(".", "sub"))
    assert kinds(seen, home) == {"data": "read", "work": "write"}


# ---- reading and writing ----------------------------------------------------------------------------------------


def test_without_allow_write_the_working_directory_is_readable(home: Path) -> None:
    seen = see(home, allow_write=())
    assert kinds(seen, home) == {"work": "read"}
    assert seen.write_roots == ()


def test_the_longer_path_decides_and_the_denial_wins_at_equal_length(home: Path) -> None:
    put(home, "data/open/shut/x", "data/x", "same/x")
    seen = see(home, allow_read=("~/data/open", "~/same", "~/data"), deny_read=("~/data", "~/same", "~/data/open/shut"))
    assert implied(seen, home / "data/x") == "hidden"
    assert implied(seen, home / "data/open/x") == "read"
    assert implied(seen, home / "data/open/shut/x") == "hidden"
    assert implied(seen, home / "same/x") == "hidden"


def test_what_is_denied_and_given_back_for_reading_is_not_writable(home: Path) -> None:
    put(home, "work/shut/open/x", "work/shut/both/x")
    seen = see(home, allow_read=("shut/open",), allow_write=(".", "shut/both"), deny_read=("shut",))
    assert implied(seen, home / "work/shut/x") == "hidden"
    assert implied(seen, home / "work/shut/open/x") == "read"
    assert implied(seen, home / "work/shut/both/x") == "write"
    masks = [mount for mount in seen.mounts if mount.kind == "mask_dir"]
    assert [mount.mode for mount in masks] == [0o555]


def test_a_covered_directory_with_nothing_in_it_can_not_be_listed(home: Path) -> None:
    put(home, "work/shut/x")
    (mask,) = [mount for mount in see(home, deny_read=("shut",)).mounts if mount.kind == "mask_dir"]
    assert mask == Mount("mask_dir", str(home / "work/shut"), mode=0)


@pytest.mark.parametrize("deny", [".", "~/work", "~", "sub", "sub/file", "s*"])
def test_deny_write_wins_over_allow_write_above_and_below(home: Path, deny: str) -> None:
    put(home, "work/sub/file")
    assert (
        implied(see(home, allow_write=(".", "sub", "sub/file"), deny_write=(deny,)), home / "work/sub/file") == "read"
    )


def test_patterns_are_for_every_directory_that_the_policy_shows(home: Path) -> None:
    put(home, "work/.env", "work/a/.env", "data/b/.env", "data/k.pem", "work/k.pem", "work/a/k.pem")
    seen = see(home, allow_read=("~/data",), deny_read=("**/.env", "*.pem"))
    for name in ("work/.env", "work/a/.env", "data/b/.env", "data/k.pem", "work/k.pem"):
        assert implied(seen, home / name) == "hidden", name
    assert implied(seen, home / "work/a/k.pem") == "write"


def test_patterns_leave_the_python_environment_whole(home: Path) -> None:
    put(home, "work/.venv/pyvenv.cfg", "work/.venv/lib/certifi/cacert.pem", "work/my.pem")
    seen = see(home, python=(str(home / "work/.venv"),), deny_read=("**/*.pem",))
    assert implied(seen, home / "work/.venv/lib/certifi/cacert.pem") == "read"
    assert implied(seen, home / "work/my.pem") == "hidden"


def test_absolute_patterns_and_those_in_the_home_work(home: Path) -> None:
    put(home, "work/k.pem", "data/k.pem", "data/x")
    seen = see(home, allow_read=("~/data",), deny_read=(f"{home}/*/k.pem",))
    assert implied(seen, home / "work/k.pem") == implied(seen, home / "data/k.pem") == "hidden"
    assert implied(see(home, allow_read=("~/data",), deny_read=("~/d*",)), home / "data/x") == "hidden"


def test_a_denied_link_denies_what_it_leads_to(home: Path) -> None:
    put(home, "work/secrets/env")
    (home / "work/.env").symlink_to("secrets/env")
    for deny in (".env", "**/.env"):
        assert implied(see(home, deny_read=(deny,)), home / "work/secrets/env") == "hidden"


def test_parents_of_denied_names_are_pinned_unless_the_pattern_follows_them(home: Path) -> None:
    put(home, "work/a/b/.env")
    assert kinds(see(home, deny_read=("a/b/.env",)), home) == {
        "work": "write",
        "work/a": "write",
        "work/a/b": "write",
        "work/a/b/.env": "mask_file",
    }
    assert kinds(see(home, deny_read=("**/.env",)), home) == {"work": "write", "work/a/b/.env": "mask_file"}


def test_a_pin_never_uncovers_what_is_denied_below_it(home: Path) -> None:
    put(home, "work/a/a/.env", "work/a/b/.vscode/x")
    assert implied(see(home, deny_read=("**/.env",)), home / "work/a/a/.env") == "hidden"


@pytest.mark.parametrize(
    "policy",
    [
        {"deny_read": ("**/.git",)},
        {"deny_read": ("**/.git", "repo/.git")},
        {"deny_read": ("**/.env",), "deny_write": ("repo/.env",)},
        {"deny_read": ("**/.env", "r*/.env")},
    ],
)
def test_parents_are_pinned_if_something_else_asks_for_it(home: Path, policy: dict[str, Any]) -> None:
    put(home, "work/repo/.git/hooks/x", "work/repo/.env")
    if ".env" in str(policy):
        (home / "work/repo/.git/hooks/x").unlink()
        (home / "work/repo/.git/hooks").rmdir()
    assert kinds(see(home, **policy), home)["work/repo"] == "write"


def test_too_many_mounts_are_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "MOUNTS_LIMIT", 60)
    put(home, *(f"work/{number}.key" for number in range(60)))
    with pytest.raises(PolicyError, match="60 are possible"):
        see(home, deny_read=("*.key",))


# ---- what is never readable -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CREDENTIALS)
def test_every_credential_is_hidden_in_a_readable_home_and_can_not_be_allowed(home: Path, name: str) -> None:
    put(home, name)
    assert implied(see(home, allow_read=("~",)), home / name) == "hidden"
    for key, entry in (("allow_read", f"~/{name}"), ("allow_write", str(home / name / "below"))):
        with pytest.raises(PolicyError, match="credentials"):
            _see_with(home, key, entry)


def test_a_credential_that_is_a_link_hides_what_it_leads_to(home: Path) -> None:
    put(home, "dotfiles/ssh/id", "dotfiles/x")
    (home / ".ssh").symlink_to("dotfiles/ssh")
    seen = see(home, allow_read=("~/dotfiles",))
    assert implied(seen, home / "dotfiles/ssh/id") == "hidden"
    assert implied(seen, home / "dotfiles/x") == "read"
    with pytest.raises(PolicyError, match="credentials"):
        see(home, allow_read=("~/dotfiles/ssh",))


@pytest.mark.parametrize("key", ["allow_read", "allow_write"])
@pytest.mark.parametrize(
    "path",
    ["/", "/tmp", "/run", "/run/docker.sock", "/proc", "/proc/self", "/sys", "/dev", "/etc", "/home", "/var/tmp"],
)
def test_places_that_make_no_sense_are_refused(home: Path, key: str, path: str) -> None:
    with pytest.raises(PolicyError, match=rf"filesystem\.{'allowRead' if key == 'allow_read' else 'allowWrite'}\[0\]"):
        _see_with(home, key, path)


@pytest.mark.parametrize("name", ["shadow", "ssh", "sudoers", "machine-id", "ssl/private"])
def test_secrets_in_etc_can_not_be_allowed(home: Path, name: str) -> None:
    with pytest.raises(PolicyError, match="credentials"):
        see(home, allow_read=(f"/etc/{name}",))


@pytest.mark.parametrize("path", ["/usr", "/usr/bin", "/usr/local/lib/x", "/opt", "/etc/fonts"])
def test_the_system_is_never_writable(home: Path, path: str) -> None:
    with pytest.raises(PolicyError, match=r"system|does not exist"):
        see(home, allow_write=(path,))


def test_a_directory_in_tmp_can_be_allowed(home: Path, tmp_path: Path) -> None:
    put(tmp_path, "shown/x")
    seen = see(home, allow_read=(str(tmp_path / "shown"),))
    assert implied(seen, tmp_path.resolve() / "shown/x") == "read"


@pytest.mark.parametrize("entry", ["", "~other/x", "a*"])
def test_an_entry_that_is_no_path_is_refused(home: Path, entry: str) -> None:
    with pytest.raises((PolicyError, ValueError)):
        see(home, allow_read=(entry,))


def test_missing_paths_are_an_error_for_writing_and_a_note_for_reading(home: Path) -> None:
    with pytest.raises(PolicyError, match=r"allowWrite\[1\].*missing does not exist"):
        see(home, allow_write=(".", "missing/deeper"))
    seen = see(home, allow_read=("~/missing",))
    assert [note for note in seen.notes if "missing" in note]


def test_a_socket_can_not_be_allowed(home: Path) -> None:
    os.mkfifo(home / "pipe")
    with pytest.raises(PolicyError, match="neither a directory nor a regular file"):
        see(home, allow_read=("~/pipe",))


# ---- the home and the working directory -------------------------------------------------------------------------


def test_the_home_is_readable_only_by_name_and_never_writable(home: Path) -> None:
    with pytest.raises(PolicyError, match="never writable as a whole"):
        see(home, work=".")
    with pytest.raises(PolicyError, match="only if the policy says so"):
        see(home, work=".", allow_write=())
    with pytest.raises(PolicyError, match="only if the policy says so"):
        see(home, work=".", allow_write=(), allow_read=(".",))
    with pytest.raises(PolicyError, match="never writable as a whole"):
        see(home, allow_write=("~",))
    assert implied(see(home, work=".", allow_write=("~/work",), allow_read=("~",)), home / "x") == "read"


def test_what_is_above_the_home_is_refused(home: Path) -> None:
    with pytest.raises(PolicyError, match="above the home"):
        see(home, work="..")
    for key, entry in (("allow_read", "~/.."), ("allow_write", str(home.parent))):
        with pytest.raises(PolicyError, match="above the home"):
            _see_with(home, key, entry)


@pytest.mark.parametrize("path", ["/", "/tmp", "/proc/self", "/etc", "/nonexistent/x", "/dev"])
def test_some_places_are_no_working_directory(home: Path, path: str) -> None:
    with pytest.raises(PolicyError, match=r"^working directory"):
        kernel_view(SandboxPolicy(), HostFacts(home=str(home), working_dir=path))


def test_credentials_are_no_working_directory(home: Path) -> None:
    put(home, ".ssh/x/y")
    with pytest.raises(PolicyError, match="credentials"):
        see(home, work=".ssh/x")


def test_a_working_directory_that_would_not_be_readable_is_refused(home: Path) -> None:
    with pytest.raises(PolicyError, match="would not be readable"):
        see(home, deny_read=("**",))


def test_a_working_directory_behind_a_link_is_taken_for_what_it_is(home: Path) -> None:
    (home / "link").symlink_to("work")
    seen = see(home, work="link")
    assert seen.working_dir == str(home / "work")
    assert seen.write_roots == (str(home / "work"),)
    assert Mount("symlink", str(home / "link"), "work") in seen.mounts


# ---- what is never writable -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*sorted(PROTECTED_NAMES), ".git/hooks", ".git/config", ".claude/commands"])
def test_protected_places_are_read_only_and_all_above_them_is_pinned(home: Path, name: str) -> None:
    put(home, f"work/a/b/{name}/x" if "config" not in name else f"work/a/b/{name}")
    mounts = kinds(see(home), home)
    assert mounts[f"work/a/b/{name}"] == "read"
    assert mounts["work"] == mounts["work/a"] == mounts["work/a/b"] == "write"
    if "/" in name:
        assert mounts[f"work/a/b/{name.partition('/')[0]}"] == "write"


def test_the_sandbox_config_file_is_never_writable(home: Path) -> None:
    put(home, "work/conf/sandbox.json")
    mounts = kinds(see(home, config=str(home / "work/conf/sandbox.json")), home)
    assert mounts == {"work": "write", "work/conf": "write", "work/conf/sandbox.json": "read"}


def test_environments_in_the_workspace_are_never_writable(home: Path) -> None:
    put(home, "work/.venv/pyvenv.cfg", "work/.venv/bin/python3", "work/other/conda-meta/history")
    seen = see(home, python=(str(home / "work/.venv"),))
    assert implied(seen, home / "work/.venv/bin/python3") == implied(seen, home / "work/other/x") == "read"
    with pytest.raises(PolicyError, match="Python environment"):
        see(home, python=(str(home / "work/.venv"),), allow_write=(".venv/bin",))


def test_sources_on_the_path_of_python_stay_writable_and_are_noted(home: Path) -> None:
    put(home, "work/src/pkg/x.py", "lib/pkg/x.py")
    seen = see(home, python=(str(home / "work/src"), str(home / "lib")))
    assert implied(seen, home / "work/src/pkg/x.py") == "write"
    assert implied(seen, home / "lib/pkg/x.py") == "read"
    assert [note for note in seen.notes if "work/src is on Python's path" in note]


def test_this_package_is_never_writable(home: Path) -> None:
    package = Path(access.__file__).parent.parent
    facts = HostFacts(home=str(home), working_dir=str(package.parent), python_paths=(str(package),))
    assert implied(kernel_view(SandboxPolicy(), facts), package / "errors.py") == "read"


@pytest.mark.parametrize("path", ["~", "/", "~/..", "/tmp", "/proc", "~/.ssh"])
def test_a_path_of_python_that_is_too_wide_is_left_out_with_a_note(home: Path, path: str) -> None:
    put(home, ".ssh/id", "letter")
    seen = see(home, python=(path.replace("~", str(home)), str(home / "missing")))
    assert implied(seen, home / "letter") == implied(seen, home / ".ssh/id") == "hidden"
    assert len(seen.notes) == 1


def test_links_on_the_way_to_python_are_there_too(home: Path) -> None:
    put(home, "pythons/3.11.7/bin/python3", "envs/e/pyvenv.cfg", "envs/e/bin/")
    (home / "pythons/3.11").symlink_to("3.11.7")
    (home / "envs/e/bin/python").symlink_to(home / "pythons/3.11/bin/python3")
    seen = see(home, python=(str(home / "envs/e"), str(home / "pythons/3.11"), str(home / "envs/e/bin/python")))
    assert Mount("symlink", str(home / "pythons/3.11"), "3.11.7") in seen.mounts
    assert kinds(seen, home) == {
        "envs/e": "read",
        "pythons/3.11": "symlink",
        "pythons/3.11.7": "read",
        "work": "write",
    }


@pytest.mark.parametrize("entry", ["~/.ipython", "~/.jupyter", "~/Library/Jupyter", ".vscode/x", ".git/hooks"])
def test_a_protected_place_can_not_be_made_writable_and_that_is_noted(home: Path, entry: str) -> None:
    seen = see(home, allow_write=(".", entry))
    assert [note for note in seen.notes if "stays read-only" in note]
    assert seen.write_roots == (str(home / "work"),)


def test_what_runs_at_a_start_is_protected_in_a_writable_part_of_the_home(home: Path) -> None:
    put(home, ".local/share/jupyter/kernels/x", ".local/share/other/x")
    seen = see(home, allow_write=("~/.local/share",))
    assert implied(seen, home / ".local/share/jupyter/kernels/x") == "read"
    assert implied(seen, home / ".local/share/other/x") == "write"


# ---- links that may have been planted ---------------------------------------------------------------------------


def test_a_link_in_the_workspace_never_decides_what_is_writable(home: Path) -> None:
    put(home, "private/x", "work/a/")
    (home / "work/out").symlink_to("../private")
    (home / "work/a/out").symlink_to("../../private")
    for entry in ("out", "a/out/x", str(home / "work/out")):
        with pytest.raises(PolicyError, match=r"allowWrite\[0\].*symbolic link"):
            see(home, allow_write=(entry,))
    with pytest.raises(PolicyError, match=r"allowRead\[0\].*symbolic link"):
        see(home, allow_read=("out",))


def test_a_link_in_another_writable_directory_does_not_either(home: Path) -> None:
    put(home, "private/x", "scratch/")
    (home / "scratch/out").symlink_to("../private")
    with pytest.raises(PolicyError, match="symbolic link"):
        see(home, allow_write=("~/scratch", "~/scratch/out"))
    with pytest.raises(PolicyError, match="symbolic link"):
        see(home, allow_write=("~/scratch/out", "~/scratch"))
    with pytest.raises(PolicyError, match=r"^working directory.*may have made it"):
        see(home, work="scratch/out", allow_write=("~/scratch",))


def test_links_elsewhere_are_resolved(home: Path) -> None:
    put(home, "disk/x")
    (home / "data").symlink_to("disk")
    seen = see(home, allow_write=("~/data",))
    assert seen.write_roots == (str(home / "disk"),)
    assert kinds(seen, home) == {"data": "symlink", "disk": "write", "work": "read"}


def test_protected_links_are_reported_pinned_and_their_target_kept(home: Path) -> None:
    put(home, "work/a/code/x")
    (home / "work/a/.vscode").symlink_to("code")
    seen = see(home)
    assert seen.protected_links == (str(home / "work/a/.vscode"),)
    assert kinds(seen, home) == {"work": "write", "work/a": "write", "work/a/code": "read"}
    assert [note for note in seen.notes if ".vscode" in note]


def test_a_loop_of_links_is_an_error(home: Path) -> None:
    (home / "loop").symlink_to("loop")
    with pytest.raises(PolicyError, match="loop"):
        see(home, allow_read=("~/loop",))


# ---- what is not there yet --------------------------------------------------------------------------------------


def test_what_must_not_be_created_gets_a_placeholder_at_its_first_missing_part(home: Path) -> None:
    put(home, "work/a/", "work/file")
    seen = see(home, deny_write=("later", "a/b/c", "a/b/d", "~/elsewhere", "**/x", "file/below"))
    assert seen.placeholders == (str(home / "work/a/b"), str(home / "work/later"))
    mounts = kinds(seen, home)
    assert mounts["work/later"] == mounts["work/a/b"] == mounts["work/file"] == "read"
    assert mounts["work/a"] == "write"


# ---- the gateway ------------------------------------------------------------------------------------------------


def test_a_gateway_sees_python_and_its_own_directory(home: Path, tmp_path: Path) -> None:
    put(home, "work/.venv/pyvenv.cfg", "work/x")
    run_dir = tmp_path.resolve() / "run"
    run_dir.mkdir()
    facts = HostFacts(home=str(home), working_dir=str(home / "work"), python_paths=(str(home / "work/.venv"),))
    seen = gateway_view(facts, str(run_dir))
    assert kinds(seen, home) == {"work/.venv": "read"}
    assert implied(seen, run_dir / "x") == "write"
    assert seen.write_roots == (str(run_dir),)


def test_the_environment_that_runs_this_is_seen(home: Path) -> None:
    seen = see(home, python=(sys.prefix, sys.base_prefix, sys.executable))
    assert implied(seen, os.path.realpath(sys.executable)) == "read"


# ---- thousands of policies --------------------------------------------------------------------------------------

NAMES = ("a", "b", ".env", "k.pem", ".git", ".vscode", "venv", "keys")
READS = ("~/data", "~/data/a", "a", "a/b", "keys", "~/other", "~/data/keys", "~/.aws", "venv", "~")
WRITES = (".", "a", "~/data", "a/b", "~/data/a", "keys", "b", "~/other", "~/other/.git/hooks", "venv/a")
DENIES = (
    *("a", "a/b", "keys", "b", "~/data", "~/data/a", "~", "~/data/a/b", "~/other", "a/missing", "a/b/.env"),
    *("**/.env", "*.pem", "**/*.pem", "a/*", "**/keys", "a/**/b", "~/*/a", "**/b/**", "~/data/**/k.pem"),
)


class Tree:
    """A home, and all files and directories in it."""

    def __init__(self, home: str, paths: frozenset[str]) -> None:
        self.home, self.paths = home, paths

    def __repr__(self) -> str:
        return f"<{len(self.paths)} paths>"


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Tree]]:
    """Homes with random trees in them, on a host whose own system is left out: it is the same for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "_system", lambda: iter(()))
        patch.setattr(view, "_system_links", lambda: iter(()))
        yield _plant(tmp_path_factory)


def _plant(tmp_path_factory: pytest.TempPathFactory) -> list[Tree]:
    return [_grow(tmp_path_factory.mktemp("tree").resolve(), random.Random(seed)) for seed in range(40)]


def _grow(home: Path, chance: random.Random) -> Tree:
    put(home, "work/", "data/a/", "other/", ".aws/credentials", ".netrc")
    for top in ("work", "data", "other"):
        for _ in range(chance.randint(2, 9)):
            _grow_one(home / top, chance)
    found = [str(path) for path in home.rglob("*")]
    return Tree(str(home), frozenset([str(home), *found]))


def _grow_one(directory: Path, chance: random.Random) -> None:
    """Adds one leaf, some directories deep."""
    for _ in range(chance.randint(0, 5)):
        directory /= chance.choice(("a", "b", "keys"))
        if directory.is_file():
            return
    name = chance.choice(NAMES)
    leaf = {".git": ("config", "hooks/x", "HEAD"), ".vscode": ("x",), "venv": ("pyvenv.cfg", "a/x")}.get(name, ("",))
    if name in ("a", "b", "keys"):
        directory.joinpath(name).mkdir(parents=True, exist_ok=True)
        return
    put(directory, *(f"{name}/{each}" if each else name for each in leaf))


class Definition:
    """May a path be read, may it be written? Written from the rules alone, one path at a time."""

    def __init__(self, tree: Tree, policy: FilesystemPolicy) -> None:
        self.tree, self.home, self.work = tree, tree.home, tree.home + "/work"
        self.reads = [self.full(each) for each in policy.allow_read if self.exists(each)] + [self.work]
        self.writes = [self.full(each) for each in policy.allow_write if "/.git/hooks" not in each]
        self.shown = self.reads + self.writes
        self.no_read = [self.pattern(each, self.shown) for each in policy.deny_read]
        self.no_write = [self.pattern(each, self.writes) for each in policy.deny_write]

    def full(self, entry: str) -> str:
        if entry.startswith("~"):
            return self.home + entry[1:]
        return self.work if entry == "." else f"{self.work}/{entry}"

    def exists(self, entry: str) -> bool:
        return self.full(entry) in self.tree.paths

    def pattern(self, entry: str, roots: list[str]) -> re.Pattern[str]:
        if "*" not in entry:
            return re.compile(re.escape(self.full(entry)))
        while entry.endswith("/**"):
            entry = entry[:-3]
        bases = [self.home] if entry.startswith("~") else roots
        parts = [part for part in re.split(r"(\*\*/|\*)", entry.removeprefix("~/")) if part]
        text = "".join({"**/": "(?:[^/]+/)*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts)
        return re.compile("(?:" + "|".join(map(re.escape, bases)) + ")/" + text)

    def uppers(self, path: str) -> Iterator[str]:
        while len(path) >= len(self.home):
            yield path
            path = path.rpartition("/")[0]

    def longest(self, path: str, roots: list[str]) -> int:
        return max((len(each) for each in self.uppers(path) if each in roots), default=0)

    def denied(self, path: str) -> int:
        return max((len(p) for p in self.uppers(path) if any(each.fullmatch(p) for each in self.no_read)), default=0)

    def readable(self, path: str) -> bool:
        if any(each in (self.home + "/.aws", self.home + "/.netrc") for each in self.uppers(path)):
            return False
        return self.longest(path, self.shown) > self.denied(path)

    def writable(self, path: str) -> bool:
        if not self.readable(path) or self.longest(path, self.writes) <= self.denied(path):
            return False
        if any(each.fullmatch(upper) for upper in self.uppers(path) for each in self.no_write):
            return False
        return not any(self.protected(path, root) for root in self.writes)

    def protected(self, path: str, root: str) -> bool:
        if not path.startswith(root + "/"):
            return False
        parts = path[len(root) + 1 :].split("/")
        for depth, name in enumerate(parts[:5]):
            upper = "/".join([root, *parts[: depth + 1]])
            if depth < 3 and upper + "/pyvenv.cfg" in self.tree.paths:
                return True
            if depth <= 3 and name == ".vscode":
                return True
            if depth <= 3 and name == ".git" and parts[depth + 1 : depth + 2] in (["config"], ["hooks"]):
                return True
        inside_itself = root + "/pyvenv.cfg" in self.tree.paths
        return inside_itself and parts[0] in ("pyvenv.cfg", "bin", "lib", "include", "lib64", "conda-meta", "Scripts")

    def refused(self, policy: FilesystemPolicy) -> bool:
        """True if the policy as a whole is to be refused."""
        missing = any(not self.exists(each) for each in policy.allow_write if "/.git/hooks" not in each)
        return missing or "~/.aws" in policy.allow_read or not self.readable(self.work)


POLICIES = st.builds(
    FilesystemPolicy,
    allow_read=st.lists(st.sampled_from(READS), max_size=3).map(tuple),
    allow_write=st.lists(st.sampled_from(WRITES), max_size=3).map(tuple),
    deny_read=st.lists(st.sampled_from(DENIES), max_size=3).map(tuple),
    deny_write=st.lists(st.sampled_from(DENIES), max_size=2).map(tuple),
)


FAST = settings(max_examples=1200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
LONG = settings(FAST, max_examples=6_000)


@FAST
@given(number=st.integers(0, 39), policy=POLICIES)
def test_mounts_say_of_every_path_what_the_definition_says(
    forest: list[Tree], number: int, policy: FilesystemPolicy
) -> None:
    _check(forest[number], policy)


@pytest.mark.soak
@LONG
@given(number=st.integers(0, 39), policy=POLICIES)
def test_mounts_say_what_the_definition_says_for_many_more_policies(
    forest: list[Tree], number: int, policy: FilesystemPolicy
) -> None:
    _check(forest[number], policy)


def _check(tree: Tree, policy: FilesystemPolicy) -> None:
    definition = Definition(tree, policy)
    facts = HostFacts(home=tree.home, working_dir=tree.home + "/work")
    note(f"{tree.home}: {sorted(path.removeprefix(tree.home) for path in tree.paths)}")
    try:
        seen = kernel_view(SandboxPolicy(filesystem=policy), facts)
    except PolicyError:
        event("refused")
        assert definition.refused(policy)
        return
    assert not definition.refused(policy)
    for path in tree.paths:
        expected = "write" if definition.writable(path) else "read" if definition.readable(path) else "hidden"
        assert implied(seen, path) == expected, path
    _check_shape(seen)
    targets = {mount.target for mount in seen.mounts}
    for root in definition.writes:
        for path in tree.paths:
            if definition.protected(path, root):
                loose = {each for each in definition.uppers(path) if implied(seen, each) == "write"} - targets
                assert not loose, path  # a directory that could be renamed, with what is protected in it


def _check_shape(seen: View) -> None:
    """Order and uniqueness, and no bind without the directories above it."""
    state: dict[str, str] = {}
    for mount in seen.mounts:
        assert mount.target not in state
        assert not any(other.startswith(mount.target.rstrip("/") + "/") for other in state)
        state[mount.target] = mount.kind
    for mount in seen.mounts:
        upper = os.path.dirname(mount.target)
        while mount.kind == "read" and upper not in ("/", *state):
            assert implied(seen, upper) != "write"
            upper = os.path.dirname(upper)
