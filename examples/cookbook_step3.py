"""A test with files, set-up and teardown in a sandbox of its own: step 3 of a cookbook for cloud sandboxes.

The package has these classes ready made, and more careful: see ``ipybox.testrun``. No account is needed.
"""

# ruff: noqa: UP006, UP035

import json
import os
from typing import Any, Dict

from ipybox.session import Sandbox


class IsolatedTestRunner:
    def __init__(self, api_key: str):
        self.api_key = api_key

    def run_isolated_test(self, test_config: Dict) -> Dict[str, Any]:
        """Run test with complete isolation"""
        sandbox = None
        try:
            # Create sandbox with clean environment
            sandbox = Sandbox.create(
                template="code-interpreter",
                api_key=self.api_key,
                timeout_seconds=test_config.get("timeout", 60) + 10,
                env_vars=test_config.get("env_vars", {}),
            )

            # Set up test environment
            setup_code = test_config.get("setup", "")
            if setup_code:
                setup_result = sandbox.run_code(setup_code, timeout=30)
                if not setup_result.success:
                    return {"success": False, "error": f"Setup failed: {setup_result.stderr}", "stage": "setup"}

            # Write test files
            for file_config in test_config.get("files", []):
                sandbox.files.write(file_config["path"], file_config["content"])

            # Execute test
            test_result = sandbox.run_code(
                test_config["test_code"],
                language=test_config.get("language", "python"),
                timeout=test_config.get("timeout", 60),
            )

            # Cleanup (teardown)
            teardown_code = test_config.get("teardown", "")
            if teardown_code:
                sandbox.run_code(teardown_code, timeout=30)

            return {
                "success": test_result.success,
                "stdout": test_result.stdout,
                "stderr": test_result.stderr,
                "exit_code": test_result.exit_code,
                "execution_time": test_result.execution_time,
            }

        except Exception as e:
            return {"success": False, "error": str(e)}
        finally:
            # Always cleanup - fresh sandbox for next test
            if sandbox:
                sandbox.kill()


# Usage
if __name__ == "__main__":
    runner = IsolatedTestRunner(api_key=os.getenv("HOPX_API_KEY"))

    test_config = {
        "test_code": """
import unittest

class TestMath(unittest.TestCase):
    def test_addition(self):
        self.assertEqual(1 + 1, 2)

    def test_multiplication(self):
        self.assertEqual(2 * 3, 6)

if __name__ == '__main__':
    unittest.main()
""",
        "setup": "import unittest",
        "timeout": 30,
        "env_vars": {"TEST_MODE": "true"},
        "files": [{"path": "/workspace/test_utils.py", "content": "def helper(): return 'helper'"}],
    }

    result = runner.run_isolated_test(test_config)
    print(json.dumps(result, indent=2))
