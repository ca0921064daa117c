"""Command line: what a person types. Floor: cli."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``ipybox`` command."""
    from ipybox.cli.app import app

    app()
