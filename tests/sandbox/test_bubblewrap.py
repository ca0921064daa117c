"""Bubblewrap is found, judged and told what to do; and what it then builds holds."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ipybox.errors import SandboxUnavailableError
from ipybox.sandbox import bubblewrap
from ipybox.sandbox.bubblewrap import Bubblewrap, Command
from ipybox.sandbox.policy import FilesystemPolicy, Limits, SandboxPolicy
from ipybox.sandbox.view import HostFacts, Mount, View, gateway_view, kernel_view

PROGRAM = Bubblewrap(path="/usr/bin/bwrap", version=(0, 11, 0), has_bind_fd=True)
NOBODY = 64201
"""Who runs bubblewrap when the tests run as root, who is not held by what these tests are about."""


def options(command: Command) -> list[str]:
    """What bubblewrap is told through its memory file."""
    assert command.argv[1] == "--args"
    fd = int(command.argv[2])
    return os.pread(fd, 1 << 24, 0).decode().split("\0")[:-1]


# ---- finding ----------------------------------------------------------------------------------------------------


def fake(directory: Path, version: str = "bubblewrap 0.11.0", options: str = "--bind-fd --ro-bind-fd") -> Path:
    directory.mkdir(exist_ok=True)
    program = directory / "bwrap"
    program.write_text(f"#!/bin/sh\ncase $1 in --version) echo '{version}';; *) echo '{options}';; esac\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without bubblewrap of its own."""
    monkeypatch.setattr(bubblewrap, "_DIRECTORIES", ())


@pytest.mark.usefixtures("nowhere")
def test_without_bubblewrap_the_error_names_it_and_says_how_to_get_it() -> None:
    with pytest.raises(SandboxUnavailableError, match="bubblewrap") as caught:
        bubblewrap.find(path="")
    assert "apt install bubblewrap" in caught.value.remedies[0]


@pytest.mark.usefixtures("nowhere")
def test_version_and_features_are_asked_for(tmp_path: Path) -> None:
    program = fake(tmp_path / "bin")
    assert bubblewrap.find(path=str(tmp_path / "bin")) == Bubblewrap(
        path=str(program), version=(0, 11, 0), has_bind_fd=True
    )
    fake(tmp_path / "bin", "bubblewrap 0.8.0", "--bind")
    with pytest.raises(SandboxUnavailableError, match="descriptor"):
        bubblewrap.find(path=str(tmp_path / "bin"))


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("version", ["0.7.1", "0.4.0"])
def test_a_bubblewrap_that_is_too_old_is_refused_with_its_version(tmp_path: Path, version: str) -> None:
    fake(tmp_path / "bin", f"bubblewrap {version}")
    with pytest.raises(SandboxUnavailableError, match=version):
        bubblewrap.find(path=str(tmp_path / "bin"))


@pytest.mark.usefixtures("nowhere")
def test_something_else_of_that_name_is_refused(tmp_path: Path) -> None:
    fake(tmp_path / "bin", "hello")
    with pytest.raises(SandboxUnavailableError, match="hello"):
        bubblewrap.find(path=str(tmp_path / "bin"))


@pytest.mark.usefixtures("nowhere")
def test_relative_entries_and_places_that_sandboxed_code_may_write_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(tmp_path / "bin")
    monkeypatch.chdir(tmp_path)
    for path, outside in (("bin", ()), (str(tmp_path / "bin"), (str(tmp_path),))):
        with pytest.raises(SandboxUnavailableError, match="not installed"):
            bubblewrap.find(path=path, outside=outside)


@pytest.mark.usefixtures("nowhere")
def test_a_setuid_bubblewrap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path / "bin").chmod(0o4755)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SandboxUnavailableError, match="setuid"):
        bubblewrap.find(path=str(tmp_path / "bin"))


# ---- rendering --------------------------------------------------------------------------------------------------


def test_everything_is_unshared_and_every_capability_dropped() -> None:
    command = PROGRAM.command(View(mounts=()), argv=["true"])
    try:
        words = options(command)
        assert {"--unshare-user", "--unshare-all", "--die-with-parent", "--new-session"} <= set(words)
        assert words[words.index("--cap-drop") + 1] == "ALL"
        assert words[-4:] == ["--remount-ro", "/dev", "--remount-ro", "/"]
        assert not {"--share-net", "--disable-userns", "--as-pid-1"} & set(words)
        assert command.argv[3:] == ("--", "true")
    finally:
        command.close()


def test_options_are_there_when_asked_for() -> None:
    command = PROGRAM.command(
        View(mounts=()), argv=["x"], nested=False, as_pid_1=True, share_net=True, working_dir="/w", env={"A": "b"}
    )
    try:
        words = options(command)
        assert {"--share-net", "--disable-userns", "--as-pid-1", "--clearenv"} <= set(words)
        assert words[-7:] == ["/", "--chdir", "/w", "--clearenv", "--setenv", "A", "b"]
    finally:
        command.close()


def test_each_kind_of_mount_has_its_options() -> None:
    view = View(
        mounts=(
            Mount("read", "/r", "/usr"),
            Mount("write", "/w", "/opt"),
            Mount("tmpfs", "/t", size=5, mode=0o1777),
            Mount("dir", "/d", mode=0o755),
            Mount("symlink", "/l", "d"),
            Mount("mask_dir", "/m", mode=0),
            Mount("mask_file", "/f"),
            Mount("proc", "/proc"),
            Mount("dev", "/dev"),
        )
    )
    command = PROGRAM.command(view, argv=["x"], sources={"/opt": "/elsewhere"})
    try:
        text = " ".join(options(command))
    finally:
        command.close()
    assert (
        "--ro-bind /usr /r --bind /elsewhere /w --perms 1777 --size 5 --tmpfs /t --perms 0755 --dir /d --symlink d /l "
        "--perms 0000 --size 4096 --tmpfs /m --ro-bind /dev/null /f --proc /proc --dev /dev --remount-ro /m" in text
    )


def test_data_travels_in_memory_and_every_descriptor_is_passed() -> None:
    command = PROGRAM.command(View(mounts=(Mount("data", "/etc/x", data=b"hello", mode=0o444),)), argv=["x"])
    try:
        words = options(command)
        at = words.index("--file")
        assert words[at - 2 : at] == ["--perms", "0444"]
        assert words[at + 2] == "/etc/x"
        assert int(words[at + 1]) in command.pass_fds
        assert os.read(int(words[at + 1]), 10) == b"hello"
        assert int(command.argv[2]) in command.pass_fds
    finally:
        command.close()


def test_what_lies_in_a_writable_directory_is_bound_by_descriptor(tmp_path: Path) -> None:
    tmp_path = tmp_path.resolve()
    root, inner = str(tmp_path), tmp_path / "inner"
    inner.mkdir()
    view = View(mounts=(Mount("write", root, root), Mount("read", str(inner), str(inner))), write_roots=(root,))
    command = PROGRAM.command(view, argv=["x"])
    try:
        words = options(command)
        fd = int(words[words.index("--ro-bind-fd") + 1])
        assert os.path.samestat(os.fstat(fd), inner.stat())
        assert "--bind-fd" in words
        assert str(inner) in words
    finally:
        command.close()


def test_a_link_that_was_put_in_the_place_of_a_directory_is_never_bound(tmp_path: Path) -> None:
    root = str(tmp_path.resolve())
    (tmp_path / "inner").symlink_to("/etc")
    view = View(mounts=(Mount("write", root + "/inner", root + "/inner"),), write_roots=(root,))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SandboxUnavailableError, match="inner can't be bound"):
        PROGRAM.command(view, argv=["x"])
    view = View(mounts=(Mount("read", root + "/inner/passwd", root + "/inner/passwd"),), write_roots=(root,))
    with pytest.raises(SandboxUnavailableError, match="can't be bound"):
        PROGRAM.command(view, argv=["x"])
    assert len(os.listdir("/proc/self/fd")) == before


def test_more_arguments_than_bubblewrap_takes_are_an_error() -> None:
    view = View(mounts=tuple(Mount("mask_dir", f"/m/{number}", mode=0) for number in range(1200)))
    with pytest.raises(SandboxUnavailableError, match="9000"):
        PROGRAM.command(view, argv=["x"])


# ---- holding ----------------------------------------------------------------------------------------------------


def run(command: Command, uid: int, home: str) -> subprocess.CompletedProcess[str]:
    """Runs bubblewrap as a user who is not root."""
    as_nobody: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": []} if os.geteuid() == 0 else {}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command.argv,
        pass_fds=command.pass_fds,
        env={"PATH": "/usr/bin:/bin", "HOME": home},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **as_nobody,
    )
    return done


@dataclass
class Place:
    """A home with a workspace, of a user who is not root."""

    root: Path
    uid: int

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def work(self) -> Path:
        return self.home / "work"

    def write(self, name: str, text: str = "secret") -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def facts(self) -> HostFacts:
        return HostFacts(
            home=str(self.home), working_dir=str(self.work), uid=self.uid, gid=self.uid, python_paths=("/usr",)
        )

    def own(self) -> None:
        if os.geteuid() == 0:
            for path in (self.root, *self.root.rglob("*")):
                os.chown(path, self.uid, self.uid, follow_symlinks=False)

    def start(self, view: View, argv: list[str]) -> subprocess.CompletedProcess[str]:
        self.own()
        command = bubblewrap.find().command(view, argv=argv)
        try:
            return run(command, self.uid, view.home)
        finally:
            command.close()

    def shell(self, script: str, policy: FilesystemPolicy | None = None, limits: Limits | None = None) -> str:
        """What a script in the workspace prints, on both channels."""
        whole = SandboxPolicy(filesystem=policy or FilesystemPolicy(), limits=limits or Limits())
        view = kernel_view(whole, self.facts())
        for name in view.placeholders:
            Path(name).touch()
        try:
            done = self.start(view, ["/bin/sh", "-c", f"cd {self.work}\n{script}"])
        finally:
            for name in view.placeholders:
                Path(name).unlink()
        return done.stdout + done.stderr


@pytest.fixture
def place() -> Iterator[Place]:
    root = Path(tempfile.mkdtemp(dir=next(each for each in ("/var/lib", "/tmp") if os.access(each, os.W_OK)))).resolve()
    root.chmod(0o755)
    place = Place(root, NOBODY if os.geteuid() == 0 else os.getuid())
    place.work.mkdir(parents=True)
    yield place
    shutil.rmtree(root)


@pytest.mark.sandbox
def test_the_workspace_is_readable_and_writable_and_the_home_around_it_is_not(place: Place) -> None:
    place.write("work/in", "content")
    place.write("letter")
    place.write("more/letter")
    out = place.shell("cat in; echo new > made; cat ../letter; ls -A ..; echo x > ../x; mkdir ../y")
    assert out.startswith("content")
    assert "secret" not in out
    assert "content" + "work\n" in out
    assert (place.work / "made").read_text() == "new\n"
    assert (place.work / "made").stat().st_uid == place.uid
    assert sorted(path.name for path in place.home.iterdir()) == ["letter", "more", "work"]


@pytest.mark.sandbox
def test_an_empty_allow_write_leaves_only_the_private_directories_writable(place: Place) -> None:
    place.write("work/in", "content")
    out = place.shell(
        "for d in . / /usr /etc /dev /run /var /opt /home; do touch $d/x 2>&-; [ -e $d/x ] && echo wrote $d; done\n"
        "for d in /tmp /var/tmp /dev/shm $HOME; do touch $d/y && echo $d ok; done\ncat in",
        FilesystemPolicy(allow_write=()),
    )
    assert "wrote" not in out
    assert out.count(" ok\n") == 4
    assert out.endswith("content")


@pytest.mark.sandbox
def test_the_host_around_it_is_not_there(place: Place) -> None:
    canary = place.root / "canary"
    canary.write_text("canary")
    out = place.shell(
        "ls -A / /etc /root /home /sys /boot /mnt /srv /media /var/log /run /tmp 2>&1; id -un; cat /etc/passwd"
    )
    assert "canary" not in out
    for name in ("shadow", "ssh", "sudoers", "hostid", "docker"):
        assert f"\n{name}\n" not in out
    for name in ("/sys", "/boot", "/mnt", "/srv", "/media", "/var/log"):
        assert f"'{name}': No such file" in out
    assert "sandbox\n" in out
    assert f"sandbox:x:{place.uid}:{place.uid}:" in out
    assert "root:" not in out


@pytest.mark.sandbox
def test_etc_is_enough_for_programs_and_says_nothing_about_the_host(place: Place) -> None:
    place.write(
        "work/p.py",
        "import os, pwd, socket, ssl\n"
        "print(pwd.getpwuid(os.getuid()).pw_dir, socket.gethostbyname('localhost'), socket.gethostname())\n"
        "print(os.path.getsize('/etc/resolv.conf'), os.path.getsize('/etc/machine-id'))\n"
        "ssl.create_default_context()\n"
        "print(open('/etc/ld.so.cache', 'rb').read(4))\n",
    )
    out = place.shell("/usr/bin/python3 -I p.py")
    assert out == "/run/home 127.0.0.1 sandbox\n0 0\nb'glib'\n"


@pytest.mark.sandbox
def test_denied_files_and_directories_can_not_be_read_nor_uncovered(place: Place) -> None:
    place.write("work/.env")
    place.write("work/deep/er/.env")
    place.write("work/keys/k")
    out = place.shell(
        "cat .env deep/er/.env keys/k; ls keys; rm -f .env; rm -rf keys; mv keys k2; mv .env e2; umount .env\n"
        "chmod 777 keys .env; cp .env copy; dd if=.env; ln .env hard; ln -s .env soft; cat soft copy hard keys/*",
        FilesystemPolicy(deny_read=("**/.env", "keys")),
    )
    assert "secret" not in out
    assert out.count("Permission denied") >= 5
    assert (place.work / ".env").read_text() == (place.work / "keys/k").read_text() == "secret"


@pytest.mark.sandbox
def test_a_longer_path_decides_about_reading(place: Place) -> None:
    place.write("data/a")
    place.write("data/open/a", "fine")
    place.write("data/open/shut/a")
    out = place.shell(
        "cat ../data/open/a; cat ../data/a ../data/open/shut/a; ls ../data; touch ../data/open/x",
        FilesystemPolicy(allow_read=("~/data/open", "~/data"), deny_read=("../data", "~/data/open/shut")),
    )
    assert out.startswith("fine")
    assert "secret" not in out
    assert out.startswith("fineopen\n")
    assert "Read-only" in out
    assert not (place.home / "data/open/x").exists()


@pytest.mark.sandbox
def test_credentials_in_a_readable_home_stay_hidden(place: Place) -> None:
    for name in (".ssh/id_ed25519", ".aws/credentials", ".netrc", ".config/gh/hosts.yml", ".bash_history"):
        place.write(name)
    place.write(".config/harmless", "fine")
    out = place.shell(
        "cd ..; cat .config/harmless; cat .ssh/* .aws/* .netrc .config/gh/* .bash_history; grep -rh cret .",
        FilesystemPolicy(allow_read=("~",)),
    )
    assert out.startswith("fine")
    assert "secret" not in out


PROTECTED = (
    ".git/config",
    ".git/hooks/pre-commit",
    ".git/modules/sub/config",
    "a/b/c/.git/hooks/pre-push",
    ".bashrc",
    "a/.vscode/settings.json",
    ".idea/x",
    ".claude/commands/x",
    ".claude/settings.local.json",
    ".mcp.json",
    "a/.envrc",
    ".venv/pyvenv.cfg",
    ".venv/bin/python",
)


@pytest.mark.sandbox
def test_protected_places_can_not_be_changed_by_any_way_around(place: Place) -> None:
    for name in PROTECTED:
        place.write(f"work/{name}", "genuine")
    place.write("work/.git/modules/sub/HEAD", "ref")
    out = place.shell(
        "".join(f"echo evil > {name}; rm -f {name}; mv {name} gone\n" for name in PROTECTED)
        + "".join(f"mv {name.partition('/')[0]} gone{index}\n" for index, name in enumerate(PROTECTED))
        + "mv a/b a/b2; mv a/b/c a/c; rm -rf .git a .venv .vscode .claude; mkdir -p a/.vscode .git/hooks"
    )
    for name in PROTECTED:
        assert (place.work / name).read_text() == "genuine", name
        assert (place.work / name).stat().st_nlink == 1
    assert "busy" in out
    assert not list(place.work.glob("gone?*"))  # ``gone`` may be a copy of a file, which anybody may make


@pytest.mark.sandbox
def test_git_goes_on_to_work_around_what_is_protected(place: Place) -> None:
    place.write("work/.git/hooks/x", "genuine")
    place.write("work/.git/config", "[core]\n")
    place.write("work/.git/HEAD", "ref: refs/heads/main\n")
    out = place.shell(
        "touch .git/index.lock && mv .git/index.lock .git/index && mkdir .git/refs && touch x && mv x y && echo fine"
    )
    assert out == "fine\n"


@pytest.mark.sandbox
def test_what_must_not_be_written_can_not_be_created_and_leaves_nothing_behind(place: Place) -> None:
    place.write("work/kept", "genuine")
    out = place.shell(
        "echo evil > kept; echo evil > later; rm -f later; mv later l2; mkdir -p not/yet; cat later; echo ok > other",
        FilesystemPolicy(deny_write=("kept", "later", "not/yet/there")),
    )
    assert out.count("Read-only") >= 2
    assert sorted(path.name for path in place.work.iterdir()) == ["kept", "other"]
    assert (place.work / "kept").read_text() == "genuine"


@pytest.mark.sandbox
def test_links_lead_only_to_what_is_visible(place: Place) -> None:
    letter = place.write("letter")
    (place.work / "read").symlink_to(letter)
    (place.work / "write").symlink_to(place.home / "made")
    out = place.shell("cat read; echo x > write; ln ../letter hard; ln /etc/hosts hard2")
    assert "secret" not in out
    assert not (place.home / "made").exists()
    assert not (place.work / "hard").exists()
    assert not (place.work / "hard2").exists()


@pytest.mark.sandbox
def test_private_directories_are_as_large_as_they_may_be(place: Place) -> None:
    megabyte = 1024 * 1024
    out = place.shell(
        "for d in /tmp /dev/shm $HOME; do dd if=/dev/zero of=$d/big bs=1M count=5 2>&1 | grep -c 'No space'; done\n"
        "dd if=/dev/zero of=/dev/big bs=1M count=1; dd if=/dev/zero of=/run/big bs=1M count=1",
        limits=Limits(scratch=3 * megabyte, shared_memory=2 * megabyte),
    )
    assert out.startswith("1\n1\n1\n")
    assert out.count("Read-only file system") == 2


@pytest.mark.sandbox
def test_it_has_no_capability_and_may_still_make_namespaces(place: Place) -> None:
    out = place.shell("grep Cap /proc/self/status; unshare -Urm true && echo nested")
    assert set(out.split()[1:10:2]) == {"0" * 16}
    assert out.endswith("nested\n")


COVER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x10020000) == 0  # CLONE_NEWUSER, CLONE_NEWNS
link = sys.argv[1].encode()
tree = libc.syscall(428, -100, b"/dev/null", 0x80001)  # open_tree, OPEN_TREE_CLONE
assert libc.syscall(429, tree, b"", -100, link, 4) == 0  # move_mount, MOVE_MOUNT_F_EMPTY_PATH
for change in (lambda: os.unlink(link), lambda: os.rename(link, link + b"2"), lambda: os.listdir(link)):
    try:
        print(change())
    except OSError as error:
        print(type(error).__name__, error.errno)
"""


@pytest.mark.sandbox
def test_a_protected_link_can_be_covered_by_whoever_starts_a_kernel_inside(place: Place) -> None:
    place.write("work/code/x")
    (place.work / ".vscode").symlink_to("code")
    view = kernel_view(SandboxPolicy(), place.facts())
    (link,) = view.protected_links
    done = place.start(view, ["/usr/bin/python3", "-I", "-c", COVER, link])
    assert done.stdout.splitlines() == ["OSError 16", "OSError 16", "NotADirectoryError 20"], done.stderr


@pytest.mark.sandbox
def test_namespaces_can_be_forbidden(place: Place) -> None:
    place.own()
    view = kernel_view(SandboxPolicy(), place.facts())
    command = bubblewrap.find().command(view, argv=["/usr/bin/unshare", "-Ur", "true"], nested=False)
    try:
        done = run(command, place.uid, view.home)
    finally:
        command.close()
    assert done.returncode != 0
    assert "unshare" in done.stderr


@pytest.mark.sandbox
def test_a_gateway_sees_its_own_directory_and_no_workspace(place: Place) -> None:
    place.write("work/x")
    run_dir = place.root / "run"
    run_dir.mkdir()
    view = gateway_view(place.facts(), str(run_dir))
    done = place.start(
        view, ["/bin/sh", "-c", f"echo x > {run_dir}/made; ls {place.root} {place.home}; /usr/bin/python3 -V"]
    )
    assert "run\n" in done.stdout
    assert "Python" in done.stdout
    assert f"{place.home}': No such file" in done.stderr
    assert (run_dir / "made").exists()


@pytest.mark.sandbox
def test_the_python_of_a_virtual_environment_runs_through_all_its_links(place: Place) -> None:
    environment = place.home / "envs/real"
    (environment / "bin").mkdir(parents=True)
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (place.home / "python").symlink_to("/usr/bin/python3")
    (environment / "bin/python").symlink_to(place.home / "python")
    (place.home / "current").symlink_to("envs/real")
    python = f"{place.home}/current/bin/python"
    facts = HostFacts(
        home=str(place.home),
        working_dir=str(place.work),
        python_paths=(f"{place.home}/current", python),
        uid=place.uid,
        gid=place.uid,
    )
    done = place.start(
        kernel_view(SandboxPolicy(), facts), [python, "-I", "-c", "import sys, json; print(json.dumps([sys.prefix]))"]
    )
    assert json.loads(done.stdout) == [f"{place.home}/current"], done.stderr
    assert stat.S_ISLNK((place.home / "current").lstat().st_mode)


@pytest.mark.sandbox
def test_hundreds_of_denied_files_are_covered_every_one(place: Place) -> None:
    for number in range(400):
        place.write(f"work/d{number % 20}/{number}.key")
    out = place.shell("cat */*.key 2>&- | wc -c; ls */*.key | wc -l", FilesystemPolicy(deny_read=("**/*.key",)))
    assert out.split() == ["0", "400"]
