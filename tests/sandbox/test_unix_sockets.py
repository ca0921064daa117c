"""Sockets of the host: those that a policy names can be connected to, and no other that would be in sight."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipybox.errors import PolicyError
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from ipybox.sandbox.policy import NetworkPolicy
from ipybox.sandbox.unix_sockets import with_sockets
from ipybox.sandbox.view import Mount, View
from tests.kernels.helpers import HANG
from tests.sandboxed.servers import text_of, write_policy

REAL = [pytest.mark.sandbox, pytest.mark.kernel, pytest.mark.asyncio]


@contextmanager
def listening(path: Path | str) -> Iterator[list[bytes]]:
    """A Unix socket that answers, and what it was told."""
    said: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    os.chmod(path, 0o777)
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                said.append(connection.recv(100))
                connection.sendall(b"answer")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield said
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(HANG)
        Path(path).unlink(missing_ok=True)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory).resolve()


def mounts(network: NetworkPolicy, place: Path, *bound: Path, **more: Any) -> list[Mount]:
    view = View(mounts=(Mount("tmpfs", "/tmp"), Mount("write", str(place), str(place))))
    found = with_sockets(view, network, more.get("home", "/nowhere"), bound=[str(path) for path in bound])
    assert found[:2] == list(view.mounts)
    return found[2:]


def test_without_sockets_in_the_policy_the_view_stays_as_it_is(place: Path) -> None:
    with listening(place / "a"):
        assert mounts(NetworkPolicy(), place, place / "a") == []


def test_an_allowed_socket_is_bound_and_others_in_sight_are_covered(place: Path) -> None:
    elsewhere = place.parent / "not-in-sight"
    with listening(place / "a"), listening(place / "b"):
        found = mounts(
            NetworkPolicy(allow_unix_sockets=(f"{place}/a",)),
            place,
            place / "a",
            place / "b",
            place / "gone",
            elsewhere,
        )
    assert found == [Mount("write", f"{place}/a", f"{place}/a"), Mount("mask_file", f"{place}/b")]


def test_all_sockets_means_those_inside(place: Path) -> None:
    with listening(place / "a"):
        found = mounts(NetworkPolicy(allow_all_unix_sockets=True), place, place / "a")
    assert found == [Mount("mask_file", f"{place}/a")]


def test_a_home_and_links_are_followed(place: Path) -> None:
    (place / "link").symlink_to("a")
    with listening(place / "a"):
        for name in ("~/a", "~/link", f"{place}/link"):
            found = mounts(NetworkPolicy(allow_unix_sockets=(name,)), place, place / "a", home=str(place))
            assert found == [Mount("write", f"{place}/a", f"{place}/a")]


def test_what_is_no_socket_is_an_error_that_names_it(place: Path) -> None:
    (place / "file").touch()
    for index, (name, word) in enumerate(
        [("gone", "No such file"), ("file", "no Unix socket"), (".", "no Unix socket")]
    ):
        with listening(place / "a"), pytest.raises(PolicyError, match=word) as caught:
            mounts(NetworkPolicy(allow_unix_sockets=(*[f"{place}/a"] * index, f"{place}/{name}")), place)
        assert caught.value.where == f"network.allowUnixSockets[{index}]"


def covered(place: Path) -> set[str]:
    """What is covered when the host itself is asked for its sockets."""
    view = View(mounts=(Mount("write", str(place), str(place)),))
    return {mount.target for mount in with_sockets(view, NetworkPolicy(allow_all_unix_sockets=True), "/nowhere")[1:]}


@pytest.mark.parametrize("name", ["plain", "with a space", "ümlaut"])
def test_sockets_that_exist_are_found(place: Path, name: str) -> None:
    with listening(place / name):
        assert covered(place) == {f"{place}/{name}"}


def test_one_that_was_bound_by_a_relative_path_is_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with listening("relative"):
        assert covered(place) == {f"{place}/relative"}


def test_one_that_was_renamed_after_it_was_bound_is_found(place: Path) -> None:
    """As programs do whose socket must not be seen before it listens."""
    with listening(place / "new"):
        (place / "new").rename(place / "final")
        assert covered(place) == {f"{place}/final"}
        (place / "final").unlink()


def test_one_with_a_second_name_is_found_by_both(place: Path) -> None:
    with listening(place / "one"):
        os.link(place / "one", place / "two")
        assert covered(place) == {f"{place}/one", f"{place}/two"}


# ---- real kernels -----------------------------------------------------------------------------------------------


CONNECT = """
import os, socket
def ask(path):
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(path)
            client.sendall(b'hello')
            return client.recv(100).decode()
    except OSError as error:
        return type(error).__name__
"""


async def asked(place: Path, network: dict[str, Any], code: str, tmp_path: Path) -> str:
    config = write_policy(tmp_path, network=network)
    async with (
        asyncio.timeout(2 * HANG),
        KernelGateway(port=0, sandbox=True, sandbox_config=config, working_dir=place, log_level="WARNING") as gateway,
    ):
        async with KernelClient(gateway.host, gateway.port, images_dir=tmp_path) as client:
            return await text_of(client, CONNECT + code)


class TestKernels:
    pytestmark = REAL

    async def test_exactly_the_allowed_socket_answers(self, place: Path, tmp_path: Path) -> None:
        with listening(place / "a") as said, listening(place / "b") as others:
            code = f"print(ask({str(place / 'a')!r}), ask({str(place / 'b')!r}))"
            text = await asked(place, {"allowUnixSockets": [str(place / "a")]}, code, tmp_path)
            assert text.startswith("answer ")
            assert text.endswith("Error")
            assert said == [b"hello"]
            assert others == []

    async def test_one_outside_of_what_is_in_sight_can_be_allowed(self, place: Path, tmp_path: Path) -> None:
        (place / "work").mkdir()
        with listening(place / "a") as said, listening(place / "b") as others:
            code = f"""
print(ask({str(place / "a")!r}), ask({str(place / "b")!r}), sorted(os.listdir({str(place)!r})))
for change in (os.remove, lambda path: os.rename(path, path + 'x')):
    try:
        change({str(place / "a")!r})
        print('changed')
    except OSError:
        pass
"""
            text = await asked(place / "work", {"allowUnixSockets": [str(place / "a")]}, code, tmp_path)
            assert text == "answer FileNotFoundError ['a', 'work']"
            assert (said, others) == ([b"hello"], [])

    async def test_all_sockets_are_those_made_inside(self, place: Path, tmp_path: Path) -> None:
        with listening(place / "a") as said:
            code = f"""
import threading
server = socket.socket(socket.AF_UNIX)
server.bind('/tmp/inside')
server.listen()
def serve():
    connection, _ = server.accept()
    connection.recv(100)
    connection.sendall(b'inside')
    connection.close()
thread = threading.Thread(target=serve)
thread.start()
print(ask('/tmp/inside'), ask({str(place / "a")!r}))
thread.join()
"""
            text = await asked(place, {"allowAllUnixSockets": True}, code, tmp_path)
            assert text.startswith("inside ")
            assert text.endswith("Error")
            assert said == []

    async def test_without_either_none_can_be_made(self, place: Path, tmp_path: Path) -> None:
        with listening(place / "a") as said:
            assert await asked(place, {}, f"print(ask({str(place / 'a')!r}))", tmp_path) == "PermissionError"
            assert said == []

    async def test_abstract_sockets_of_the_host_are_out_of_reach(self, place: Path, tmp_path: Path) -> None:
        name = f"\0ipybox-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
            listener.listen()
            text = await asked(place, {"allowAllUnixSockets": True}, f"print(ask({name!r}))", tmp_path)
        assert text == "ConnectionRefusedError"
