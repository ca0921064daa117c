"""A test with files, set-up and teardown, in a sandbox of its own. Floor: testrun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipybox.session.blocking import Sandbox
from ipybox.session.results import CodeResult

STAGE_SECONDS = 30.0
"""How long set-up and teardown may take, each."""
SPARE_SECONDS = 30.0
"""How much longer than all its stages a sandbox lives."""


class IsolatedTestRunner:
    """Runs tests in stages, each test in a fresh sandbox that is gone after it. Any thread may use it.

    Args:
        api_key: Unused: no account is needed.
        sandbox_options: More arguments for :meth:`ipybox.session.Sandbox.create`, such as ``memory`` or ``network``.
    """

    def __init__(self, api_key: str | None = None, *, sandbox_options: Mapping[str, Any] | None = None) -> None:
        self.api_key = api_key
        self._options = dict(sandbox_options or {})

    def run_isolated_test(self, test_config: Mapping[str, Any]) -> dict[str, Any]:
        """Runs one test: creates a sandbox, writes files, sets up, tests, tears down, and ends the sandbox.

        Set-up, test and teardown share one Python, so what the one defines, the others see. Teardown runs whatever
        became of the stages before it, as long as there is a sandbox. Nothing is raised that they are the cause of.

        Args:
            test_config: ``test_code``; and if wanted its ``language`` (``"python"``) and ``timeout`` in seconds (60),
                ``files`` with a ``path`` and ``content`` each, ``setup`` and ``teardown`` in Python, which may take
                30 s each, and ``env_vars``.

        Returns:
            ``success``, ``stdout``, ``stderr``, ``exit_code`` and ``execution_time`` in seconds, of the test. If
            something has failed, ``stage`` says what (``create``, ``files``, ``setup``, ``test`` or ``teardown``), and
            ``error`` how; what did not come to its test has only these two and ``success``. A teardown that failed
            after a test that failed as well is in ``teardown_error``.
        """
        try:
            checked = _Config(test_config)
            sandbox = Sandbox.create(
                api_key=self.api_key,
                timeout_seconds=checked.timeout + 2 * STAGE_SECONDS + SPARE_SECONDS,
                env_vars=checked.env_vars,
                **self._options,
            )
        except Exception as error:
            return _failed("create", error)
        with sandbox:
            result = _until_test(sandbox, checked)
            return _after_teardown(result, _teardown(sandbox, checked))


class _Config:
    """What is to be done, with what was left out."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        if "test_code" not in config:
            raise ValueError("test_code is missing")
        self.test_code: str = config["test_code"]
        self.language: str = config.get("language", "python")
        self.timeout: float = config.get("timeout", 60)
        self.files = list(config.get("files") or ())
        self.setup: str = config.get("setup") or ""
        self.teardown: str = config.get("teardown") or ""
        self.env_vars: Mapping[str, str] = config.get("env_vars") or {}


def _until_test(sandbox: Sandbox, config: _Config) -> dict[str, Any]:
    stage = "files"
    try:
        for each in config.files:
            sandbox.files.write(each["path"], each["content"])
        stage = "setup"
        if config.setup:
            setup = sandbox.run_code(config.setup, timeout=STAGE_SECONDS)
            if not setup.success:
                return {"success": False, "error": f"Setup failed: {_account(setup)}", "stage": stage}
        stage = "test"
        test = sandbox.run_code(config.test_code, language=config.language, timeout=config.timeout)
    except Exception as error:
        return _failed(stage, error)
    result = {
        "success": test.success,
        "stdout": test.stdout,
        "stderr": test.stderr,
        "exit_code": test.exit_code,
        "execution_time": test.execution_time,
    }
    if not test.success:
        result |= {"stage": stage, "error": test.error or f"the test ended with exit code {test.exit_code}"}
    return result


def _teardown(sandbox: Sandbox, config: _Config) -> str | None:
    """What went wrong in it; None if nothing did."""
    if not config.teardown:
        return None
    try:
        done = sandbox.run_code(config.teardown, timeout=STAGE_SECONDS)
    except Exception as error:
        return f"Teardown failed: {_words(error)}"
    return None if done.success else f"Teardown failed: {_account(done)}"


def _after_teardown(result: dict[str, Any], wrong: str | None) -> dict[str, Any]:
    if wrong is None:
        return result
    if not result["success"]:
        return {**result, "teardown_error": wrong}
    return {**result, "success": False, "stage": "teardown", "error": wrong}


def _account(result: CodeResult) -> str:
    return result.stderr or result.error or f"exit code {result.exit_code}"


def _failed(stage: str, error: Exception) -> dict[str, Any]:
    return {"success": False, "error": _words(error), "stage": stage}


def _words(error: Exception) -> str:
    return f"{error!r} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
