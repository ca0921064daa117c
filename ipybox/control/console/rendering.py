"""Pages out of templates, and the headers that keep a page to itself. Floor: control."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ipybox import __version__
from ipybox.control.access.static_files import StaticFiles
from ipybox.control.console import wording
from ipybox.control.console.visitor import Visitor, console_of

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    # With no referrer at all, browsers send forms with an origin of null, which is nobody's.
    "Referrer-Policy": "same-origin",
}
_HTMX = json.dumps(
    {
        "allowEval": False,
        "allowScriptTags": False,
        "includeIndicatorStyles": False,
        "historyCacheSize": 0,
        "selfRequestsOnly": True,
        "defaultSwapStyle": "outerHTML",
        # What goes wrong is shown; a poll that was refused is silent, and says itself where to go.
        "responseHandling": [
            {"code": "204", "swap": False},
            {"code": "[23]..", "swap": True},
            {"code": "[45]..", "swap": True, "error": True},
        ],
    }
)
_TIMES = re.compile(r"(<time\b[^>]*>)[^<]*</time>")
_WITHOUT_TEXT = r"\1"


def environment(static_files: StaticFiles) -> Environment:
    """What makes pages: all that is put in is escaped, and what is not there is an error."""
    made = Environment(
        loader=PackageLoader("ipybox.control.console", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(wording.FILTERS)
    made.globals.update(url=wording.url, static=static_files.url, htmx_config=_HTMX, version=__version__)
    return made


def page(request: Request, template: str, /, status: int = 200, **facts: Any) -> HTMLResponse:
    """A whole page."""
    visitor: Visitor | None = getattr(request.state, "visitor", None)
    console = console_of(request)
    note = console.notes.take(visitor.identity, request.query_params.get("note")) if visitor else None
    common = {"visitor": visitor, "note": note, "here": request.url.path, "problem": None}
    html = console.environment.get_template(template).render(**{**common, **facts})
    return HTMLResponse(_encodable(html), status, headers=HEADERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePart:
    """A part of a page that is asked for again, by the clock or after an event. ``seen`` is a digest of its content."""

    html: Markup
    seen: str


def live(request: Request, template: str, /, *, id: str, source: str, trigger: str, **facts: Any) -> LivePart:
    """A part of a page.

    Args:
        id: Of its element.
        source: URL that answers with it, see :func:`live_answer`.
        trigger: When it is asked for, in the words of htmx; empty for never.
    """
    visitor = getattr(request.state, "visitor", None)
    environment = console_of(request).environment
    inner = Markup(_encodable(environment.get_template(template).render(visitor=visitor, **facts)))
    seen = hashlib.sha256(f"{trigger}\n{_TIMES.sub(_WITHOUT_TEXT, inner)}".encode()).hexdigest()[:16]
    joint = "&" if "?" in source else "?"
    html = environment.get_template("live.html").render(
        id=id, source=f"{source}{joint}seen={seen}", trigger=trigger, inner=inner
    )
    return LivePart(html=Markup(html), seen=seen)


def live_answer(request: Request, part: LivePart) -> Response:
    """The part; nothing if it is what the browser has, so that a reader is not interrupted by what is not new."""
    if request.query_params.get("seen") == part.seen:
        return Response(status_code=204, headers=HEADERS)
    return HTMLResponse(part.html, headers=HEADERS)


def see(url: str) -> RedirectResponse:
    """After a form was followed: the page that shows what became of it."""
    return RedirectResponse(url, 303, headers=HEADERS)


def _encodable(html: str) -> str:
    """Half characters can't be sent; they are rare and become question marks."""
    return html.encode("utf-8", "replace").decode()
