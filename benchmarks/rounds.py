"""Runs figures on all sides, turn by turn, each run in a fresh process that gets a limited time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.plan import Figure, SideName
from benchmarks.progress import say

_PACKAGE = Path(__file__).resolve().parent
_INTRODUCTION_TIMEOUT = 120.0


class WorkerError(Exception):
    """A side does not work at all."""


@dataclass(slots=True)
class Run:
    """What one run of one figure on one side brought home."""

    values: dict[str, list[float]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


Results = dict[str, dict[SideName, list[Run]]]
"""Runs by figure and side, one per round."""


def introduce(side: SideName, python: Path) -> dict[str, str]:
    """Finds out whether a side works, and its versions."""
    lines, trouble = _work(python, {"side": side, "figure": None}, _INTRODUCTION_TIMEOUT)
    if trouble is not None or not lines:
        raise WorkerError(f"{side} does not work here: {trouble or 'it says nothing'}")
    versions: dict[str, str] = lines[0]["versions"]
    return versions


def measure(figures: list[Figure], interpreters: Mapping[SideName, Path], *, rounds: int, quick: bool) -> Results:
    """All figures, round by round. Who begins changes from round to round."""
    results: Results = {figure.name: {side: [] for side in figure.sides if side in interpreters} for figure in figures}
    for number in range(rounds):
        for figure in figures:
            sides = list(results[figure.name])
            turn = number % len(sides)
            for side in sides[turn:] + sides[:turn]:
                say(f"round {number + 1} of {rounds}: {figure.name} on {side}")
                results[figure.name][side].append(_run(figure, side, interpreters[side], quick))
    say("")
    return results


def _run(figure: Figure, side: SideName, python: Path, quick: bool) -> Run:
    size = figure.quick_size if quick else figure.size
    lines, trouble = _work(python, {"side": side, "figure": figure.name, "size": size}, figure.timeout)
    run = Run()
    for line in lines:
        if "key" in line:
            run.values.setdefault(line["key"], []).append(line["value"])
        else:
            run.troubles.append(line["trouble"])
    if trouble is not None:
        run.troubles.append(trouble)
    return run


def _work(python: Path, job: dict[str, Any], timeout: float) -> tuple[list[dict[str, Any]], str | None]:
    """Runs a worker; returns what it wrote, and what went wrong with it."""
    with _directory() as directory, tempfile.TemporaryFile() as log:
        job["started_at"] = time.monotonic()
        process = subprocess.Popen(
            [str(python), "-s", "-m", "benchmarks.worker", json.dumps(job)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=directory,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            start_new_session=True,
            text=True,
        )
        trouble = None
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            trouble = "hangs"
            _kill(process.pid)
            output, _ = process.communicate()
        finally:
            _kill(process.pid)
        if trouble is None and process.returncode:
            log.seek(0)
            last = log.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            trouble = f"ends with {process.returncode}: {''.join(last)[:300]}"
    lines: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines() if line.endswith("}")]
    return lines, trouble


@contextmanager
def _directory() -> Iterator[str]:
    """A working directory from which ``benchmarks`` can be imported, and not the ``ipybox`` beside it."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True) as directory:
        os.symlink(_PACKAGE, os.path.join(directory, _PACKAGE.name))
        yield directory


def _kill(pid: int) -> None:
    """Ends a worker and what it left: kernels have sessions of their own."""
    family: list[psutil.Process] = []
    with suppress(psutil.Error):
        family = psutil.Process(pid).children(recursive=True)
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    for process in family:
        with suppress(psutil.Error):
            process.kill()
