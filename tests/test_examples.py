"""The examples do what they show: a cookbook for cloud sandboxes, with its import changed and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def printed(name: str, directory: Path) -> dict[str, Any]:
    """What an example prints, which is JSON."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.sandbox
def test_step_1_runs_a_test(tmp_path: Path) -> None:
    found = printed("cookbook_step1", tmp_path)
    assert set(found) == {"success", "exit_code", "stdout", "stderr", "test_results", "execution_time"}
    assert (found["success"], found["exit_code"]) == (True, 0)
    assert found["test_results"] == {"passed": 2, "failed": 0, "total": 2}
    assert found["execution_time"] > 0


@pytest.mark.sandbox
def test_step_2_runs_tests_at_the_same_time(tmp_path: Path) -> None:
    found = printed("cookbook_step2", tmp_path)
    assert (found["total_tests"], found["passed"], found["failed"], found["success_rate"]) == (2, 2, 0, 100.0)
    assert {each["test_name"] for each in found["results"]} == {"test_math", "test_strings"}
    for each in found["results"]:
        assert each["result"]["test_results"] == {"passed": 1, "failed": 0, "total": 1}


@pytest.mark.sandbox
def test_step_3_runs_a_test_with_files_and_setup(tmp_path: Path) -> None:
    found = printed("cookbook_step3", tmp_path)
    assert set(found) == {"success", "stdout", "stderr", "exit_code", "execution_time"}
    assert (found["success"], found["exit_code"]) == (True, 0)
    assert "Ran 2 tests" in found["stderr"]


def test_step_4_adds_up(tmp_path: Path) -> None:
    found = printed("cookbook_step4", tmp_path)
    summary = found["summary"]
    assert (summary["total"], summary["passed"], summary["failed"]) == (3, 2, 1)
    assert summary["success_rate"] == pytest.approx(66.67, abs=0.01)
    assert summary["average_execution_time"] == pytest.approx(1.8)
    assert summary["total_execution_time"] == pytest.approx(3.6)
    assert found["failed_tests"] == [{"name": "test_2", "error": "Assertion failed", "execution_time": 0}]
