"""What a kernel inherits, and that nobody else can use it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from ipybox.kernel_mgr.inheritance import CHANNELS, VARIABLE, Channels, Inheritance


@pytest.fixture
def info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)  # Unix sockets have short names only
    ports = {f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)}
    return {**ports, "ip": "k", "transport": "ipc", "key": b"secret", "signature_scheme": "hmac-sha256"}


def test_a_client_can_connect_before_the_kernel_is_up(info: dict[str, Any]) -> None:
    channels = Channels(info)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("k-1")
    channels.close()


def test_nobody_can_connect_when_the_last_holder_is_gone(info: dict[str, Any]) -> None:
    Channels(info).close()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect("k-1")


def test_a_restarted_kernel_gets_new_sockets_under_the_old_names(info: dict[str, Any]) -> None:
    Channels(info).close()
    channels = Channels(info)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("k-1")
    channels.close()


def test_it_survives_the_environment_and_leaves_it(info: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    channels = Channels(info)
    read, write = os.pipe()
    given = Inheritance(
        connection=os.dup(channels.connection),
        listeners=channels.numbers,
        stdout=(read, write),
        stderr=(read, write),
        recorder=read,
    )
    monkeypatch.setenv(VARIABLE, given.to_environment())
    for number in given.all:
        os.set_inheritable(number, True)
    taken = Inheritance.take()
    assert taken == given
    assert VARIABLE not in os.environ
    assert not any(os.get_inheritable(number) for number in given.all)
    assert taken is not None
    assert taken.connection_info() == {**info, "key": "secret"}
    channels.close()
    os.close(read)
    os.close(write)


def test_a_kernel_that_another_program_started_inherits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Inheritance.take() is None
