"""Listening sockets, and who else listens. Floor: process."""

from __future__ import annotations

import errno
import socket

import psutil

# A free port must be free on every address of the host; another program may hold it on one of them.
_ATTEMPTS = 50


def listen(host: str, port: int) -> list[socket.socket]:
    """Binds and listens on every address that ``host`` stands for, all on one port. Port 0 picks a free one.

    The caller owns the sockets. They are the reservation: nobody else can take the port while one of them is open.

    Raises ``OSError`` with ``EADDRINUSE`` when somebody listens there already, and ``socket.gaierror`` for a host
    that does not resolve.
    """
    # Several addresses of one host must be ours together: a client may try any of them first.
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "not a valid host name") from error
    addresses = list(
        dict.fromkeys(
            (family, address[0]) for family, _, _, _, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        )
    )
    for attempt in range(_ATTEMPTS):
        sockets: list[socket.socket] = []
        try:
            chosen = port
            for family, address in addresses:
                listener = _bind(family, str(address), chosen)
                if listener is not None:
                    sockets.append(listener)
                    chosen = listener.getsockname()[1]
            if not sockets:
                raise OSError(errno.EADDRNOTAVAIL, f"no address of {host!r} exists on this machine")
            return sockets
        except OSError as error:
            for listener in sockets:
                listener.close()
            if port or error.errno != errno.EADDRINUSE or attempt == _ATTEMPTS - 1:
                raise
        except BaseException:
            for listener in sockets:
                listener.close()
            raise
    raise AssertionError("unreachable")


def _bind(family: int, address: str, port: int) -> socket.socket | None:
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        return None  # the address family is switched off here
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None  # such as ::1 where IPv6 is off
        raise
    except BaseException:
        listener.close()
        raise
    return listener


def holder(port: int) -> str | None:
    """Who listens on a local TCP port, such as ``"pid 4711 (nginx)"``; None where that can't be seen."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return None
    for connection in connections:
        if (
            connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
            and connection.pid
        ):
            try:
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.Error:
                return f"pid {connection.pid}"
    return None
