"""Packages of templates come and go while sessions start and servers are killed, and their authors are evil."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.control.serving import Api, Server, eventually
from tests.sandbox.test_packages import METADATA, NAME, index, wheel

IMPORT = "import ipybox_testing_wheel\ndef handler(event): return ipybox_testing_wheel.ANSWER"
HOSTILE = "ipybox-testing-hostile"
BUSY = 'mkdir -p "$0" && mount -t tmpfs tmpfs "$0" && exec "$@"'
BACKEND = """
import os, zipfile
def build_wheel(directory, *more, **settings):
    here = os.getcwd()
    os.chdir('/run/packages')
    {deed}
    os.chdir(here)
    name = 'ipybox_testing_hostile-1.0'
    with zipfile.ZipFile(directory + '/' + name + '-py3-none-any.whl', 'w') as archive:
        archive.writestr('ipybox_testing_hostile.py', 'ANSWER = 42')
        for file, text in {metadata!r}.items():
            archive.writestr(name + '.dist-info/' + file, text)
    return name + '-py3-none-any.whl'
"""


def hostile(directory: Path, deed: str) -> Path:
    """A source distribution that does something where packages are installed, when it is built."""
    metadata = {file: text.replace("ipybox-testing-source", HOSTILE) for file, text in METADATA.items()}
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.format(deed=deed, metadata=metadata),
        "PKG-INFO": metadata["METADATA"],
    }
    directory.mkdir(exist_ok=True)
    path = directory / "ipybox_testing_hostile-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            facts = tarfile.TarInfo(f"ipybox_testing_hostile-1.0/{name}")
            facts.size = len(text)
            archive.addfile(facts, io.BytesIO(text.encode()))
    return path


class Packed:
    """A server with an index of its own, and templates with packages of it."""

    def __init__(self, server: Server, gate: threading.Event, asked: list[str]) -> None:
        self.server, self.gate, self.asked = server, gate, asked

    @property
    def api(self) -> Api:
        return self.server.api()

    def template(self, name: str, package: str = NAME, **more: Any) -> str:
        body = {"id": name, "name": name, "packages": [{"name": package, "version": "==1.0"}], "warm": False, **more}
        answer = self.api.post("/templates", json=body)
        assert answer.status_code == 201, answer.text
        return name

    def kept(self) -> list[str]:
        return sorted(os.listdir(self.server.state_dir / "sandboxes" / "templates"))

    def look(self) -> list[str]:
        assert self.api.post("/health/sync").status_code == 200
        return self.kept()

    def remove(self, template: str, *sessions: str) -> None:
        for each in sessions:
            assert self.api.delete(f"/sessions/{each}").status_code == 204
        assert self.api.delete(f"/templates/{template}").status_code == 200


@contextmanager
def packed(state: Path, *packages: Path, through: tuple[str, ...] = (), **more: Any) -> Iterator[Packed]:
    gate = threading.Event()
    gate.set()
    with ExitStack() as stack:
        port, asked = stack.enter_context(index(state.parent, *packages, gate=gate))
        settings: dict[str, Any] = {"package_index": f"http://127.0.0.1:{port}/simple", "drain_timeout": 0.2, **more}
        server = stack.enter_context(Server(state, through=through, console=False, **settings))
        stack.callback(gate.set)
        yield Packed(server, gate, asked)
    assert "Traceback" not in server.log, server.log


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Packed]:
    with packed(tmp_path / "state", wheel(tmp_path / "wheels")) as made:
        yield made


def test_what_is_being_installed_is_not_taken_for_something_that_nobody_needs(here: Packed) -> None:
    here.gate.clear()
    session = here.api.new_session(here.template("coming"))
    eventually(lambda: here.asked)
    there = here.kept()
    for _ in range(3):
        assert here.look() == there
    here.gate.set()
    seen = here.api.session_when(session, "running", "failed")
    assert seen["status"] == "running", seen
    assert here.api.run(session, IMPORT)["return_value"] == 42


def test_nobody_waits_for_an_installation_that_nobody_needs_any_more(here: Packed) -> None:
    here.gate.clear()
    template = here.template("coming", warm=True)
    eventually(lambda: here.asked)
    here.remove(template)
    here.look()
    assert here.api.run(here.api.running_session(), "echo on", language="shell")["stdout"] == "on\n"
    here.gate.set()
    eventually(here.look, lambda kept: kept == [])


def test_sessions_that_begin_while_packages_are_removed_have_them(here: Packed) -> None:
    for turn in range(2):
        template = here.template(f"turn-{turn}")
        here.remove(template, here.api.running_session(template))
        done = threading.Event()

        def look(done: threading.Event = done) -> None:
            while not done.is_set():
                here.look()

        looking = threading.Thread(target=look)
        looking.start()
        try:
            sessions = [here.api.new_session(here.template(f"turn-{turn}-{number}")) for number in range(3)]
            for each in sessions:
                assert here.api.session_when(each, "running", "failed")["status"] == "running"
                assert here.api.run(each, IMPORT)["return_value"] == 42
            for number, each in enumerate(sessions):
                here.remove(f"turn-{turn}-{number}", each)
        finally:
            done.set()
            looking.join()
    assert here.look() == []


def test_a_server_that_was_killed_in_the_middle_of_an_installation_does_it_again(here: Packed) -> None:
    here.gate.clear()
    session = here.api.new_session(here.template("coming"))
    eventually(lambda: here.asked)
    here.server.kill()
    here.server.start()
    here.gate.set()
    seen = here.api.session_when(session, "running", "failed")
    assert seen["status"] == "running", seen
    assert here.api.run(session, IMPORT)["return_value"] == 42
    assert len(here.look()) == 1
    here.remove("coming", session)
    assert here.look() == []


def test_what_was_being_installed_when_a_server_was_killed_is_removed_by_the_next_one(here: Packed) -> None:
    here.gate.clear()
    template = here.template("coming")
    session = here.api.new_session(template)
    eventually(lambda: here.asked)
    here.remove(template)
    here.server.kill()
    assert here.kept() != []
    here.server.start()
    here.api.delete(f"/sessions/{session}")
    eventually(here.look, lambda kept: kept == [])


def test_two_servers_of_one_database_keep_what_their_own_sessions_need(postgres_url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        both = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            state = tmp_path / name / "state"
            both.append(
                stack.enter_context(packed(state, wheel(tmp_path / name / "wheels"), database_url=postgres_url))
            )
        first, second = both
        template = first.template("shared")
        sessions = [each.api.running_session(template) for each in both]
        first.remove(template, sessions[0])
        assert first.look() == []
        assert len(second.look()) == 1
        assert second.api.run(sessions[1], IMPORT)["return_value"] == 42
        assert second.api.delete(f"/sessions/{sessions[1]}").status_code == 204
        assert second.look() == []


def test_what_can_not_be_removed_is_left_and_the_rest_is_removed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount something")
    state = tmp_path / "state"
    state.mkdir(0o700)
    places = state / "sandboxes" / "templates"
    (places / "b" / "lib").mkdir(parents=True)
    through = ("unshare", "-m", "sh", "-c", BUSY, str(places / "a"))
    with packed(state, wheel(tmp_path / "wheels"), through=through) as here:
        assert here.kept() == ["a"]
        session = here.api.running_session(here.template("here"))
        assert here.api.run(session, IMPORT)["return_value"] == 42
        here.remove("here", session)
        assert here.look() == ["a"]
    assert "packages that nobody uses stay" in here.server.log


def deep(times: int) -> str:
    return f"[(os.mkdir('d'), os.chdir('d')) for _ in range({times})]"


@pytest.mark.parametrize(
    "deed",
    [
        "[os.makedirs('kept/inner/more'), os.chmod('kept/inner', 0o500)]",
        "os.mkdir('.complete')",
        deep(100),
    ],
    ids=["read only", "our own names", "deep"],
)
def test_whatever_a_package_leaves_can_be_removed(deed: str, tmp_path: Path) -> None:
    with packed(tmp_path / "state", hostile(tmp_path / "dist", deed)) as here:
        for _ in range(2):
            session = here.api.running_session(here.template("hostile", HOSTILE))
            here.remove("hostile", session)
            assert here.look() == []


def test_a_package_that_leaves_more_than_can_be_looked_through_is_not_installed(tmp_path: Path) -> None:
    with packed(tmp_path / "state", hostile(tmp_path / "dist", deep(3000))) as here:
        session = here.api.new_session(here.template("hostile", HOSTILE))
        seen = here.api.session_when(session, "running", "failed")
        assert (seen["status"], seen["status_reason"]) == ("failed", "dependencies"), seen
        assert "nested" in seen["status_detail"]
        here.remove("hostile", session)
        assert here.look() == []
        here.server.kill()
        here.server.start()


def test_a_link_that_a_package_leaves_leads_the_server_nowhere(tmp_path: Path) -> None:
    made = tmp_path / "made"
    deed = f"[os.symlink({str(made)!r}, name) for name in ('.complete', 'complete', '.installed')]"
    with packed(tmp_path / "state", hostile(tmp_path / "dist", deed)) as here:
        session = here.api.running_session(here.template("hostile", HOSTILE))
        here.remove("hostile", session)
        assert here.look() == []
    assert not made.exists()
