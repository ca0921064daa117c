"""What the history says of earlier runs is what was recorded, whoever else uses its file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.errors import ResultsFileError, ResultsFileFormatError
from ipybox.testrun.history import History
from ipybox.testrun.model import RunReport
from ipybox.testrun.outcome import Outcome
from ipybox.testrun.results_file import APPLICATION_ID, MIGRATIONS, ResultsFile
from tests.testrun.reports import NASTY, REPORTS, case, one_of_each, report


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(tmp_path / "results.sqlite") as opened:
        yield opened


def ids(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/test_a.py::{name}" for name in names)


# ---- what is kept -----------------------------------------------------------------------------------------------


def test_a_new_history_is_empty(history: History) -> None:
    assert history.runs() == ()
    assert history.trend() == ()
    assert history.durations() == {}
    assert history.last_failed() == ()


def test_a_run_is_found_again_by_another_process_that_opens_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "directory" / "results.sqlite"
    with History(path) as history:
        run_id = history.record(one_of_each())
    with History(path) as history:
        (run,) = history.runs()
        results = history.results(run_id)
    assert (run.id, run.started_at, run.duration) == (run_id, "2026-03-01T12:00:00+00:00", 12.5)
    assert (run.framework, run.python, run.workers, run.isolation) == ("pytest 9.0.1", "3.11.7", 4, "test")
    assert run.counts == one_of_each().counts
    assert run.flaky == 1
    assert {result.id: result.outcome for result in results} == {
        result.id: result.outcome for result in one_of_each().results
    }


def test_runs_and_trend_have_the_last_ones_and_the_latest_at_the_end(history: History) -> None:
    recorded = [history.record(report(case("test_a"))) for _ in range(5)]
    assert [run.id for run in history.runs(last=3)] == recorded[-3:]
    assert [point.run_id for point in history.trend(last=2)] == recorded[-2:]
    assert history.runs(last=0) == ()
    assert history.trend(last=0) == ()


@settings(max_examples=50, deadline=None)
@given(recorded=st.lists(REPORTS, min_size=1, max_size=3))
def test_any_report_can_be_recorded(recorded: list[RunReport]) -> None:
    with tempfile.TemporaryDirectory() as directory, History(Path(directory) / "results.sqlite") as history:
        for each in recorded:
            run_id = history.record(each)
        assert {result.id for result in history.results(run_id)} == {result.id for result in recorded[-1].results}
        assert history.runs()[-1].counts == recorded[-1].counts
        assert len(history.trend()) == len(recorded)
        failed = {result.id for each in recorded for result in each.failures}
        assert set(history.last_failed()) <= failed
        history.durations()


def test_the_duration_of_a_test_is_the_median_of_its_last_five_passed_runs(history: History) -> None:
    for seconds in (100.0, 1.0, 2.0, 9.0, 3.0, 50.0):
        history.record(report(case("test_a", duration=seconds)))
    history.record(report(case("test_a", Outcome.FAILED, duration=1000.0)))
    history.record(report(case("test_a", duration=1000.0, cached=True, attempts=0)))
    assert history.durations() == {ids("test_a")[0]: 3.0}


def test_a_test_that_never_passed_has_no_duration(history: History) -> None:
    history.record(report(case("test_a", Outcome.TIMEOUT), case("test_b", Outcome.SKIPPED)))
    assert history.durations() == {}


def test_last_failed_are_those_that_did_not_succeed_when_they_were_last_run(history: History) -> None:
    history.record(report(case("test_a", Outcome.FAILED), case("test_b", Outcome.CRASHED), case("test_c")))
    history.record(report(case("test_a")))  # a run of a part says nothing about the others
    history.record(report(case("test_d", Outcome.INFRASTRUCTURE_ERROR), case("test_e", Outcome.XFAILED)))
    assert history.last_failed() == ids("test_b", "test_d")


def test_a_file_that_can_be_collected_again_has_not_failed_last(history: History) -> None:
    broken = case("", Outcome.ERROR, id="tests/test_a.py", phase="collect")
    history.record(report(broken))
    assert history.last_failed() == ("tests/test_a.py",)
    history.record(report(case("test_a")))
    assert history.last_failed() == ()
    assert history.trend()[-1].newly_fixed == ("tests/test_a.py",)


def test_an_id_with_two_results_has_failed_if_one_of_them_is_no_success(history: History) -> None:
    history.record(report(case("test_a"), case("test_a", Outcome.FAILED), case("test_a")))
    assert history.last_failed() == ids("test_a")


def test_the_trend_says_what_newly_fails_and_what_is_fixed(history: History) -> None:
    history.record(report(case("test_a"), case("test_b", Outcome.FAILED), case("test_c")))
    history.record(report(case("test_a", Outcome.TIMEOUT), case("test_b")))
    history.record(report(case("test_a", Outcome.CRASHED), case("test_b"), case("test_c", Outcome.FAILED)))
    history.record(report(case("test_new", Outcome.FAILED)))
    first, second, third, fourth = history.trend()
    assert (first.newly_failing, first.newly_fixed) == ((), ())  # there is nothing to compare it with
    assert (second.newly_failing, second.newly_fixed) == (ids("test_a"), ids("test_b"))
    assert (third.newly_failing, third.newly_fixed) == (ids("test_c"), ())
    assert fourth.newly_failing == ids("test_new")
    assert [point.success_rate for point in (first, second, fourth)] == [pytest.approx(2 / 3), 0.5, 0.0]


def test_a_trend_stays_as_it_was_when_older_runs_are_removed(tmp_path: Path) -> None:
    with History(tmp_path / "results.sqlite", keep=2) as history:
        history.record(report(case("test_a")))
        history.record(report(case("test_a", Outcome.FAILED)))
        before = history.trend()[-1]
        history.record(report(case("test_a", Outcome.FAILED)))
        assert history.trend()[0] == before


def test_no_more_runs_are_kept_than_asked_for_and_nothing_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with History(path, keep=3) as history:
        for number in range(10):
            history.record(report(case(f"test_{number}", Outcome.FAILED), case("test_always")))
        assert [run.id for run in history.runs()] == [8, 9, 10]
        assert history.last_failed() == ids("test_7", "test_8", "test_9")
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT count(*) FROM results").fetchone() == (6,)
        assert raw.execute("SELECT count(*) FROM cases").fetchone() == (4,)
        assert raw.execute("SELECT count(*) FROM changes").fetchone() == (3,)
    raw.close()


def test_ids_are_data_and_never_sql(history: History) -> None:
    evil = "x'); DROP TABLE cases; --" + NASTY
    history.record(report(case("", Outcome.FAILED, id=evil)))
    assert history.last_failed() == (evil,)


@pytest.mark.parametrize("keep", [0, -1])
def test_a_history_that_keeps_nothing_is_an_error(tmp_path: Path, keep: int) -> None:
    with pytest.raises(ValueError, match="keep"):
        History(tmp_path / "results.sqlite", keep=keep)


def test_ten_thousand_tests_are_recorded_within_seconds_and_read_at_once(history: History) -> None:
    results = [case(f"test_{number}") for number in range(10_000)]
    for _ in range(2):
        history.record(report(*results))
    assert len(history.durations()) == 10_000


# ---- the file ---------------------------------------------------------------------------------------------------

RECORD = """
import sys
from ipybox.testrun.history import History
from tests.testrun.reports import case, report
for number in range(int(sys.argv[3])):
    with History(sys.argv[1]) as history:
        history.record(report(case("test_shared"), case(f"test_{sys.argv[2]}_{number}")))
"""


def test_processes_that_record_into_one_new_file_at_the_same_time_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    root = Path(__file__).parent.parent.parent
    running = [
        subprocess.Popen(
            [sys.executable, "-c", RECORD, str(path), str(number), "10"], cwd=root, stderr=subprocess.PIPE, text=True
        )
        for number in range(4)
    ]
    errors = [process.communicate(timeout=60)[1] for process in running]
    assert errors == [""] * 4
    with History(path) as history:
        assert len(history.runs(last=100)) == 40
        assert len(history.durations()) == 41


def test_threads_share_a_history(history: History) -> None:
    threads = [threading.Thread(target=lambda: history.record(report(case("test_a")))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run.id for run in history.runs()] == list(range(1, 9))


def test_waiting_too_long_for_another_writer_is_told(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with ResultsFile(path) as first, ResultsFile(path, patience=0.05) as second:
        with first.writing():
            with pytest.raises(ResultsFileError, match="another process has been writing for too long"):
                with second.writing():
                    pass
        with second.writing():
            pass


def test_a_file_in_which_somebody_reads_is_opened_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with History(path) as history:
        history.record(report(case("test_a")))
    reader = sqlite3.connect(path, isolation_level=None)
    assert reader.execute("PRAGMA journal_mode = DELETE").fetchall() == [("delete",)]
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    with ResultsFile(path, patience=0.05):
        pass
    reader.execute("COMMIT")
    with History(path):
        assert reader.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    reader.close()


def test_a_recording_that_fails_leaves_nothing(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    history.record(report(case("test_a")))

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ipybox.testrun.history._changes", fail)
    with pytest.raises(KeyboardInterrupt):
        history.record(report(case("test_a", Outcome.FAILED)))
    assert history.last_failed() == ()
    assert len(history.runs()) == 1


def test_opening_a_file_twice_in_one_process_undoes_no_lock_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with History(path) as history:
        history.record(report(case("test_a")))
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA journal_mode = DELETE").fetchall() == [("delete",)]
    raw.close()
    write = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('DELETE FROM runs')"
    first = ResultsFile(path, patience=0.05)
    with patch.object(first, "_prefer_wal"), first, first.writing() as writer:
        writer.execute("UPDATE runs SET duration = 1")
        with ResultsFile(path, patience=0.05):
            pass
        done = subprocess.run([sys.executable, "-c", write, str(path)], capture_output=True, text=True, timeout=60)
    assert "database is locked" in done.stderr


FOREIGN = {
    "text": b"These are my notes, which nobody else has.\n" * 100,
    "short": b"x",
    "almost": b"SQLite format 3\0" + b"\x01" * 4096,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_that_is_no_history_is_told_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "results.sqlite"
    path.write_bytes(FOREIGN[name])
    with pytest.raises(ResultsFileFormatError, match="not made by ipybox"):
        History(path).__enter__()
    assert path.read_bytes() == FOREIGN[name]
    assert os.listdir(tmp_path) == ["results.sqlite"]


def test_a_database_of_somebody_else_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE runs (mine TEXT)")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(ResultsFileFormatError, match="not made by ipybox"):
        History(path).__enter__()
    assert path.read_bytes() == before


def test_a_damaged_file_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with History(path) as history:
        history.record(report(*(case(f"test_{number}") for number in range(500))))
    whole = path.read_bytes()
    for damaged in (whole[:100] + b"\xff" * (len(whole) - 100), whole[:2000]):
        path.write_bytes(damaged)
        with pytest.raises(ResultsFileFormatError, match="damaged"):
            with History(path) as history:
                history.record(report(case("test_a")))
        assert path.read_bytes() == damaged


def test_contents_that_make_no_sense_are_told_as_damage(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with History(path) as history:
        history.record(report(case("test_a")))
    for statement in ("UPDATE cases SET outcome = 'nonsense'", "UPDATE cases SET durations = '{'", "DROP TABLE runs"):
        raw = sqlite3.connect(path)
        raw.execute(statement)
        raw.commit()
        raw.close()
        with History(path) as history, pytest.raises(ResultsFileFormatError, match="damaged"):
            history.durations()
            history.last_failed()
            history.runs()


def test_a_file_of_a_later_version_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with ResultsFile(path, migrations=[*MIGRATIONS, ("CREATE TABLE later (x)",)]):
        pass
    before = path.read_bytes()
    with pytest.raises(ResultsFileFormatError, match=f"version is {len(MIGRATIONS) + 1}"):
        History(path).__enter__()
    assert path.read_bytes() == before


def test_a_file_of_an_earlier_version_is_brought_to_this_one_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with ResultsFile(path, migrations=MIGRATIONS[:1]) as old, old.writing() as writer:
        writer.execute("INSERT INTO cases VALUES (1, ?, ?, 'failed', 1, '[]')", (b"test_old", b""))
    with History(path) as history:
        assert history.last_failed() == ("test_old",)
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert raw.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    raw.close()


def test_a_migration_that_fails_leaves_the_file_at_its_version(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with History(path) as history:
        history.record(report(case("test_a")))
    with pytest.raises(ResultsFileFormatError):
        ResultsFile(path, migrations=[*MIGRATIONS, ("CREATE TABLE fine (x)", "CREATE TABLE nonsense")]).open()
    with History(path) as history:
        assert len(history.runs()) == 1


def test_a_place_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsFileError, match="directory can't be made"):
        History(tmp_path / "file" / "results.sqlite").__enter__()
    with pytest.raises(ResultsFileError, match="no regular file"):
        History(tmp_path).__enter__()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(ResultsFileError, match="no regular file"):
        History(fifo).__enter__()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_without_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ResultsFileError, match="directory must be writable"):
            History(tmp_path / "results.sqlite").__enter__()
    finally:
        tmp_path.chmod(0o700)


def test_a_file_system_that_takes_nothing_is_told() -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("there is no /proc here")
    with pytest.raises(ResultsFileError, match="directory must be writable"):
        History("/proc/self/results.sqlite").__enter__()


def test_a_history_is_copied_by_copying_its_file_once_it_is_closed(tmp_path: Path) -> None:
    with History(tmp_path / "a.sqlite") as history:
        history.record(report(case("test_a")))
    shutil.copy(tmp_path / "a.sqlite", tmp_path / "b.sqlite")
    with History(tmp_path / "b.sqlite") as history:
        assert len(history.runs()) == 1


def test_no_name_of_a_file_means_anything_else_to_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:x?mode=memory"):
        with History(name) as history:
            history.record(report(case("test_a")))
        assert (tmp_path / name).is_file()


def test_a_closed_history_says_so(tmp_path: Path) -> None:
    history = History(tmp_path / "results.sqlite")
    with pytest.raises(ValueError, match="is not open"):
        history.runs()
