"""What a test may find, change and leave behind."""

# mypy: ignore-errors
# ruff: noqa: B018, PT015, SIM115
import importlib.util
import os
import pathlib
import random
import shutil
import socket
import sys
import tempfile
import time
import urllib.request

import pytest

HERE = pathlib.Path(__file__)
PROJECT = HERE.parent
NOTE = PROJECT / "note.txt"
COUNTER = PROJECT / "counter.txt"


def changes_everything():
    """All that a test can write to, for others to find."""
    for path in (
        PROJECT,
        pathlib.Path.home(),
        pathlib.Path("/tmp"),
        pathlib.Path("/var/tmp"),
        pathlib.Path("/dev/shm"),
    ):
        for name in ("left_behind.txt", "conftest.py", "sitecustomize.py", "usercustomize.py", "pytest.ini"):
            try:
                (path / name).write_text("import os; os._exit(0)\n")
            except OSError:
                pass
    for path in PROJECT.rglob("*"):
        if path.is_file():
            try:
                path.write_text("def test_x(): pass\n")
            except OSError:
                pass
    for path in [pathlib.Path(entry) for entry in sys.path if entry]:
        for name in ("left_behind.pth", "sitecustomize.py", "left_behind.py"):
            try:
                (path / name).write_text("import os; os._exit(0)\n")
            except OSError:
                pass
    for module in (pytest, socket, random):
        for name in (module.__file__, module.__cached__):
            try:
                pathlib.Path(name).write_bytes(b"")
            except OSError:
                pass


# = failed in call: assert 0
def test_a_changes_everything():
    changes_everything()
    assert 0


# = passed
def test_b_finds_nothing_of_that():
    for path in (
        PROJECT,
        pathlib.Path.home(),
        pathlib.Path("/tmp"),
        pathlib.Path("/var/tmp"),
        pathlib.Path("/dev/shm"),
    ):
        assert not (path / "left_behind.txt").exists(), path
        assert not (path / "sitecustomize.py").exists(), path
    assert "changes_everything" in HERE.read_text()
    assert importlib.util.find_spec("left_behind") is None
    assert "sitecustomize" not in sys.modules


# = passed
def test_c_changes_everything_and_passes():
    changes_everything()


# = failed in call: assert (0 + 1) > 1
def test_flaky_by_a_file():
    count = int(COUNTER.read_text()) if COUNTER.exists() else 0
    COUNTER.write_text(str(count + 1))
    assert count + 1 > 1


# = failed in call: assert (0 + 1) > 1
def test_flaky_by_a_file_in_tmp():
    path = pathlib.Path("/tmp/counter")
    count = int(path.read_text()) if path.exists() else 0
    path.write_text(str(count + 1))
    assert count + 1 > 1


# = failed in call: assert 0
def test_deletes_itself():
    HERE.unlink()
    assert 0


# = failed in call: assert 0
def test_deletes_the_project():
    for path in PROJECT.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.chdir("/")
    assert 0


# = failed in call: assert 0
def test_writes_byte_code_for_the_others():
    cache = PROJECT / "__pycache__"
    cache.mkdir(exist_ok=True)
    for path in PROJECT.glob("test_*.py"):
        (cache / f"{path.stem}.cpython-311-pytest-{pytest.__version__}.pyc").write_bytes(b"\0" * 100)
    assert 0


# = failed in call: assert 0
def test_lives_elsewhere():
    os.chdir("/tmp")
    os.chroot if False else None
    os.environ.clear()
    sys.path.clear()
    assert 0


# = failed in call: No space left
def test_fills_tmp():
    with open("/tmp/full", "wb") as file:
        while True:
            file.write(bytes(1 << 20))


# = failed in call: No space left
def test_fills_the_project():
    with open(PROJECT / "full", "wb") as file:
        while True:
            file.write(bytes(1 << 20))


# = failed in call: Error
def test_very_many_files():
    directory = pathlib.Path(tempfile.mkdtemp())
    for number in range(10_000):
        (directory / str(number)).touch()
    raise OSError("Error")


# = passed
def test_no_other_process_can_be_seen():
    seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    assert len(seen) <= 3, seen


# = passed
def test_pid_1_keeps_to_itself():
    for name in ("mem", "environ", "maps", "root", "cwd", "exe", "fd", "map_files"):
        with pytest.raises(OSError):
            found = (
                os.listdir(f"/proc/1/{name}") if name in ("fd", "map_files") else open(f"/proc/1/{name}", "rb").read(1)
            )
            assert not found


# = passed
def test_no_descriptor_of_pid_1_can_be_had():
    import ctypes

    pidfd = os.pidfd_open(1)
    for fd in range(64):
        assert ctypes.CDLL(None).syscall(438, pidfd, fd, 0) == -1


# = passed
def test_the_request_is_gone():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass
    assert not [name for name in found.values() if "memfd" in name], found
    assert not [name for name in found.values() if "socket" in name], found  # it would show the host's network


# = passed
def test_no_network():
    for address in (("1.1.1.1", 53), ("127.0.0.1", 22), ("8.8.8.8", 443)):
        with pytest.raises(OSError):
            socket.create_connection(address, timeout=2).close()
    with pytest.raises(OSError):
        socket.getaddrinfo("example.org", 80)
    with pytest.raises(OSError):
        urllib.request.urlopen("http://example.org", timeout=2)


# = passed
def test_no_home_and_no_credentials():
    home = pathlib.Path.home()
    for name in (".ssh", ".aws", ".netrc", ".gitconfig", ".config", ".bash_history"):
        assert not (home / name).exists()
    for path in ("/etc/shadow", "/root/.ssh", "/etc/sudoers"):
        with pytest.raises(OSError):
            os.listdir(path) if os.path.isdir(path) else open(path).close()
            os.stat(path + "/none")
    assert not [name for name in os.environ if "TOKEN" in name or "SECRET" in name or "KEY" in name]


# = failed in call: determined
def test_determined():
    rest = (hash("x"), time.tzname, time.strftime("%Z"), os.environ["LANG"], list({"a", "b", "c", "d"}))
    raise AssertionError(f"determined {rest}")


SELF = random.SystemRandom().random()


# = error in collect: it was not found in a fresh sandbox
@pytest.mark.parametrize("number", [SELF])
def test_another_name_each_time(number):
    pass
