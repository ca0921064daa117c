"""One piece of test code, in a sandbox of its own. Floor: testrun."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipybox.errors import SandboxFileError
from ipybox.session.blocking import Sandbox
from ipybox.session.results import CommandResult
from ipybox.testrun import inside_report
from ipybox.testrun.outcome import Outcome

TEST_FILE = "/workspace/test_file.py"
"""Where the code of a test is."""
FRAMEWORKS = ("pytest", "unittest")
"""What tests are counted by; code for any other framework is run as it is."""
SPARE_SECONDS = 30.0
"""How much longer than its test a sandbox lives."""
_PLACE = "/tmp/ipybox-tests"
_COUNTED = {
    "passed": Outcome.PASSED,
    "failed": Outcome.FAILED,
    "errors": Outcome.ERROR,
    "skipped": Outcome.SKIPPED,
    "xfailed": Outcome.XFAILED,
    "xpassed": Outcome.XPASSED,
}


class IsolatedTestExecutor:
    """Runs tests, each in a fresh sandbox that is gone after it. Any thread may use it.

    Args:
        api_key: Unused: no account is needed.
        sandbox_options: More arguments for :meth:`ipybox.session.Sandbox.create`, such as ``memory`` or ``network``.
    """

    def __init__(self, api_key: str | None = None, *, sandbox_options: Mapping[str, Any] | None = None) -> None:
        self.api_key = api_key
        self._options = dict(sandbox_options or {})

    def execute_test(self, test_code: str, test_framework: str = "pytest", timeout: float = 60) -> dict[str, Any]:
        """Runs test code, and says what became of it. Raises nothing that the test or the sandbox is the cause of.

        Args:
            test_code: A file of tests.
            test_framework: ``"pytest"`` or ``"unittest"``. Anything else runs the code as a program, and counts
                nothing.
            timeout: Seconds that the tests may take.

        Returns:
            ``success``, ``exit_code``, ``stdout``, ``stderr``, ``execution_time`` in seconds, and ``test_results``: how
            many tests ``passed`` and ``failed``, had ``errors``, were ``skipped``, ``xfailed``, ``xpassed``, and the
            ``total``, by the framework's own account. Where not the tests are what failed, ``error`` says in a sentence
            what did. If there was no sandbox, or it ended: ``success``, ``error`` and ``stderr`` only.
        """
        try:
            with Sandbox.create(
                api_key=self.api_key, timeout_seconds=timeout + SPARE_SECONDS, **self._options
            ) as sandbox:
                if test_framework in FRAMEWORKS:
                    return _with_framework(sandbox, test_code, test_framework, timeout)
                done = sandbox.run_code(test_code, timeout=timeout)
                result = _result(done.success, done.to_dict(), _Report({}))
                return {**result, "error": done.error} if done.error is not None else result
        except Exception as error:
            return {"success": False, "error": str(error), "stderr": str(error)}


@dataclass(frozen=True, slots=True)
class _Report:
    """What a framework said.

    Attributes:
        outcomes: The last one of each test.
        finished: The exit code that it was about to end with; None if it did not come to that.
    """

    outcomes: Mapping[str, Outcome]
    finished: int | None = None

    def counts(self) -> dict[str, int]:
        """How many tests came to which outcome."""
        found = Counter(self.outcomes.values())
        counted = {name: found[outcome] for name, outcome in _COUNTED.items()}
        return {"passed": counted["passed"], "failed": counted["failed"], "total": sum(counted.values()), **counted}


def _with_framework(sandbox: Sandbox, code: str, framework: str, timeout: float) -> dict[str, Any]:
    word = secrets.token_hex(16)
    report = f"{_PLACE}/{secrets.token_hex(8)}"
    config = {"framework": framework, "file": TEST_FILE, "report": report, "word": word}
    sandbox.files.write(TEST_FILE, code)
    sandbox.files.write(f"{_PLACE}/run_tests.py", Path(inside_report.__file__).read_bytes())
    sandbox.files.write(f"{_PLACE}/config", json.dumps(config))
    done = sandbox.commands.run(["python", "-P", f"{_PLACE}/run_tests.py", f"{_PLACE}/config"], timeout=timeout)
    found = _read(sandbox, report, word)
    error = _error(done, found, framework, timeout)
    success = done.exit_code == 0 and error is None
    result = _result(success, done.to_dict(), found)
    return result if error is None else {**result, "error": error}


def _error(done: CommandResult, report: _Report, framework: str, timeout: float) -> str | None:
    """What else than a test has failed."""
    if done.timed_out:
        return f"the tests took longer than {timeout:g} s and were ended"
    if report.finished is None:
        return f"the tests ended, with exit code {done.exit_code}, before {framework} had reported on all of them"
    if report.finished != done.exit_code:
        return f"{framework} came to exit code {report.finished}, and its process ended with {done.exit_code}"
    bad = [test for test, outcome in report.outcomes.items() if not outcome.is_success]
    if not report.outcomes:
        return "there was no test"
    if done.exit_code != 0 and not bad:
        return f"{framework} ended with exit code {done.exit_code}, though no test failed"
    if done.exit_code == 0 and bad:
        return f"{framework} ended with exit code 0, though {len(bad)} tests failed"
    return None


def _read(sandbox: Sandbox, path: str, word: str) -> _Report:
    """The report, as far as it is one."""
    try:
        text = sandbox.files.read(path)
    except SandboxFileError:
        return _Report({})
    outcomes: dict[str, Outcome] = {}
    finished: int | None = None
    for facts in _lines(text, word):
        if finished is not None:
            return _Report(outcomes)  # nothing comes after the end
        if type(facts.get("finished")) is int:
            finished = facts["finished"]
        elif isinstance(facts.get("test"), str) and facts.get("outcome") in _COUNTED.values():
            outcomes[facts["test"]] = Outcome(facts["outcome"])
        else:
            return _Report(outcomes)
    return _Report(outcomes, finished)


def _lines(text: str, word: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        begin, _, rest = line.partition(" ")
        try:
            facts = json.loads(rest) if secrets.compare_digest(begin.encode(), word.encode()) else None
        except (ValueError, RecursionError):
            facts = None
        yield facts if isinstance(facts, dict) else {}


def _result(success: bool, done: Mapping[str, Any], report: _Report) -> dict[str, Any]:
    return {
        "success": success,
        "exit_code": done["exit_code"],
        "stdout": done["stdout"],
        "stderr": done["stderr"],
        "test_results": report.counts(),
        "execution_time": done["execution_time"],
    }
