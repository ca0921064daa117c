"""What every answer of the API may be, as the OpenAPI document says it. Floor: control."""

from __future__ import annotations

from typing import Any

from ipybox.control.access.problems import MEDIA_TYPE

_TITLES = {
    400: "What was asked for makes no sense here",
    401: "A key is needed, or the one that was sent does not count",
    403: "The key may not do that, or a web page of another origin asks",
    404: "There is nothing of that id",
    408: "It did not end, or the request did not arrive, in time",
    409: "It does not go with what is there",
    412: "It is another version than the one that If-Match names",
    413: "Too many bytes",
    416: "No such range",
    421: "The request names a host that this server is not",
    422: "The request can't be read; errors says where",
    429: "Too many requests, or as many things as may be; see Retry-After",
    500: "The server failed",
    502: "The object store failed",
    503: "Not now; see Retry-After",
    507: "No room is left",
}
_RETRY = {
    "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds after which it may be worth to ask again."}
}
_ALWAYS = (400, 401, 403, 413, 421, 422, 429, 503)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documentation of the problems that a route may answer with, besides those that any may."""
    return {status: _documented(status) for status in sorted({*_ALWAYS, *statuses})}


def _documented(status: int) -> dict[str, Any]:
    said: dict[str, Any] = {
        "description": _TITLES[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in (429, 503):
        said["headers"] = _RETRY
    return said
