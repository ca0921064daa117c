"""What sandboxed code made that other programs may trust. Floor: sandbox.

Existing places of that kind can't be written inside (see ``protected``); a place that is not there yet can't be
guarded without a phantom of it in the user's directory, so it is told afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ipybox.errors import PolicyError
from ipybox.sandbox.protected import find_protected

log = logging.getLogger("ipybox.sandbox")


class Audit:
    """Compares directories with what they were.

    Args:
        roots: Directories that sandboxed code may write.
    """

    def __init__(self, roots: Iterable[str]) -> None:
        self._roots = tuple(roots)
        self._before = self._protected()

    def new(self) -> list[str]:
        """Protected places that were not there before."""
        return sorted(self._protected() - self._before)

    def _protected(self) -> set[str]:
        found: set[str] = set()
        for root in self._roots:
            try:
                protected = find_protected(root)
            except PolicyError as error:
                log.warning(
                    "%s could not be looked through, so what sandboxed code made there is not known: %s", root, error
                )
                continue
            found.update(protected.paths, protected.links)
        return found
