"""``NAME=VALUE`` on the command line. Floor: cli."""

from __future__ import annotations

from collections.abc import Sequence


def parse_env(pairs: Sequence[str], option: str = "--env") -> dict[str, str]:
    """Reads ``NAME=VALUE`` texts of an option. Raises ``ValueError`` for anything else."""
    env = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise ValueError(f"{option} wants NAME=VALUE, got {pair!r}")
        env[name] = value
    return env
