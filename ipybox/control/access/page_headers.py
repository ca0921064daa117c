"""Headers that keep browsers from doing more with an answer than it is for. Floor: control.

Answers get those of the API unless they bring their own. A page, such as one of the console or ``/docs``, sets
``Content-Security-Policy`` itself; :func:`policy_for_page` makes one that lets its scripts run, and none that were put
in by somebody else.
"""

from __future__ import annotations

import base64
import hashlib
import re

API_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""For what is no page. Also a file out of a workspace, which a browser may show, does nothing under it."""

API_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": API_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
"""What each answer has unless it brings another value itself."""

_INLINE = re.compile(rb"<(script|style)(?:\s[^>]*)?>(.*?)</\1\s*>", re.DOTALL | re.IGNORECASE)


def policy_for_page(html: bytes) -> str:
    """A ``Content-Security-Policy`` for a finished page: what it loads from here, and its inline parts by their hashes.

    Args:
        html: The page as it is sent. Must not hold text of others in scripts.
    """
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for match in _INLINE.finditer(html):
        if match[2]:
            digest = base64.b64encode(hashlib.sha256(match[2]).digest()).decode("ascii")
            hashes[match[1].decode("ascii").lower()].append(f"'sha256-{digest}'")
    return "; ".join(
        [
            "default-src 'none'",
            " ".join(["script-src 'self'", *hashes["script"]]),
            " ".join(["style-src 'self'", *hashes["style"]]),
            "img-src 'self' data:",
            "connect-src 'self'",
            "font-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ]
    )
