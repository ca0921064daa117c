"""What a client is told when something went wrong: problem details of RFC 9457. Floor: control.

A body is a superset of what clients of the contract read: ``error`` is the title, ``message`` and ``detail`` are the
sentence, and ``detail`` is always a string.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from ipybox.control import errors as control
from ipybox.errors import (
    IpyboxError,
    PolicyError,
    PreloadError,
    ProgramStartError,
    SandboxFileError,
    SandboxUnavailableError,
    UnknownLanguageError,
    UnknownTemplateError,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:ipybox:problem:"
CHALLENGE = 'Bearer realm="ipybox"'

_LONGEST = 2000
_MOST_ERRORS = 50
_GENERIC = "something went wrong on the server; its logs say more under this request id"


class Problem(NamedTuple):
    """An answer: status, body, and headers besides those of the body."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]

    def encoded(self) -> bytes:
        """The body as JSON."""
        return json.dumps(self.body, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


STATUSES: Mapping[type[IpyboxError], int] = {
    control.RecordNotFoundError: 404,
    control.ConflictError: 409,
    control.RequestRefusedError: 400,
    control.AccessError: 403,
    control.UnauthenticatedError: 401,
    control.ForbiddenError: 403,
    control.QuotaExceededError: 429,
    control.RateLimitedError: 429,
    control.NoCapacityError: 503,
    control.FileTooLargeError: 413,
    control.WorkspaceFileError: 400,
    control.StorageFullError: 507,
    control.StorageError: 502,
    control.InstallError: 400,
    control.ServerSettingsError: 500,
    control.StateInUseError: 500,
    control.ServerError: 500,
    control.SessionEndedError: 409,
    control.ControlError: 500,
    SandboxUnavailableError: 503,
    ProgramStartError: 503,
    PreloadError: 400,
    PolicyError: 400,
    SandboxFileError: 400,
    UnknownLanguageError: 400,
    UnknownTemplateError: 400,
}
"""Statuses of errors; what is not listed is answered as what it derives from, and at last as 500."""

_SLUGS: Mapping[type[IpyboxError], str] = {
    control.QuotaExceededError: "quota-exceeded",
    control.RateLimitedError: "rate-limited",
    control.WorkspaceFileError: "workspace-file",
    control.InstallError: "install-failed",
    control.StorageError: "storage-failed",
    control.NoCapacityError: "no-capacity",
}
_UNSAID: Mapping[type[IpyboxError], str] = {
    SandboxUnavailableError: "there can be no sandbox on this server at the moment; its logs say why",
    ProgramStartError: "a sandbox did not start; the server's logs say why",
}
"""Errors whose own sentence is for the operator, and what is said in its place."""


def problem_of(error: BaseException, *, instance: str = "", request_id: str = "") -> Problem:
    """The answer for an error; one that nobody expected is a 500 that says nothing about it.

    Args:
        instance: Path of the request.
        request_id: With which the operator finds it in the logs.
    """
    status, slug, detail = 500, "", _GENERIC
    for each in type(error).__mro__:
        if each in STATUSES:
            status = STATUSES[each]
            slug = _SLUGS.get(each, "")
            detail = _UNSAID.get(each, str(error)) if status != 500 else _GENERIC
            break
    headers: dict[str, str] = {}
    if isinstance(error, control.WorkspaceFileError) and error.is_missing:
        status = 404
    if isinstance(error, control.UnauthenticatedError):
        headers["WWW-Authenticate"] = CHALLENGE
    if isinstance(error, control.QuotaExceededError | control.RateLimitedError | control.NoCapacityError):
        headers["Retry-After"] = str(retry_seconds(error.retry_after))
    elif status == 503:
        headers["Retry-After"] = "5"
    return problem(status, detail, slug=slug, instance=instance, request_id=request_id, headers=headers)


def validation_problem(errors: Sequence[Mapping[str, Any]], *, instance: str = "", request_id: str = "") -> Problem:
    """The answer to a body or a query that does not fit the schema, from pydantic's list of errors.

    What was sent is not sent back: it may hold what belongs in no log.
    """
    kept = [
        {
            "loc": [part if isinstance(part, int) else _cut(str(part), 200) for part in each.get("loc", ())],
            "msg": _cut(str(each.get("msg", "is not valid")).removeprefix("Value error, "), 500),
            "type": str(each.get("type", "value_error")),
        }
        for each in errors[:_MOST_ERRORS]
    ]
    detail = "the request is not valid"
    if kept:
        detail = f"{'.'.join(str(part) for part in kept[0]['loc'])}: {kept[0]['msg']}"
    if len(errors) > 1:
        detail += f" (and {len(errors) - 1} more)"
    found = problem(422, detail, slug="validation", instance=instance, request_id=request_id)
    found.body["errors"] = kept
    return found


def problem(
    status: int,
    detail: str,
    *,
    title: str = "",
    slug: str = "",
    instance: str = "",
    request_id: str = "",
    headers: Mapping[str, str] | None = None,
) -> Problem:
    """An answer of that status, such as for a route that does not exist.

    Args:
        title: Short name; the phrase of the status if nothing else is said.
        slug: Last part of the type; made of the title if nothing else is said.
    """
    if not title:
        try:
            title = HTTPStatus(status).phrase
        except ValueError:
            title = "Error"
    detail = _cut(detail, _LONGEST)
    body = {
        "type": TYPE_PREFIX + (slug or title.lower().replace(" ", "-")),
        "title": title,
        "status": status,
        "detail": detail,
        "instance": _cut(instance, _LONGEST),
        "request_id": request_id,
        "error": title,
        "message": detail,
    }
    return Problem(status, body, dict(headers or {}))


def retry_seconds(seconds: float) -> int:
    """Whole seconds for ``Retry-After``: at least one, and never too few."""
    return max(1, math.ceil(seconds)) if math.isfinite(seconds) else 60


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
