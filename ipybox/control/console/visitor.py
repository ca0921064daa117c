"""Who looks at a page, and what a console has. Floor: control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from jinja2 import Environment
from structlog.contextvars import bind_contextvars

from ipybox.control.access.scopes import Principal, Scope
from ipybox.control.access.static_files import StaticFiles
from ipybox.control.api.context import context_of, principal_of
from ipybox.control.console.one_time_notes import Note, OneTimeNotes
from ipybox.control.console.sign_ins import COOKIE, SignIns
from ipybox.control.errors import RateLimitedError, UnauthenticatedError
from ipybox.control.service.control_plane import ControlPlane


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """What the console of one application has."""

    environment: Environment
    static_files: StaticFiles
    sign_ins: SignIns
    notes: OneTimeNotes


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who looks at a page.

    Attributes:
        identity: What form tokens and notes are bound to.
        form_token: What their forms bring along.
        is_signed_in: Whether with a key and a cookie, so that there is something to sign out of.
    """

    principal: Principal
    identity: str
    form_token: str
    is_signed_in: bool

    def may(self, scope: str) -> bool:
        """Whether that may be done."""
        return self.principal.allows(Scope(scope))


def console_of(request: Request) -> Console:
    """That of the application that answers a request."""
    return cast(Console, request.app.state.console)


async def visitor_of(request: Request) -> Visitor:
    """Who looks, after counting the request.

    Raises:
        UnauthenticatedError, RateLimitedError: As the names say.
    """
    console = console_of(request)
    token = request.cookies.get(COOKIE, "")
    key_id = console.sign_ins.key_id(token) if token else None
    if key_id is None:
        principal = await principal_of(request)
        identity = f"without {principal.key_id}"
    else:
        principal = await _principal_of_key(request, key_id, token)
        identity = f"signed in {token}"
    visitor = Visitor(
        principal=principal,
        identity=identity,
        form_token=console.sign_ins.form_token(identity),
        is_signed_in=key_id is not None,
    )
    request.state.visitor = visitor
    return visitor


async def _principal_of_key(request: Request, key_id: str, token: str) -> Principal:
    context = context_of(request)
    try:
        principal = await context.running.keys.principal_of(key_id)
    except UnauthenticatedError:
        console_of(request).sign_ins.forget(token)
        raise
    try:
        request.state.rate = await context.rates.check(f"key {key_id}")
    except RateLimitedError:
        context.metrics.rate_limited.labels("rate").inc()
        raise
    request.state.principal = principal
    bind_contextvars(key_id=key_id)
    return principal


def needs(scope: Scope) -> object:
    """A visitor who may do that, for the signature of a route."""

    async def allowed(visitor: Annotated[Visitor, Depends(visitor_of)]) -> Visitor:
        visitor.principal.require(scope)
        return visitor

    return Depends(allowed)


def leave_note(request: Request, visitor: Visitor, text: str, secret: str = "") -> str:
    """Has the next page of somebody say something. Returns what its URL has to say as ``note``."""
    return console_of(request).notes.leave(visitor.identity, Note(text, secret))


def plane_of(request: Request) -> ControlPlane:
    """The services."""
    return context_of(request).running


Anybody = Annotated[Visitor, Depends(visitor_of)]
Looker = Annotated[Visitor, needs(Scope.READ)]
Doer = Annotated[Visitor, needs(Scope.EXECUTE)]
TemplateMaker = Annotated[Visitor, needs(Scope.TEMPLATES)]
Administrator = Annotated[Visitor, needs(Scope.ADMIN)]
