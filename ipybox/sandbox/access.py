"""Who may read and write what: a policy and the facts of a host, decided path by path. Floor: sandbox.

Rules, from the strongest to the weakest:

1. Credentials of a home are never readable, wherever they are met.
2. What is denied is not readable, unless a longer path in it is allowed. At equal length the denial wins.
3. Readable are the system, the Python environment, the working directory, ``allow_read`` and ``allow_write``.
4. Writable is what ``allow_write`` covers, but nothing that ``deny_write`` covers, however long or short the two are;
   no protected place (:mod:`ipybox.sandbox.protected`); and nothing that is denied by rule 2 and given back by
   ``allow_read`` only.

All paths are resolved before they are compared: links have no say. A link that sandboxed code could have planted is
refused where it would decide what becomes readable or writable. The home as a whole is never writable, and readable
only if the policy names it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

from ipybox.errors import PolicyError
from ipybox.sandbox.path_patterns import Pattern, Scan, States, is_below, is_pattern, split_pattern
from ipybox.sandbox.policy import FilesystemPolicy
from ipybox.sandbox.protected import (
    CREDENTIALS,
    PROTECTED_IN_HOME,
    SECRETS_IN_ETC,
    existing_credentials,
    find_protected,
    is_environment,
    is_protected_name,
)

SANDBOX_HOME = "/run/home"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/gnu/store")
"""Read-only in every sandbox, where they exist; a link stays the link it is."""

_PRIVATE = ("/tmp", "/var/tmp", "/dev/shm")
_NEVER = ("/proc", "/sys", "/dev", "/boot", SANDBOX_HOME)
_NOT_AS_A_WHOLE = ("/", "/etc", "/run", "/run/user", "/run/media", "/home", "/var", "/var/lib", *_PRIVATE)
_PROGRAMS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec", "include", "share")
_NOT_WRITABLE = (
    "/etc",
    *(f"{top}/{name}" for top in ("/usr", "/usr/local") for name in _PROGRAMS),
    *(path for path in SYSTEM if path not in ("/usr", "/opt")),
)
_LINKS = 40
_THIS_PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


class Access(Enum):
    """What may be done with a path."""

    HIDDEN = "hidden"
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a view depends on besides the policy.

    Attributes:
        home: Home of the caller, which credentials and ``~`` are relative to.
        working_dir: Where the code runs, and what relative paths are relative to.
        python_paths: Directories and files of the Python environment: prefixes, path entries, the interpreter.
        config_file: The file that the policy came from; it is never writable.
        uid: User id inside the sandbox.
        gid: Group id inside the sandbox.
        extra_read: More that is readable, such as a package that is run inside.
    """

    home: str
    working_dir: str
    python_paths: tuple[str, ...] = ()
    config_file: str | None = None
    uid: int = 1000
    gid: int = 1000
    extra_read: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Walked:
    """A path, resolved.

    Attributes:
        real: The path without links; what does not exist is taken as it is written.
        links: Links that were met: where each of them lies, and its text.
        missing: The first part of the real path that does not exist.
    """

    real: str
    links: tuple[tuple[str, str], ...]
    missing: str | None


def walk(path: str) -> Walked:
    """Resolves an absolute path one component at a time, and remembers the links on the way."""
    pending = path.split("/")[::-1]
    real, missing = "/", None
    links: list[tuple[str, str]] = []
    while pending:
        name = pending.pop()
        if name in ("", "."):
            continue
        if name == "..":
            real = os.path.dirname(real)
            if missing is not None and not is_below(real, [missing]):
                missing = None
            continue
        here = os.path.join(real, name)
        try:
            mode = None if missing is not None else os.lstat(here).st_mode
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            mode, missing = None, here
        if mode is None or not stat.S_ISLNK(mode):
            real = here
            continue
        if len(links) == _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        text = os.readlink(here)
        links.append((here, text))
        pending += text.split("/")[::-1]
        if text.startswith("/"):
            real = "/"
    return Walked(real, tuple(links), missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The decision for every path, and where it changes.

    Attributes:
        readable: Readable, with all below.
        writable: Writable, with all below.
        denied: Not readable, unless something longer is allowed.
        fixed: Not writable.
        secret: Not readable, whatever else.
        unpinned: Those of ``denied`` whose parents may be renamed, because what they become is denied as well.
        hosts_links: Links that lead to readable places: where each of them lies, and its text.
        protected_links: Links in writable directories that must not be replaced.
        placeholders: Paths that do not exist and must not come to be.
        working_dir: The working directory, resolved.
        notes: What somebody who wrote the policy may want to know.
    """

    readable: frozenset[str] = frozenset()
    writable: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    secret: frozenset[str] = frozenset()
    unpinned: frozenset[str] = frozenset()
    hosts_links: tuple[tuple[str, str], ...] = ()
    protected_links: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    working_dir: str = "/"
    notes: tuple[str, ...] = ()

    def access(self, path: str) -> Access:
        """What may be done with a resolved path."""
        allowed = writable = denied = 0
        fixed = False
        for each in ancestry(path):
            if each in self.secret:
                return Access.HIDDEN
            length = len(each)
            if each in self.writable:
                writable = max(writable, length)
            if each in self.readable:
                allowed = max(allowed, length)
            if each in self.denied:
                denied = max(denied, length)
            fixed = fixed or each in self.fixed
        if max(allowed, writable) <= denied:
            return Access.HIDDEN
        return Access.WRITE if writable > denied and not fixed else Access.READ


def ancestry(path: str) -> Iterator[str]:
    """The path, its parent, and so on up to ``/``."""
    while path != "/":
        yield path
        path = os.path.dirname(path)
    yield "/"


def rules_for(policy: FilesystemPolicy, facts: HostFacts, system: Iterable[str]) -> Rules:
    """Decides. Raises :class:`PolicyError` for a policy that makes no sense on this host.

    Args:
        system: Readable whatever the policy says.
    """
    return _Decision(policy, facts, frozenset(system)).rules()


def gateway_rules(facts: HostFacts, run_dir: str, system: Iterable[str]) -> Rules:
    """What a gateway process may do: read the system and Python, write its own directory."""
    decision = _Decision(FilesystemPolicy(allow_write=()), facts, frozenset(system))
    real = walk(os.path.abspath(run_dir)).real
    decision.python(writable=frozenset({real}))
    return Rules(
        readable=frozenset(decision.readable | decision.environments),
        writable=frozenset({real}),
        secret=frozenset(decision.secret),
        hosts_links=tuple(decision.hosts_links),
        working_dir=real,
        notes=tuple(decision.notes),
    )


@dataclass
class _Decision:
    policy: FilesystemPolicy
    facts: HostFacts
    system: frozenset[str]
    readable: set[str] = field(default_factory=set)
    environments: set[str] = field(default_factory=set)
    secret: set[str] = field(default_factory=set)
    hosts_links: list[tuple[str, str]] = field(default_factory=list)
    planted_links: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home = walk(os.path.abspath(self.facts.home)).real
        self.named_secrets = {os.path.join(self.home, name) for name in CREDENTIALS}
        self.named_secrets |= {f"/etc/{name}" for name in SECRETS_IN_ETC}
        self.readable |= self.system
        self._add_credentials(self.home)

    def _add_credentials(self, home: str) -> None:
        self.secret.update(path for path in existing_credentials(home) if path != "/")

    # ---- the whole ----------------------------------------------------------------------------------------------

    def rules(self) -> Rules:
        here = walk(os.path.abspath(self.facts.working_dir))
        self.working_dir = here.real
        self._check_working_dir(here)
        reads = self._roots("allowRead", self.policy.allow_read)
        writes = self._roots("allowWrite", self.policy.allow_write)
        self._check_home(reads, writes)
        writable = frozenset(found.real for _, _, found in writes)
        self._refuse_planted([*writes, *reads], writable)
        self.hosts_links += [link for found in (here, *(each for _, _, each in reads + writes)) for link in found.links]
        self.python(writable)
        self._refuse_environments(writes)
        for link, text in here.links:
            if is_below(os.path.dirname(link), writable):
                reason = f"{link} is a link to {text}, and sandboxed code may have made it"
                raise PolicyError("working directory", reason)
        mine = {self.working_dir, *writable, *(found.real for _, _, found in reads)}
        self.readable |= mine
        for root in mine:
            if (owner := _other_home(root)) is not None and owner != self.home:
                self._add_credentials(owner)
        denied, unpinned = self._denials("denyRead", self.policy.deny_read, mine)
        fixed, _ = self._denials("denyWrite", self.policy.deny_write, set(writable))
        fixed |= self.environments
        fixed |= self._protected(writable)
        kept = {upper for path in fixed | self.planted_links for upper in ancestry(path)}
        rules = Rules(
            readable=frozenset(self.readable | self.environments),
            writable=writable,
            denied=frozenset(denied),
            fixed=frozenset(fixed),
            secret=frozenset(self.secret),
            unpinned=frozenset(unpinned - kept),
            hosts_links=tuple(dict.fromkeys(self.hosts_links)),
            working_dir=self.working_dir,
        )
        return self._finish(rules)

    def _finish(self, rules: Rules) -> Rules:
        """Adds what depends on the decision itself."""
        for path in sorted(rules.denied):
            if path in SYSTEM or path in self.environments:
                raise PolicyError("filesystem.denyRead", f"{path} is needed to run Python at all", "name paths in it")
        if rules.access(self.working_dir) is Access.HIDDEN:
            raise PolicyError("filesystem.denyRead", f"the working directory {self.working_dir} would not be readable")
        links = sorted(link for link in self.planted_links if rules.access(link) is Access.WRITE)
        self.notes += [f"{link} is a symbolic link of a protected name" for link in links]
        placeholders, instead = self._placeholders(rules)
        return replace(
            rules,
            fixed=rules.fixed | placeholders | instead,
            protected_links=tuple(links),
            placeholders=tuple(sorted(placeholders)),
            notes=tuple(self.notes),
        )

    def _placeholders(self, rules: Rules) -> tuple[set[str], set[str]]:
        """What is to be made so that nobody else can, and files that are in the way of it."""
        missing = {path for path in self.missing if rules.access(os.path.dirname(path)) is Access.WRITE}
        instead: set[str] = set()
        for index, entry in enumerate(self.policy.deny_write):
            if not is_pattern(entry):
                try:
                    path = walk(self._absolute(f"filesystem.denyWrite[{index}]", entry)).missing
                except OSError:
                    continue  # a loop of links, which are protected themselves
                parent = os.path.dirname(path or "/")
                if path is not None and rules.access(parent) is Access.WRITE:
                    if os.path.isdir(parent):
                        missing.add(path)
                    else:
                        instead.add(parent)
        return missing, instead

    # ---- what is allowed ----------------------------------------------------------------------------------------

    def _absolute(self, where: str, entry: str) -> str:
        if not entry or "\0" in entry:
            raise PolicyError(where, f"{entry!r} is no path")
        if entry == "~" or entry.startswith("~/"):
            return self.home + entry[1:]
        if entry.startswith("~"):
            raise PolicyError(where, f"{entry!r} names the home of another user", "write the path out")
        return entry if entry.startswith("/") else os.path.join(self.working_dir, entry)

    def _check_working_dir(self, here: Walked) -> None:
        where, path = "working directory", here.real
        if here.missing is not None or not os.path.isdir(path):
            raise PolicyError(where, f"{path} is no directory")
        if path == "/" or (path != self.home and is_below(self.home, [path])):
            raise PolicyError(where, f"{path} is above the home {self.home}", "start in a directory of your own")
        self._check_place(where, path)

    def _check_place(self, where: str, path: str) -> None:
        """Refuses a resolved path that no sandbox should have, or that it has one of its own of."""
        if path in _PRIVATE:
            raise PolicyError(where, f"{path} is private to each sandbox", "name a directory in it")
        if is_below(path, _NEVER) and not is_below(path, _PRIVATE):
            raise PolicyError(where, f"{path} of the host is never visible in a sandbox")
        if path in _NOT_AS_A_WHOLE or (path.startswith("/run/") and not _is_users_own(path)):
            raise PolicyError(where, f"{path} holds too much that is not meant for sandboxed code", "name paths in it")
        if any(each in self.secret or each in self.named_secrets for each in ancestry(path)):
            raise PolicyError(where, f"{path} holds credentials, which are never readable in a sandbox")

    def _roots(self, key: str, entries: tuple[str, ...]) -> list[tuple[str, str, Walked]]:
        """The entries of a list, resolved and checked one by one."""
        roots = []
        for index, entry in enumerate(entries):
            where = f"filesystem.{key}[{index}]"
            path = self._absolute(where, entry)
            if is_pattern(entry):
                raise PolicyError(where, f"{entry!r} has a '*', which is possible where a path is denied only")
            try:
                found = walk(path)
            except OSError as error:
                raise PolicyError(where, f"{entry!r}: {error.strerror}") from error
            self._check_place(where, os.path.normpath(path))
            self._check_place(where, found.real)
            if found.real != self.home and is_below(self.home, [found.real]):
                raise PolicyError(where, f"{found.real} is above the home {self.home}", "name the directories needed")
            if key == "allowWrite" and self._is_always_protected(found.real):
                self.notes.append(f"{where}: {found.real} stays read-only, as what is put there runs outside later")
                continue
            if found.missing is not None:
                if key == "allowWrite":
                    raise PolicyError(where, f"{found.missing} does not exist", "create it first, or leave it out")
                self.notes.append(f"{where}: {found.missing} does not exist, so it is left out")
                continue
            mode = os.lstat(found.real).st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise PolicyError(where, f"{found.real} is neither a directory nor a regular file")
            roots.append((where, entry, found))
        return roots

    def _is_always_protected(self, path: str) -> bool:
        if is_below(path, [os.path.join(self.home, name) for name in PROTECTED_IN_HOME]):
            return True
        for base in (self.working_dir, self.home, "/"):
            if path != base and is_below(path, [base]):
                return not is_below(self.working_dir, [path]) and is_protected_name(
                    os.path.relpath(path, base).split("/")
                )
        return False

    def _check_home(self, reads: list[tuple[str, str, Walked]], writes: list[tuple[str, str, Walked]]) -> None:
        for where, _, found in writes:
            if found.real == self.home:
                raise PolicyError(
                    where,
                    f"the home {self.home} is never writable as a whole, as too much in it runs outside later",
                    "work in a directory of its own, or set allowWrite to directories in the home "
                    "(the default is '.', the working directory)",
                )
        named = any(found.real == self.home and entry.startswith(("~", "/")) for _, entry, found in reads)
        if self.working_dir == self.home and not named:
            raise PolicyError(
                "working directory",
                f"it is the home {self.home}, which is readable only if the policy says so",
                "work in a directory of its own, or add '~' to allowRead",
            )

    def _refuse_planted(self, roots: list[tuple[str, str, Walked]], writable: frozenset[str]) -> None:
        for where, _, found in roots:
            suspects = writable | {self.working_dir} if where.startswith("filesystem.allowWrite") else writable
            for link, text in found.links:
                if is_below(os.path.dirname(link), suspects):
                    raise PolicyError(
                        where,
                        f"{link} is a symbolic link to {text}, and sandboxed code may have made it",
                        "name the place that it leads to",
                    )

    def _refuse_environments(self, writes: list[tuple[str, str, Walked]]) -> None:
        for where, _, found in writes:
            if found.real in ("/usr", "/opt") or is_below(found.real, _NOT_WRITABLE):
                raise PolicyError(where, f"{found.real} belongs to the system, which is never writable")
            if is_below(found.real, self.environments):
                raise PolicyError(where, f"{found.real} belongs to the Python environment, which is never writable")

    # ---- Python -------------------------------------------------------------------------------------------------

    def python(self, writable: frozenset[str]) -> None:
        """Makes the Python environment readable, at the paths that Python knows it by."""
        for path in (*self.facts.python_paths, *self.facts.extra_read):
            try:
                found = walk(os.path.abspath(path))
            except OSError:
                continue  # a loop of links is nothing that Python could use either
            if found.missing is not None:
                continue
            if reason := self._no_python_path(found.real):
                self.notes.append(f"Python's path {path} is left out: {reason}")
                continue
            self.hosts_links += found.links
            self.planted_links.update(link for link, _ in found.links if is_below(link, writable))
            if found.real in SYSTEM:
                continue
            if path in self.facts.extra_read or _is_part_of_environment(found.real):
                self.environments.add(found.real)
            else:
                self.readable.add(found.real)
                if is_below(found.real, writable):
                    self.notes.append(f"{found.real} is on Python's path, and writable")

    def _no_python_path(self, path: str) -> str:
        if is_below(self.home, [path]):
            return "it is the home, or above it"
        try:
            self._check_place("", path)
        except PolicyError as error:
            return error.reason
        return ""

    # ---- what is denied -----------------------------------------------------------------------------------------

    def _denials(self, key: str, entries: tuple[str, ...], roots: set[str]) -> tuple[set[str], set[str]]:
        """Denied paths, resolved and expanded over ``roots``; and those that are denied wherever they move."""
        denied: set[str] = set()
        named: set[str] = set()
        moving: set[str] = set()
        scan = Scan(inside=tuple(sorted(roots)), skip=tuple(sorted(self.environments)))
        for index, entry in enumerate(entries):
            where = f"filesystem.{key}[{index}]"
            path = self._absolute(where, entry)
            if not is_pattern(entry):
                named |= self._resolved(where, path, key)
                continue
            for match, anywhere in self._matches(where, entry, path, scan, roots):
                found = self._resolved(where, match, key)
                denied |= found
                if anywhere:
                    moving |= found
                else:
                    named |= found
        return denied | named, moving - named

    def _resolved(self, where: str, path: str, key: str) -> set[str]:
        try:
            found = walk(path)
        except OSError:
            return set()  # a loop of links leads nowhere
        if key == "denyWrite":
            self.planted_links.update(link for link, _ in found.links)
        return {found.real}

    def _matches(self, where: str, entry: str, path: str, scan: Scan, roots: set[str]) -> Iterator[tuple[str, bool]]:
        """What a pattern matches, and whether it would match that anywhere. A relative one is for every root."""
        base, text = split_pattern(path if entry.startswith(("/", "~")) else entry)
        try:
            pattern = Pattern(text)
        except ValueError as error:
            raise PolicyError(where, f"{entry!r} has {error}") from error
        for start in sorted(roots) if not base.startswith("/") else [""]:
            here = walk(os.path.join(start, base) if start else base)
            if start and base == "" and pattern.anywhere and _has_parent_in(start, roots):
                continue  # the scan of the directory around it is enough
            if here.missing is not None:
                continue
            for directory, states in _scanned(here.real, pattern, roots):
                if pattern.accepts(states):
                    yield directory, False
                elif os.path.isdir(directory):
                    for match in scan.matches(directory, [(pattern, states)], where):
                        yield match, pattern.anywhere and base == ""

    # ---- what is protected --------------------------------------------------------------------------------------

    def _protected(self, writable: frozenset[str]) -> set[str]:
        fixed: set[str] = set()
        for root in sorted(writable):
            found = find_protected(root)
            fixed.update(found.paths)
            self.planted_links.update(found.links)
            self.missing.update(found.missing)
        alone = [os.path.join(self.home, name) for name in PROTECTED_IN_HOME]
        if self.facts.config_file is not None:
            alone.append(os.path.abspath(self.facts.config_file))
        for path in alone:
            found_path = walk(path)
            if found_path.missing is None:
                fixed.add(found_path.real)
            self.planted_links.update(link for link, _ in found_path.links if is_below(link, writable))
        return fixed


def _scanned(base: str, pattern: Pattern, roots: set[str]) -> Iterator[tuple[str, States]]:
    """Where to look for a pattern below ``base``: only where something is visible."""
    if is_below(base, roots):
        yield base, pattern.start
        return
    for root in sorted(roots):
        if is_below(root, [base]) and not _has_parent_in(root, roots):
            states = pattern.start
            for upper in list(ancestry(root))[::-1]:
                if upper != base and is_below(upper, [base]):
                    states = pattern.step(states, os.path.basename(upper))
                    if pattern.accepts(states):
                        yield upper, states
                        break
            else:
                if states:
                    yield root, states


def _has_parent_in(path: str, directories: Iterable[str]) -> bool:
    return any(path != each and is_below(path, [each]) for each in directories)


def _is_users_own(path: str) -> bool:
    """True for what lies in a user's own part of ``/run``."""
    parts = path.split("/")[2:]
    return len(parts) > 2 and parts[0] in ("user", "media")


def _other_home(path: str) -> str | None:
    """The home that a path lies in, going by the usual places."""
    parts = path.split("/")
    if parts[1] == "root":
        return "/root"
    return "/".join(parts[:3]) if parts[1] in ("home", "Users") and len(parts) > 2 else None


def _is_part_of_environment(path: str) -> bool:
    """True for installed Python, false for a plain directory with sources."""
    if not os.path.isdir(path) or is_below(path, [_THIS_PACKAGE]):
        return True
    for each in ancestry(path):
        if is_environment(each) or os.path.basename(each) in ("site-packages", "dist-packages"):
            return True
    return any(os.path.lexists(os.path.join(path, mark)) for mark in ("bin/python3", "os.py", "lib-dynload"))
