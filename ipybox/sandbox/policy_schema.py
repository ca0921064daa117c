"""Every key of a policy file in one table, and the JSON Schema that editors read, made from it.

The keys are those of sandbox-runtime (up to its version 0.0.83), so that its files load here too, and our own.
Each key is one of three things, and which one follows from a single question: is the sandbox as closed as the file
says if we do nothing about the key?

- *used*: we do what it says;
- *elsewhere*: it changes nothing about what is closed here; it is accepted, checked, and mentioned in a note;
- *refused*: doing nothing would leave more open than the file says, or the key would open what we keep closed on
  purpose. A value that asks for nothing (``false``, ``[]``, ``{}``) is fine.

Floor: sandbox.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeAlias

from ipybox.sandbox.policy import HIGHEST, LOWEST, SandboxPolicy

SCHEMA_ID = "https://json-schema.org/draft/2020-12/schema"
SIZE_PATTERN = r"^[0-9]{1,15}([.][0-9]{1,6})? ?([kKmMgGtT][iI]?)?[bB]$"
"""``512 MiB`` is 512 * 1024 * 1024 bytes, ``2GB`` is 2 * 1000 ** 3 bytes."""


class Form(Enum):
    """What a text has to look like."""

    ANY = auto()
    NAME = auto()
    PATH = auto()
    LITERAL_PATH = auto()
    PATTERN = auto()
    ALLOWED_DOMAIN = auto()
    DENIED_DOMAIN = auto()
    ADDRESS = auto()
    PROXY_URL = auto()
    INDEX_URL = auto()
    REQUIREMENT = auto()


_HOST_RULE = r"^[0-9A-Za-z_.*:\[\]-]+$"
_URL = r"^[hH][tT][tT][pP][sS]?://\S+$"
_LOOKS: Mapping[Form, str] = {
    Form.NAME: r"^[^\x00]+$",
    Form.PATH: r"^(?!~[^/])[^\x00*?\[]+$",
    Form.LITERAL_PATH: r"^(?!~[^/])[^\x00*]+$",
    Form.PATTERN: r"^(?!~[^/])[^\x00?\[]+$",
    Form.ALLOWED_DOMAIN: _HOST_RULE,
    Form.DENIED_DOMAIN: _HOST_RULE,
    Form.ADDRESS: r"^[0-9A-Fa-f.:\[\]]+$",
    Form.PROXY_URL: _URL,
    Form.INDEX_URL: _URL,
    Form.REQUIREMENT: r"^[^\s\x00-][^\x00-\x1f]*$",
}
"""Patterns for the schema. The parser checks more than a pattern can say."""


@dataclass(frozen=True, slots=True)
class Flag:
    """``true`` or ``false``."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text."""

    form: Form = Form.ANY


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few texts."""

    of: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number."""

    lowest: int
    highest: int
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes, or a text such as ``512 MiB``."""

    lowest: int
    highest: int
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Many:
    """A list."""

    of: Value


@dataclass(frozen=True, slots=True)
class Named:
    """An object whose keys are free."""

    of: Value


@dataclass(frozen=True, slots=True)
class Anything:
    """Any JSON value: nothing about it matters here."""


@dataclass(frozen=True, slots=True)
class PathEntry:
    """A path, or ``{"path": ..., "literal": true}`` for one with ``?`` or ``[`` in its name."""

    form: Form


@dataclass(frozen=True, slots=True)
class ParentProxy:
    """The URL of a proxy, or sandbox-runtime's object with one."""


@dataclass(frozen=True, slots=True)
class Section:
    """An object with these keys and no others."""

    keys: tuple[Key, ...]

    def key(self, name: str) -> Key | None:
        """The key of that name."""
        return next((key for key in self.keys if key.name == name), None)


Value: TypeAlias = Flag | Text | Choice | Number | Size | Many | Named | Anything | PathEntry | ParentProxy | Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a policy file.

    Attributes:
        name: How it is written.
        about: What it does, for the one who writes the file.
        value: What its value has to be.
        field: The attribute of the policy that it sets; empty when it sets none.
        elsewhere: Why it has no meaning here.
        refused: Why it is an error here.
        optional: ``null`` is allowed and means the default.
    """

    name: str
    about: str
    value: Value
    field: str = ""
    elsewhere: str = ""
    refused: str = ""
    optional: bool = False


_PATHS = Many(PathEntry(Form.PATH))
_GLOBS = Many(PathEntry(Form.PATTERN))
_NAMES = Many(Text(Form.NAME))
_PORT = Number(1, 65535)


def _limit(name: str, field: str, about: str, *, nullable: bool = False, size: bool = True) -> Key:
    kind = Size if size else Number
    return Key(name=name, field=field, about=about, value=kind(LOWEST[field], HIGHEST[field], nullable))


def _elsewhere(name: str, value: Value, why: str) -> Key:
    return Key(name=name, about=f"Accepted for sandbox-runtime, ignored here: {why}.", value=value, elsewhere=why)


def _refused(name: str, value: Value, why: str) -> Key:
    return Key(name=name, about=f"A key of sandbox-runtime that is refused here: {why}.", value=value, refused=why)


_NETWORK = Section(
    (
        Key(
            name="allowedDomains",
            field="allowed_domains",
            about="Hosts that may be reached: 'example.org', '*.example.org', 'example.org:8443', '192.0.2.7', "
            "'[2001:db8::1]:443'. Without a port: 80 and 443. Empty: no network at all.",
            value=Many(Text(Form.ALLOWED_DOMAIN)),
        ),
        Key(
            name="deniedDomains",
            field="denied_domains",
            about="Hosts that may not be reached, whatever is allowed. Without a port: every port.",
            value=Many(Text(Form.DENIED_DOMAIN)),
        ),
        Key(
            name="allowLocalBinding",
            field="allow_local_binding",
            about="Servers inside the sandbox. Always possible on Linux, where nobody outside can reach them; on macOS "
            "they listen on the machine's own loopback interface.",
            value=Flag(),
        ),
        Key(
            name="allowUnixSockets",
            field="allow_unix_sockets",
            about="Unix sockets of the host that may be connected to. Whatever listens there runs outside the sandbox.",
            value=Many(Text(Form.PATH)),
        ),
        Key(
            name="allowAllUnixSockets",
            field="allow_all_unix_sockets",
            about="Unix sockets inside the sandbox. Those of the host stay out of reach.",
            value=Flag(),
        ),
        Key(
            name="hosts",
            field="hosts",
            about="Name to 'address' or 'address:port', used in place of DNS; such an address may be a private one.",
            value=Named(Text(Form.ADDRESS)),
        ),
        Key(
            name="parentProxy",
            field="parent_proxy",
            about="URL of the proxy that the host itself needs to reach the network. null: what the environment says.",
            value=ParentProxy(),
            optional=True,
        ),
        # Texts for a report that we do not write.
        _elsewhere("deniedDomainReasons", Named(Text(Form.NAME)), "texts for sandbox-runtime's reports"),
        # There it decides whether a person is asked about other hosts. Nobody is asked here.
        _elsewhere("strictAllowlist", Flag(), "hosts that are not allowed are always refused"),
        # It narrows what an allowed name may resolve to. Doing nothing would leave open what the file closes.
        _refused(
            "deniedResolvedAddresses",
            Many(Text()),
            "names never resolve to private addresses here, but no further addresses can be excluded",
        ),
        # More services of macOS, most of which do work outside the sandbox.
        _refused("allowMachLookup", Many(Text()), "the services of macOS that sandboxed code can reach are fixed"),
        # Somebody else's proxy would decide instead of allowedDomains.
        _refused("httpProxyPort", _PORT, "only the proxy of ipybox enforces allowedDomains"),
        _refused("socksProxyPort", _PORT, "only the proxy of ipybox enforces allowedDomains"),
        _refused("mitmProxy", Named(Anything()), "no other proxy may read the traffic"),
        # All of these narrow single requests, which we never look into.
        _refused("filterRequest", Anything(), "requests are not filtered one by one"),
        _refused("stripResponseHeaders", Many(Text()), "requests are not filtered one by one"),
        _refused("refuseOpaqueTunnels", Flag(), "requests are not filtered one by one"),
        _refused("requireHostMatch", Flag(), "requests are not filtered one by one"),
        _elsewhere("ambiguousRequestTarget", Choice(("refuse", "asSpelled", "normalize")), "only for filterRequest"),
        _elsewhere("allowPlaintextHeaderSet", Flag(), "only for filterRequest"),
        # It lets sandbox-runtime read traffic, which only its filters and masks need. Both of them are refused.
        _elsewhere("tlsTerminate", Named(Anything()), "TLS connections are never opened on the way"),
    )
)

_FILESYSTEM = Section(
    (
        Key(
            name="denyRead",
            field="deny_read",
            about="Paths and globs that are not readable, unless a longer path in allowRead lies inside.",
            value=_GLOBS,
        ),
        Key(
            name="allowRead",
            field="allow_read",
            about="Readable, besides the system, the Python environment and the working directory.",
            value=_PATHS,
        ),
        Key(name="allowWrite", field="allow_write", about="Paths that are writable (and readable).", value=_PATHS),
        Key(
            name="denyWrite",
            field="deny_write",
            about="Paths and globs that are not writable, whatever allowWrite says.",
            value=_GLOBS,
        ),
        _refused("disabled", Flag(), "the file system is always closed; list what may be written in allowWrite"),
        # Git runs programs that its configuration names, on the host, without being asked.
        _refused("allowGitConfig", Flag(), "a writable .git/config runs programs outside the sandbox"),
    )
)

_LIMITS = Section(
    (
        _limit("memory", "memory", "Memory of all processes together. null: half of the machine's.", nullable=True),
        _limit("processes", "processes", "Processes and threads.", size=False),
        _limit("openFiles", "open_files", "Open files per process.", size=False),
        _limit(
            "cpuTime",
            "cpu_time",
            "Seconds of processor time per process. null: no limit.",
            nullable=True,
            size=False,
        ),
        _limit("fileSize", "file_size", "Size of one file. null: no limit.", nullable=True),
        _limit("scratch", "scratch", "Size of the private home and of the private /tmp, each."),
        _limit("sharedMemory", "shared_memory", "Size of the private /dev/shm."),
    )
)

_PACKAGES = Section(
    (
        Key(
            name="install",
            field="install",
            about="Requirements, as pip takes them, that are installed before any untrusted code runs.",
            value=Many(Text(Form.REQUIREMENT)),
        ),
        Key(
            name="index",
            field="index",
            about="URL of the package index. null: PyPI.",
            value=Text(Form.INDEX_URL),
            optional=True,
        ),
        Key(
            name="wheels",
            field="wheels",
            about="Directory with wheels to install from, without any network. null: none.",
            value=Text(Form.PATH),
            optional=True,
        ),
    )
)

POLICY = Section(
    (
        Key(name="$schema", about="Where editors find this schema.", value=Text()),
        Key(name="network", field="network", about="What may be reached over the network.", value=_NETWORK),
        Key(
            name="filesystem",
            field="filesystem",
            about="Which files may be read and written. Paths are absolute, start with '~/', or are relative to the "
            "working directory.",
            value=_FILESYSTEM,
        ),
        Key(
            name="limits",
            field="limits",
            about="What one kernel or command, with its children, may use. Sizes are bytes, or texts such as '512 MiB' "
            "and '2GB'.",
            value=_LIMITS,
        ),
        Key(name="packages", field="packages", about="Packages to install beforehand.", value=_PACKAGES),
        # It hides or replaces secrets in files and variables. Doing nothing would show what the file hides.
        _refused(
            "credentials",
            Named(Anything()),
            "it has no masks for secrets; no variable of the host is passed on unless you say so, and files to hide "
            "belong into filesystem.denyRead",
        ),
        # Each of these opens the sandbox itself.
        _refused("enableWeakerNestedSandbox", Flag(), "there is no weaker sandbox"),
        _refused("enableWeakerNetworkIsolation", Flag(), "there is no weaker sandbox"),
        _refused("allowNestedUserNamespaces", Flag(), "in a namespace of its own, code can undo what denyWrite says"),
        _refused("allowAppleEvents", Flag(), "applications that are sent events run outside the sandbox"),
        # The rest is about how sandbox-runtime works.
        _elsewhere("ignoreViolations", Named(Many(Text())), "only for the reports of sandbox-runtime"),
        _elsewhere("allowPty", Flag(), "macOS only"),
        _elsewhere("mandatoryDenySearchDepth", Number(1, 10), "protected names are found in another way"),
        _elsewhere(
            "ripgrep",
            Section(
                (
                    Key(name="command", about="A program.", value=Text()),
                    Key(name="args", about="Its first arguments.", value=Many(Text())),
                    Key(name="argv0", about="Its name.", value=Text()),
                )
            ),
            "a tool of sandbox-runtime",
        ),
        _elsewhere(
            "seccomp",
            Section(
                (
                    Key(name="applyPath", about="A program.", value=Text()),
                    Key(name="argv0", about="Its name.", value=Text()),
                )
            ),
            "a tool of sandbox-runtime",
        ),
        _elsewhere("bwrapPath", Text(Form.NAME), "a tool of sandbox-runtime"),
        _elsewhere("socatPath", Text(Form.NAME), "a tool of sandbox-runtime"),
        _elsewhere("javaAgentJarPath", Text(Form.NAME), "a tool of sandbox-runtime"),
        _elsewhere("windows", Named(Anything()), "Windows only"),
        _elsewhere(
            "git",
            Section((Key(name="safeDirectories", about="Directories that git trusts.", value=_NAMES),)),
            "the environment of git is yours to set",
        ),
    )
)
"""All keys. The parser and the schema read nothing else."""


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a policy file. What it accepts may still be refused by the parser."""
    made = _value(POLICY, SandboxPolicy())
    return {
        "$schema": SCHEMA_ID,
        "title": "Sandbox policy of ipybox",
        "description": "What sandboxed code may touch. Every key may be left out; then its default holds.",
        **made,
    }


def schema_text() -> str:
    """The schema as it is published."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _key(key: Key, defaults: Any) -> dict[str, Any]:
    default = getattr(defaults, key.field) if key.field and defaults is not None else None
    if isinstance(key.value, Section) and key.field:
        return {"description": key.about, **_value(key.value, default)}
    made = _value(key.value, None)
    if key.optional:
        made = {"anyOf": [made, {"type": "null"}]}
    if key.refused:
        made = _asking_for_nothing(key.value)
    if key.field:
        made["default"] = _plain(default, key.value)
    return {"description": key.about, **made}


def _plain(default: Any, value: Value) -> Any:
    if isinstance(value, Named):
        return dict(default)
    return list(default) if isinstance(default, tuple) else default


def _asking_for_nothing(value: Value) -> dict[str, Any]:
    match value:
        case Flag():
            return {"const": False}
        case Many():
            return {"type": "array", "maxItems": 0}
        case Named():
            return {"type": "object", "maxProperties": 0}
    return {"not": {}}


def _value(value: Value, defaults: Any) -> dict[str, Any]:
    match value:
        case Flag():
            return {"type": "boolean"}
        case Text(form):
            return {"type": "string", "pattern": _LOOKS[form]} if form in _LOOKS else {"type": "string"}
        case Choice(of):
            return {"enum": list(of)}
        case Number(lowest, highest, nullable):
            number = {"type": "integer", "minimum": lowest, "maximum": highest}
            return {"anyOf": [number, {"type": "null"}]} if nullable else {**number}
        case Size(lowest, highest, nullable):
            ways: list[dict[str, Any]] = [
                {"type": "integer", "minimum": lowest, "maximum": highest},
                {"type": "string", "pattern": SIZE_PATTERN},
            ]
            return {"anyOf": [*ways, {"type": "null"}] if nullable else ways}
        case Many(of):
            return {"type": "array", "items": _value(of, None)}
        case Named(of):
            return {"type": "object", "additionalProperties": _value(of, None)}
        case Anything():
            return {}
        case PathEntry(form):
            marked = {"path": _value(Text(Form.LITERAL_PATH), None), "literal": {"const": True}}
            return {"anyOf": [_value(Text(form), None), _closed(marked, required=["path", "literal"])]}
        case ParentProxy():
            url = _value(Text(Form.PROXY_URL), None)
            return {"anyOf": [url, _closed({"http": url, "https": url, "noProxy": {"type": "string"}})]}
        case Section(keys):
            return _closed({key.name: _key(key, defaults) for key in keys})


def _closed(properties: Mapping[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return {**made, "required": required} if required else made


if __name__ == "__main__":
    sys.stdout.write(schema_text())
