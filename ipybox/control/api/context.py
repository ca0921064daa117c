"""What routes work with, and who asks. Floor: control."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Request
from starlette.types import Scope as AsgiScope

from ipybox.control.access.admission import Admission, caller_of, needs_caller
from ipybox.control.access.authentication import Authenticator
from ipybox.control.access.metrics import ServerMetrics
from ipybox.control.access.rates import Rates
from ipybox.control.access.scopes import Principal, Scope
from ipybox.control.errors import NoCapacityError
from ipybox.control.service.control_plane import ControlPlane
from ipybox.control.settings import ServerSettings


@dataclass(slots=True)
class Context:
    """What one application has. ``plane`` is there while it runs."""

    settings: ServerSettings
    metrics: ServerMetrics
    rates: Rates
    plane: ControlPlane | None = None
    authenticator: Authenticator | None = None
    admission: Admission | None = None

    @property
    def running(self) -> ControlPlane:
        """The services. Raises :class:`NoCapacityError` while there are none."""
        if self.plane is None:
            raise NoCapacityError("the server is starting", retry_after=1.0)
        return self.plane

    async def admit(self, scope: AsgiScope) -> None:
        """Finds out who sends a request, before anything of its body is read.

        Raises:
            UnauthenticatedError, RateLimitedError, NoCapacityError: As the names say.
        """
        if needs_principal(scope["path"]):
            await self.find_out(scope)

    async def find_out(self, scope: AsgiScope) -> None:
        """The same, whatever is asked for."""
        if self.admission is None:
            raise NoCapacityError("the server is starting", retry_after=1.0)
        await self.admission(scope)


def needs_principal(path: str) -> bool:
    """Whether it has to be known who asks for that path."""
    return needs_caller(path) or path == "/metrics"


def context_of(request: Request) -> Context:
    """That of the application that answers a request."""
    return cast(Context, request.app.state.context)


def plane_of(request: Request) -> ControlPlane:
    """The services of the application that answers a request."""
    return context_of(request).running


async def principal_of(request: Request) -> Principal:
    """Who asks.

    Raises:
        UnauthenticatedError, RateLimitedError: As the names say.
    """
    if "principal" not in request.scope["state"]:
        await context_of(request).find_out(request.scope)
    return caller_of(request.scope)


def address_of(request: Request) -> str:
    """Where a request comes from."""
    return request.client.host if request.client is not None else ""


def act(request: Request, action: str, target: str = "", **detail: Any) -> None:
    """Says what a request is about to do, for the audit log."""
    request.state.action, request.state.target, request.state.detail = action, target, detail


async def reader(principal: Annotated[Principal, Depends(principal_of)]) -> Principal:
    """Somebody who may look."""
    principal.require(Scope.READ)
    return principal


async def executor(principal: Annotated[Principal, Depends(principal_of)]) -> Principal:
    """Somebody who may run code."""
    principal.require(Scope.EXECUTE)
    return principal


async def templater(principal: Annotated[Principal, Depends(principal_of)]) -> Principal:
    """Somebody who may change templates."""
    principal.require(Scope.TEMPLATES)
    return principal


async def internal(principal: Annotated[Principal, Depends(principal_of)]) -> Principal:
    """An executor."""
    principal.require(Scope.INTERNAL)
    return principal


async def administrator(principal: Annotated[Principal, Depends(principal_of)]) -> Principal:
    """Somebody who looks after the server."""
    principal.require(Scope.ADMIN)
    return principal


async def _plane(request: Request) -> ControlPlane:
    return plane_of(request)  # what is no coroutine would be called in a thread, for each request


Plane = Annotated[ControlPlane, Depends(_plane)]
Reader = Annotated[Principal, Depends(reader)]
Executor = Annotated[Principal, Depends(executor)]
Templater = Annotated[Principal, Depends(templater)]
Internal = Annotated[Principal, Depends(internal)]
Administrator = Annotated[Principal, Depends(administrator)]
Anybody = Annotated[Principal, Depends(principal_of)]
Chunks = AsyncIterator[bytes]
Headers = Mapping[str, str]
