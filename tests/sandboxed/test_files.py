"""Which files sandboxed code reads and writes, and all the ways around that."""

from __future__ import annotations

import base64
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipybox
from ipybox.errors import ImageWriteError, KernelStartError, PolicyError, SandboxUnavailableError
from ipybox.sandbox.protected import CREDENTIALS
from tests.kernels.helpers import HANG
from tests.sandboxed import probes
from tests.sandboxed.conftest import SECRET, Host, furnish, start
from tests.sandboxed.inside import DONE, FROZEN, HIDDEN, Kernel, Room

pytestmark = [pytest.mark.kernel, pytest.mark.sandbox]

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()


# ---- what is not the sandbox's business ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/etc/shadow-",
        "/etc/gshadow",
        "/etc/sudoers",
        "/etc/ssh",
        "/etc/ssl/private",
        "/etc/fstab",
        "/etc/crontab",
        "/root/.bashrc",
        "/root/.ssh",
        "/home",
        "/boot",
        "/sys",
        "/srv",
        "/mnt",
        "/media",
        "/var/log",
        "/var/lib/dpkg",
        "/var/spool",
        "/var/mail",
        "/var/backups",
        "/run/systemd",
        "/run/user",
        "/run/lock",
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/run/dbus/system_bus_socket",
        "/run/utmp",
        "/tmp/.X11-unix",
        "/lost+found",
        "/.dockerenv",
        "/dev/sda",
        "/dev/vda",
        "/dev/ptmx0",
        "/dev/log",
    ],
)
def test_place_of_the_host_is_not_there(plain: Room, path: str) -> None:
    assert plain.kernel.attempt("is_exposed", path) in HIDDEN


def test_only_the_workspace_is_seen_of_what_is_around_it(plain: Room, host: Host) -> None:
    assert plain.kernel.call("listing", str(host.base)) == [plain.workspace.name]
    assert plain.kernel.attempt("read_some", str(host.file)) == "ENOENT"
    assert plain.kernel.attempt("visible_of", str(host.home)) == "ENOENT"
    assert plain.kernel.attempt("read_some", f"/proc/self/root{host.file}") == "ENOENT"
    assert plain.kernel.attempt("read_some", f"/proc/self/cwd/../{host.file.name}") == "ENOENT"


def test_accounts_of_the_host_are_not_told(plain: Room) -> None:
    lines = plain.kernel.call("read_some", "/etc/passwd").splitlines()
    assert [line.split(":")[0] for line in lines] == ["sandbox"]
    assert plain.kernel.call("read_some", "/etc/hosts").split() == ["127.0.0.1", "localhost", "::1", "localhost"]
    assert plain.kernel.call("read_some", "/etc/machine-id") == ""


@pytest.mark.parametrize("name", CREDENTIALS)
def test_credentials_are_unreadable_even_where_the_home_is_readable(ruled: Room, host: Host, name: str) -> None:
    assert ruled.kernel.attempt("read_some", str(host.home / "diary.txt")) == SECRET
    assert ruled.kernel.attempt("is_exposed", str(host.home / name)) in HIDDEN


SYSTEM = (
    *("/", "/usr", "/usr/bin", "/usr/lib", "/usr/local", "/etc", "/etc/ssl", "/opt", "/dev", "/proc", "/sys", "/run"),
    *("/var", "/var/lib", "/bin", "/lib", "/dev/pts", "/proc/self", "/proc/sys"),
)


@pytest.mark.parametrize("place", SYSTEM)
def test_nothing_is_made_in_a_place_of_the_system(plain: Room, place: str) -> None:
    assert plain.kernel.attempt("create", f"{place}/planted") in {*FROZEN, *HIDDEN}
    assert plain.kernel.attempt("make_directory", f"{place}/planted.d") in {*FROZEN, *HIDDEN}
    assert not Path(place, "planted").exists()


@pytest.mark.parametrize("code", ["sys.prefix", "sys.base_prefix", "os.__file__", "zmq.__file__", "ipybox.__file__"])
@pytest.mark.parametrize("way", ["append", "rename away", "remove", "chmod", "times", "exchange"])
def test_python_can_not_be_changed(plain: Room, code: str, way: str) -> None:
    path = plain.kernel.run(f"import sys, os, zmq, ipybox; print({code})").strip()
    before = os.stat(path)
    assert plain.kernel.attempt("change", path, way) in {*FROZEN, *HIDDEN}
    assert os.stat(path) == before


@pytest.mark.parametrize("folder", ["bin", "lib"])
def test_nothing_is_planted_in_the_environment(plain: Room, folder: str) -> None:
    prefix = plain.kernel.run("import sys; print(sys.prefix)").strip()
    assert plain.kernel.attempt("create", f"{prefix}/{folder}/planted.pth") in FROZEN
    assert not Path(prefix, folder, "planted.pth").exists()


def test_no_file_system_but_ours_can_be_written(plain: Room) -> None:
    allowed = {str(plain.workspace), "/tmp", "/dev/shm", "/run/home"}
    points = set(plain.kernel.call("mounts_writable"))
    odd = {point for point in points - allowed if not point.startswith(("/proc", "/dev"))}
    assert odd == set()


# ---- what may be written ------------------------------------------------------------------------------------------


def test_a_file_of_the_workspace_belongs_to_its_owner(plain: Room) -> None:
    plain.kernel.attempt("create", "owned.txt")
    plain.kernel.attempt("make_directory", "owned.d/sub")
    owner = plain.workspace.stat()
    for name in ("owned.txt", "owned.d", "owned.d/sub"):
        made = (plain.workspace / name).stat()
        assert (made.st_uid, made.st_gid) == (owner.st_uid, owner.st_gid)


def test_a_place_of_allow_write_is_written_on_the_host(ruled: Room, host: Host) -> None:
    assert ruled.kernel.attempt("create", str(host.base / "out" / "made.txt")) == DONE
    assert (host.base / "out" / "made.txt").read_text() == "planted"
    assert (host.base / "out" / "made.txt").stat().st_uid == host.base.stat().st_uid


@pytest.mark.parametrize("way", probes.names_of_ways())
def test_nothing_can_be_written_without_allow_write(read_only: Room, way: str) -> None:
    path = read_only.workspace / "file.txt"
    assert read_only.kernel.attempt("change", str(path), way) in {*FROZEN, "ENOENT"}
    assert path.read_text() == "original"
    assert sorted(os.listdir(read_only.workspace)) == ["file.txt", "probes"]
    assert read_only.kernel.attempt("create", "/tmp/one-of-ours-" + way.replace("/", "-")) == DONE


@pytest.mark.parametrize("name", ["planted", ".ssh/authorized_keys", ".ipython/x.py", ".local/bin/ls", "sub/x"])
def test_a_readable_home_is_not_written(ruled: Room, host: Host, name: str) -> None:
    path = host.home / name
    outcome = ruled.kernel.attempt("make_directory", str(path.parent))
    assert outcome in {*FROZEN, "EEXIST", *HIDDEN}
    assert ruled.kernel.attempt("create", str(path)) in {*FROZEN, *HIDDEN}
    assert not path.exists()


# ---- rules of a policy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "secret.txt",
        "a.key",
        "sub/deeper/b.key",
        ".env",
        "sub/.env",
        "hidden",
        "hidden/x.txt",
        "hidden/sub/y.txt",
        "partly/closed.txt",
    ],
)
def test_what_is_denied_can_not_be_read(ruled: Room, name: str) -> None:
    path = ruled.workspace / name
    assert ruled.kernel.attempt("is_exposed", str(path)) in HIDDEN
    for other in (f"/proc/self/root{path}", f"/proc/self/cwd/{name}", f"{ruled.workspace}/./sub/../{name}"):
        assert ruled.kernel.attempt("is_exposed", other) in HIDDEN
    assert ruled.kernel.attempt("change", str(path), "hard link") in {*FROZEN, *HIDDEN}
    assert ruled.kernel.attempt("change", str(path), "rename away") in {*FROZEN, *HIDDEN}
    assert ruled.kernel.attempt("change", str(path), "remove") in {*FROZEN, *HIDDEN}
    assert path.exists()


def test_a_denied_file_stays_denied_when_its_directory_is_renamed(ruled: Room) -> None:
    path = ruled.workspace / "sub/deeper/b.key"
    ruled.kernel.attempt("move_parent", str(path), str(path.parent))
    for path in ruled.workspace.rglob("*.key"):
        if path.read_text() == SECRET:
            assert ruled.kernel.attempt("read_some", str(path)) in HIDDEN
    with ruled.fresh_kernel() as kernel:
        for path in ruled.workspace.rglob("*.key"):
            if path.read_text() == SECRET:
                assert kernel.attempt("read_some", str(path)) in HIDDEN


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "separate"])
def test_a_kernel_that_starts_after_a_renaming_has_the_same_rules(host: Host, nested: bool) -> None:
    workspace = host.workspace(f"renamed-{nested}")
    (workspace / "sub").mkdir()
    (workspace / "sub" / "token.key").write_text(SECRET)
    config = host.base / f"{workspace.name}.json"
    config.write_text(json.dumps({"filesystem": {"denyRead": ["**/*.key"]}}))
    room = start(host, Room(workspace, nested=nested, sandbox_config=config))
    try:
        assert room.kernel.attempt("read_some", "sub/token.key") in HIDDEN
        moved = room.kernel.attempt("change", str(workspace / "sub"), "rename away") == DONE
        path = workspace / ("sub.rename away" if moved else "sub") / "token.key"
        assert path.read_text() == SECRET
        try:
            with room.fresh_kernel() as kernel:
                assert kernel.attempt("read_some", str(path)) in HIDDEN
        except KernelStartError:
            pass  # it says why it does not start
    finally:
        room.__exit__()
    assert [str(each.relative_to(workspace)) for each in workspace.rglob("*.key")] == [str(path.relative_to(workspace))]


def test_a_longer_allowed_path_in_a_denied_one_is_readable(ruled: Room) -> None:
    assert ruled.kernel.attempt("read_some", "partly/open/file.txt") == "original"
    assert ruled.kernel.attempt("change", str(ruled.workspace / "partly/open/file.txt"), "append") in FROZEN


def test_allow_read_lets_read_and_not_write(ruled: Room, host: Host) -> None:
    assert ruled.kernel.attempt("read_some", str(host.shared / "open.txt")) == "open"
    assert ruled.kernel.attempt("change", str(host.shared / "open.txt"), "append") in FROZEN
    assert ruled.kernel.attempt("create", str(host.shared / "new.txt")) in FROZEN
    assert ruled.kernel.attempt("read_some", str(host.shared / "closed" / "file.txt")) in HIDDEN


@pytest.mark.parametrize("way", probes.names_of_ways())
@pytest.mark.parametrize("name", ["fixed.txt", "fixed/file.txt", "uv.lock", "sub/poetry.lock"])
def test_deny_write_in_allow_write_holds(ruled: Room, name: str, way: str) -> None:
    path = ruled.workspace / name
    assert ruled.kernel.attempt("change", str(path), way) in {*FROZEN, *HIDDEN}
    assert path.read_text() == "original"


def test_what_is_denied_and_not_there_can_not_be_made(ruled: Room, host: Host) -> None:
    assert ruled.kernel.attempt("create", "later.txt") != DONE
    for way in ("append", "rename over", "exchange", "remove"):
        assert ruled.kernel.attempt("change", str(ruled.workspace / "later.txt"), way) in {*FROZEN, *HIDDEN}
    assert not (ruled.workspace / "later.txt").read_text()
    assert ruled.kernel.attempt("create", str(host.base / "out" / "kept" / "new")) in FROZEN


# ---- names that matter outside ------------------------------------------------------------------------------------

PROTECTED = (
    ".git/config",
    ".git/hooks",
    ".git/hooks/pre-commit",
    ".git/modules/part/config",
    ".gitmodules",
    ".gitconfig",
    ".bashrc",
    ".zshrc",
    ".profile",
    ".envrc",
    ".mcp.json",
    ".ripgreprc",
    ".vscode",
    ".vscode/settings.json",
    ".idea/workspace.xml",
    ".codex/config.toml",
    ".claude/commands",
    ".claude/commands/run.md",
    ".claude/agents/one.md",
    ".claude/settings.json",
    "one/two/.vscode/tasks.json",
    "one/repo/.git/config",
    "one/repo/.git/hooks/post-checkout",
    ".venv/bin/python",
    ".venv/lib/python3/site-packages/x.py",
    "envs/two/bin/python",
    "sandbox.json",
)


@pytest.mark.parametrize("way", probes.names_of_ways())
@pytest.mark.parametrize("name", PROTECTED)
def test_protected_name_stays_as_it_is(ruled: Room, name: str, way: str) -> None:
    path = ruled.workspace / name
    before = _content(path)
    assert ruled.kernel.attempt("change", str(path), way) in {*FROZEN, *HIDDEN}
    assert _content(path) == before


@pytest.mark.parametrize(
    "name",
    [
        ".git/hooks/pre-commit",
        ".git/config",
        ".vscode/settings.json",
        "one/two/.vscode/tasks.json",
        "one/repo/.git/hooks/post-checkout",
        ".claude/commands/run.md",
        ".venv/lib/python3/site-packages/x.py",
        "envs/two/bin/python",
    ],
)
def test_renaming_what_is_above_a_protected_name_does_not_help(ruled: Room, name: str) -> None:
    path = ruled.workspace / name
    for parent in path.parents:
        assert ruled.kernel.attempt("move_parent", str(path), str(parent)) in {*FROZEN, *HIDDEN}
        assert path.read_text() == "original"
        if parent == ruled.workspace:
            break


@pytest.mark.parametrize("way", ["append", "rename away", "rename over", "exchange", "remove"])
@pytest.mark.parametrize("name", ["linked/.vscode", "linked/.envrc"])
def test_link_of_a_protected_name_stays_as_it_is(ruled: Room, name: str, way: str) -> None:
    path = ruled.workspace / name
    text = os.readlink(path)
    ruled.kernel.attempt("change", str(path), way)
    assert path.is_symlink()
    assert os.readlink(path) == text
    assert not os.path.exists(path / "planted")


def test_without_nesting_a_link_of_a_protected_name_is_refused(host: Host) -> None:
    workspace = host.workspace("link-without-nesting")
    (workspace / ".envrc").symlink_to("elsewhere")
    with pytest.raises(SandboxUnavailableError, match="symbolic link"):
        start(host, Room(workspace, nested=False))


NEW_NAMES = (
    *(".git/hooks/pre-commit", ".git/config.worktree", ".git/commondir", ".envrc", "leads-nowhere", "new/.vscode/x"),
    *("new/.git/hooks/post-checkout", ".claude/settings.local.json", ".venv/pyvenv.cfg"),
)


@pytest.fixture(scope="module")
def made_anew(host: Host) -> tuple[Path, str]:
    """A workspace in which a kernel has made all of those names, and what its gateway said about it."""
    workspace = host.workspace("new-names")
    (workspace / ".git").mkdir()
    (workspace / ".git" / "config").write_text("[core]\n")
    (workspace / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (workspace / ".bashrc").symlink_to("leads-nowhere")
    heard: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("ipybox.gateway").addHandler(listener)
    room = start(host, Room(workspace))
    try:
        for name in NEW_NAMES:
            room.kernel.attempt("make_directory", str((workspace / name).parent))
            room.kernel.attempt("create", str(workspace / name))
    finally:
        room.__exit__()
        logging.getLogger("ipybox.gateway").removeHandler(listener)
    return workspace, "\n".join(heard)


@pytest.mark.parametrize("name", NEW_NAMES)
def test_a_new_name_that_others_trust_is_refused_or_told(made_anew: tuple[Path, str], name: str) -> None:
    """Such names are missing in most workspaces, and git and others believe them as soon as they are there."""
    workspace, heard = made_anew
    planted = workspace / name
    if planted.exists() and planted.read_text() == "planted":
        told = [line.partition("made ")[2].partition(",")[0] for line in heard.splitlines()]
        assert [path for path in told if path and str(planted).startswith(path)]


def test_git_on_the_host_runs_nothing_of_the_kernels(host: Host) -> None:
    """The common directory of a repository may lie elsewhere, with another configuration and other hooks."""
    workspace = host.workspace("repository")
    git = ["git", "-C", str(workspace), "-c", "safe.directory=*"]
    try:
        subprocess.run([*git, "init", "-q"], check=True, capture_output=True, env={"PATH": os.environ["PATH"]})
    except FileNotFoundError:
        pytest.skip("there is no git")
    room = start(host, Room(workspace))
    try:
        room.kernel.attempt("redirect_repository", "run-by-git")
    finally:
        room.__exit__()
    subprocess.run([*git, "status"], check=False, capture_output=True, cwd=workspace, timeout=HANG)
    assert not (workspace / "run-by-git").exists()


REPLACED = (".env", ".git/config", ".bashrc", ".vscode/settings.json", "fixed.txt")


@pytest.fixture(scope="module")
def replaced(host: Host) -> Iterator[tuple[Room, Kernel]]:
    """A room whose host has replaced files since, and a kernel that was started after that."""
    workspace = host.workspace("replaced")
    furnish(workspace)
    config = host.base / "replaced.json"
    config.write_text(json.dumps({"filesystem": {"denyRead": [".env"], "denyWrite": ["fixed.txt"]}}))
    room = start(host, Room(workspace, sandbox_config=config))
    try:
        for name in REPLACED:
            assert room.kernel.attempt("change", str(workspace / name), "append") in {*FROZEN, *HIDDEN}
            (workspace / "new").write_text("new")
            (workspace / "new").rename(workspace / name)
        with room.fresh_kernel() as fresh:
            yield room, fresh
    finally:
        room.__exit__()


@pytest.mark.parametrize("name", REPLACED)
def test_a_file_that_the_host_replaced_is_protected_from_kernels_that_start_then(
    replaced: tuple[Room, Kernel], name: str
) -> None:
    """Editors and git write a new file and rename it over the old one. Kernels that run already see the new one as it
    is, which the documentation says and the gateway's log warns of."""
    room, kernel = replaced
    assert kernel.attempt("change", str(room.workspace / name), "append") in {*FROZEN, *HIDDEN}
    if name == ".env":
        assert kernel.attempt("read_some", str(room.workspace / name)) in HIDDEN


def _content(path: Path) -> object:
    if path.is_dir():
        return {str(each.relative_to(path)): _content(each) for each in path.iterdir()}
    return path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns


# ---- links --------------------------------------------------------------------------------------------------------


def test_a_link_leads_nowhere_that_could_not_be_reached_without(ruled: Room, host: Host) -> None:
    kernel = ruled.kernel
    assert kernel.attempt("read_some", str(ruled.workspace / "outside.link")) == "ENOENT"
    assert kernel.attempt("change", str(ruled.workspace / "outside.link"), "append") in {*FROZEN, DONE}
    assert kernel.attempt("create", str(ruled.workspace / "outside.d" / "through-a-link")) in {*FROZEN, *HIDDEN, DONE}
    assert kernel.attempt("make_link", "/etc/shadow", "shadow.link") == DONE
    assert kernel.attempt("read_some", "shadow.link") == "ENOENT"
    assert kernel.attempt("make_link", "/usr/bin", "bin.link") == DONE
    assert kernel.attempt("create", "bin.link/planted") in FROZEN
    assert host.file.read_text() == SECRET
    assert not (host.base / "through-a-link").exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "/usr/bin/env", "/etc/hosts", "/proc/self/status"])
def test_no_hard_link_to_a_file_of_the_system(ruled: Room, path: str) -> None:
    assert ruled.kernel.attempt("link_file", path, "linked-in") in FROZEN
    assert not (ruled.workspace / "linked-in").exists()


@pytest.mark.parametrize("key", ["allowWrite", "allowRead"])
def test_a_link_that_code_may_have_made_grants_nothing(host: Host, key: str) -> None:
    workspace = host.workspace(f"trap-{key}")
    (workspace / "data").symlink_to(host.shared)
    config = host.base / f"trap-{key}.json"
    config.write_text(json.dumps({"filesystem": {key: ["data"] if key == "allowRead" else [".", "data"]}}))
    room = Room(workspace, sandbox_config=config)
    with pytest.raises(PolicyError, match="symbolic link"):
        start(host, room)


# ---- private places -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm", "/run/home"])
def test_private_place_is_not_the_hosts_nor_another_kernels(plain: Room, place: str) -> None:
    name = f"mine-of-{os.getpid()}"
    assert plain.kernel.attempt("create", f"{place}/{name}") == DONE
    assert not Path(place, name).exists()
    with plain.fresh_kernel() as kernel:
        assert kernel.attempt("visible_of", f"{place}/{name}") == "ENOENT"
        assert not [each for each in kernel.call("listing", place) if each.startswith("mine-")]


def test_the_home_is_a_private_one(plain: Room, host: Host) -> None:
    assert plain.kernel.call("home") == "/run/home"
    assert host.home.joinpath("diary.txt").read_text() == SECRET


def test_what_is_planted_in_the_home_reaches_nobody(plain: Room, host: Host) -> None:
    with plain.fresh_kernel() as kernel:
        made = kernel.call("plant_in_home")
    assert len(made) == 4
    assert not any(Path(path).exists() for path in made)
    assert not (host.home / ".ipython" / "profile_default" / "startup").exists()
    with plain.fresh_kernel() as kernel:
        assert kernel.run("print(6 * 7)") == "42\n"
        assert not any(kernel.call("exists", path) for path in made)


@pytest.mark.parametrize(("place", "size"), [("/tmp", 4), ("/run/home", 4), ("/dev/shm", 2)])
def test_private_place_has_a_size(ruled: Room, place: str, size: int) -> None:
    with ruled.fresh_kernel() as kernel:
        assert kernel.attempt("fill", place, (size + 1) * 2**20) == "ENOSPC"
        assert kernel.attempt("fill", place, 2**20) == DONE


@pytest.mark.parametrize(("place", "size"), [("/tmp", 4), ("/run/home", 4), ("/dev/shm", 2)])
def test_private_place_has_a_number_of_files(ruled: Room, place: str, size: int) -> None:
    """Each file takes a kilobyte of the machine's memory, that no limit of the kernel's process counts."""
    with ruled.fresh_kernel() as kernel:
        assert kernel.attempt("flood", place, size * 20_000) == "ENOSPC"


@pytest.mark.parametrize("place", ["/", "/dev", "/run", "/etc", "/var"])
def test_no_file_system_without_a_size_can_be_filled(plain: Room, place: str) -> None:
    assert plain.kernel.attempt("fill", place, 2**20) in {*FROZEN, "ENOENT"}


# ---- images that the host writes ----------------------------------------------------------------------------------


def test_images_are_not_written_where_a_kernel_leads_them(plain: Room, host: Host) -> None:
    victim = host.workspace(f"victim-of-{plain.workspace.name}")
    images = plain.workspace / "images"
    client = plain.new_client(images)

    async def attack() -> None:
        async with client:
            await client.execute(
                f"import os; os.rename('images', 'images.old'); os.symlink({str(victim)!r}, 'images')", timeout=HANG
            )
            show = f"from IPython.display import display\ndisplay({{'image/png': {PNG!r}}}, raw=True)"
            with pytest.raises(ImageWriteError):
                await client.execute(show, timeout=HANG)

    plain.wait(attack())
    assert list(victim.iterdir()) == []


def test_a_link_is_no_directory_for_images(plain: Room, host: Host) -> None:
    victim = host.workspace(f"second-victim-of-{plain.workspace.name}")
    plain.kernel.attempt("make_link", str(victim), "images-2")
    with pytest.raises(ValueError, match="symbolic link"):
        plain.wait(plain.new_client(plain.workspace / "images-2").connect())
    assert list(victim.iterdir()) == []


def test_a_socket_of_the_workspace_is_no_way_out(plain: Room) -> None:
    path = str(plain.workspace / "stream.sock")
    assert plain.kernel.attempt("unix_connect", path) == "EPERM"
    assert plain.kernel.attempt("unix_connect", path, socket.SOCK_DGRAM) == "EPERM"


# ---- a second gateway, after code has had its way with the workspace ----------------------------------------------


CLOSED = (".vscode/settings.json", "deep/.git/config", "token.key")


@pytest.fixture(scope="module")
def reopened(host: Host) -> dict[str, tuple[str, str, str]]:
    """What a second gateway's kernel could do in directories that the first one's had closed."""
    workspace = host.workspace("closed")
    paths = {name: workspace / f"sub-{number}" / name for number, name in enumerate(CLOSED)}
    for path in paths.values():
        path.parent.mkdir(parents=True)
        path.write_text(SECRET)
    folders = [workspace / f"sub-{number}" for number in range(len(CLOSED))]
    config = host.base / "closed.json"
    config.write_text(json.dumps({"filesystem": {"denyRead": ["**/*.key"]}}))
    room = start(host, Room(workspace, sandbox_config=config))
    try:
        for folder in folders:
            assert room.kernel.attempt("close_directory", str(folder)) == DONE
    finally:
        room.__exit__()
    seen: dict[str, tuple[str, str, str]] = {}
    try:
        room = start(host, Room(workspace, sandbox_config=config))
        try:
            for folder in folders:
                room.kernel.attempt("change", str(folder), "chmod")
            for name, path in paths.items():
                read = room.kernel.attempt("read_some", str(path))
                seen[name] = read, room.kernel.attempt("change", str(path), "append"), ""
        finally:
            room.__exit__()
    except PolicyError:
        pass  # it says why it does not start
    for folder in folders:
        folder.chmod(0o700)
    return {name: (*values[:2], paths[name].read_text()) for name, values in seen.items()}


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_directory_hides_nothing_from_the_next_gateway(
    reopened: dict[str, tuple[str, str, str]], name: str
) -> None:
    """Who looks for protected and denied names can't look into such a directory, while its owner can open it again."""
    if name in reopened:
        read, written, content = reopened[name]
        assert written in {*FROZEN, *HIDDEN}
        assert content == SECRET
        assert name != "token.key" or read in HIDDEN


def test_a_denied_file_that_was_moved_out_of_reach_stays_denied(host: Host) -> None:
    """The whole path to it becomes longer than the system takes; code gets there one directory at a time."""
    workspace = host.workspace("deep")
    (workspace / "sub").mkdir()
    (workspace / "sub" / "token.key").write_text(SECRET)
    config = host.base / "deep.json"
    config.write_text(json.dumps({"filesystem": {"denyRead": ["**/*.key"]}}))
    first = start(host, Room(workspace, sandbox_config=config))
    try:
        first.kernel.attempt("bury", "sub", 25)
    finally:
        first.__exit__()
    try:
        second = start(host, Room(workspace, sandbox_config=config))
    except PolicyError:
        return  # it says why it does not start
    try:
        seen = second.kernel.attempt("dig", "sub/token.key", 25)
    finally:
        second.__exit__()
    assert seen != SECRET


def test_what_the_host_makes_later_is_protected_from_the_next_kernel(host: Host) -> None:
    """A gateway may run for long, and meanwhile somebody clones a repository into its directory."""
    workspace = host.workspace("later")
    room = start(host, Room(workspace))
    try:
        assert room.kernel.call("listing", str(workspace)) == ["probes"]
        furnish(workspace)
        with room.fresh_kernel() as kernel:
            for name in (".git/config", ".git/hooks/pre-commit", ".bashrc", ".venv/bin/python"):
                kernel.attempt("change", str(workspace / name), "append")
    finally:
        room.__exit__()
    for name in (".git/config", ".git/hooks/pre-commit", ".bashrc", ".venv/bin/python"):
        assert (workspace / name).read_text() == "original", name


def test_what_was_planted_does_not_keep_the_next_gateway_from_its_rules(host: Host) -> None:
    workspace = host.workspace("hostile")
    furnish(workspace)
    config = host.base / "hostile.json"
    config.write_text(json.dumps({"filesystem": {"denyRead": ["**/*.key", "**/.env"], "denyWrite": ["fixed.txt"]}}))
    first = start(host, Room(workspace, sandbox_config=config))
    try:
        first.kernel.call("plant_traps")
    finally:
        first.__exit__()
    second = start(host, Room(workspace, sandbox_config=config))
    try:
        kernel = second.kernel
        for name in (".git/config", ".bashrc", ".vscode/settings.json", "fixed.txt"):
            assert kernel.attempt("change", str(workspace / name), "append") in FROZEN
        for name in ("a.key", "sub/deeper/b.key", "sub/.env"):
            assert kernel.attempt("read_some", name) in HIDDEN
        assert kernel.attempt("create", "odd/a b\n\\040c/.vscode/x") in FROZEN
        assert kernel.attempt("create", "odd/\udcff\udcfe/.idea/x") in FROZEN
        assert kernel.attempt("read_some", "loops/root/etc/shadow") in HIDDEN
        assert sorted(name for name in kernel.call("listing", "/etc") if "shadow" in name) == []
    finally:
        second.__exit__()


def test_a_workspace_of_an_odd_name_keeps_its_rules(host: Host) -> None:
    workspace = host.workspace("odd \\040 name\n\\134'\"$#é")
    furnish(workspace)
    room = start(host, Room(workspace))
    try:
        assert room.kernel.attempt("create", "made") == DONE
        for name in (".git/config", ".bashrc", ".vscode/settings.json"):
            assert room.kernel.attempt("change", str(workspace / name), "append") in FROZEN
        assert room.kernel.attempt("read_some", ".env") in HIDDEN
        assert room.kernel.call("listing", str(host.base)) == [workspace.name]
    finally:
        room.__exit__()
    assert (workspace / "made").read_text() == "planted"


def test_ipyboxs_own_source_tree_can_not_be_used_to_get_out(host: Host) -> None:
    """A module that is planted beside the package must not be run by the next gateway, outside of its walls."""
    tree, note = host.workspace("source"), host.base / "note-of-planted-module"
    shutil.copytree(Path(ipybox.__file__).parent, tree / "ipybox", ignore=shutil.ignore_patterns("__pycache__"))
    script = Path(__file__).with_name("from_source.py")
    done = subprocess.run(
        [sys.executable, "-P", str(script), str(tree), str(note)],
        env={**os.environ, "PYTHONPATH": str(tree)},
        cwd=host.base,
        capture_output=True,
        timeout=3 * HANG,
        check=False,
    )
    assert done.returncode == 0 or b"PolicyError" in done.stderr, done.stderr
    assert not note.exists()
