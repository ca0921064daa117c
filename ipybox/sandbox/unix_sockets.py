"""Which Unix sockets of the host a sandbox sees. Linux only. Floor: sandbox.

Without ``allowUnixSockets`` and ``allowAllUnixSockets`` no Unix socket can be made inside, so what is seen does not
matter. With one of them it does: a read-only bind does not keep anybody from connecting to a socket in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from ipybox.errors import PolicyError
from ipybox.sandbox.access import SYSTEM
from ipybox.sandbox.path_patterns import SCAN_ENTRIES, is_below
from ipybox.sandbox.policy import NetworkPolicy
from ipybox.sandbox.view import Mount, View

_TABLE = "/proc/net/unix"


def with_sockets(view: View, network: NetworkPolicy, home: str, *, bound: Sequence[str] | None = None) -> list[Mount]:
    """The view's mounts, with allowed sockets bound and others that would be visible covered.

    Args:
        view: What is seen otherwise.
        network: Names the sockets that may be connected to.
        home: What ``~`` means.
        bound: Paths of the host's sockets; for tests. What is bound later than now stays a risk, as it is said in
            the documentation.

    Raises:
        PolicyError: An allowed socket is none.
    """
    if not network.allow_unix_sockets and not network.allow_all_unix_sockets:
        return list(view.mounts)
    allowed = [_socket(index, path, home) for index, path in enumerate(network.allow_unix_sockets)]
    roots = [mount.target for mount in view.mounts if mount.kind in ("read", "write")]
    named = {path for path in (_bound() if bound is None else bound) if is_below(path, roots)}
    seen = (named | set(_found(view))) - set(allowed)
    covers = [Mount("mask_file", path) for path in sorted(seen) if os.path.exists(path)]
    return [*view.mounts, *(Mount("write", path, path) for path in allowed), *covers]


def _socket(index: int, path: str, home: str) -> str:
    where = f"network.allowUnixSockets[{index}]"
    full = os.path.realpath(home + path[1:] if path.startswith("~/") else path)
    try:
        kind = os.stat(full).st_mode
    except OSError as error:
        raise PolicyError(where, f"{path!r}: {error.strerror}", "start what listens there first") from error
    if not stat.S_ISSOCK(kind):
        raise PolicyError(where, f"{path!r} is no Unix socket")
    return full


def _found(view: View) -> Iterator[str]:
    """Sockets in what the policy shows: the table has the names by which they were bound, if any."""
    seen = 0
    for mount in view.mounts:
        if mount.kind in ("read", "write") and mount.source and not is_below(mount.source, SYSTEM):
            for directory, _, files in os.walk(mount.source):
                seen += len(files)
                if seen > SCAN_ENTRIES:
                    raise PolicyError(
                        "network.allowUnixSockets",
                        f"more than {SCAN_ENTRIES} files would have to be looked at for sockets of the host",
                        "name smaller directories in allowRead and allowWrite",
                    )
                yield from (path for path in (os.path.join(directory, name) for name in files) if _is_socket(path))


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _bound() -> Iterable[str]:
    with open(_TABLE, encoding="utf-8", errors="surrogateescape") as file:
        yield from _paths(file)


def _paths(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        fields = line.rstrip("\n").split(None, 7)
        if len(fields) == 8 and fields[7].startswith("/"):
            yield os.path.realpath(fields[7])
