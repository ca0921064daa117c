"""``NAME=VALUE`` on the command line. Floor: cli."""

from __future__ import annotations

from collections.abc import Sequence


def parse_env(pairs: Sequence[str]) -> dict[str, str]:
    """Reads ``NAME=VALUE`` texts. Raises ``ValueError`` for anything else."""
    env = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise ValueError(f"--env wants NAME=VALUE, got {pair!r}")
        env[name] = value
    return env
