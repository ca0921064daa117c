"""What pages of the console load. Floor: control."""

from __future__ import annotations

from ipybox.control.access.static_files import StaticFiles

_TYPES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "favicon.svg": "image/svg+xml",
    "htmx.LICENSE.txt": "text/plain; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
}


def assets() -> StaticFiles:
    """All of it."""
    return StaticFiles(__package__, "/console/static", _TYPES)
