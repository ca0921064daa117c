"""By which names a server may be called. Guards against DNS rebinding. Floor: control.

A web page of ``evil.example`` can have that name lead to 127.0.0.1, and is then of the same origin as the server, for a
browser. What it can't do is to send another name than its own in ``Host``.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from ipybox.control.errors import ServerSettingsError
from ipybox.control.settings import ServerSettings

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_PORT = re.compile(r"[0-9]{0,5}", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_ANY = ("0.0.0.0", "::")  # what one listens on to listen everywhere


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host as it is compared: lower case, no dot at its end, addresses in their shortest form."""

    host: str
    port: int | None = None

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The address, if it is one."""
        return _address(self.host)


def parse_host(text: str) -> HostPort | None:
    """What a ``Host`` header says; None for what can't be one.

    User names and zones of IPv6 addresses can't be, nor IPv4 addresses that are not four decimal numbers.
    """
    if not text.isascii() or len(text) > 262:
        return None
    text = text.lower()
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or "%" in inner:
            return None
        try:
            found: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv6Address(inner)
        except ValueError:
            return None
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        host, port = str(found), rest[1:]
    else:
        host, _, port = text.partition(":")
        host = host.removesuffix(".")
        if not _NAME.fullmatch(host):
            return None
        if _NUMBER.fullmatch(host.rpartition(".")[2]) and _address(host) is None:
            return None  # what browsers take for an IPv4 address has to be written plainly
    if not _PORT.fullmatch(port) or (port and int(port) > 65535):
        return None
    return HostPort(host, int(port) if port else None)


class AllowedHosts:
    """The names and addresses by which clients may call a server.

    The loopback's are always among them, with any port. A server that listens on all addresses may be called by any
    address, as a page that was loaded from an address comes from this very server.

    Raises:
        ServerSettingsError: One of ``allowed_hosts`` is no host.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._names: set[str] = {"localhost"}
        self._exact: set[HostPort] = set()
        own = settings.host.strip("[]")
        self._any_address = own in _ANY or not own
        for text, is_own in ((settings.host, True), *((each, False) for each in settings.allowed_hosts)):
            found = parse_host(f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text)
            if found is None:
                if is_own:
                    continue  # not a name that a client could send, such as an address with a zone
                raise ServerSettingsError("allowed_hosts", f"must be names such as box.example.org, got {text!r}")
            if found.port is None:
                self._names.add(found.host)
            else:
                self._exact.add(found)

    def __contains__(self, host: HostPort) -> bool:
        if host.host in self._names or host in self._exact:
            return True
        address = host.address
        if address is None:
            return False
        return address.is_loopback or (self._any_address and not address.is_unspecified)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
