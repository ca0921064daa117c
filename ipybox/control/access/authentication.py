"""Who sends a request: from its headers to a principal. Floor: control."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ipybox.control.access.keys import REFUSED, KeyRing
from ipybox.control.access.rates import FAILED_AUTHENTICATIONS, Rates, address_key
from ipybox.control.access.scopes import LOCAL, Principal
from ipybox.control.errors import UnauthenticatedError
from ipybox.control.settings import ServerSettings

Headers = Iterable[tuple[bytes, bytes]]
"""As in an ASGI scope: names in lower case."""

_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")


class Authenticator:
    """Finds out who asks.

    Args:
        failures: How often an address may come with a key that does not count.
    """

    def __init__(self, settings: ServerSettings, keys: KeyRing, failures: Rates | None = None) -> None:
        self._needs_key = settings.needs_key
        self._keys = keys
        self._failures = failures if failures is not None else Rates(FAILED_AUTHENTICATIONS)

    async def principal_of(self, headers: Headers, address: str) -> Principal:
        """Who sends a request with these headers from that address.

        A key that is sent has to be a good one, also where none is needed.

        Raises:
            UnauthenticatedError: There is no key though one is needed, or not one that counts.
            RateLimitedError: It is none that counts, and the address has come with too many of those. Good keys are
                still served: behind a proxy all clients have one address.
        """
        headers = list(headers)
        text = _credential(headers)
        if text is None:
            self._may_do_without(headers, address)
            return LOCAL
        try:
            return await self._keys.verify(text)
        except UnauthenticatedError:
            await self._failures.check(address_key(address))
            raise

    def _may_do_without(self, headers: Headers, address: str) -> None:
        if self._needs_key:
            raise UnauthenticatedError(
                "this needs a key; send one as 'Authorization: Bearer ipybox_...' or 'X-API-Key: ipybox_...'"
            )
        # It is made to listen on the loopback. If something makes it reachable from elsewhere, it is not open to all.
        if not _is_loopback(address):
            raise UnauthenticatedError("without a key this server is for its own machine only")
        if any(name in _FORWARDED for name, _ in headers):
            raise UnauthenticatedError(
                "without a key this server is for its own machine only, and this came through a proxy; use keys"
            )


def _credential(headers: Headers) -> str | None:
    """What was sent as a key; None if nothing was.

    Raises:
        UnauthenticatedError: Two that differ, or what can't be a key.
    """
    found = set()
    for name, value in headers:
        if name == b"authorization":
            scheme, _, rest = value.strip().partition(b" ")
            if scheme.lower() != b"bearer":
                raise UnauthenticatedError(REFUSED)
            found.add(rest.strip())
        elif name == b"x-api-key":
            found.add(value.strip())
    if not found:
        return None
    if len(found) > 1:
        raise UnauthenticatedError(REFUSED)
    return found.pop().decode("latin-1")


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)
