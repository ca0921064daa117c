"""A port is ours on every address of a host, or not at all."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from ipybox.process import ports
from tests.process.witness import PATIENCE

Listen = Callable[..., list[socket.socket]]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """:func:`ports.listen`, whose sockets are closed in the end."""
    opened: list[socket.socket] = []

    def listening(host: str = "127.0.0.1", port: int = 0) -> list[socket.socket]:
        sockets = ports.listen(host, port)
        opened.extend(sockets)
        return sockets

    yield listening
    for each in opened:
        each.close()


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def addresses_of(host: str) -> set[Any]:
    """The addresses of a host that exist on this machine."""
    found = set()
    for family, kind, _, _, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
        try:
            with socket.socket(family, kind) as probe:
                probe.bind(address)
        except OSError:
            continue
        found.add(address[0])
    return found


def test_port_0_picks_a_free_one_where_connections_are_taken_at_once(listen: Listen) -> None:
    (listener,) = listen()
    assert port_of(listener) > 0
    with socket.create_connection(listener.getsockname(), timeout=PATIENCE):
        listener.accept()[0].close()


def test_every_address_of_a_name_is_taken_on_one_port(listen: Listen) -> None:
    sockets = listen("localhost")
    assert len({port_of(each) for each in sockets}) == 1
    assert {each.getsockname()[0] for each in sockets} == addresses_of("localhost")
    for each in sockets:
        socket.create_connection(each.getsockname()[:2], timeout=PATIENCE).close()


def test_two_picks_are_two_ports(listen: Listen) -> None:
    assert len({port_of(listen()[0]) for _ in range(20)}) == 20


def test_a_port_can_be_taken_again_as_soon_as_it_was_given_back(listen: Listen) -> None:
    (listener,) = listen()
    port = port_of(listener)
    with socket.create_connection(listener.getsockname(), timeout=PATIENCE) as client:
        server, _ = listener.accept()
        server.close()  # from here on the connection lingers in the system, on our side
        listener.close()
        client.settimeout(PATIENCE)
        assert client.recv(1) == b""
        (again,) = listen(port=port)
        assert port_of(again) == port


def test_a_port_on_which_somebody_listens_is_in_use(listen: Listen) -> None:
    (listener,) = listen()
    with pytest.raises(OSError) as caught:
        listen(port=port_of(listener))
    assert caught.value.errno == errno.EADDRINUSE


def test_a_port_that_is_taken_on_one_address_of_a_name_is_in_use_and_nothing_is_kept_of_the_others() -> None:
    if len(addresses_of("localhost")) < 2:
        pytest.skip("localhost has only one address here")
    first, second = ports.listen("localhost", 0)
    port = port_of(first)
    first.close()
    with second, pytest.raises(OSError) as caught:
        ports.listen("localhost", port)
    assert caught.value.errno == errno.EADDRINUSE
    for each in ports.listen("localhost", port):  # ResourceWarnings are errors: nothing was left open either
        each.close()


def test_a_name_that_does_not_resolve_is_a_resolver_error() -> None:
    with pytest.raises(socket.gaierror):
        ports.listen(".".join(["a" * 60] * 6), 0)  # longer than a name can be, so no name server is asked


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_a_name_that_is_none_is_a_resolver_error_as_well(host: str) -> None:
    with pytest.raises(socket.gaierror):
        ports.listen(host, 0)


def test_an_address_of_another_machine_can_not_be_taken() -> None:
    with pytest.raises(OSError) as caught:
        ports.listen("192.0.2.1", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert "192.0.2.1" in str(caught.value)


def test_the_sockets_are_not_inherited_unless_somebody_says_so(listen: Listen) -> None:
    assert not any(each.get_inheritable() for each in listen("localhost"))


def test_the_holder_of_a_port_is_named(listen: Listen) -> None:
    (listener,) = listen()
    assert ports.holder(port_of(listener)) == f"pid {os.getpid()} ({psutil.Process().name()})"


def test_a_port_without_a_listener_has_no_holder() -> None:
    with socket.socket() as taken:  # bound and not listening, so nobody else does
        taken.bind(("127.0.0.1", 0))
        assert ports.holder(port_of(taken)) is None


def test_a_connection_does_not_make_a_client_the_holder(listen: Listen) -> None:
    (listener,) = listen()
    with socket.create_connection(listener.getsockname(), timeout=PATIENCE) as client:
        assert ports.holder(port_of(client)) is None
