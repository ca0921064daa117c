"""What goes over the line and what comes back, without the line itself. No I/O. Floor: control."""

from __future__ import annotations

import ipaddress
import json
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from ipybox.control.errors import RequestRefusedError, ServerError

PREFIX = "/api/v1"
WORKSPACE = "/workspace"
MOST_SECONDS = 30.0
"""Who is told to wait longer than this is told so, and does not wait."""
_PASSING = frozenset({0, 429, 502, 503, 504})
_FIRST_SECONDS = 0.1
_TOLD = 500


class Patience:
    """How often, and after how long, something is tried again. One for each call.

    Args:
        retries: How often at most without progress.
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._used = 0

    def progress(self) -> None:
        """It worked for a while: what comes is a new trouble."""
        self._used = 0

    def wait_for(self, error: ServerError, is_conflict_passing: bool = False) -> float:
        """Seconds until the next try. Raises the error if there is to be none."""
        is_passing = error.status in _PASSING or (error.status == 409 and is_conflict_passing)
        if not is_passing or self._used >= self._retries or (error.retry_after or 0.0) > MOST_SECONDS:
            raise error
        self._used += 1
        seconds = min(_FIRST_SECONDS * 2.0**self._used, 5.0) * random.uniform(0.5, 1.0)
        # All who were refused at the same time must not come back at the same time.
        return seconds if error.retry_after is None else error.retry_after + min(seconds, 1.0)


def checked_url(url: str) -> str:
    """The address of a server without a slash at its end. Raises ``ValueError`` for what is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"the address of a server begins with http:// or https:// and a host, got {url!r}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("the address of a server has no user, password, query or fragment; keys go into api_key")
    _ = parts.port  # raises for what is no port
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def is_loopback(url: str) -> bool:
    """Whether an address is on this machine, which no proxy of the environment must see."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def checked_key(key: str | None) -> str | None:
    """A key that can be in a header, None for an empty one. Raises ``ValueError`` without showing it."""
    if not key:
        return None
    if not key.isascii() or any(not "!" <= character <= "~" for character in key):
        raise ValueError("the key has characters that no key has, such as a space or a line end")
    return key


def id_in_path(id: str) -> str:
    """An id as a part of a path. Raises :class:`RequestRefusedError` for one that would lead elsewhere."""
    if not id or id in (".", ".."):
        raise RequestRefusedError(f"{id!r} is no id")
    return quote(id, safe="")


def file_in_path(path: str) -> str:
    """A path of a workspace as the end of a path. Raises :class:`RequestRefusedError` for one that leads outside."""
    inside = path.removeprefix(f"{WORKSPACE}/")
    parts = [part for part in inside.split("/") if part not in ("", ".")]
    if inside.startswith("/") or ".." in parts or not parts:
        raise RequestRefusedError(f"{path!r} is no path inside {WORKSPACE}")
    try:
        return "/".join(quote(part, safe="") for part in parts)
    except UnicodeEncodeError:
        raise RequestRefusedError(f"{path!r} holds what is no text") from None


def body(**values: Any) -> dict[str, Any]:
    """A body of a request, without what was not said."""
    return {name: value for name, value in values.items() if value is not None}


def encoded(value: Mapping[str, Any]) -> bytes:
    """A body as JSON. Raises ``ValueError`` or ``TypeError`` for what JSON does not know."""
    return json.dumps(value, allow_nan=False, default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def error_of(status: int, reason: str, headers: Mapping[str, str], content: bytes, url: str) -> ServerError:
    """What a server said, as an error. Anything may be in ``content``; any server may have been asked."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        said = None
    title = reason or "Error"
    if isinstance(said, dict):
        title, detail = _text(said.get("title")) or title, _text(said.get("detail")) or _text(said.get("message"))
        errors = said.get("errors")
        if isinstance(errors, list):  # the first of them is the detail
            detail += "".join(_field_error(each) for each in errors[1:] if isinstance(each, dict))
    else:
        said, detail = {}, ""
    request_id = said.get("request_id") or headers.get("x-request-id")
    return ServerError(
        status,
        title,
        detail or f"{url} says no more, and is perhaps no ipybox server",
        said,
        retry_seconds(headers.get("retry-after")),
        request_id if isinstance(request_id, str) else None,
    )


def retry_seconds(value: str | None) -> float | None:
    """What ``Retry-After`` says: seconds from now, which it may give as a time as well."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if seconds == seconds else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _field_error(error: Mapping[str, Any]) -> str:
    place = error.get("loc")
    name = ".".join(map(str, place)) if isinstance(place, list) else ""
    return f"; {name}: {_text(error.get('msg'))}"[:_TOLD]
