"""Who is signed in: random names in cookies, and the keys that they stand for. Kept in memory. Floor: control.

The key itself is not kept, and whether it still counts is asked anew for each request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

COOKIE = "ipybox_console"
IDLE_SECONDS = 12 * 3600.0
"""After which somebody who was not seen has to sign in again."""
_MOST = 2000
_MOST_OF_A_KEY = 20
"""So that nobody can sign all others out."""


class SignIns:
    """Those that there are. ``clock`` gives seconds; it must never be set."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._secret = secrets.token_bytes(32)

    def add(self, key_id: str) -> str:
        """Signs somebody in. Returns what the cookie holds."""
        token = secrets.token_urlsafe(32)
        theirs = [name for name, (id, _) in self._known.items() if id == key_id]
        for name in theirs[: max(0, len(theirs) + 1 - _MOST_OF_A_KEY)]:
            del self._known[name]
        self._known[_hashed(token)] = key_id, self._clock()
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
        return token

    def key_id(self, token: str) -> str | None:
        """Id of the key that a cookie stands for; None for one that is unknown, or was not seen for too long."""
        name = _hashed(token)
        found = self._known.get(name)
        if found is None:
            return None
        now = self._clock()
        if now >= found[1] + IDLE_SECONDS:
            del self._known[name]
            return None
        self._known[name] = found[0], now
        self._known.move_to_end(name)
        return found[0]

    def forget(self, token: str) -> None:
        """Signs somebody out."""
        self._known.pop(_hashed(token), None)

    def form_token(self, identity: str) -> str:
        """What forms of somebody have to bring along, and what no other page can know."""
        return hmac.new(self._secret, identity.encode(), hashlib.sha256).hexdigest()

    def is_form_token(self, identity: str, text: str) -> bool:
        """Whether it is that."""
        return hmac.compare_digest(self.form_token(identity).encode(), text.encode("utf-8", "replace"))


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
