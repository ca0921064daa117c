"""The results of earlier runs: how long each test takes, which failed last, how it went over time. Floor: testrun."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from types import TracebackType
from typing import Self

from ipybox import arguments
from ipybox.testrun.model import CaseResult, Isolation, RunReport
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.results_file import ResultsFile
from ipybox.testrun.seconds import finite
from ipybox.testrun.trend import TrendPoint
from ipybox.testrun.visible_text import visible

KEPT_RUNS = 200
RECENT = 5
"""From how many runs in which it passed a test's usual duration is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """What is kept of a run as a whole.

    Attributes:
        id: Its number, in the order of recording, from 1; never used again.
        started_at: When it began, in UTC, as in ISO 8601.
        duration: Seconds.
        counts: How many tests came to which outcome.
        flaky: How many succeeded only on a later attempt.
        interrupted: Whether it was ended before its time.
        framework: Such as ``pytest 9.0.1``.
        isolation: What shared a sandbox.
        workers: Most sandboxes at the same time.
        python: Version of Python that ran the tests.
    """

    id: int
    started_at: str
    duration: float
    counts: dict[Outcome, int]
    flaky: int
    interrupted: bool
    framework: str
    isolation: Isolation
    workers: int
    python: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What is known of a test from all runs: how it came out last, and its latest durations when it passed."""

    id: int
    outcome: Outcome
    durations: list[float]


class History:
    """Results of runs in a file. A context manager that opens and closes it; methods work in between.

    One file is for one project. Any number of processes may use it at the same time. Threads take turns. It blocks for
    milliseconds, so asynchronous code calls it in a thread.

    Args:
        path: The file; it and its directory are made. It belongs where tests can't write.
        keep: Most runs to keep; the oldest are removed when one is recorded.

    Raises:
        ResultsFileError: On entering and by all methods: the file can't be read or written.
        ResultsFileFormatError: Likewise: it is damaged, not ours, or of a later version. It is left as it is.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep: int = KEPT_RUNS) -> None:
        if arguments.position("keep", keep) < 1:
            raise ValueError(f"keep must be 1 or more, got {keep}")
        self._keep = keep
        self._file = ResultsFile(path)

    def __enter__(self) -> Self:
        self._file.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def record(self, report: RunReport) -> int:
        """Keeps the results of a run, all or nothing, and gives its number."""
        results = _by_id(report.results)
        with self._file.writing() as writer:
            ((is_first,),) = writer.execute("SELECT NOT EXISTS (SELECT * FROM runs)")
            run = _insert_run(writer, report)
            known = _known_cases(writer, results)
            ids = _update_cases(writer, run, results, known)
            writer.executemany(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (run, ids[name], str(result.outcome), finite(result.duration), result.attempts, result.flaky)
                    for name, result in results.items()
                ),
            )
            changed = [] if is_first else _changes(results, known, ids)
            changed += _collected_again(writer, run, results)
            writer.executemany(
                "INSERT INTO changes VALUES (?, ?, ?)", ((run, case, is_fixed) for case, is_fixed in changed)
            )
            writer.execute(
                "DELETE FROM runs WHERE id <= (SELECT id FROM runs ORDER BY id DESC LIMIT 1 OFFSET ?)", (self._keep,)
            )
            writer.execute("DELETE FROM cases WHERE run < (SELECT min(id) FROM runs)")
        return run

    def runs(self, last: int = 20) -> tuple[RecordedRun, ...]:
        """The last runs, in the order in which they were recorded."""
        arguments.position("last", last)
        with self._file.reading() as reader:
            return _runs(reader, last)

    def results(self, run_id: int) -> tuple[CaseResult, ...]:
        """The results of one run, by id, without messages and output. None of them if there is no such run."""
        with self._file.reading() as reader:
            rows = reader.execute(
                """SELECT cases.name, results.outcome, results.duration, results.attempts, results.flaky, cases.file
                FROM results JOIN cases ON cases.id = results.case_id WHERE results.run = ? ORDER BY cases.name""",
                (run_id,),
            )
            return tuple(
                CaseResult(
                    id=_text(name),
                    outcome=Outcome(outcome),
                    duration=duration,
                    attempts=attempts,
                    flaky=bool(flaky),
                    cached=attempts == 0,
                    file=_text(file),
                )
                for name, outcome, duration, attempts, flaky, file in rows
            )

    def durations(self) -> dict[str, float]:
        """Seconds that each test usually takes: the median of the last 5 runs in which it passed.

        A test that never passed, or only from the cache, has none.
        """
        with self._file.reading() as reader:
            rows = reader.execute("SELECT name, durations FROM cases")
            return {_text(name): median(seconds) for name, text in rows if (seconds := json.loads(text))}

    def last_failed(self) -> tuple[str, ...]:
        """Ids of what did not succeed when it was last run, in whichever run that was; sorted.

        Some may be of tests that don't exist any more.
        """
        with self._file.reading() as reader:
            rows = reader.execute("SELECT name, outcome FROM cases ORDER BY name")
            return tuple(_text(name) for name, outcome in rows if not Outcome(outcome).is_success)

    def trend(self, last: int = 20) -> tuple[TrendPoint, ...]:
        """How the last runs went, in the order in which they were recorded."""
        arguments.position("last", last)
        with self._file.reading() as reader:
            runs = _runs(reader, last)
            changes: dict[int, tuple[list[str], list[str]]] = {run.id: ([], []) for run in runs}
            rows = reader.execute(
                """SELECT changes.run, changes.is_fixed, cases.name FROM changes
                JOIN cases ON cases.id = changes.case_id
                WHERE changes.run >= ? ORDER BY changes.run, cases.name""",
                (runs[0].id if runs else 0,),
            )
            for run, is_fixed, name in rows:
                changes[run][is_fixed].append(_text(name))
        return tuple(
            TrendPoint(
                run_id=run.id,
                started_at=run.started_at,
                duration=run.duration,
                counts=run.counts,
                flaky=run.flaky,
                newly_failing=tuple(changes[run.id][0]),
                newly_fixed=tuple(changes[run.id][1]),
            )
            for run in runs
        )


# ---- recording --------------------------------------------------------------------------------------------------


def _by_id(results: Iterable[CaseResult]) -> dict[bytes, CaseResult]:
    """One result for each id; of several the first that is no success, so that none hides a failure."""
    found: dict[bytes, CaseResult] = {}
    for result in results:
        name = _raw(result.id)
        if name not in found or (found[name].outcome.is_success and not result.outcome.is_success):
            found[name] = result
    return found


def _insert_run(writer: sqlite3.Connection, report: RunReport) -> int:
    run = writer.execute(
        """INSERT INTO runs (started_at, duration, counts, flaky, interrupted, framework, isolation, workers, python)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            visible(report.started_at),
            finite(report.duration),
            json.dumps({str(outcome): count for outcome, count in report.counts.items()}),
            len(report.flaky),
            report.interrupted,
            visible(report.framework),
            report.isolation,
            report.workers,
            visible(report.python),
        ),
    ).lastrowid
    assert run is not None
    return run


def _known_cases(reader: sqlite3.Connection, names: Iterable[bytes]) -> dict[bytes, _Case]:
    found = {}
    for name in names:
        row = reader.execute("SELECT id, outcome, durations FROM cases WHERE name = ?", (name,)).fetchone()
        if row is not None:
            found[name] = _Case(id=row[0], outcome=Outcome(row[1]), durations=json.loads(row[2]))
    return found


def _update_cases(
    writer: sqlite3.Connection, run: int, results: dict[bytes, CaseResult], known: dict[bytes, _Case]
) -> dict[bytes, int]:
    """Takes down how each test came out last, and gives their numbers."""
    ids = {}
    for name, result in results.items():
        durations = known[name].durations if name in known else []
        if result.outcome is Outcome.PASSED and not result.cached:
            durations = [*durations, finite(result.duration)][-RECENT:]
        ((ids[name],),) = writer.execute(
            """INSERT INTO cases (name, file, outcome, run, durations) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (name) DO UPDATE SET file = excluded.file, outcome = excluded.outcome, run = excluded.run,
            durations = excluded.durations RETURNING id""",
            (name, _raw(result.file), str(result.outcome), run, json.dumps(durations)),
        )
    return ids


def _changes(
    results: dict[bytes, CaseResult], known: dict[bytes, _Case], ids: dict[bytes, int]
) -> list[tuple[int, bool]]:
    """Which tests came out otherwise than the last time they were run, and whether they are fixed."""
    changed = []
    for name, result in results.items():
        succeeded = name not in known or known[name].outcome.is_success
        if result.outcome.is_success is not succeeded:
            changed.append((ids[name], result.outcome.is_success))
    return changed


def _collected_again(writer: sqlite3.Connection, run: int, results: dict[bytes, CaseResult]) -> list[tuple[int, bool]]:
    """A file that could not be collected has a result of its own. Once its tests have some, it is fixed."""
    fixed = []
    for file in {_raw(result.file) for result in results.values() if result.file} - set(results):
        row = writer.execute("SELECT id, outcome FROM cases WHERE name = ?", (file,)).fetchone()
        if row is not None and not Outcome(row[1]).is_success:
            writer.execute("UPDATE cases SET outcome = ?, run = ? WHERE id = ?", (str(Outcome.PASSED), run, row[0]))
            fixed.append((row[0], True))
    return fixed


# ---- reading ----------------------------------------------------------------------------------------------------


def _runs(reader: sqlite3.Connection, last: int) -> tuple[RecordedRun, ...]:
    rows = reader.execute(
        """SELECT id, started_at, duration, counts, flaky, interrupted, framework, isolation, workers, python
        FROM runs ORDER BY id DESC LIMIT ?""",
        (last,),
    ).fetchall()
    return tuple(
        RecordedRun(
            id=row[0],
            started_at=row[1],
            duration=row[2],
            counts={Outcome(name): count for name, count in json.loads(row[3]).items()},
            flaky=row[4],
            interrupted=bool(row[5]),
            framework=row[6],
            isolation=row[7],
            workers=row[8],
            python=row[9],
        )
        for row in reversed(rows)
    )


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")
