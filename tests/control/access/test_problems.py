"""What a client is told when something went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, Field, ValidationError

from ipybox.control import errors as control
from ipybox.control.access.problems import STATUSES, problem, problem_of, retry_seconds, validation_problem
from ipybox.control.errors import ControlError
from ipybox.errors import IpyboxError, SandboxUnavailableError

MADE: dict[type[ControlError], tuple[ControlError, int]] = {
    control.ControlError: (ControlError("secret"), 500),
    control.RecordNotFoundError: (control.RecordNotFoundError("session", "s"), 404),
    control.ConflictError: (control.ConflictError("it has ended"), 409),
    control.RequestRefusedError: (control.RequestRefusedError("no", "cpu"), 400),
    control.AccessError: (control.AccessError("no"), 403),
    control.UnauthenticatedError: (control.UnauthenticatedError("send a key"), 401),
    control.ForbiddenError: (control.ForbiddenError("no"), 403),
    control.QuotaExceededError: (control.QuotaExceededError("sessions", 3, 2.5), 429),
    control.RateLimitedError: (control.RateLimitedError("1 per 1 minute", 59.2), 429),
    control.NoCapacityError: (control.NoCapacityError("memory"), 503),
    control.FileTooLargeError: (control.FileTooLargeError(5), 413),
    control.WorkspaceFileError: (control.WorkspaceFileError("../a", "leads outside"), 400),
    control.StorageFullError: (control.StorageFullError("the disk"), 507),
    control.StorageError: (control.StorageError("403"), 502),
    control.InstallError: (control.InstallError(("a==1",), "no such version"), 400),
    control.ServerSettingsError: (control.ServerSettingsError("host", "secret"), 500),
    control.StateInUseError: (control.StateInUseError("/secret"), 500),
    control.ServerError: (control.ServerError(404, "Not Found", "secret"), 500),
    control.SessionEndedError: (control.SessionEndedError("s", "failed"), 409),
}


def tree(root: type[IpyboxError]) -> Iterator[type[IpyboxError]]:
    yield root
    for each in root.__subclasses__():
        yield from tree(each)


def test_every_error_of_the_tree_has_a_status_of_its_own() -> None:
    ours = {each for each in tree(ControlError) if each.__module__ == control.__name__}
    assert ours == set(MADE)
    assert ours <= set(STATUSES)


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_every_answer_has_all_that_clients_read(kind: type[ControlError]) -> None:
    error, status = MADE[kind]
    told = problem_of(error, instance="/api/v1/x", request_id="r")
    body = json.loads(told.encoded())
    assert told.status == body["status"] == status
    assert set(body) == {"type", "title", "status", "detail", "instance", "request_id", "error", "message"}
    assert all(isinstance(body[name], str) and body[name] for name in set(body) - {"status"})
    assert (body["error"], body["message"]) == (body["title"], body["detail"])
    assert (body["instance"], body["request_id"]) == ("/api/v1/x", "r")
    assert body["type"].startswith("urn:ipybox:problem:")
    assert ("WWW-Authenticate" in told.headers) is (status == 401)
    assert ("Retry-After" in told.headers) is (status in (429, 503))
    if status == 500:
        assert "secret" not in told.encoded().decode()
    else:
        assert body["detail"] == str(error)


def test_the_contracts_names_are_kept() -> None:
    assert problem_of(MADE[control.RecordNotFoundError][0]).body["error"] == "Not Found"
    assert problem_of(MADE[control.ConflictError][0]).body["error"] == "Conflict"


def test_a_path_that_does_not_exist_is_not_found() -> None:
    assert problem_of(control.WorkspaceFileError("a", "does not exist", is_missing=True)).status == 404


def test_what_nobody_expected_says_nothing() -> None:
    for error in (RuntimeError("/etc/secret"), KeyError("secret"), IpyboxError("secret"), BaseException("secret")):
        told = problem_of(error)
        assert told.status == 500
        assert "secret" not in told.encoded().decode()


def test_what_an_operator_has_to_know_is_not_said_to_clients() -> None:
    told = problem_of(SandboxUnavailableError("secret"))
    assert told.status == 503
    assert "secret" not in told.encoded().decode()


def test_errors_that_derive_from_ours_are_answered_like_them() -> None:
    class Gone(control.RecordNotFoundError):
        pass

    assert problem_of(Gone("file", "f")).status == 404


@pytest.mark.parametrize(("seconds", "told"), [(0.0, 1), (0.2, 1), (2.5, 3), (60.0, 60), (float("inf"), 60)])
def test_retry_after_is_whole_and_never_too_early(seconds: float, told: int) -> None:
    assert retry_seconds(seconds) == told


def test_what_does_not_fit_the_schema_is_listed_without_what_was_sent() -> None:
    class Body(BaseModel):
        timeout: int = Field(le=3600)
        env_vars: dict[str, int]

    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"timeout": 5000, "env_vars": {"A": "hunter2"}})
    found = [{**each, "loc": ("body", *each["loc"])} for each in caught.value.errors()]
    told = validation_problem(found, instance="/x", request_id="r")
    assert told.status == 422
    assert isinstance(told.body["detail"], str)
    assert told.body["detail"].startswith("body.timeout: ")
    assert told.body["errors"][1]["loc"] == ["body", "env_vars", "A"]
    assert "hunter2" not in told.encoded().decode()
    many = validation_problem([{"loc": ("a" * 5000,), "msg": "m" * 5000, "type": "t"}] * 500)
    assert len(many.encoded()) < 100_000


def test_no_text_breaks_an_answer() -> None:
    told = problem(400, "a\ud800b" + "c" * 100_000, instance="\udcff\n")
    assert len(told.encoded()) < 5000
    assert json.loads(told.encoded())["status"] == 400
    assert problem(599, "x").body["title"] == "Error"
