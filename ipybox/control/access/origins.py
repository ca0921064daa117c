"""Which web pages may use a server: those of its own origin, and of origins that were named. Floor: control.

A page of any other origin must not change anything here, which counts all the more without keys: a browser would send a
form, or a body of plain text, to the loopback of the machine it runs on without asking anybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ipybox.control.access.hosts import HostPort, parse_host
from ipybox.control.errors import ServerSettingsError

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Which change nothing, so that any page may cause them; without leave it does not see what they answer."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_ALLOWED_HEADERS = (
    "Authorization, X-API-Key, Content-Type, Accept, Idempotency-Key, Last-Event-ID, X-Request-ID, If-Match, "
    "If-None-Match"
)
_EXPOSED_HEADERS = (
    "X-Request-ID, Location, Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, ETag, "
    "Content-Disposition, WWW-Authenticate"
)
_MAX_AGE = "600"
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#@\\]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port, which is never left out."""

    scheme: str
    host: str
    port: int


def parse_origin(text: str) -> Origin | None:
    """What an ``Origin`` header says; None for ``null`` and for what can't be one."""
    match = _ORIGIN.fullmatch(text)
    if match is None:
        return None
    scheme = match[1].lower()
    at = parse_host(match[2])
    port = _DEFAULT_PORTS.get(scheme)
    if at is None or port is None:
        return None
    return Origin(scheme, at.host, port if at.port is None else at.port)


class Origins:
    """Decides which pages may use a server, and says so to browsers.

    Args:
        allowed: Origins besides the server's own, such as ``https://ide.example.org``.

    Raises:
        ServerSettingsError: One of them is no origin.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed: set[Origin] = set()
        for text in allowed:
            origin = parse_origin(text.removesuffix("/"))
            if origin is None:
                raise ServerSettingsError(
                    "cors_origins", f"must be origins such as https://ide.example.org, got {text!r}"
                )
            self._allowed.add(origin)

    @property
    def is_empty(self) -> bool:
        """Whether none was named."""
        return not self._allowed

    def may_read(self, origin: str | None) -> bool:
        """Whether a page of that origin, another one than the server's, may see answers."""
        return self._is_named(origin)

    def may_change(self, *, origin: str | None, fetch_site: str | None, host: HostPort, scheme: str) -> bool:
        """Whether a request that may change something can be followed.

        What is no browser sends neither header. A browser sends both, and no page can change them; older ones, and
        those that reach a server without TLS by its name, send ``Origin`` only.

        Args:
            origin, fetch_site: ``Origin`` and ``Sec-Fetch-Site``; None where there is none.
            host: What ``Host`` says.
            scheme: ``http`` or ``https``, as the server sees it.
        """
        if origin is not None and self._is_named(origin):
            return True
        if fetch_site is not None and fetch_site.strip().lower() not in ("same-origin", "none"):
            return False
        return origin is None or _is_own(origin, host, scheme)

    def preflight(self, origin: str, *, private_network: bool) -> dict[str, str] | None:
        """Headers that tell a browser that a page may send its request; None if it may not."""
        if not self._is_named(origin):
            return None
        headers = {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": _ALLOWED_METHODS,
            "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
            "Access-Control-Max-Age": _MAX_AGE,
            "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        }
        if private_network:
            headers["Access-Control-Allow-Private-Network"] = "true"
        return headers

    def answer(self, origin: str) -> dict[str, str]:
        """Headers that let a page of a named origin see an answer."""
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _EXPOSED_HEADERS}

    def _is_named(self, text: str | None) -> bool:
        if text is None or not self._allowed:
            return False
        origin = parse_origin(text)
        return origin is not None and origin in self._allowed


def _is_own(text: str, host: HostPort, scheme: str) -> bool:
    origin = parse_origin(text)
    if origin is None or origin.host != host.host:
        return False
    if scheme == "https" and origin.scheme != "https":
        return False
    # A server behind a proxy that does TLS sees http, and a Host without a port.
    return origin.port == (_DEFAULT_PORTS[origin.scheme] if host.port is None else host.port)
