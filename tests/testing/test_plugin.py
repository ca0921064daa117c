"""The plugin for pytest, in a pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ipybox

PLUGIN = "ipybox.testing.plugin"
HEAVY = {"IPython", "aiohttp", "ipykernel", "jupyter_client", "numpy", "tornado", "websockets", "zmq"}
FIXTURES = ["fake_sandbox", "fake_kernel_client"]


def run_pytest(directory: Path, *arguments: str) -> str:
    """What pytest says. It loads no plugin but ours, whether or not that one is installed with its entry point."""
    search = [str(Path(ipybox.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": os.pathsep.join(search)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_test(directory: Path, code: str) -> None:
    directory.joinpath("test_it.py").write_text(code, encoding="utf-8")


def test_the_fixtures_are_fresh_doubles_for_each_test(tmp_path: Path) -> None:
    write_test(
        tmp_path,
        """
import asyncio
import pytest
from ipybox.testing.fake_kernel_client import FakeKernelClient
from ipybox.testing.fake_sandbox import FakeSandbox

@pytest.mark.parametrize("turn", [1, 2])
def test_sandbox(fake_sandbox, turn):
    assert type(fake_sandbox) is FakeSandbox
    assert fake_sandbox.commands == []
    fake_sandbox.enqueue("php -v", {"stdout": "8.3"})
    assert asyncio.run(fake_sandbox.execute(["php", "-v"])).stdout == "8.3"
    with pytest.raises(RuntimeError):
        asyncio.run(fake_sandbox.execute(["php", "-v"]))

@pytest.mark.parametrize("turn", [1, 2])
def test_client(fake_kernel_client, tmp_path, turn):
    assert type(fake_kernel_client) is FakeKernelClient
    assert not fake_kernel_client.is_connected
    assert fake_kernel_client.executed == []
    assert fake_kernel_client.images_dir == tmp_path / "images"
    fake_kernel_client.enqueue("6 * 7", "42")

    async def program(client):
        async with client:
            return (await client.execute("6 * 7")).stdout

    assert asyncio.run(program(fake_kernel_client)) == "42"
    fake_kernel_client.assert_all_used()
    fake_kernel_client.assert_executions(["6 * 7"])
""",
    )
    assert "4 passed" in run_pytest(tmp_path, "-W", "error")


def test_the_fixtures_are_listed_with_what_they_give(tmp_path: Path) -> None:
    listed = run_pytest(tmp_path, "--fixtures")
    for fixture in FIXTURES:
        found = re.search(rf"^{fixture}\b.*\n((?:    .*\n)+)", listed, re.MULTILINE)
        assert found, listed
        assert "without responses" in found[1]


def test_a_run_that_uses_no_fixture_imports_nothing_heavy(tmp_path: Path) -> None:
    write_test(
        tmp_path,
        f"""
import sys

def test_modules():
    assert {PLUGIN!r} in sys.modules
    ours = {{name for name in sys.modules if name.partition(".")[0] == "ipybox"}}
    assert ours == {{"ipybox", "ipybox.testing", {PLUGIN!r}}}
    assert {{name.partition(".")[0] for name in sys.modules}} & {HEAVY!r} == set()
""",
    )
    assert "1 passed" in run_pytest(tmp_path)


@pytest.mark.parametrize("fixture", FIXTURES)
def test_a_fixture_imports_nothing_that_only_gateways_need(tmp_path: Path, fixture: str) -> None:
    unwanted = HEAVY - {"aiohttp", "websockets"} if fixture == "fake_kernel_client" else HEAVY
    write_test(
        tmp_path,
        f"""
import sys

def test_modules({fixture}):
    assert {{name.partition(".")[0] for name in sys.modules}} & {unwanted!r} == set()
""",
    )
    assert "1 passed" in run_pytest(tmp_path)
