"""How often somebody may ask: sliding windows in memory, for many who ask, in bounded room. Floor: control."""

from __future__ import annotations

import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.aio.storage import SlidingWindowCounterSupport, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from ipybox.control.access.problems import retry_seconds
from ipybox.control.errors import RateLimitedError, ServerSettingsError

FAILED_AUTHENTICATIONS = "30/minute"
"""How often an address may come with a key that does not count."""
MOST_KEYS = 20_000
"""Of how many that ask it is remembered how often; who was not seen for longest is forgotten first."""

_JUST_AFTER = 1e-3
_LIMIT = re.compile(r"[1-9][0-9]{0,8} *(?:/|per) *(?:[1-9][0-9]{0,4} *)?[a-z]+", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateState:
    """How much is left.

    Attributes:
        limit: Requests per window.
        remaining: Requests that would be served now.
        reset_seconds: Seconds until there is more room.
    """

    limit: int
    remaining: int
    reset_seconds: float

    @property
    def headers(self) -> dict[str, str]:
        """What a client is told of it in each answer."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(max(0, math.ceil(self.reset_seconds))),
        }


class Rates:
    """One limit, for each that asks by itself.

    Args:
        limit: Such as ``1200/minute`` or ``5 per 2 seconds``.
        setting: Name of the setting that it comes from, for the error.
        most: Of how many it is remembered.
        clock: Seconds, of a clock that is never set.
    """

    def __init__(
        self,
        limit: str,
        *,
        setting: str = "rate_limit",
        most: int = MOST_KEYS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._item = _parsed(limit, setting)
        self._counters = _Counters(most, clock)
        self._limiter = SlidingWindowCounterRateLimiter(self._counters)

    @property
    def known(self) -> int:
        """Of how many it is remembered."""
        return len(self._counters)

    @property
    def name(self) -> str:
        """The limit in words."""
        return str(self._item)

    async def check(self, key: str) -> RateState:
        """Counts a request.

        Raises:
            RateLimitedError: It is one too many; it does not count then.
        """
        served = await self._limiter.hit(self._item, key)
        state = self.state(key)
        if not served:
            raise RateLimitedError(self.name, retry_seconds(state.reset_seconds + _JUST_AFTER))
        return state

    def state(self, key: str) -> RateState:
        """How much is left for one that asks; counts nothing."""
        window = self._item.get_expiry()
        previous, previous_ttl, current, current_ttl = self._counters.window(self._item.key_for(key), window)
        used = math.floor(previous * previous_ttl / window + current)
        remaining = max(0, self._item.amount - used)
        reset = current_ttl if current else 0.0
        if previous:
            # The window before weighs less and less; this is when it gives back the next whole request.
            over = previous * previous_ttl / window + current - max(used, 1)
            reset = min(previous_ttl, max(0.0, over) * window / previous)
        return RateState(limit=self._item.amount, remaining=remaining, reset_seconds=reset)


def address_key(address: str) -> str:
    """By what an address is counted: its network of 64 bits for IPv6, as everybody has a whole one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
    return str(found)


def _parsed(limit: str, setting: str) -> RateLimitItem:
    # The library would take the first of several limits for all, and a window of nothing for one of a second.
    try:
        item = parse(limit) if _LIMIT.fullmatch(limit.strip()) else None
    except ValueError:
        item = None
    if item is None:
        raise ServerSettingsError(setting, f"must be one limit such as 1200/minute, got {limit!r}")
    return item


class _Counters(Storage, SlidingWindowCounterSupport):
    """Two counters for each that asks.

    The library's own memory looks at all of its keys after each request, so that many addresses would slow it down; and
    it goes by the clock on the wall, which can be set.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        super().__init__()
        self._most = most
        self._clock = clock
        self._counts: OrderedDict[str, tuple[int, int, int]] = OrderedDict()  # number of the window, counts

    def __len__(self) -> int:
        return len(self._counts)

    def window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Count and seconds left of the window before, count and seconds left of this one."""
        now = self._clock()
        number = int(now // expiry)
        seen, before, count = self._counts.get(key, (number, 0, 0))
        if seen == number - 1:
            before, count = count, 0
        elif seen != number:
            before, count = 0, 0
        left = expiry - now % expiry
        return before, left, count, left

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        before, left, count, _ = self.window(key, expiry)
        if math.floor(before * left / expiry + count) + amount > limit:
            if key in self._counts:
                self._counts.move_to_end(key)
            return False
        self._counts[key] = int(self._clock() // expiry), before, count + amount
        self._counts.move_to_end(key)
        if len(self._counts) > self._most:
            self._counts.popitem(last=False)
        return True

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        return self.window(key, expiry)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        self._counts.pop(key, None)

    # What other strategies would need.

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError

    async def get(self, key: str) -> int:
        raise NotImplementedError

    async def get_expiry(self, key: str) -> float:
        raise NotImplementedError

    async def check(self) -> bool:
        return True

    async def reset(self) -> int:
        removed = len(self._counts)
        self._counts.clear()
        return removed

    async def clear(self, key: str) -> None:
        self._counts.pop(key, None)
