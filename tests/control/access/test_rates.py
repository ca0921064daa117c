"""How often somebody may ask."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.control.access.rates import Rates, address_key
from ipybox.control.errors import RateLimitedError, ServerSettingsError


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.mark.asyncio
async def test_as_many_as_may_be_are_served_and_the_next_is_told_when() -> None:
    clock = Clock()
    rates = Rates("3/minute", clock=clock)
    states = [await rates.check("a") for _ in range(3)]
    assert [state.remaining for state in states] == [2, 1, 0]
    with pytest.raises(RateLimitedError) as caught:
        await rates.check("a")
    assert caught.value.limit == "3 per 1 minute"
    clock.now += caught.value.retry_after
    await rates.check("a")


@pytest.mark.asyncio
async def test_everybody_is_counted_by_himself() -> None:
    rates = Rates("1/minute", clock=Clock())
    await rates.check("a")
    await rates.check("b")
    assert rates.state("a").remaining == 0
    assert rates.state("c").remaining > 0
    assert rates.known == 2


@pytest.mark.asyncio
async def test_the_end_of_a_window_lets_no_double_through() -> None:
    clock = Clock(59.0)
    rates = Rates("10/minute", clock=clock)
    for _ in range(10):
        await rates.check("a")
    clock.now = 61.0
    served = 0
    for _ in range(10):
        try:
            await rates.check("a")
            served += 1
        except RateLimitedError:
            pass
    assert served <= 1


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=60), st.integers(1, 5))
def test_who_waits_as_told_is_served_and_what_remains_is_true(steps: list[tuple[float, bool]], amount: int) -> None:
    clock = Clock(100.0)
    rates = Rates(f"{amount}/3 seconds", clock=clock)

    async def main() -> None:
        for wait, patient in steps:
            clock.now += wait
            before = rates.state("a")
            assert 0 <= before.remaining <= amount
            assert 0 <= before.reset_seconds <= 6
            try:
                after = await rates.check("a")
                assert before.remaining >= 1
                assert after.remaining == before.remaining - 1
            except RateLimitedError as error:
                assert before.remaining == 0
                if patient:
                    clock.now += error.retry_after
                    await rates.check("a")

    asyncio.run(main())


@pytest.mark.asyncio
async def test_many_at_once_are_counted_exactly() -> None:
    rates = Rates("50/hour", clock=Clock())
    results = await asyncio.gather(*(rates.check("a") for _ in range(200)), return_exceptions=True)
    assert sum(isinstance(each, RateLimitedError) for each in results) == 150


@pytest.mark.asyncio
async def test_many_addresses_take_bounded_room_and_no_task() -> None:
    rates = Rates("5/minute", most=100, clock=Clock())
    tasks = asyncio.all_tasks()
    for number in range(10_000):
        await rates.check(f"address {number}")
        if number % 10 == 0 and number < 50:
            await rates.check("busy")
    assert rates.known == 100
    assert asyncio.all_tasks() == tasks


@pytest.mark.asyncio
async def test_who_is_refused_again_and_again_is_not_forgotten_for_others() -> None:
    rates = Rates("1/minute", most=10, clock=Clock())
    await rates.check("bad")
    for number in range(100):
        await rates.check(f"address {number}")
        with pytest.raises(RateLimitedError):
            await rates.check("bad")


def test_addresses_of_one_network_count_as_one() -> None:
    assert address_key("2001:db8::1") == address_key("2001:db8:0:0:ffff::2")
    assert address_key("2001:db8::1") != address_key("2001:db8:0:1::1")
    assert address_key("::ffff:10.0.0.1") == address_key("10.0.0.1")
    assert address_key("fe80::1%eth0") == address_key("fe80::2")
    assert len(address_key("x" * 1000)) == 64


@pytest.mark.asyncio
async def test_headers_say_what_is_left() -> None:
    rates = Rates("2/minute", clock=Clock(30.0))
    state = await rates.check("a")
    assert state.headers == {"RateLimit-Limit": "2", "RateLimit-Remaining": "1", "RateLimit-Reset": "30"}
    assert math.ceil(state.reset_seconds) == 30


@pytest.mark.parametrize(
    "wrong", ["", "many", "0/minute", "-1/minute", "5", "5/fortnight", "5/0 seconds", "1/minute;9/hour"]
)
def test_limits_that_make_no_sense_are_refused_by_setting(wrong: str) -> None:
    with pytest.raises(ServerSettingsError, match="rate_limit"):
        Rates(wrong)
