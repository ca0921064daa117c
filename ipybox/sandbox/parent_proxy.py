"""The proxy that the host itself needs to get out, as its policy or its environment says. Floor: sandbox."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import unquote_to_bytes

from ipybox.errors import PolicyError
from ipybox.sandbox.hosts import Host

_URL = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://)?(?:(?P<user>[^@/]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?/?"
)


@dataclass(frozen=True, slots=True)
class ParentProxy:
    """An HTTP proxy to go through.

    Attributes:
        host: Its name or address; trusted, so it may be a private one.
        port: Its port.
        authorization: The value for ``Proxy-Authorization``; None without credentials.
    """

    host: str
    port: int
    authorization: str | None = None

    def __repr__(self) -> str:
        return f"ParentProxy({self.host}:{self.port})"  # without the password

    @classmethod
    def parse(cls, url: str, where: str) -> ParentProxy:
        """A proxy from ``http://user:password@host:port``.

        Raises:
            PolicyError: Another kind of URL. It does not repeat the URL, which may hold a password.
        """
        match = _URL.fullmatch(url)
        if match is None or not 1 <= int(match["port"] or 80) <= 65535:
            raise PolicyError(where, "is not the URL of a proxy", "write it as 'http://user:password@host:port'")
        if (match["scheme"] or "http").lower() != "http":
            hint = "use an http:// proxy, or name the hosts that need none in NO_PROXY"
            raise PolicyError(where, f"{match['scheme']}:// proxies are not supported", hint)
        authorization = None
        if match["user"]:
            user, _, password = match["user"].partition(":")
            credentials = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
            authorization = "Basic " + b64encode(credentials).decode("ascii")
        return cls(match["host"].strip("[]"), int(match["port"] or 80), authorization)


class ParentProxies:
    """Which parent proxy, if any, leads to which host.

    Args:
        configured: URL from the policy; ``""`` is none, whatever the environment says; None asks the environment.
        environment: The host's ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, in either case.

    Raises:
        PolicyError: A URL that can't be used. Going without that proxy would not be what was asked for.
    """

    def __init__(self, configured: str | None, environment: Mapping[str, str]) -> None:
        self._plain = self._secure = None
        if configured is None:
            self._secure = _from_environment(environment, "https_proxy")
            self._plain = _from_environment(environment, "http_proxy")
        elif configured:
            self._plain = self._secure = ParentProxy.parse(configured, "network.parentProxy")
        exceptions = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
        self._exceptions = [item.strip().lower() for item in exceptions.split(",") if item.strip()]

    def for_host(self, host: Host, port: int, *, plain: bool) -> ParentProxy | None:
        """The proxy to go through for a host; None: dial it. ``plain`` is a request to an ``http://`` URL."""
        proxy = self._plain if plain else self._secure
        if proxy is None or any(_matches(item, host, port) for item in self._exceptions):
            return None
        return proxy


def _from_environment(environment: Mapping[str, str], name: str) -> ParentProxy | None:
    for variable in (name, name.upper(), "all_proxy", "ALL_PROXY"):
        if value := environment.get(variable):
            return ParentProxy.parse(value, variable)
    return None


def _matches(item: str, host: Host, port: int) -> bool:
    """One item of ``NO_PROXY``: ``*``, a name with everything below it, an address, a network; ``:port`` at the end."""
    if item == "*":
        return True
    if host.address is not None:
        try:
            if "/" in item:
                return host.address in ip_network(item, strict=False)
            return host.address == ip_address(item.strip("[]"))
        except ValueError:
            pass  # not an address, or one with a port
    name, colon, port_text = item.rpartition(":")
    if colon and port_text.isdigit() and (":" not in name or name.endswith("]")):
        if int(port_text) != port:
            return False
        item = name.strip("[]")
    suffix = item.removeprefix("*").strip(".")
    return bool(suffix) and (host.name == suffix or (host.address is None and host.name.endswith("." + suffix)))
