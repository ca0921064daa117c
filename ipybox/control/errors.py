"""Errors of the control plane: a branch of the tree in :mod:`ipybox.errors`. Floor: control.

::

    IpyboxError
    └── ControlError
        ├── RecordNotFoundError     nothing of that id, or it is somebody else's
        ├── ConflictError           it can't be done in the state that something is in
        ├── RequestRefusedError     what was asked for makes no sense here
        ├── AccessError
        │   ├── UnauthenticatedError  no key, or none that counts
        │   └── ForbiddenError        the key may not do that
        ├── QuotaExceededError      the key has as much as it may have
        ├── RateLimitedError        too many requests
        ├── NoCapacityError         not now
        ├── FileTooLargeError       more bytes than may be
        ├── WorkspaceFileError      a file operation in a workspace failed
        ├── StorageFullError        no room is left on the disk
        ├── StorageError            the object store does not answer, or refuses
        ├── InstallError            packages could not be installed
        ├── ServerSettingsError     settings that make no sense together
        ├── StateInUseError         another server works with the same state directory
        ├── ServerError             what a client was answered
        └── SessionEndedError       a client's session does not run
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipybox.errors import IpyboxError


class ControlError(IpyboxError):
    """The root of what goes wrong in the control plane and in its clients."""


class RecordNotFoundError(ControlError):
    """There is nothing of that id, or it belongs to somebody else, which looks the same.

    Attributes:
        kind: Such as ``session``.
        id: What was asked for.
    """

    def __init__(self, kind: str, id: str) -> None:
        self.kind, self.id = kind, id
        super().__init__(f"there is no {kind} {id!r}")


class ConflictError(ControlError):
    """What was asked for does not go with what is there.

    Attributes:
        reason: Why, and what would help.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class RequestRefusedError(ControlError):
    """A request that can be read, but not be followed on this server.

    Attributes:
        reason: Why, and what would help.
        field: The part of the request that it is about, if it is one.
    """

    def __init__(self, reason: str, field: str | None = None) -> None:
        self.reason, self.field = reason, field
        super().__init__(f"{field}: {reason}" if field else reason)


class AccessError(ControlError):
    """Who asks may not."""


class UnauthenticatedError(AccessError):
    """There is no key in the request, or it is unknown, expired or revoked; which of these is not said.

    Attributes:
        reason: What to do.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class ForbiddenError(AccessError):
    """The key is good, but not for this.

    Attributes:
        reason: What is missing.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class QuotaExceededError(ControlError):
    """The key has as many of something as it may have at once.

    Attributes:
        what: Such as ``sessions``.
        limit: How many.
        retry_after: Seconds after which it may be worth to ask again.
    """

    def __init__(self, what: str, limit: int, retry_after: float = 5.0) -> None:
        self.what, self.limit, self.retry_after = what, limit, retry_after
        super().__init__(f"there are {limit} {what} already, which is the quota; end one, or ask for a larger quota")


class RateLimitedError(ControlError):
    """Too many requests in a short time.

    Attributes:
        limit: Such as ``600 per 1 minute``.
        retry_after: Seconds until the next one is served.
    """

    def __init__(self, limit: str, retry_after: float) -> None:
        self.limit, self.retry_after = limit, retry_after
        super().__init__(f"too many requests: {limit} are served, try again in {retry_after:.0f} s")


class NoCapacityError(ControlError):
    """The server can't take more at the moment, or is about to stop.

    Attributes:
        reason: What is short.
        retry_after: Seconds after which it may be worth to ask again.
    """

    def __init__(self, reason: str, retry_after: float = 5.0) -> None:
        self.reason, self.retry_after = reason, retry_after
        super().__init__(reason)


class FileTooLargeError(ControlError):
    """More bytes than may be.

    Attributes:
        limit: How many may be.
    """

    def __init__(self, limit: int, what: str = "file") -> None:
        self.limit, self.what = limit, what
        super().__init__(f"the {what} is larger than {limit} bytes")


class WorkspaceFileError(ControlError):
    """A path of a workspace that can't be used that way: it leads outside, is no file, is a link, does not exist.

    Attributes:
        path: The path.
        reason: Why.
        is_missing: Whether there is nothing at that path.
    """

    def __init__(self, path: str, reason: str, *, is_missing: bool = False) -> None:
        self.path, self.reason, self.is_missing = path, reason, is_missing
        super().__init__(f"{path!r}: {reason}")


class StorageFullError(ControlError):
    """No room is left, on the disk or in the session's share of it.

    Attributes:
        reason: What is full.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class StorageError(ControlError):
    """The object store does not answer, or refuses.

    Attributes:
        reason: What it said, without credentials.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the object store failed: {reason}")


class InstallError(ControlError):
    """Packages could not be installed; nothing of them was.

    Attributes:
        requirements: What was asked for.
        reason: What the installer said last.
    """

    def __init__(self, requirements: tuple[str, ...], reason: str) -> None:
        self.requirements, self.reason = requirements, reason
        super().__init__(f"could not install {', '.join(requirements)}: {reason}")


class ServerSettingsError(ControlError, ValueError):
    """Settings of a server that make no sense, or that would be unsafe.

    Attributes:
        setting: Its name.
        reason: What is wrong with it, and what would help.
    """

    def __init__(self, setting: str, reason: str) -> None:
        self.setting, self.reason = setting, reason
        super().__init__(f"{setting}: {reason}")


class StateInUseError(ControlError):
    """Another server works with the same state directory.

    Attributes:
        path: The directory.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"another server uses {path}; end it, or choose another state directory")


class ServerError(ControlError):
    """What a server answered that was not what a client wanted.

    Attributes:
        status: HTTP status; 0 when there was no answer.
        title: Short name of the problem.
        detail: The problem in words.
        problem: The whole body of the answer.
        retry_after: Seconds after which the server says that it may be worth to ask again; None if it does not.
        request_id: With which the server's operator finds it in the logs.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        problem: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        self.status, self.title, self.detail = status, title, detail
        self.problem = dict(problem or {})
        self.retry_after, self.request_id = retry_after, request_id
        super().__init__(f"{status} {title}: {detail}" if status else f"{title}: {detail}")


class SessionEndedError(ControlError):
    """A session that a client wanted to work in does not run, or did not come up.

    Attributes:
        session_id: Its id.
        status: What it is instead.
        reason: Why, as a word; None if the server does not say.
    """

    def __init__(self, session_id: str, status: str, reason: str | None = None, detail: str | None = None) -> None:
        self.session_id, self.status, self.reason, self.detail = session_id, status, reason, detail
        why = ": ".join(part for part in (reason, detail) if part)
        super().__init__(f"the session {session_id} is {status}" + (f" ({why})" if why else ""))
