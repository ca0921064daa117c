"""Command line: what a person types. Floor: cli."""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell has it."""


def main() -> None:
    """Entry point of the ``ipybox`` command."""
    try:
        from ipybox.cli.app import app

        app()
    except KeyboardInterrupt:  # before there was anything to end
        sys.exit(INTERRUPTED)
