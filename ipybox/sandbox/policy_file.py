"""A policy file: from JSON text to a :class:`~ipybox.sandbox.policy.SandboxPolicy`, or to all that is wrong with it.

The keys are those of ``policy_schema``; what they mean for a file of sandbox-runtime is decided there. A file that
loads leaves nothing more open than it says. Floor: sandbox.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from os.path import normpath
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from ipybox.errors import PolicyError
from ipybox.sandbox.hosts import HostRules, parse_pins
from ipybox.sandbox.policy import (
    MIB,
    FilesystemPolicy,
    Limits,
    NetworkPolicy,
    Packages,
    SandboxPolicy,
    path_problem,
)
from ipybox.sandbox.policy_schema import (
    POLICY,
    SIZE_PATTERN,
    Anything,
    Choice,
    Flag,
    Form,
    Key,
    Many,
    Named,
    Number,
    ParentProxy,
    PathEntry,
    Section,
    Size,
    Text,
    Value,
)

LARGEST_FILE = MIB
"""Bytes that a policy file may have."""

DEFAULT_POLICY = SandboxPolicy()
"""What holds when nobody gives a policy: no network, ``.env`` hidden, the working directory writable."""

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_BINARY_UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_LONGEST_VALUE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """What a policy file says.

    Attributes:
        policy: What sandboxed code may touch.
        notes: Keys that have no meaning here, one sentence each, to be logged once.
    """

    policy: SandboxPolicy
    notes: tuple[str, ...] = ()


def read_policy(path: Path) -> PolicyFile:
    """The policy in a file of JSON text in UTF-8, of up to 1 MiB.

    Raises:
        PolicyError: The file can't be read, is no JSON, or has keys or values that make no sense; it names all of
            them.
    """
    where = str(path)
    text, pairs = _text_of(path, where), _Pairs()
    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise PolicyError(where, f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise PolicyError(where, "is nested too deeply") from error
    except ValueError as error:
        raise PolicyError(where, f"is not JSON: {error}") from error
    return _parse(data, where, pairs.repeated)


def parse_policy(data: object, where: str) -> PolicyFile:
    """The policy in ``data``, which is what :func:`json.loads` gives; ``where`` stands in front of every error.

    Raises:
        PolicyError: Keys or values that make no sense; it names all of them.
    """
    return _parse(data, where, {})


def _parse(data: object, where: str, repeated: Mapping[int, list[str]]) -> PolicyFile:
    reader = _Reader(repeated)
    policy = reader.policy(data)
    if reader.problems:
        raise _one_error(where, reader.problems)
    assert policy is not None
    return PolicyFile(policy=policy, notes=tuple(reader.notes))


# ---- from a file to JSON ----------------------------------------------------------------------------------------


def _text_of(path: Path, where: str) -> str:
    if "\0" in where:
        raise PolicyError(repr(where), "is not a path")
    try:
        if path.is_dir():
            raise PolicyError(where, "is a directory", "name the file in it")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise PolicyError(where, "is not a regular file")  # a pipe might never end
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise PolicyError(where, "does not exist") from error
    except OSError as error:
        raise PolicyError(where, f"can't be read: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        raise PolicyError(where, f"has more than {LARGEST_FILE} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyError(where, f"is not UTF-8: byte {error.start} is {content[error.start]:#04x}") from error


class _Pairs:
    """Makes objects out of JSON, and keeps which of their keys were given more than once."""

    def __init__(self) -> None:
        self.repeated: dict[int, list[str]] = {}
        self._alive: list[dict[str, Any]] = []  # an id means one object only as long as that object lives

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            self.repeated[id(made)] = sorted({name for name in names if names.count(name) > 1}, key=names.index)
            self._alive.append(made)
        return made


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large a number")
    return value


# ---- errors -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Problem:
    path: str
    reason: str
    hint: str = ""


class _WrongError(Exception):
    """A value makes no sense; only the reader sees this."""

    def __init__(self, reason: str, hint: str = "") -> None:
        self.reason, self.hint = reason, hint


def _one_error(where: str, problems: list[_Problem]) -> PolicyError:
    first = problems[0]
    if len(problems) == 1:
        return PolicyError(f"{where}: {first.path}" if first.path else where, first.reason, first.hint)
    lines = [f"\n  - {each.path}: {each.reason}{f'; {each.hint}' if each.hint else ''}" for each in problems]
    return PolicyError(where, f"{len(problems)} errors{''.join(lines)}")


def _shown(value: object) -> str:
    """A value as its author wrote it, but short."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(type(value))
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


# ---- from JSON to a policy --------------------------------------------------------------------------------------


class _Reader:
    """Reads a whole document, and collects what is wrong with it in the order of the document."""

    def __init__(self, repeated: Mapping[int, list[str]]) -> None:
        self.problems: list[_Problem] = []
        self.notes: list[str] = []
        self._repeated = repeated

    def policy(self, data: object) -> SandboxPolicy | None:
        """The policy, or None and problems."""
        sections = self._section("", POLICY, data)
        if self.problems:
            return None
        return SandboxPolicy(
            network=NetworkPolicy(**sections.get("network", {})),
            filesystem=FilesystemPolicy(**sections.get("filesystem", {})),
            limits=Limits(**sections.get("limits", {})),
            packages=Packages(**sections.get("packages", {})),
        )

    def _fail(self, path: str, reason: str, hint: str = "") -> None:
        self.problems.append(_Problem(path, reason, hint))

    def _object(self, path: str, data: object) -> dict[str, Any]:
        """Its keys and values; nothing when it is no object. Keys that were given twice are problems."""
        if not isinstance(data, dict):
            raise _WrongError(f"must be an object, got {_shown(data)}")
        for name in self._repeated.get(id(data), ()):
            self._fail(_joined(path, name), "is given more than once")
        return data

    def _section(self, path: str, section: Section, data: object) -> dict[str, Any]:
        """Attributes of the policy and their values."""
        try:
            given = self._object(path, data)
        except _WrongError as wrong:
            self._fail(path, wrong.reason, wrong.hint)
            return {}
        found: dict[str, Any] = {}
        for name, value in given.items():
            here = _joined(path, name)
            key = section.key(name)
            if key is None:
                self._fail(here, "unknown key", _nearest(name, section))
                continue
            read = self._key(here, key, value)
            if key.field and not (key.optional and value is None):
                found[key.field] = read
        self._check_together(path, given, found)
        return found

    def _key(self, path: str, key: Key, data: object) -> Any:
        before = len(self.problems)
        read = self._value(path, key.value, data) if not (key.optional and data is None) else None
        # 0 is a value like any other; nothing, false and empty ask for nothing.
        asks = not (data is None or data is False or data == [] or data == {})
        if len(self.problems) == before and asks:
            if key.refused:
                self._fail(path, f"is refused, got {_shown(data)}: {key.refused}", "remove the key")
            if key.elsewhere:
                self.notes.append(f"ignored here: {path} ({key.elsewhere})")
        return read

    def _value(self, path: str, value: Value, data: object) -> Any:
        match value:
            case Section():
                return self._section(path, value, data)
            case Many(of):
                if not isinstance(data, list):
                    hint = f"write [{_shown(data)}]" if isinstance(data, str) else ""
                    self._fail(path, f"must be a list, got {_shown(data)}", hint)
                    return ()
                return tuple(self._value(f"{path}[{index}]", of, each) for index, each in enumerate(data))
            case Named(of):
                return self._named(path, of, data)
        try:
            return _single(value, data)
        except _WrongError as wrong:
            self._fail(path, wrong.reason, wrong.hint)
            return None

    def _named(self, path: str, of: Value, data: object) -> tuple[tuple[str, Any], ...]:
        try:
            given = self._object(path, data)
        except _WrongError as wrong:
            self._fail(path, wrong.reason, wrong.hint)
            return ()
        return tuple((name, self._value(_joined(path, name), of, value)) for name, value in given.items())

    def _check_together(self, path: str, given: Mapping[str, Any], found: dict[str, Any]) -> None:
        """What one value alone can't show."""
        if path == "network" and "hosts" in found:
            self._check_hosts(found["hosts"])
        for index, root in enumerate(found.get("allow_write", ()) if path == "filesystem" else ()):
            if isinstance(root, str) and normpath(root) in ("/", "//"):
                self._fail(f"filesystem.allowWrite[{index}]", f"can't be the whole machine, got {_shown(root)}")
        if path == "packages" and given.get("index") and given.get("wheels"):
            self._fail("packages.index", f"is never asked, got {_shown(given['index'])}", "packages.wheels is enough")

    def _check_hosts(self, pins: tuple[tuple[str, Any], ...]) -> None:
        """Hand the pins to those who apply them, each alone so that every wrong one is named, then all of them."""
        known = len(self.problems)
        for name, address in pins:
            if isinstance(address, str):
                self._try(_joined("network.hosts", name), partial(parse_pins, [(name, address)]))
        if len(self.problems) == known and all(isinstance(address, str) for _, address in pins):
            self._try("network.hosts", partial(parse_pins, pins))

    def _try(self, path: str, parse: Callable[[], object]) -> None:
        try:
            parse()
        except PolicyError as error:
            self._fail(path, error.reason, error.hint)


def _joined(path: str, name: object) -> str:
    shown = name if isinstance(name, str) and re.fullmatch(r"[\w$.*:-]+", name) else _shown(name)
    return f"{path}.{shown}" if path else str(shown)


def _nearest(name: object, section: Section) -> str:
    """Which key was meant."""
    names = {_bare(key.name): key.name for key in section.keys}
    if close := get_close_matches(_bare(name), names, n=1, cutoff=0.75):
        return f"did you mean '{names[close[0]]}'?"
    elsewhere = {
        _bare(key.name): f"{above.name}.{key.name}"
        for above in POLICY.keys
        if isinstance(above.value, Section) and above.field
        for key in above.value.keys
    }
    top = {_bare(key.name): key.name for key in POLICY.keys}
    if place := (elsewhere | top).get(_bare(name)):
        return f"did you mean '{place}'?"
    if close := get_close_matches(_bare(name), names, n=1, cutoff=0.5):
        return f"did you mean '{names[close[0]]}'?"
    return "known here: " + ", ".join(key.name for key in section.keys if not key.refused and not key.elsewhere)


def _bare(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


# ---- single values ----------------------------------------------------------------------------------------------


def _single(value: Value, data: object) -> Any:
    match value:
        case Anything():
            return data
        case Flag():
            if not isinstance(data, bool):
                raise _WrongError(f"must be true or false, got {_shown(data)}")
            return data
        case Choice(of):
            if data not in of or not isinstance(data, str):
                raise _WrongError(f"must be one of {', '.join(of)}, got {_shown(data)}")
            return data
        case Number(lowest, highest, nullable):
            return None if nullable and data is None else _within(_whole(data), lowest, highest, data)
        case Size(lowest, highest, nullable):
            return None if nullable and data is None else _within(_bytes(data), lowest, highest, data)
        case PathEntry(form):
            return _path_entry(form, data)
        case ParentProxy():
            return _parent_proxy(data)
        case Text(form):
            return _text(form, data)
    raise AssertionError(value)


def _whole(data: object) -> int:
    if not isinstance(data, int) or isinstance(data, bool):
        raise _WrongError(f"must be a whole number, got {_shown(data)}")
    return data


def _bytes(data: object) -> int:
    if not isinstance(data, str):
        if not isinstance(data, int) or isinstance(data, bool):
            raise _WrongError(f"must be a number of bytes, got {_shown(data)}", "write it as 536870912 or '512 MiB'")
        return data
    if not re.fullmatch(SIZE_PATTERN.strip("^$"), data):
        raise _WrongError(f"must be a size, got {_shown(data)}", "write it as 536870912, '512 MiB' or '1.5 GB'")
    number, unit = re.fullmatch(r"([0-9.]+) ?([a-z]*)b", data.lower()).groups()  # type: ignore[union-attr]
    factor = _BINARY_UNITS[unit[0]] if unit.endswith("i") else _UNITS[unit]
    whole, _, part = number.partition(".")
    return int(whole) * factor + (int(part) * factor // 10 ** len(part) if part else 0)


def _within(number: int, lowest: int, highest: int, data: object) -> int:
    if not lowest <= number <= highest:
        raise _WrongError(f"must be from {lowest} to {highest}, got {_shown(data)}")
    return number


def _text(form: Form, data: object) -> str:
    if not isinstance(data, str):
        raise _WrongError(f"must be a text, got {_shown(data)}")
    if form is not Form.ANY and not data:
        raise _WrongError("must not be empty")
    if check := _CHECKS.get(form):
        try:
            return check(data)
        except PolicyError as error:
            raise _WrongError(error.reason, error.hint) from error
    if "\0" in data:
        raise _WrongError(f"has a NUL character, got {_shown(data)}")
    return data


def _path_entry(form: Form, data: object) -> str:
    if not isinstance(data, dict):
        if not isinstance(data, str):
            raise _WrongError(f"must be a path, got {_shown(data)}")
        return _text(form, data)
    if data.keys() != {"path", "literal"} or data["literal"] is not True:
        raise _WrongError(f'must be a path, or {{"path": ..., "literal": true}}, got {_shown(data)}')
    return _text(Form.LITERAL_PATH, data["path"])


def _any_path(data: str) -> str:
    if problem := path_problem(data):
        raise _WrongError(*problem)
    return data.rstrip("/") or "/"  # a glob with a slash at its end would match nothing, and so deny nothing


def _path(data: str) -> str:
    path = _any_path(data)
    if set("*?[") & set(path):
        base = path.removesuffix("/**")
        if base != path and not set("*?[") & set(base):
            raise _WrongError(f"can't be a glob, got {_shown(data)}", f"write {_shown(base)}, which is all of it")
        hint = "globs are for denyRead and denyWrite"
        raise _WrongError(f"can't be a glob, got {_shown(data)}", hint if "*" in path else _as_literal(path))
    return path


def _pattern(data: str) -> str:
    path = _any_path(data)
    if set("?[") & set(path):  # sandbox-runtime would take them for globs; whoever means that is not protected here
        raise _WrongError(f"has a glob other than '*' and '**', got {_shown(data)}", _as_literal(path))
    if re.search(r"\*.*/\.\.(/|$)", path, re.DOTALL):
        raise _WrongError(f"has '..' after a '*', got {_shown(data)}")
    return path


def _literal_path(data: str) -> str:
    path = _any_path(data)
    if "*" in path:
        raise _WrongError(f"must not have a '*', not even in a literal path, got {_shown(data)}")
    return path


def _as_literal(path: str) -> str:
    return f'for a file of that name write {{"path": {_shown(path)}, "literal": true}}'


def _allowed_domain(data: str) -> str:
    HostRules.parse([data], [])
    return data


def _denied_domain(data: str) -> str:
    HostRules.parse([], [data])
    return data


def _url(schemes: tuple[str, ...], data: str) -> str:
    # Such an address may hold a password, so it is not shown.
    try:
        parts = urlsplit(data)
        usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(character.isspace() or not character.isprintable() for character in data):
        raise _WrongError(f"must be a URL that starts with {' or '.join(f'{each}://' for each in schemes)} and a host")
    return data


def _proxy_url(data: str) -> str:
    url = _url(("http", "https"), data)
    parts = urlsplit(url)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _WrongError("must be the URL of a proxy, without a path")
    return url


def _parent_proxy(data: object) -> str | None:
    if isinstance(data, str):
        return _text(Form.PROXY_URL, data)
    if not isinstance(data, dict) or not data.keys() <= {"http", "https", "noProxy"}:
        raise _WrongError("must be the URL of a proxy")
    if not isinstance(data.get("noProxy", ""), str):
        raise _WrongError(f"noProxy must be a text, got {_shown(data['noProxy'])}")
    if data.get("noProxy"):
        # What is to be reached without the proxy would be sent to it.
        raise _WrongError("can't make exceptions for single hosts, got noProxy", "remove noProxy")
    urls = {_text(Form.PROXY_URL, data[name]) for name in ("http", "https") if name in data}
    if len(urls) > 1:
        raise _WrongError("must name one proxy for both http and https")
    return urls.pop() if urls else None


def _requirement(data: str) -> str:
    if data.startswith("-"):
        raise _WrongError(f"must be a requirement, not an option of pip, got {_shown(data)}")
    if data[0].isspace() or any(ord(character) < 32 for character in data):
        raise _WrongError(f"must be one requirement, got {_shown(data)}")
    return data


_CHECKS: Mapping[Form, Callable[[str], str]] = {
    Form.PATH: _path,
    Form.PATTERN: _pattern,
    Form.LITERAL_PATH: _literal_path,
    Form.ALLOWED_DOMAIN: _allowed_domain,
    Form.DENIED_DOMAIN: _denied_domain,
    Form.PROXY_URL: _proxy_url,
    Form.INDEX_URL: lambda data: _url(("https", "http"), data),
    Form.REQUIREMENT: _requirement,
}
