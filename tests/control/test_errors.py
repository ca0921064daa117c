"""The control plane's branch of the tree of errors: drawn as it is, picklable, each a sentence."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from ipybox.control import errors
from ipybox.control.errors import (
    AccessError,
    ConflictError,
    ControlError,
    FileTooLargeError,
    ForbiddenError,
    InstallError,
    NoCapacityError,
    QuotaExceededError,
    RateLimitedError,
    RecordNotFoundError,
    RequestRefusedError,
    ServerError,
    ServerSettingsError,
    SessionEndedError,
    StateInUseError,
    StorageError,
    StorageFullError,
    UnauthenticatedError,
    WorkspaceFileError,
)
from ipybox.errors import IpyboxError

SAMPLES: list[ControlError] = [
    RecordNotFoundError("session", "sess_1"),
    ConflictError("it has ended"),
    RequestRefusedError("must be one of those", "template_id"),
    UnauthenticatedError("send a key"),
    ForbiddenError("the scope admin is missing"),
    QuotaExceededError("sessions", 3),
    RateLimitedError("5 per 1 minute", 12.0),
    NoCapacityError("the server is about to stop"),
    FileTooLargeError(10),
    WorkspaceFileError("a/../b", "leads outside", is_missing=False),
    StorageFullError("no room"),
    StorageError("it does not answer"),
    InstallError(("a==1",), "no such version"),
    ServerSettingsError("port", "must be from 0 to 65535, got -1"),
    StateInUseError("/state"),
    ServerError(503, "Service Unavailable", "not now", {"status": 503}, 1.5, "req_1"),
    SessionEndedError("sess_1", "timeout", "idle", "it was not used"),
]
CLASSES = {
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, ControlError) and value.__module__ == errors.__name__
}


def test_there_is_a_sample_of_each_error() -> None:
    assert {type(each) for each in SAMPLES} == CLASSES - {ControlError, AccessError}


def test_the_drawing_shows_every_error_once() -> None:
    drawn = re.findall(r"[─] (\w+Error)\b", inspect.getdoc(errors) or "")
    assert sorted(drawn) == sorted(each.__name__ for each in CLASSES)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_an_ipybox_error_and_survives_pickling(error: ControlError) -> None:
    assert isinstance(error, IpyboxError)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error) != ""
    assert vars(again) == vars(error)
