"""Takes the right to connect to anybody over TCP from the calling process. Linux only. Floor: sandbox.

For the gateway, which holds a listening socket of the host's network: such a socket can be turned into one that
connects (``connect(AF_UNSPEC)``, then ``connect``), and a seccomp filter can't see which address is meant. Landlock
can, since Linux 6.7 (ABI 4); see landlock(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_SYS_CREATE_RULESET: Final = 444  # the same on every architecture
_SYS_RESTRICT_SELF: Final = 446
_CREATE_RULESET_VERSION = 1
_NET_BIND_TCP = 1
_NET_CONNECT_TCP = 2
_FIRST_WITH_TCP = 4


def abi() -> int:
    """The version of Landlock that this kernel has; 0 when it has none."""
    version: int = _libc().syscall(_SYS_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    return max(version, 0)


def forbid_tcp() -> bool:
    """Lets the calling thread, and those that it starts from now on, bind and connect no TCP socket any more.

    Sockets that listen or are connected already keep working. Returns False, having done nothing, when the kernel
    knows no such thing.

    Raises:
        OSError: The kernel knows it and refuses.
    """
    if abi() < _FIRST_WITH_TCP:
        return False
    libc = _libc()
    attributes = struct.pack("=QQ", 0, _NET_BIND_TCP | _NET_CONNECT_TCP)
    ruleset = libc.syscall(_SYS_CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        _fail("landlock_create_ruleset")
    try:
        if libc.prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS, which the next call wants
            _fail("no_new_privs")
        if libc.syscall(_SYS_RESTRICT_SELF, ruleset, 0) != 0:
            _fail("landlock_restrict_self")
    finally:
        os.close(ruleset)
    return True


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _fail(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
