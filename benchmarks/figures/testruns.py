"""What it costs that every test has a sandbox of its own, next to plain pytest in one process."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.plan import Record, Row, figure
from benchmarks.sides import Side

_FILES = 10


@figure(
    "testruns",
    Row(key="fresh", title="trivial tests, each in a fresh sandbox", unit="1/s"),
    Row(key="whole", title="all of them with `ipybox test`, a sandbox for each test", unit="s"),
    Row(key="files", title="all of them with `ipybox test --isolate file`", unit="s"),
    Row(key="plain", title="    all of them with plain pytest in one process", unit="s"),
    sides=("ipybox",),
    size=300,
    quick_size=40,
    timeout=300,
)
async def testruns(side: Side, size: int, record: Record) -> None:
    """One project of trivial tests in ten files, three ways; commands are measured with the start of Python."""
    from ipybox.testrun.runner import TestRun
    from ipybox.testrun.settings import RunSettings

    with tempfile.TemporaryDirectory() as directory:
        _write_project(Path(directory), size)
        async with TestRun(RunSettings(cwd=directory)) as run:
            found = await run.collect()
            start = time.perf_counter()
            report = await run.run()
            record.add("fresh", len(found.items) / (time.perf_counter() - start))
            assert report.exit_code == 0
        tested = (str(Path(sys.executable).with_name("ipybox")), "test", "--no-history", "-q")
        record.add("whole", await _timed(directory, *tested))
        record.add("files", await _timed(directory, *tested, "--isolate", "file"))
        record.add("plain", await _timed(directory, sys.executable, "-m", "pytest", "-q"))


def _write_project(directory: Path, size: int) -> None:
    for number in range(_FILES):
        tests = (f"def test_{test}():\n    assert {test} + 1 == {test + 1}\n" for test in range(size // _FILES))
        (directory / f"test_{number}.py").write_text("\n".join(tests), encoding="utf-8")
    (directory / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")


async def _timed(directory: str, *command: str) -> float:
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, cwd=directory, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError(f"{command} failed")
    return time.perf_counter() - start
