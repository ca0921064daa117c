"""Who asks, and whether it is not too often: before anything of a body is read. Floor: control.

A framework reads a body, a file of a hundred megabytes too, before it asks its dependencies for the caller.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Scope

from ipybox.control.access.authentication import Authenticator
from ipybox.control.access.metrics import ServerMetrics
from ipybox.control.access.rates import Rates, address_key
from ipybox.control.access.scopes import LOCAL, Principal
from ipybox.control.errors import RateLimitedError, UnauthenticatedError

API_PREFIX = "/api/v1/"
OPEN_PATHS = frozenset({"/api/v1/health"})
"""Paths of the API that anybody may ask for."""


def needs_caller(path: str) -> bool:
    """Whether it has to be known who asks for that path: all of the API, but for its health."""
    return path.startswith(API_PREFIX) and path not in OPEN_PATHS


class Admission:
    """What a :class:`Guard` asks about each request; leaves a principal and a rate in its state.

    Args:
        authenticator: Finds out who asks.
        rates: How often each may ask; keys by themselves, callers without one by their address.
        applies: Says of a path whether it matters who asks.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        rates: Rates,
        *,
        metrics: ServerMetrics | None = None,
        applies: Callable[[str], bool] = needs_caller,
    ) -> None:
        self._authenticator = authenticator
        self._rates = rates
        self._metrics = metrics
        self._applies = applies

    async def __call__(self, scope: Scope) -> None:
        """Lets a request in.

        Raises:
            UnauthenticatedError: It is not known who asks.
            RateLimitedError: It is too often.
        """
        if not self._applies(scope["path"]):
            return
        client = scope.get("client")
        address = str(client[0]) if client else ""
        reason, counted_as = "authentication", ""
        try:
            principal = await self._authenticator.principal_of(scope["headers"], address)
            scope["state"]["principal"] = principal
            reason, counted_as = "rate", _counted_as(principal, address)
            await self._rates.check(counted_as)
        except RateLimitedError:
            if self._metrics is not None:
                self._metrics.rate_limited.labels(reason).inc()
            raise
        finally:
            if counted_as:
                scope["state"]["rate"] = self._rates.state(counted_as)


def caller_of(scope: Scope) -> Principal:
    """Who sent a request that was let in.

    Raises:
        UnauthenticatedError: Nobody asked who it was, so it is nobody.
    """
    principal = scope["state"].get("principal")
    if not isinstance(principal, Principal):
        raise UnauthenticatedError("it is not known who asks")
    return principal


def _counted_as(principal: Principal, address: str) -> str:
    return f"address {address_key(address)}" if principal is LOCAL else f"key {principal.key_id}"
