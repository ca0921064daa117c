"""A process that gave up TCP keeps the sockets it has, and can't turn them against anybody."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

import pytest

from ipybox.sandbox import landlock

pytestmark = pytest.mark.skipif(landlock.abi() < 4, reason="this kernel's Landlock knows no TCP")


def in_a_child(work: Callable[[], int]) -> int:
    """Runs something that can't be undone in a process of its own."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_new_socket_connects_to_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()

        def work() -> int:
            assert landlock.forbid_tcp()
            with socket.socket() as client:
                return client.connect_ex(address)

        assert in_a_child(work) == 13  # EACCES


def test_an_inherited_listener_can_not_be_turned_into_a_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as inherited:
        address = server.getsockname()

        def work() -> int:
            assert landlock.forbid_tcp()
            libc = landlock._libc()
            libc.connect(inherited.fileno(), struct.pack("=HHQQ", socket.AF_UNSPEC, 0, 0, 0), 16)
            return inherited.connect_ex(address)

        assert in_a_child(work) == 13


def test_without_it_that_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as inherited:
        address = server.getsockname()

        def work() -> int:
            libc = landlock._libc()
            libc.connect(inherited.fileno(), struct.pack("=HHQQ", socket.AF_UNSPEC, 0, 0, 0), 16)
            return inherited.connect_ex(address)

        assert in_a_child(work) == 0


def test_an_inherited_listener_goes_on_accepting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as inherited:

        def work() -> int:
            assert landlock.forbid_tcp()
            accepted, _ = inherited.accept()
            accepted.sendall(b"still here")
            return 0

        with socket.create_connection(inherited.getsockname()) as client:
            assert in_a_child(work) == 0
            assert client.recv(100) == b"still here"


def test_unix_sockets_are_not_concerned() -> None:
    def work() -> int:
        assert landlock.forbid_tcp()
        one, other = socket.socketpair()
        one.sendall(b"x")
        return 0 if other.recv(1) == b"x" else 1

    assert in_a_child(work) == 0
