"""The policy as a profile of seatbelt, the sandbox of macOS: pure text, and the command that applies it.

Seatbelt lets the last rule win that matches. So everything is denied, then paths are allowed, and then taken away again
from the outside in, so that the longest path decides; nothing is allowed after that. What differs from Linux:

- a pattern in ``deny_read`` wins even against a longer path in ``allow_read``;
- protected names can't be created either, wherever they are, which includes ``.git``: ``git init`` and ``git clone``
  do not work. Otherwise a directory could be prepared under another name and then be moved to its place;
- there is one loopback interface, so what listens inside is reachable from outside, and not from inside;
- hard links can't be made: one to a protected file would be a writable name for it;
- git directories of submodules and worktrees are never writable.

File systems of macOS compare names without case and in any Unicode normal form, so rules that deny do so, too.
Floor: sandbox.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ipybox.arguments import port
from ipybox.errors import PolicyError, SandboxUnavailableError
from ipybox.sandbox.path_patterns import is_below, is_pattern, split_pattern
from ipybox.sandbox.policy import SandboxPolicy
from ipybox.sandbox.protected import (
    CREDENTIALS,
    PROTECTED_IN_CLAUDE,
    PROTECTED_IN_GIT,
    PROTECTED_IN_HOME,
    PROTECTED_NAMES,
    SECRETS_IN_ETC,
)

SANDBOX_EXEC = "/usr/bin/sandbox-exec"

LONGEST_STRING = 1000
"""Bytes of a string in a profile; ``sandbox-exec`` refuses more than 1025, and the whole profile with it."""

SYSTEM_PATHS = (
    "/bin",
    "/sbin",
    "/usr",
    "/opt/homebrew",
    "/opt/local",
    "/Library",
    "/System/Cryptexes",
    "/System/Library",
    "/System/Volumes/Preboot/Cryptexes",
    "/System/iOSSupport",
    "/private/etc",
    "/private/preboot/Cryptexes",
    "/private/var/db/dyld",
    "/private/var/db/timezone",
    "/private/var/select",
)
"""Readable always. Not ``/System`` as a whole: ``/System/Volumes/Data`` is another name of the homes."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
"""Readable and writable always."""

SYSTEM_LINKS = {"/etc": "/private/etc", "/tmp": "/private/tmp", "/var": "/private/var"}
"""Links that every macOS has."""

CREDENTIALS_IN_LIBRARY = (
    "Library/Accounts",
    "Library/Application Support/BraveSoftware",
    "Library/Application Support/Chromium",
    "Library/Application Support/Firefox",
    "Library/Application Support/Google/Chrome",
    "Library/Application Support/Microsoft Edge",
    "Library/Application Support/com.apple.TCC",
    "Library/Containers",
    "Library/Cookies",
    "Library/Group Containers",
    "Library/Keychains",
    "Library/Mail",
    "Library/Messages",
    "Library/Safari",
    ".zsh_sessions",
)
"""Never readable, relative to the home, besides those that Linux has as well."""

PROTECTED_IN_LIBRARY = ("Library/LaunchAgents", "Library/Preferences", "Library/Scripts", "Library/Services")
"""Never writable, relative to the home, besides those that Linux has as well."""

ENVIRONMENT_NAMES = (".venv", "venv")
"""What virtual environments are called; others are for :attr:`SeatbeltFacts.protected`."""

MACH_SERVICES = (
    "com.apple.bsd.dirhelper",
    "com.apple.logd",
    "com.apple.system.logger",
    "com.apple.system.notification_center",
    "com.apple.system.opendirectoryd.libinfo",
    "com.apple.system.opendirectoryd.membership",
)
"""Services that every program needs. None of them starts programs, opens connections, or knows secrets."""

SYSCTL_NAMES = (
    "kern.argmax",
    "kern.hostname",
    "kern.maxfiles",
    "kern.maxfilesperproc",
    "kern.maxproc",
    "kern.ngroups",
    "kern.osproductversion",
    "kern.osrelease",
    "kern.ostype",
    "kern.osvariant_status",
    "kern.osversion",
    "kern.secure_kernel",
    "kern.usrstack64",
    "kern.version",
    "security.mac.lockdown_mode_state",
    "sysctl.proc_cputype",
    "sysctl.proc_translated",
    "vm.loadavg",
)
"""Facts about the machine; none about other processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatbeltFacts:
    """What a profile has to know about the machine. All paths are absolute and without links.

    Attributes:
        home: The user's home.
        working_dir: What relative paths of the policy start from.
        python_paths: What Python needs to read. Where it lies in a writable directory it is not writable; so leave
            out sources that are installed in place, if the sandbox is to edit them.
        run_dir: Private directory of the kernel, writable; its sockets are there.
        tmp_dir: Private directory for temporary files, writable.
        proxy_port: Where the proxy listens on the loopback interface; None means no network.
        tool_port: Where tools are called on the loopback interface; None means there are none.
        protected: More paths that are never writable: the policy's own file, virtual environments in the workspace.
        pty: Whether pseudo-terminals are needed, as IPython's ``!command`` does.
        resolve: Gives the real path of a path of the policy.
    """

    home: str
    working_dir: str
    python_paths: tuple[str, ...]
    run_dir: str
    tmp_dir: str
    proxy_port: int | None = None
    tool_port: int | None = None
    protected: tuple[str, ...] = ()
    pty: bool = False
    resolve: Callable[[str], str] = os.path.realpath


def profile(policy: SandboxPolicy, facts: SeatbeltFacts) -> str:
    """The text for ``sandbox-exec -p``.

    Raises:
        PolicyError: A path that a profile can't hold (control characters, too long), or a path in ``allow_read``,
            ``allow_write`` or ``allow_unix_sockets`` that leads out of a writable directory through a link.
    """
    return _Profile(policy, facts).text()


def command(profile: str, argv: Sequence[str]) -> list[str]:
    """The command that runs ``argv`` under a profile, which its children can't leave either.

    Raises:
        SandboxUnavailableError: This machine has no ``sandbox-exec``.
    """
    if not argv:
        raise ValueError("argv must not be empty")
    if not os.access(SANDBOX_EXEC, os.X_OK):
        raise SandboxUnavailableError(f"{SANDBOX_EXEC} is missing", ("use macOS, of which it is a part",))
    return [SANDBOX_EXEC, "-p", profile, "--", *argv]


class _Profile:
    def __init__(self, policy: SandboxPolicy, facts: SeatbeltFacts) -> None:
        self._policy, self._facts, self._files = policy, facts, policy.filesystem
        roots = [self._place(path) for path in self._files.allow_write]
        self._planted = [*roots, *map(facts.resolve, roots), facts.run_dir, facts.tmp_dir]
        self._write = [*self._real("allowWrite", self._files.allow_write), facts.run_dir, facts.tmp_dir]
        self._read = self._real("allowRead", self._files.allow_read)

    def text(self) -> str:
        parts = [
            "(version 1)",
            "(deny default)",
            *self._processes(),
            *self._reads(),
            *self._writes(),
            *self._network(),
            *self._terminals(),
        ]
        return "\n".join(parts) + "\n"

    # ---- what every program needs

    def _processes(self) -> list[str]:
        return [
            "",
            "; processes",
            "(allow process-exec*)",
            "(allow process-fork)",
            "(allow process-info* (target same-sandbox))",
            "(allow signal (target same-sandbox))",
            *_rule("allow mach-lookup", (f"(global-name {_string(name)})" for name in MACH_SERVICES)),
            *_rule(
                "allow sysctl-read", (*_sysctls(), '(sysctl-name-prefix "hw.")', '(sysctl-name-prefix "machdep.cpu.")')
            ),
            '(allow ipc-posix-shm-read* (ipc-posix-name "apple.shm.notification_center"))',
            '(allow ipc-posix-shm* (ipc-posix-name-regex "^/?(psm_|__KMP_REGISTERED_LIB_)"))',
            '(allow ipc-posix-sem* (ipc-posix-name-regex "^/?mp-"))',
        ]

    # ---- reading

    def _reads(self) -> list[str]:
        facts = self._facts
        needed = [*facts.python_paths, facts.run_dir, facts.tmp_dir]
        first = [*SYSTEM_PATHS, facts.working_dir, *self._read, *self._write, *needed]
        above = sorted({parent for path in first for parent in _above(path)})
        secrets = [f"/private/etc/{name}" for name in (*sorted(SECRETS_IN_ETC), "master.passwd")]
        secrets += ["/Library/Keychains", "/private/var/db/dslocal"]
        home = [f"{facts.home}/{name}" for name in (*CREDENTIALS, *CREDENTIALS_IN_LIBRARY)]
        return [
            "",
            "; reading",
            '(allow file-read* (literal "/"))',
            *_rule("allow file-read-metadata", map(_exactly, above)),
            *_rule("allow file-read* file-write-data file-ioctl", map(_exactly, DEVICES)),
            *_rule("allow file-read*", ['(subpath "/dev/fd")', *map(_exactly, SYSTEM_LINKS)]),
            *_rule("allow file-read* file-map-executable", map(_below, dict.fromkeys(first))),
            *self._nested("file-read*", [*self._read, *self._write, *needed]),
            *_rule("deny file-read*", self._patterns(self._files.deny_read)),
            *_rule("deny file-read*", [*map(self._denied, home), *map(_below, secrets)]),
        ]

    def _nested(self, operation: str, allowed: Iterable[str]) -> list[str]:
        """What is not readable, from the outside in; of two rules for the same path the one that denies comes last."""
        denied = self._both(self._files.deny_read)
        rules = [(_depth(path), 1, f"(deny {operation} {self._denied(path)})") for path in denied]
        # Rules that allow are said again only where they lie in what is denied.
        rules += [
            (_depth(path), 0, f"(allow {operation} {_below(path)})") for path in allowed if is_below(path, denied)
        ]
        return [rule for _, _, rule in sorted(dict.fromkeys(rules))]

    # ---- writing

    def _writes(self) -> list[str]:
        facts, files = self._facts, self._files
        never = [*self._both(files.deny_write), *facts.protected]
        never += [path for path in facts.python_paths if path not in self._write and is_below(path, self._write)]
        # These matter where the home is writable as a whole, or in part.
        home = (*PROTECTED_IN_HOME, *PROTECTED_IN_LIBRARY, *CREDENTIALS, *CREDENTIALS_IN_LIBRARY)
        never += [path for name in home if is_below(path := f"{facts.home}/{name}", self._write)]
        never = list(dict.fromkeys(never))
        patterns = [path for path in (*files.deny_write, *files.deny_read) if is_pattern(path)]
        held = {above for path in (*never, *self._both(files.deny_read)) for above in _above(path)}
        for path in patterns:
            held |= {each for base, _ in self._bases(path) for each in (base, *_above(base))}
        return [
            "",
            "; writing",
            *_rule("allow file-write*", map(_below, dict.fromkeys(self._write))),
            *self._nested("file-write*", self._write),
            *_rule("deny file-write*", [*map(self._denied, never), *self._patterns(patterns)]),
            *_rule("deny file-write*", _protected_names()),
            "(deny file-write-setugid)",
            "; nothing around these may be moved away, or be put there in their place",
            *_rule(
                "deny file-write-create file-write-unlink",
                (self._denied_itself(path) for path in sorted(held) if is_below(path, self._write)),
            ),
            *_rule("deny file-write-unlink", [*map(_exactly, dict.fromkeys(self._write)), *self._around(patterns)]),
        ]

    # ---- network

    def _network(self) -> list[str]:
        facts, network = self._facts, self._policy.network
        lines = ["", "; network", "(allow system-socket (socket-domain AF_UNIX))"]
        for path in (facts.run_dir, facts.tmp_dir) if network.allow_all_unix_sockets else (facts.run_dir,):
            lines += [
                f"(allow network-bind (local unix-socket {_below(path)}))",
                f"(allow network-inbound (local unix-socket {_below(path)}))",
                f"(allow network-outbound (remote unix-socket {_below(path)}))",
            ]
        for path in self._real("allowUnixSockets", network.allow_unix_sockets, section="network"):
            lines.append(f"(allow network-outbound (remote unix-socket {_below(path)}))")
        ports = [port(each) for each in (facts.proxy_port, facts.tool_port) if each is not None]
        lines += [f'(allow network-outbound (remote ip "localhost:{each}"))' for each in ports]
        if network.allow_local_binding:
            lines += [
                '(allow network-bind (local ip "localhost:*"))',
                '(allow network-inbound (local ip "localhost:*"))',
            ]
            # Whoever listens there when the proxy is gone would get what other kernels send to it.
            lines += [f'(deny network-bind (local ip "localhost:{each}"))' for each in ports]
        return lines

    # ---- terminals

    def _terminals(self) -> list[str]:
        if not self._facts.pty:
            return []
        own = '(require-all (regex "^/dev/ttys[0-9]+$") (extension "com.apple.sandbox.pty"))'
        return [
            "",
            "; terminals: those that are made inside, not those of the user",
            "(allow pseudo-tty)",
            '(allow file-read* file-write* file-ioctl (literal "/dev/ptmx"))',
            f"(allow file-read* file-write* file-ioctl {own})",
        ]

    # ---- paths of the policy

    def _place(self, path: str) -> str:
        """A path of the policy as an absolute one; links are not followed, but for those that every macOS has."""
        if path == "~" or path.startswith("~/"):
            path = self._facts.home + path[1:]
        place = os.path.normpath(os.path.join(self._facts.working_dir, path))
        place = "/" + place.lstrip("/")
        for link, target in SYSTEM_LINKS.items():
            if place == link or place.startswith(f"{link}/"):
                return target + place[len(link) :]
        return place

    def _both(self, paths: Iterable[str]) -> list[str]:
        """Denied paths without patterns, and the places that they lead to."""
        plain = [self._place(path) for path in paths if not is_pattern(path)]
        return list(dict.fromkeys(each for path in plain for each in (path, self._facts.resolve(path))))

    def _real(self, key: str, paths: Iterable[str], section: str = "filesystem") -> list[str]:
        """Allowed paths without links. A link where code could write has perhaps been planted, so it is refused."""
        found = []
        for index, path in enumerate(paths):
            place = self._place(path)
            real = self._facts.resolve(place)
            if real != place and any(place != root and is_below(place, [root]) for root in self._planted):
                reason = f"is or contains a link that sandboxed code could have made, got {path!r}"
                raise PolicyError(f"{section}.{key}[{index}]", reason, f"name the place that it leads to: {real!r}")
            found.append(real)
        return found

    def _bases(self, path: str) -> list[tuple[str, str]]:
        """Where a pattern starts, and what of it is left there. A relative one is for every directory of the policy."""
        roots = [""] if path.startswith(("/", "~")) else [self._facts.working_dir, *self._write, *self._read]
        found = []
        for root in roots:
            plain, rest = split_pattern(f"{root}/{path}" if root else path)
            plain = self._place(plain)
            found += [(plain, rest), (self._facts.resolve(plain), rest)]
        return list(dict.fromkeys(found))

    def _patterns(self, paths: Iterable[str]) -> list[str]:
        """Rules for the patterns among denied paths."""
        return [
            _like(f"^{self._regex_of(base.rstrip('/'))}{_regex_below(rest)}(/.*)?$")
            for path in filter(is_pattern, paths)
            for base, rest in self._bases(path)
        ]

    def _around(self, patterns: Iterable[str]) -> list[str]:
        """Rules for the directories that a pattern names on its way; what ``**`` stands for may be moved."""
        rules = []
        for base, rest in (each for path in patterns for each in self._bases(path)):
            parts = rest.split("/")
            for end in range(1, len(parts)):
                if parts[end - 1].strip("*") or parts[end - 1] == "*":
                    way = _like(f"^{self._regex_of(base.rstrip('/'))}{_regex_below('/'.join(parts[:end]))}$")
                    rules.append(f"(require-all (vnode-type DIRECTORY) {way})")
        return list(dict.fromkeys(rules))

    def _denied(self, path: str) -> str:
        """A path and all below it, in any spelling of case."""
        return _like(f"^{self._regex_of(path)}(/.*)?$")

    def _denied_itself(self, path: str) -> str:
        return _like(f"^{self._regex_of(path)}$")

    def _regex_of(self, path: str) -> str:
        """A regular expression for a path. What leads to the home or the workspace is spelled as it is."""
        for known in sorted((self._facts.working_dir, self._facts.home, *self._write), key=len, reverse=True):
            if is_below(path, [known]):
                return _quoted(known) + _folded(path[len(known) :])
        return _folded(path)


def _above(path: str) -> list[str]:
    """The directories that a path is in, without the root."""
    found = []
    while path.strip("/") and (path := os.path.dirname(path)).strip("/"):
        found.append(path)
    return found


def _depth(path: str) -> int:
    return len([part for part in path.split("/") if part])


def _sysctls() -> Iterable[str]:
    return (f"(sysctl-name {_string(name)})" for name in SYSCTL_NAMES)


def _protected_names() -> list[str]:
    git, claude = _folded(".git"), _folded(".claude")
    return [
        *(_like(f"/{_folded(name)}(/.*)?$") for name in (*sorted(PROTECTED_NAMES), *ENVIRONMENT_NAMES)),
        # Themselves, so that nothing can be put in their place; but much in them is written all the time.
        _like(f"/{git}$"),
        _like(f"/{claude}$"),
        *(_like(f"/{git}/{_folded(name)}(/.*)?$") for name in (*PROTECTED_IN_GIT, "modules", "worktrees")),
        *(_like(f"/{claude}/{_folded(name)}(/.*)?$") for name in PROTECTED_IN_CLAUDE),
        _like(f"/{claude}/{_folded('settings')}[^/]*{_folded('.json')}$"),
    ]


# ---- the language of profiles -----------------------------------------------------------------------------------


def _rule(action: str, filters: Iterable[str]) -> list[str]:
    """One expression; none without filters, because that would be about everything."""
    listed = list(filters)
    return [f"({action}", *(f"  {each}" for each in listed), ")"] if listed else []


def _below(path: str) -> str:
    return f"(subpath {_string(path)})"


def _exactly(path: str) -> str:
    return f"(literal {_string(path)})"


def _like(regex: str) -> str:
    return f"(regex {_string(regex)})"


def _string(text: str) -> str:
    """A string of the profile, which ends where the text ends whatever is in it."""
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise PolicyError(repr(text), "has a control character, which no profile of macOS can hold")
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    try:
        size = len(quoted.encode())
    except UnicodeEncodeError:
        raise PolicyError(repr(text), "is not text that a profile of macOS can hold") from None
    if size > LONGEST_STRING:
        raise PolicyError(repr(text), "is too long for a profile of macOS", "use shorter paths")
    return quoted


def _quoted(text: str) -> str:
    """A regular expression that is this text."""
    return re.sub(r"([\\.^$*+?()\[\]{}|])", r"\\\1", text)


def _folded(text: str) -> str:
    """A regular expression that is this text to a file system without case."""
    return "".join(map(_any_case, unicodedata.normalize("NFC", text)))


def _any_case(character: str) -> str:
    if character.isascii():
        both = character.upper() + character.lower()
        return f"[{both}]" if character.isalpha() else _quoted(character)
    ways = {character, character.lower(), character.upper(), character.casefold()}
    ways |= {unicodedata.normalize(form, way) for form in ("NFC", "NFD") for way in ways}
    return f"({'|'.join(_quoted(way) for way in sorted(ways))})"


def _regex_below(pattern: str) -> str:
    """A regular expression for the part of a pattern that has the ``*``, with a slash in front."""
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    while len(parts) > 1 and parts[-1] == "**":
        parts.pop()
    made = ""
    for index, part in enumerate(parts):
        if part == "**":
            made += "/.*" if index == len(parts) - 1 else "(/[^/]+)*"
        else:
            made += "/" + "[^/]*".join(_folded(text) for text in re.split(r"\*+", part))
    return made
