"""A notification arrives once and is tried again only where that helps, and its secrets stay secret."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given

from ipybox.testrun.model import RunReport
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.webhook import notify, payload, run_key, signature
from tests.testrun.reports import NASTY, REPORTS, case, one_of_each, report

pytestmark = pytest.mark.asyncio
SECRET = "s3cret-in-the-url"
Answer = Callable[[], web.StreamResponse]


class Receiver:
    """A server that gives answers in turn, the last one for ever, and keeps what it was sent."""

    def __init__(self, *answers: int | web.Response | float) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self.asked = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.read())
        self.headers.append(dict(request.headers))
        self.asked.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, web.Response):
            return web.Response(status=answer.status, headers=answer.headers)
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            answer = 200
        if answer == 0:
            assert request.transport is not None
            request.transport.abort()
            answer = 200
        return web.Response(status=answer)


@asynccontextmanager
async def receiving(*answers: int | web.Response | float) -> AsyncIterator[Receiver]:
    receiver = Receiver(*answers)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        receiver.url = f"http://user:{SECRET}@127.0.0.1:{port}/{SECRET}?token={SECRET}"
        yield receiver
    finally:
        await runner.cleanup()


class Sleeps(list[float]):
    """Takes down how long it was asked to wait, and does not."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


async def test_a_run_is_posted_as_json() -> None:
    async with receiving(204) as receiver:
        delivery = await notify(receiver.url, one_of_each())
    assert (delivery.delivered, delivery.attempts, delivery.status, delivery.reason) == (True, 1, 204, "")
    (body,), (headers,) = receiver.bodies, receiver.headers
    assert json.loads(body) == payload(one_of_each())
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == run_key(one_of_each())
    assert "X-Ipybox-Signature-256" not in headers


async def test_a_signature_is_the_hmac_of_the_body_that_was_sent() -> None:
    async with receiving(200) as receiver:
        await notify(receiver.url, one_of_each(), secret="key")
    expected = "sha256=" + hmac.new(b"key", receiver.bodies[0], hashlib.sha256).hexdigest()
    assert receiver.headers[0]["X-Ipybox-Signature-256"] == expected == signature(b"key", receiver.bodies[0])


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_tried_again_as_the_same_delivery(status: int) -> None:
    sleeps = Sleeps()
    async with receiving(status, status, 200) as receiver:
        delivery = await notify(receiver.url, one_of_each(), sleep=sleeps)
    assert (delivery.delivered, delivery.attempts, delivery.status) == (True, 3, 200)
    assert len({headers["Idempotency-Key"] for headers in receiver.headers}) == 1
    assert len(set(receiver.bodies)) == 1
    assert 0.5 <= sleeps[0] <= 1
    assert 1 <= sleeps[1] <= 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 422])
async def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    async with receiving(status) as receiver:
        delivery = await notify(receiver.url, one_of_each(), sleep=Sleeps())
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 1, status)
    assert f"it answers with {status}" in delivery.reason
    assert len(receiver.bodies) == 1


async def test_it_is_given_up_after_so_many_attempts() -> None:
    sleeps = Sleeps()
    async with receiving(503) as receiver:
        delivery = await notify(receiver.url, one_of_each(), attempts=3, sleep=sleeps)
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 3, 503)
    assert len(receiver.bodies) == 3
    assert len(sleeps) == 2


async def test_a_broken_connection_is_tried_again() -> None:
    async with receiving(0, 200) as receiver:
        delivery = await notify(receiver.url, one_of_each(), sleep=Sleeps())
    assert (delivery.delivered, delivery.attempts) == (True, 2)


@pytest.mark.parametrize("credentials", [f"us\u0394er:{SECRET}", f"{SECRET}%0d%0aX: y:{SECRET}", f":{SECRET}\u2603"])
async def test_credentials_that_can_not_be_sent_are_told_without_showing_them(credentials: str) -> None:
    async with receiving(204) as receiver:
        url = f"http://{credentials}@{receiver.url.split('@')[1]}"
        delivery = await notify(url, one_of_each(), sleep=Sleeps())
    assert SECRET not in repr(delivery)


async def test_nobody_listening_is_told() -> None:
    async with receiving(200) as receiver:
        url = receiver.url
    delivery = await notify(url, one_of_each(), attempts=2, sleep=Sleeps())
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 2, None)
    assert "no connection" in delivery.reason
    assert SECRET not in repr(delivery)


async def test_retry_after_is_heeded_in_seconds_and_as_a_date() -> None:
    sleeps = Sleeps()
    date = formatdate(time.time() + 20, usegmt=True)
    answers = [web.Response(status=429, headers={"Retry-After": value}) for value in ("7", date, "soon", "-3")]
    async with receiving(*answers, 200) as receiver:
        delivery = await notify(receiver.url, one_of_each(), attempts=5, sleep=sleeps)
    assert delivery.delivered
    assert sleeps[0] == 7
    assert 17 <= sleeps[1] <= 20
    assert sleeps[2] <= 4
    assert sleeps[3] <= 8


async def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    sleeps = Sleeps()
    async with receiving(web.Response(status=503, headers={"Retry-After": "3600"})) as receiver:
        delivery = await notify(receiver.url, one_of_each(), sleep=sleeps)
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 1, 503)
    assert "no time to try again" in delivery.reason
    assert sleeps == []


async def test_an_attempt_that_takes_too_long_is_tried_again() -> None:
    async with receiving(5.0, 200) as receiver:
        delivery = await notify(receiver.url, one_of_each(), timeout=0.1, sleep=Sleeps())
    assert (delivery.delivered, delivery.attempts) == (True, 2)


async def test_all_attempts_together_end_at_the_deadline() -> None:
    began = time.monotonic()
    async with receiving(5.0) as receiver:
        delivery = await notify(receiver.url, one_of_each(), deadline=0.3)
        assert time.monotonic() - began < 2
    assert not delivery.delivered
    assert "the deadline of 0.3 s has passed" in delivery.reason


async def test_a_redirect_is_not_followed() -> None:
    async with receiving(200) as other:
        redirect = web.Response(status=307, headers={"Location": other.url})
        async with receiving(redirect) as receiver:
            delivery = await notify(receiver.url, one_of_each(), secret="key", sleep=Sleeps())
    assert (delivery.delivered, delivery.attempts, delivery.status) == (False, 1, 307)
    assert "redirect" in delivery.reason
    assert other.bodies == []
    assert SECRET not in repr(delivery)


async def test_being_cancelled_is_no_failure_to_hide() -> None:
    async with receiving(5.0) as receiver:
        task = asyncio.create_task(notify(receiver.url, one_of_each()))
        await receiver.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_failures_name_the_host_and_no_secret() -> None:
    async with receiving(404) as receiver:
        delivery = await notify(receiver.url, one_of_each())
    port = receiver.url.split("@")[1].split("/")[0]
    assert delivery.reason == f"http://{port}: it answers with 404, which is final"


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://host/{SECRET}",
        f"file:///{SECRET}",
        f"//host/{SECRET}",
        f"https:///{SECRET}",
        f"http://[{SECRET}",
        f"http://host:{SECRET}/",
        f"http://host:99999/{SECRET}",
        "",
    ],
)
async def test_an_address_that_is_none_is_an_error_that_does_not_show_it(url: str) -> None:
    with pytest.raises(ValueError, match="url must be") as caught:
        await notify(url, one_of_each())
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__context__


@pytest.mark.parametrize(
    "arguments", [{"attempts": 0}, {"timeout": 0}, {"deadline": -1}, {"backoff": 0}, {"secret": ""}]
)
async def test_arguments_that_make_no_sense_are_errors(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        await notify("http://127.0.0.1:9/", one_of_each(), **arguments)


@given(run=REPORTS)
async def test_any_report_is_strict_json_that_every_receiver_can_read(run: RunReport) -> None:
    text = json.dumps(payload(run), allow_nan=False, ensure_ascii=False)
    assert json.loads(text.encode()) == payload(run)  # lone surrogates could not be encoded


async def test_what_is_sent_is_bounded_and_says_how_much_there_was() -> None:
    run = report(*(case(f"t{n}", Outcome.FAILED, details="d" * 10**5, id="i" * 10**5) for n in range(500)))
    sent = payload(run)
    assert (sent["failed"], len(sent["failures"])) == (500, 50)
    assert len(json.dumps(sent)) < 200_000


async def test_neither_output_nor_the_projects_path_is_sent() -> None:
    run = report(case("test_a", Outcome.FAILED, stdout="OUT", stderr="ERR", message=NASTY), root="/home/me")
    text = json.dumps(payload(run))
    assert not [each for each in ("OUT", "ERR", "/home/me") if each in text]


async def test_a_run_has_its_own_key_and_keeps_it() -> None:
    assert run_key(one_of_each()) == run_key(one_of_each())
    assert run_key(replace(one_of_each(), started_at="2026-03-01T12:00:01+00:00")) != run_key(one_of_each())
    assert len(run_key(one_of_each())) == 32
