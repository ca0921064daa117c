"""``python -m benchmarks``: see ``--help``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.environment import PEER, PeerInstallError, interpreter
from benchmarks.plan import ALL, Figure, SideName, all_figures
from benchmarks.report import report
from benchmarks.rounds import WorkerError, introduce, measure


def main() -> None:
    """Measures and prints one table."""
    known = all_figures()
    options = _arguments(known)
    figures = [known[name] for name in options.only or known]
    sides = [side for side in ALL if any(side in figure.sides for figure in figures)]
    if options.no_peer:
        sides = [side for side in sides if side != "peer"]
    rounds = options.rounds or (2 if options.quick else 5)
    before = _load()
    try:
        interpreters: dict[SideName, Path] = {side: interpreter(side) for side in sides}
        versions = {side: introduce(side, python) for side, python in interpreters.items()}
        results = measure(figures, interpreters, rounds=rounds, quick=options.quick)
    except (PeerInstallError, WorkerError) as error:
        sys.exit(f"error: {error}")
    table = report(figures, results, quick=options.quick)
    heading = _heading(rounds, versions, before)
    if options.markdown:
        sys.stdout.write("\n".join([*heading, "", table.markdown()]))
    else:
        sys.stdout.write("\n".join([*heading, ""]))
        sys.stdout.flush()
        table.show()


def _arguments(known: dict[str, Figure]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measure ipybox and its peer ({' '.join(PEER)}) side by side, and print one table.",
        epilog="Compare ratios; times depend on the machine and on what else it does.",
    )
    parser.add_argument("--only", action="append", choices=list(known), metavar="NAME", help=", ".join(known))
    parser.add_argument("--rounds", type=_positive, metavar="N", help="default: 5, with --quick 2")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--no-peer", action="store_true", help="leave the peer out; needs no network")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _heading(rounds: int, versions: dict[SideName, dict[str, str]], load_before: str) -> list[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}"
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {rounds} round{'s' if rounds > 1 else ''}"
    lines = [f"{when}, {machine}, load {load_before} to {_load()}"]
    for side, packages in versions.items():
        lines.append(f"{side}: " + ", ".join(f"{name} {version}" for name, version in packages.items()))
    return lines


def _load() -> str:
    """How busy the machine was in the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
