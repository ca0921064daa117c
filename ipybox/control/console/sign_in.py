"""Signing in with a key, and out. Floor: control."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ipybox.control.api.context import act, address_of, context_of
from ipybox.control.console.forms import TOKEN, SentForm, read_form
from ipybox.control.console.page_route import PageRoute, own_path
from ipybox.control.console.rendering import page, see
from ipybox.control.console.sign_ins import COOKIE
from ipybox.control.console.visitor import Anybody, console_of, visitor_of
from ipybox.control.errors import ForbiddenError, UnauthenticatedError

router = APIRouter(route_class=PageRoute)
_PATH = "/console"
_NOBODY = "nobody"
"""To what the token of the form is bound that is there before one is somebody."""
_LONGEST = 16 * 1024
"""Bytes of the form: whoever has no key may not have the server keep more than that."""


@router.get("/sign-in")
async def ask(request: Request, next: str = "") -> Response:
    """Asks for a key; whoever needs none goes on."""
    try:
        await visitor_of(request)
    except UnauthenticatedError:
        return _page(request, own_path(next))
    return see(own_path(next))


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Takes a key."""
    console, context = console_of(request), context_of(request)
    assert context.running is not None
    assert context.authenticator is not None
    form = await read_form(request, _LONGEST)
    if not console.sign_ins.is_form_token(_NOBODY, form[TOKEN]):
        raise ForbiddenError("this form is from before a restart of the server; load its page again")
    sent = [(b"authorization", b"Bearer " + form["key"].strip().encode("utf-8", "replace"))]
    try:
        principal = await context.authenticator.principal_of(sent, address_of(request))
    except UnauthenticatedError:
        return _page(request, own_path(form["next"]), 401, "That is no key that counts here.")
    request.state.principal = principal
    await context.rates.check(f"key {principal.key_id}")
    act(request, "console.sign_in", principal.key_id)
    if old := request.cookies.get(COOKIE):
        console.sign_ins.forget(old)
    answer = see(own_path(form["next"]))
    answer.set_cookie(
        COOKIE,
        console.sign_ins.add(principal.key_id),
        path=_PATH,
        secure=_is_https(request),
        httponly=True,
        samesite="strict",
    )
    return answer


@router.post("/sign-out")
async def sign_out(request: Request, visitor: Anybody, form: SentForm) -> Response:
    """Forgets who it was."""
    act(request, "console.sign_out", visitor.principal.key_id)
    console_of(request).sign_ins.forget(request.cookies.get(COOKIE, ""))
    answer = see("/console/sign-in")
    answer.delete_cookie(COOKIE, path=_PATH, secure=_is_https(request), httponly=True, samesite="strict")
    return answer


def _page(request: Request, next: str, status: int = 200, problem: str | None = None) -> Response:
    token = console_of(request).sign_ins.form_token(_NOBODY)
    return page(request, "sign_in.html", status, form_token=token, next=next, problem=problem)


def _is_https(request: Request) -> bool:
    """Whether the browser came over TLS. A server behind a proxy that does it sees http; the page's origin says it."""
    return request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
