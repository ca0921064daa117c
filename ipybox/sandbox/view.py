"""What a sandboxed process sees of the file system, as an ordered list of mounts. Floor: sandbox.

The root is built from nothing: an empty file system of the sandbox's own, into which things of the host are bound at
the paths that they have there. So what is not listed here is not there. The rules of
:mod:`ipybox.sandbox.access` say what may be done with each path; a mount is made wherever their answer changes on the
way down. Three things follow from that:

* A denied file in a readable directory is covered by a device that can't be opened, a denied directory by an empty one.
* A read-only place in a writable directory is bound over itself, and each directory above it, up to the writable one,
  is pinned by a bind as well: a directory that is a mount point can't be renamed, nor can what lies below be replaced.
* Links can't be covered by path. Those of a protected name are in :attr:`View.protected_links`, for somebody who holds
  a descriptor of the link and mounts a file over that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ipybox.errors import PolicyError
from ipybox.sandbox.access import SANDBOX_HOME, SYSTEM, Access, HostFacts, Rules, ancestry, gateway_rules, rules_for
from ipybox.sandbox.path_patterns import is_below
from ipybox.sandbox.policy import SandboxPolicy

__all__ = ["MOUNTS_LIMIT", "HostFacts", "Mount", "View", "gateway_view", "kernel_view"]

MOUNTS_LIMIT = 3000
"""More mounts than that are refused."""

_ETC = (
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "default/locale",
    "fonts",
    "inputrc",
    "java-8-openjdk",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "locale.gen",
    "localtime",
    "lsb-release",
    "magic",
    "magic.mime",
    "mailcap",
    "matplotlibrc",
    "mime.types",
    "os-release",
    "pki/ca-trust",
    "pki/java",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "protocols",
    "R",
    "rpc",
    "services",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "static",
    "terminfo",
    "timezone",
    "vulkan",
    "OpenCL",
)
"""What programs look up in ``/etc`` and that is the same for everybody. Nothing with names, keys or addresses."""

_GATEWAY_SCRATCH = 64 * 1024 * 1024
_GATEWAY_SHARED_MEMORY = 16 * 1024 * 1024

Kind = Literal["read", "write", "tmpfs", "dir", "symlink", "data", "mask_dir", "mask_file", "proc", "dev"]


@dataclass(frozen=True, slots=True)
class Mount:
    """One step of building the view.

    Attributes:
        kind: ``read`` and ``write`` bind something of the host; ``mask_dir`` and ``mask_file`` cover something that is
            there; the others make something new.
        target: Where, an absolute path in the sandbox.
        source: Path on the host for ``read`` and ``write``, text of a ``symlink``.
        data: Content for ``data``.
        size: Size in bytes for ``tmpfs``.
        mode: Permissions for ``tmpfs``, ``dir``, ``data`` and ``mask_dir``.
    """

    kind: Kind
    target: str
    source: str | None = None
    data: bytes | None = None
    size: int | None = None
    mode: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a process sees.

    Attributes:
        mounts: What to mount, in this order; what is above comes first.
        write_roots: Directories and files of the host that are writable, at the same path.
        placeholders: Paths on the host where an empty file has to be made before, and removed after.
        notes: What somebody who wrote the policy may want to know.
        home: The home inside.
        private: Sized file systems of the sandbox's own, which every kernel gets anew.
        protected_links: Links that must not be replaced, and that a mount by path can't keep from that.
        working_dir: The working directory, resolved.
    """

    mounts: tuple[Mount, ...]
    write_roots: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    home: str = SANDBOX_HOME
    private: tuple[str, ...] = ()
    protected_links: tuple[str, ...] = ()
    working_dir: str = "/"


def kernel_view(policy: SandboxPolicy, facts: HostFacts) -> View:
    """What kernels see. Raises :class:`PolicyError` for a policy that makes no sense on this host."""
    rules = rules_for(policy.filesystem, facts, _system())
    return _Assembly(rules, facts, policy.limits.scratch, policy.limits.shared_memory).view()


def gateway_view(facts: HostFacts, run_dir: str) -> View:
    """What a gateway process sees: the system and Python, and a directory of its own that it may write."""
    rules = gateway_rules(facts, run_dir, _system())
    return _Assembly(rules, facts, _GATEWAY_SCRATCH, _GATEWAY_SHARED_MEMORY).view()


def _system() -> Iterator[str]:
    """What is readable in every sandbox, resolved: the system, and harmless parts of ``/etc``."""
    for path in (*SYSTEM, *(f"/etc/{name}" for name in _ETC)):
        if os.path.exists(path) and not _has_link(path):
            yield path


def _system_links() -> Iterator[tuple[str, str]]:
    """Links among those; where they lead to is part of the system itself."""
    for path in (*SYSTEM, *(f"/etc/{name}" for name in _ETC)):
        if os.path.islink(path) and not _has_link(os.path.dirname(path)):
            yield path, os.readlink(path)


def _has_link(path: str) -> bool:
    return os.path.realpath(path) != path


class _Assembly:
    def __init__(self, rules: Rules, facts: HostFacts, scratch: int, shared_memory: int) -> None:
        self._rules, self._facts = rules, facts
        self._scratch, self._shared_memory = scratch, shared_memory
        self._mounts: list[Mount] = []
        self._state: dict[str, Access] = {"/": Access.HIDDEN}
        """What is reachable at each mount point, and so below it up to the next one."""
        self._made: set[str] = {"/"}
        """Directories that exist in file systems of the sandbox's own."""

    def view(self) -> View:
        points = self._points()
        private = {"/tmp": self._scratch, SANDBOX_HOME: self._scratch, "/dev/shm": self._shared_memory}
        if any(is_below(point, ["/var/tmp"]) for point in points):
            private["/var/tmp"] = self._scratch
        self._base(private)
        base = len(self._mounts)
        links = dict(self._rules.hosts_links) | dict(_system_links())
        for point in sorted({*points, *links}, key=lambda path: path.split("/")):
            if point in links:
                self._link(point, links[point])
            else:
                self._visit(point)
        # A pin may be made after what lies below it, which it would cover if it were mounted after it.
        self._mounts[base:] = sorted(self._mounts[base:], key=lambda mount: mount.target.split("/"))
        self._check_size()
        return View(
            mounts=tuple(self._with_modes()),
            write_roots=tuple(sorted(self._rules.writable)),
            placeholders=self._rules.placeholders,
            notes=self._rules.notes,
            private=tuple(private),
            protected_links=self._rules.protected_links,
            working_dir=self._rules.working_dir,
        )

    def _points(self) -> set[str]:
        """Every path where the answer of the rules may change."""
        rules = self._rules
        return {*rules.readable, *rules.writable, *rules.denied, *rules.fixed, *rules.secret, *rules.protected_links}

    # ---- the sandbox's own --------------------------------------------------------------------------------------

    def _base(self, private: dict[str, int]) -> None:
        self._add(Mount("proc", "/proc"))
        self._add(Mount("dev", "/dev"))
        for path in ("/etc", "/etc/ssl", "/run", "/var", "/var/cache", "/var/lib"):
            self._directory(path)
        if "/var/tmp" not in private:
            self._add(Mount("symlink", "/var/tmp", "/tmp"))
        for path, size in private.items():
            mode = 0o700 if path == SANDBOX_HOME else 0o1777
            self._add(Mount("tmpfs", path, size=size, mode=mode))
            self._made.add(path)
        for name, text in _generated(self._facts):
            self._add(Mount("data", f"/etc/{name}", data=text.encode(), mode=0o444))

    def _add(self, mount: Mount, state: Access = Access.HIDDEN) -> None:
        self._mounts.append(mount)
        self._state[mount.target] = state

    def _directory(self, path: str) -> None:
        """Makes a directory in a file system of the sandbox's own, and those above it."""
        for each in list(ancestry(path))[::-1]:
            if each not in self._made and each not in self._state:
                self._made.add(each)
                self._mounts.append(Mount("dir", each, mode=0o755))

    # ---- the host's ---------------------------------------------------------------------------------------------

    def _around(self, path: str) -> tuple[str, Access]:
        """The mount point that a path is in so far, and what is reachable there."""
        return next((each, self._state[each]) for each in ancestry(path) if each in self._state)

    def _link(self, path: str, text: str) -> None:
        if path not in self._state and self._around(path)[1] is Access.HIDDEN:
            self._directory(os.path.dirname(path))
            self._add(Mount("symlink", path, text))

    def _visit(self, path: str) -> None:
        """Mounts what makes the answer at a path come true, if it is not true already."""
        point, before = self._around(path)
        now = self._rules.access(path)
        link = path in self._rules.protected_links
        if now is before and not link:
            return
        mode = _mode(path)
        if path in self._rules.placeholders:
            mode = stat.S_IFREG
        if mode is None or (stat.S_ISLNK(mode) and not link):
            return  # nothing there, so nothing to be seen
        if before is Access.WRITE and path not in self._rules.unpinned:
            self._pin(point, path)
        if link:
            return
        if now is Access.HIDDEN:
            self._add(Mount("mask_dir" if stat.S_ISDIR(mode) else "mask_file", path), now)
            self._made.add(path)
            return
        if before is Access.HIDDEN:
            self._directory(os.path.dirname(path))
        self._add(Mount("write" if now is Access.WRITE else "read", path, path), now)

    def _pin(self, point: str, path: str) -> None:
        """Binds the directories between a writable mount point and a path over themselves."""
        between = [each for each in ancestry(os.path.dirname(path)) if len(each) > len(point)]
        for each in between[::-1]:
            self._add(Mount("write", each, each), Access.WRITE)

    def _with_modes(self) -> Iterator[Mount]:
        """A covered directory can't even be listed, unless something in it is allowed."""
        parents = {each for mount in self._mounts for each in ancestry(os.path.dirname(mount.target))}
        for mount in self._mounts:
            if mount.kind == "mask_dir":
                mount = Mount("mask_dir", mount.target, mode=0o555 if mount.target in parents else 0)
            yield mount

    def _check_size(self) -> None:
        if len(self._mounts) > MOUNTS_LIMIT:
            raise PolicyError(
                "filesystem",
                f"{len(self._mounts)} mounts would be needed, and {MOUNTS_LIMIT} are possible",
                "deny directories instead of the files in them",
            )


def _mode(path: str) -> int | None:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return None


def _generated(facts: HostFacts) -> Iterator[tuple[str, str]]:
    """Files in ``/etc`` that say nothing about the host."""
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    yield "passwd", f"sandbox:x:{facts.uid}:{facts.gid}:sandbox:{SANDBOX_HOME}:{shell}\n"
    yield "group", f"sandbox:x:{facts.gid}:\n"
    yield "hosts", "127.0.0.1 localhost\n::1 localhost\n"
    yield "hostname", "sandbox\n"
    yield "host.conf", "multi on\n"
    yield "resolv.conf", ""
    yield "machine-id", ""
    databases = ("passwd", "group", "shadow", "hosts", "networks", "protocols", "services", "ethers", "rpc")
    yield "nsswitch.conf", "".join(f"{name}: files\n" for name in databases)
