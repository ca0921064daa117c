"""Processes that a test has started, among those that others in this one have left running."""

from __future__ import annotations

import psutil


def below() -> set[psutil.Process]:
    """All processes that this one has started, and what they have."""
    return set(psutil.Process().children(recursive=True))
