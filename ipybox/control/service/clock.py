"""Time that goes on evenly, whatever is done to the wall clock. Floor: control."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from ipybox.control.service.ids import now

_STEP = timedelta(seconds=1)
"""By how much the wall clock has to be off before it counts as set; below that, what was shown once stays as it is."""

Moment = timedelta
"""Since some point in the past of this machine."""


class SteadyClock:
    """Tells for how long something is there, and shows it as the wall clock has it.

    A wall clock that is set, by hand or since it was wrong when the machine came up, ends nothing and keeps nothing.
    The time for which a machine is suspended does not count.
    """

    def __init__(self) -> None:
        self._epoch = now() - self.moment()

    def moment(self) -> Moment:
        """Now."""
        return timedelta(seconds=time.monotonic())

    def of(self, at: datetime) -> Moment:
        """The moment of a time of the wall clock, which another server may have written down."""
        return at - self._looked_at()

    def shown(self, moment: Moment) -> datetime:
        """A moment as the wall clock has it now, aware, in UTC."""
        return self._looked_at() + moment

    def _looked_at(self) -> datetime:
        epoch = now() - self.moment()
        if abs(epoch - self._epoch) > _STEP:
            self._epoch = epoch
        return self._epoch
