"""Who sends a request."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import pytest_asyncio

from ipybox.control.access.admission import Admission, caller_of, needs_caller
from ipybox.control.access.authentication import Authenticator
from ipybox.control.access.keys import KeyRing, mint
from ipybox.control.access.metrics import ServerMetrics
from ipybox.control.access.rates import Rates
from ipybox.control.access.scopes import LOCAL
from ipybox.control.db.database import Database
from ipybox.control.errors import RateLimitedError, UnauthenticatedError
from ipybox.control.settings import ServerSettings

HERE = "127.0.0.1"


@pytest_asyncio.fixture
async def ring(sqlite_database: Database) -> Any:
    async with KeyRing(sqlite_database.keys) as ring:
        yield ring


def made(ring: KeyRing, limit: str = "30/minute", **settings: Any) -> Authenticator:
    return Authenticator(ServerSettings(**settings), ring, Rates(limit))


@pytest.mark.asyncio
async def test_the_machine_itself_needs_no_key_on_the_loopback(ring: KeyRing) -> None:
    for address in (HERE, "::1", "127.1.2.3", "::ffff:127.0.0.1"):
        assert await made(ring).principal_of([], address) is LOCAL


@pytest.mark.asyncio
async def test_nobody_else_is_let_in_without_a_key_whatever_made_the_server_reachable(ring: KeyRing) -> None:
    for address in ("10.0.0.1", "::ffff:10.0.0.1", "", "unix", "fe80::1%eth0"):
        with pytest.raises(UnauthenticatedError):
            await made(ring).principal_of([], address)
    for header in (b"x-forwarded-for", b"forwarded", b"x-real-ip", b"x-forwarded-host"):
        with pytest.raises(UnauthenticatedError, match="proxy"):
            await made(ring).principal_of([(header, b"127.0.0.1")], HERE)


@pytest.mark.asyncio
@pytest.mark.parametrize("settings", [{"auth": "always"}, {"host": "0.0.0.0"}, {"host": "::"}, {"host": "box.example"}])
async def test_where_keys_are_needed_none_is_a_refusal(ring: KeyRing, settings: dict[str, Any]) -> None:
    with pytest.raises(UnauthenticatedError, match="needs a key"):
        await made(ring, **settings).principal_of([], HERE)


@pytest.mark.asyncio
async def test_a_key_is_taken_from_either_header(ring: KeyRing) -> None:
    key, text = await ring.create(name="a")
    raw = text.encode()
    found = made(ring, auth="always")
    for headers in (
        [(b"authorization", b"Bearer " + raw)],
        [(b"authorization", b"bearer   " + raw + b" ")],
        [(b"x-api-key", raw)],
        [(b"x-api-key", raw), (b"authorization", b"Bearer " + raw)],
    ):
        assert (await found.principal_of(headers, "10.0.0.1")).key_id == key.id


@pytest.mark.asyncio
async def test_headers_that_contradict_each_other_or_are_no_key_are_refused(ring: KeyRing) -> None:
    one, two = [(await ring.create(name="a"))[1].encode() for _ in range(2)]
    for headers in (
        [(b"x-api-key", one), (b"authorization", b"Bearer " + two)],
        [(b"x-api-key", one), (b"x-api-key", two)],
        [(b"authorization", b"Basic " + one)],
        [(b"authorization", one)],
        [(b"authorization", b"")],
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"\xff\xfe")],
        [(b"authorization", b"Bearer " + one + b", Bearer " + two)],
    ):
        with pytest.raises(UnauthenticatedError):
            await made(ring, auth="always", limit="1000/minute").principal_of(headers, "10.0.0.1")


@pytest.mark.asyncio
async def test_a_bad_key_is_refused_also_where_none_is_needed(ring: KeyRing) -> None:
    with pytest.raises(UnauthenticatedError):
        await made(ring).principal_of([(b"x-api-key", mint(name="a")[1].encode())], HERE)


@pytest.mark.asyncio
async def test_who_comes_with_many_bad_keys_has_to_wait_and_good_ones_do_not(ring: KeyRing) -> None:
    _, text = await ring.create(name="a")
    good = [(b"x-api-key", text.encode())]
    found = made(ring, limit="3/minute", auth="always")
    await found.principal_of(good, "10.0.0.1")
    for _ in range(3):
        with pytest.raises(UnauthenticatedError):
            await found.principal_of([(b"x-api-key", mint(name="a")[1].encode())], "10.0.0.1")
    for _ in range(3):
        with pytest.raises(RateLimitedError):
            await found.principal_of([(b"x-api-key", mint(name="a")[1].encode())], "10.0.0.1")
    await found.principal_of(good, "10.0.0.1")
    new = [(b"x-api-key", (await ring.create(name="b"))[1].encode())]
    assert (await found.principal_of(new, "10.0.0.1")).name == "b", "behind a proxy, others have the address as well"
    with pytest.raises(UnauthenticatedError):
        await found.principal_of([(b"x-api-key", mint(name="a")[1].encode())], "10.0.0.2")


@pytest.mark.asyncio
async def test_requests_are_let_in_with_a_caller_and_a_rate(ring: KeyRing) -> None:
    metrics = ServerMetrics("1")
    key, text = await ring.create(name="a")
    admission = Admission(made(ring), Rates("2/minute"), metrics=metrics)

    def scope(*headers: tuple[bytes, bytes], path: str = "/api/v1/sessions") -> dict[str, Any]:
        return {"path": path, "client": (HERE, 1), "headers": list(headers), "state": {}}

    for remaining in (1, 0):
        request = scope((b"x-api-key", text.encode()))
        await admission(request)
        assert caller_of(request).key_id == key.id
        assert request["state"]["rate"].remaining == remaining
    request = scope((b"x-api-key", text.encode()))
    with pytest.raises(RateLimitedError):
        await admission(request)
    assert request["state"]["rate"].remaining == 0
    assert b'ipybox_rate_limited_total{reason="rate"} 1.0' in metrics.render()[0]
    counted = request = scope()
    await admission(request)  # without a key it is counted by its address
    assert caller_of(request) is LOCAL
    assert counted["state"]["rate"].remaining == 1
    for _ in range(3):
        counted = scope()
        counted["client"] = ("127.0.0.2", 1)
        with contextlib.suppress(RateLimitedError):
            await admission(counted)
    assert counted["state"]["rate"].remaining == 0
    await admission(scope())
    open_one = scope(path="/api/v1/health")
    await admission(open_one)
    with pytest.raises(UnauthenticatedError):
        caller_of(open_one)


def test_all_of_the_api_needs_a_caller_but_its_health() -> None:
    assert needs_caller("/api/v1/sessions")
    assert needs_caller("/api/v1/health/")
    assert needs_caller("/api/v1/health/../sessions")
    assert needs_caller("/api/v1/health/detailed")
    assert not needs_caller("/api/v1/health")
    assert not needs_caller("/console")
