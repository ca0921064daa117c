"""Names of hosts, and the rules that allow them: one normaliser for rules and for requests. Floor: sandbox.

Pure. What is not in its one canonical form is refused rather than repaired, because the program behind the proxy might
repair it differently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ipybox.errors import PolicyError
from ipybox.sandbox.addresses import IPAddress, fold, never_reachable

DEFAULT_PORTS = (80, 443)
"""What an allow rule without a port allows."""

_LONGEST_NAME = 253
_LONGEST_TEXT = 1024  # keeps the patterns below cheap
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DOTTED_QUAD = re.compile(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LISTED_RULES = 4

_REFUSALS = (
    ("control character in the host", re.compile(r"[\x00-\x1f\x7f]")),
    ("space in the host", re.compile(r" ")),
    ("userinfo in the host", re.compile(r"@")),
    ("zone id in the address", re.compile(r"(?=.*:).*%")),
    ("percent sign in the host", re.compile(r"%")),
    ("slash in the host", re.compile(r"/")),
    ("backslash in the host", re.compile(r"\\")),
)


class HostError(ValueError):
    """Text that is no host, or not in canonical form. The message is the class of refusal, without the text."""


@dataclass(frozen=True, slots=True)
class Host:
    """A host in canonical form; made by :func:`parse_host`.

    Attributes:
        name: A DNS name in lower case without trailing dot, or an address as text (IPv6 without brackets).
        address: The address, if it is one.
    """

    name: str
    address: IPAddress | None = None

    def __str__(self) -> str:
        return f"[{self.name}]" if isinstance(self.address, IPv6Address) else self.name


def parse_host(text: bytes | str) -> Host:
    """The host that a text names, the same for every way to write it.

    Names are ASCII letters, digits, hyphens and underscores; case and one trailing dot don't matter. IPv4 addresses are
    strict dotted quads. IPv6 addresses, with or without brackets, have no zone; v4-mapped ones are IPv4 addresses.

    Raises:
        HostError: Anything else, with the class of refusal.
    """
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if not text:
        raise HostError("empty host")
    if len(text) > _LONGEST_TEXT:
        raise HostError("host name too long")
    if not text.isascii():
        raise HostError("non-ASCII host")
    for refusal, pattern in _REFUSALS:
        if pattern.search(text):
            raise HostError(refusal)
    name = text.lower()
    if name.startswith("[") and name.endswith("]"):
        return _parse_ipv6(name[1:-1])
    if ":" in name:
        return _parse_ipv6(name)
    last = name.removesuffix(".").rpartition(".")[2]
    if _NUMBER.fullmatch(last):  # the URL standard: what ends in a number is an IPv4 address, or nothing
        return _parse_ipv4(name)
    name = name.removesuffix(".")
    if len(name) > _LONGEST_NAME:
        raise HostError("host name too long")
    if not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise HostError("malformed host name")
    return Host(name)


def _parse_ipv6(text: str) -> Host:
    try:
        address = fold(IPv6Address(text))
    except ValueError:
        raise HostError("malformed IPv6 address") from None
    return Host(str(address), address)


def _parse_ipv4(text: str) -> Host:
    if _DOTTED_QUAD.fullmatch(text):
        try:
            address = IPv4Address(text)
        except ValueError:
            pass  # a leading zero, or a number above 255
        else:
            return Host(str(address), address)
    raise HostError("non-canonical IPv4 address")


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say about a host and a port.

    Attributes:
        allowed: Whether it may be reached.
        rule: The rule that decided, as it was written; None when no rule matches.
        reason: A short stable sentence without a full stop.
    """

    allowed: bool
    rule: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class _Rule:
    text: str
    host: Host
    subdomains: bool
    port: int | None

    def names(self, host: Host) -> bool:
        if self.subdomains:
            return host.address is None and host.name.endswith("." + self.host.name)
        return host == self.host

    def allows(self, port: int) -> bool:
        return port in DEFAULT_PORTS if self.port is None else port == self.port

    def denies(self, port: int) -> bool:
        return self.port is None or port == self.port

    def includes(self, other: _Rule) -> bool:
        """Whether every name of the other rule is one of this rule's, ports aside."""
        if other.subdomains:
            return self.subdomains and (other.host == self.host or self.names(other.host))
        return self.names(other.host)


class HostRules:
    """Which hosts may be reached, on which ports. Denied ones go first.

    A rule is ``example.org`` (that name only), ``*.example.org`` (every name below it, but not itself), an IPv4 address
    or an IPv6 address in brackets, each with or without ``:port``. An allow rule without a port means ports 80 and 443,
    a deny rule without a port means every port.
    """

    def __init__(self, allowed: Sequence[_Rule], denied: Sequence[_Rule]) -> None:
        self._allowed, self._denied = tuple(allowed), tuple(denied)

    @classmethod
    def parse(cls, allowed: Iterable[str], denied: Iterable[str] = ()) -> HostRules:
        """Rules from their texts.

        Raises:
            PolicyError: A rule that can't be, with the place, such as ``network.allowedDomains[0]``.
        """
        return cls(
            [_parse_rule(text, f"network.allowedDomains[{i}]", allow=True) for i, text in enumerate(allowed)],
            [_parse_rule(text, f"network.deniedDomains[{i}]", allow=False) for i, text in enumerate(denied)],
        )

    def decide(self, host: Host, port: int) -> Decision:
        """Whether a host may be reached on a port. Addresses behind a name are not looked at here."""
        if not 1 <= port <= 65535:
            return Decision(False, None, f"{port} is not a port")
        for rule in self._denied:
            if rule.names(host) and rule.denies(port):
                return Decision(False, rule.text, f"in deniedDomains (rule '{rule.text}')")
        named = [rule for rule in self._allowed if rule.names(host)]
        for rule in named:
            if rule.allows(port):
                return Decision(True, rule.text, f"in allowedDomains (rule '{rule.text}')")
        if named:
            rules = ", ".join(rule.text for rule in named[:_LISTED_RULES])
            return Decision(False, None, f"port {port} is not allowed for {host} (rules: {rules})")
        return Decision(False, None, "not in allowedDomains")

    def beyond(self, narrower: HostRules) -> list[str]:
        """The allow rules of others that reach further than these do. What is denied here is not looked at."""
        found = []
        for rule in narrower._allowed:
            ports = DEFAULT_PORTS if rule.port is None else (rule.port,)
            wider = [each for each in self._allowed if each.includes(rule)]
            if not all(any(each.allows(port) for each in wider) for port in ports):
                found.append(rule.text)
        return found

    @property
    def listed(self) -> tuple[IPAddress, ...]:
        """The addresses that allow rules name."""
        return tuple(rule.host.address for rule in self._allowed if rule.host.address is not None)

    def lists(self, address: IPAddress, port: int) -> bool:
        """Whether an allow rule names this very address with this port."""
        host = _host_of(address)
        return any(rule.names(host) and rule.allows(port) for rule in self._allowed)

    def denies(self, address: IPAddress, port: int) -> bool:
        """Whether a deny rule names this very address with this port."""
        host = _host_of(address)
        return any(rule.names(host) and rule.denies(port) for rule in self._denied)


class NarrowedRules(HostRules):
    """What is allowed by two sets of rules, and denied by neither."""

    def __init__(self, first: HostRules, second: HostRules) -> None:
        super().__init__((), ())
        self._both = first, second

    def decide(self, host: Host, port: int) -> Decision:
        """As the first one does that does not allow it."""
        first, second = (rules.decide(host, port) for rules in self._both)
        return second if first.allowed else first

    def beyond(self, narrower: HostRules) -> list[str]:
        """The allow rules of others that reach further than one of them does."""
        first, second = (rules.beyond(narrower) for rules in self._both)
        return [*first, *(text for text in second if text not in first)]

    def lists(self, address: IPAddress, port: int) -> bool:
        """Whether both name this very address with this port."""
        return all(rules.lists(address, port) for rules in self._both)

    def denies(self, address: IPAddress, port: int) -> bool:
        """Whether one of them denies this very address with this port."""
        return any(rules.denies(address, port) for rules in self._both)


def _host_of(address: IPAddress) -> Host:
    address = fold(address)
    return Host(str(address), address)


def _parse_rule(text: object, where: str, *, allow: bool) -> _Rule:
    if not isinstance(text, str):
        raise PolicyError(where, f"{text!r} is not a string")
    if not text:
        raise PolicyError(where, "is empty", "write a host, such as 'example.org' or '*.example.org'")
    if "://" in text:
        rest = re.split(r"[/?#]", text.partition("://")[2])[0]
        raise PolicyError(where, f"{text!r} is a URL", f"write the host only: {rest!r}" if rest else "write the host")
    if "/" in text:
        raise PolicyError(where, f"{text!r} has a path", "rules are about hosts, not about paths")
    if text.strip("*.") == "":
        raise PolicyError(where, f"{text!r} means every host", "name the hosts, such as '*.example.org'")
    subdomains = text.startswith("*.")
    host_text, port = _split_port(text.removeprefix("*."), where, text)
    if "*" in host_text:
        raise PolicyError(where, f"{text!r} has a wildcard inside", "the only wildcard is a leading '*.'")
    try:
        host = parse_host(host_text)
    except HostError as error:
        raise PolicyError(where, f"{text!r} can't be a rule: {error}", _punycode_hint(text, host_text)) from None
    if subdomains and host.address is not None:
        raise PolicyError(where, f"{text!r} is a wildcard for an address", "addresses have no subdomains")
    if subdomains and allow and "." not in host.name:
        hint = f"name the domains, such as '*.example.{host.name}'"
        raise PolicyError(where, f"{text!r} means every host of a top-level domain", hint)
    if allow and host.address is not None and (kind := never_reachable(host.address)):
        raise PolicyError(where, f"{text!r} can't be allowed: it is a {kind} address")
    return _Rule(text, host, subdomains, port)


def _split_port(text: str, where: str, rule: str) -> tuple[str, int | None]:
    """``host:port``, ``host``, ``[v6]:port`` or ``[v6]`` in its two parts."""
    if text.startswith("["):
        host, bracket, after = text.partition("]")
        host += bracket
        if after and not after.startswith(":"):
            raise PolicyError(where, f"{rule!r} has something else than a port after the bracket")
        colon, port_text = after[:1], after[1:]
    elif text.count(":") > 1:
        # 2001:db8::1:443 could be meant with or without a port.
        raise PolicyError(where, f"{rule!r} is an IPv6 address without brackets", "write it as '[2001:db8::1]:443'")
    else:
        host, colon, port_text = text.partition(":")
    if not colon:
        return host, None
    if not _PORT.fullmatch(port_text) or int(port_text) > 65535:
        raise PolicyError(where, f"{rule!r} has the port {port_text!r}", "ports are 1 to 65535")
    return host, int(port_text)


def _punycode_hint(text: str, host_text: str) -> str:
    if host_text.isascii():
        return ""
    try:
        name = host_text.encode("idna").decode("ascii")
    except UnicodeError:
        return "write the name in ASCII"
    return f"write it as {text.replace(host_text, name)!r}"


@dataclass(frozen=True, slots=True)
class Pin:
    """Where a name leads, in place of what DNS says. ``port`` None: the port that was asked for."""

    address: IPAddress
    port: int | None


def parse_pins(hosts: Iterable[tuple[str, str]]) -> dict[Host, Pin]:
    """The pins of ``network.hosts``: name to ``address``, ``address:port``, ``v6`` or ``[v6]:port``.

    Raises:
        PolicyError: A pin that can't be, with the place, such as ``network.hosts['example.org']``.
    """
    pins: dict[Host, Pin] = {}
    for name, target in hosts:
        where = f"network.hosts[{name!r}]"
        try:
            host = parse_host(name)
        except HostError as error:
            raise PolicyError(where, f"can't be a name: {error}", _punycode_hint(name, name)) from None
        if host.address is not None:
            raise PolicyError(where, "is an address", "pins are for names; list the address in allowedDomains")
        if host in pins:
            raise PolicyError(where, "is pinned twice")
        pins[host] = _parse_pin(target, where)
    return pins


def _parse_pin(target: str, where: str) -> Pin:
    bare_ipv6 = target.count(":") > 1 and not target.startswith("[")
    text, port = (target, None) if bare_ipv6 else _split_port(target, where, target)
    try:
        address = parse_host(text).address
    except HostError as error:
        raise PolicyError(where, f"{target!r} is no address: {error}") from None
    if address is None:
        raise PolicyError(where, f"{target!r} is no address", "write an address, such as '10.0.0.7:8080'")
    if kind := never_reachable(address):
        raise PolicyError(where, f"{target!r} can't be reached: it is a {kind} address")
    return Pin(address, port)
