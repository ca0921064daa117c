"""Packages of sessions over HTTP: asked for with the session, or later."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.control.serving import Api, Server
from tests.sandbox.test_packages import NAME, index, wheel

OTHER = "ipybox-testing-other"
IMPORT = "import ipybox_testing_wheel\ndef handler(event): return ipybox_testing_wheel.ANSWER"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the server of :func:`packages`."""
    return tmp_path_factory.mktemp("packages") / "state"


@pytest.fixture(scope="module")
def packages(state: Path) -> Iterator[Api]:
    """A client of a server whose packages come from an index of the test."""
    directory = state.parent
    wheels = [wheel(directory / "wheels"), wheel(directory / "wheels", OTHER, "2.0")]
    with index(directory, *wheels) as (port, _):
        url = f"http://127.0.0.1:{port}/simple"
        with Server(state, console=False, package_index=url) as server:
            yield server.api()


def test_without_dependencies_the_installation_is_complete(packages: Api) -> None:
    found = packages.session(packages.new_session())
    assert found["dependency_install_status"] == "completed"
    assert found["installed_dependencies"] == found["requested_dependencies"] == []
    assert found["dependency_install_started_at"] is None


def test_a_session_has_the_packages_that_it_was_made_with(packages: Api) -> None:
    body = {"template_id": "python", "dependencies": [{"name": NAME, "version": "1.0"}]}
    made = packages.post("/sessions", json=body)
    assert made.status_code == 201
    assert made.json()["dependency_install_status"] == "installing"
    assert made.json()["requested_dependencies"] == [{"name": NAME, "version": "==1.0"}]
    session_id = made.json()["id"]
    found = packages.session_when(session_id, "running", "failed")
    assert (found["status"], found["dependency_install_status"]) == ("running", "completed"), found
    installed = {each["name"]: each for each in found["installed_dependencies"]}
    assert installed[NAME]["version"] == "1.0"
    assert installed[NAME]["is_from_template"] is False
    assert found["dependency_install_completed_at"] > found["dependency_install_started_at"]
    assert packages.run(session_id, IMPORT)["return_value"] == 42
    assert packages.delete(f"/sessions/{session_id}").status_code == 204


def test_dependencies_that_can_not_be_installed_fail_the_session_and_say_which(packages: Api) -> None:
    body: dict[str, Any] = {"template_id": "python", "dependencies": [{"name": "fastapi", "version": "==0.13.5"}]}
    made = packages.post("/sessions", json=body)
    assert (made.status_code, made.json()["dependency_install_status"]) == (201, "installing")
    found = packages.session_when(made.json()["id"], "running", "failed")
    assert (found["status"], found["status_reason"]) == ("failed", "dependencies")
    assert found["dependency_install_status"] == "failed"
    assert "fastapi==0.13.5" in found["dependency_install_error"]
    assert found["dependency_install_started_at"] <= found["dependency_install_completed_at"]
    assert found["installed_dependencies"] == []
    packages.delete(f"/sessions/{found['id']}")


def test_a_session_may_do_without_what_can_not_be_installed(packages: Api) -> None:
    session_id = packages.new_session(dependencies=[{"name": "no-such-package"}], fail_on_dependency_error=False)
    found = packages.session_when(session_id, "running", "failed")
    assert (found["status"], found["dependency_install_status"]) == ("running", "failed")
    assert "no-such-package" in found["dependency_install_error"]
    assert packages.run(session_id, "def handler(event): return 1")["return_value"] == 1
    packages.delete(f"/sessions/{session_id}")


def test_packages_can_be_added_to_a_session_that_runs(packages: Api) -> None:
    session_id = packages.running_session()
    assert packages.run(session_id, IMPORT)["error_name"] == "ModuleNotFoundError"
    url = f"/sessions/{session_id}/dependencies/install"
    answer = packages.post(url, json={"dependencies": [{"name": NAME, "version": "1.0"}]})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["id"], found["dependency_install_status"]) == (session_id, "completed")
    assert not found["dependency_install_error"]
    assert found["requested_dependencies"] == [{"name": NAME, "version": "==1.0"}]
    assert [(each["name"], each["version"]) for each in found["installed_dependencies"]] == [(NAME, "1.0")]
    assert packages.run(session_id, IMPORT)["return_value"] == 42
    more = packages.post(url, json={"dependencies": [{"name": OTHER}]}).json()
    assert {each["name"] for each in more["installed_dependencies"]} == {NAME, OTHER}
    failed = packages.post(url, json={"dependencies": [{"name": "no-such-package"}]}).json()
    assert failed["dependency_install_status"] == "failed"
    assert "no-such-package" in failed["dependency_install_error"]
    assert {each["name"] for each in failed["installed_dependencies"]} == {NAME, OTHER}
    assert failed["status"] == "running"
    assert packages.run(session_id, IMPORT)["return_value"] == 42
    assert packages.delete(f"/sessions/{session_id}").status_code == 204


def test_a_second_installation_waits_for_the_first_or_is_a_conflict(packages: Api) -> None:
    session_id = packages.running_session()
    url = f"/sessions/{session_id}/dependencies/install"
    with ThreadPoolExecutor(3) as pool:
        body = {"dependencies": [{"name": NAME}]}
        statuses = list(pool.map(lambda _: packages.post(url, json=body).status_code, range(3)))
    assert set(statuses) == {200, 409}
    assert packages.session(session_id)["dependency_install_status"] == "completed"
    packages.delete(f"/sessions/{session_id}")


def test_an_index_of_the_clients_own_is_no_way_into_the_servers_network(packages: Api, tmp_path: Path) -> None:
    with index(tmp_path, wheel(tmp_path / "wheels")) as (port, seen):
        for host in ("127.0.0.1", "localhost", "[::1]", "169.254.169.254"):
            url = f"http://{host}:{port}/simple"
            session_id = packages.new_session(dependencies=[{"name": NAME}], python_package_index_url=url)
            found = packages.session_when(session_id, "running", "failed")
            assert (found["status"], found["status_reason"]) == ("failed", "dependencies"), host
            packages.delete(f"/sessions/{session_id}")
        assert seen == []


@pytest.mark.parametrize(
    ("dependency", "hint"),
    [
        ({"name": "pandas2.3.3"}, "==2.3.3"),
        ({"name": "../evil"}, "no path"),
        ({"name": "/evil"}, "no path"),
        ({"name": "https://example.org/x.whl"}, "no URL"),
        ({"name": "a..b"}, "name of a package"),
        ({"name": "-r requirements.txt"}, "name of a package"),
        ({"name": ""}, "at least 1 character"),
        ({"name": "x", "version": "1; import os"}, "must be a version"),
        ({"name": "x", "version": "@ file:///etc"}, "must be a version"),
    ],
    ids=str,
)
def test_what_is_no_package_is_refused_with_a_hint(
    api: Api, session: str, dependency: dict[str, str], hint: str
) -> None:
    body = {"dependencies": [dependency]}
    for path, more in (("/sessions", {"template_id": "python"}), (f"/sessions/{session}/dependencies/install", {})):
        answer = api.post(path, json={**body, **more})
        assert answer.status_code == 422
        assert hint in answer.json()["detail"]


def test_an_installation_of_nothing_or_in_nothing_is_refused(api: Api, session: str) -> None:
    url = f"/sessions/{session}/dependencies/install"
    assert api.post(url, json={"dependencies": []}).status_code == 422
    assert api.post(url, json={"dependencies": [{"name": f"x{n}"} for n in range(51)]}).status_code == 422
    assert api.post("/sessions/none/dependencies/install", json={"dependencies": [{"name": "x"}]}).status_code == 404


def test_packages_of_a_template_are_there_as_long_as_somebody_uses_them(packages: Api, state: Path) -> None:
    body: dict[str, Any] = {"id": "packed", "name": "packed", "image_url": "-", "runtime_type": "python3.11"}
    body |= {"packages": [{"name": NAME, "version": "==1.0"}]}

    def kept() -> set[str]:
        assert packages.post("/health/sync").status_code == 200
        return {each.name for each in (state / "sandboxes" / "templates").iterdir()}

    others = kept()
    for _ in range(2):  # what was removed can be had again
        assert packages.post("/templates", json=body).status_code == 201
        session_id = packages.running_session("packed")
        assert packages.run(session_id, IMPORT)["return_value"] == 42
        mine = kept() - others
        assert len(mine) == 1
        assert packages.put("/templates/packed", json={"packages": []}).json()["packages"] == []
        assert kept() - others == mine
        assert packages.delete("/templates/packed").status_code == 200
        assert kept() - others == mine
        assert packages.run(session_id, IMPORT)["return_value"] == 42
        assert packages.delete(f"/sessions/{session_id}").status_code == 204
        assert kept() == others
