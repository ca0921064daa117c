"""Commands in a sandbox."""

from __future__ import annotations

import asyncio
import io
import zipfile

import pytest

from ipybox.errors import ProgramStartError
from ipybox.session import AsyncSandbox

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio]


async def test_a_line_runs_in_a_shell_in_the_workspace(sandbox: AsyncSandbox) -> None:
    done = await sandbox.commands.run("pwd; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.exit_code, done.success) == ("/workspace\n", "err\n", 3, False)
    assert done.execution_time > 0
    assert done.to_dict()["success"] is False


async def test_words_run_without_a_shell(sandbox: AsyncSandbox) -> None:
    done = await sandbox.commands.run(["echo", "$HOME", "a b"])
    assert (done.stdout, done.success) == ("$HOME a b\n", True)


async def test_this_environments_programs_are_found(sandbox: AsyncSandbox) -> None:
    done = await sandbox.commands.run("python -c 'import sys, pytest; print(sys.version_info[:2])'; pytest --version")
    assert done.exit_code == 0, done.stderr
    assert "pytest" in done.stdout


async def test_what_is_installed_counts_as_installed_without_a_network(sandbox: AsyncSandbox) -> None:
    done = await sandbox.commands.run("pip install pytest", timeout=60)
    assert done.exit_code == 0, done.stderr
    assert "already satisfied" in done.stdout


def wheel(name: str) -> bytes:
    """A package of one module, as pip takes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = f"{name}-1.0.dist-info"
        archive.writestr(f"{name}.py", "value = 42\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return file.getvalue()


async def test_what_is_installed_inside_is_found_by_code_and_commands_and_nobody_else() -> None:
    name = "tiny_package_of_a_test"
    async with AsyncSandbox.create(env_vars={"PYTHONPATH": "/workspace/lib"}) as sandbox:
        await sandbox.run_code("1")
        await sandbox.files.write(f"{name}-1.0-py3-none-any.whl", wheel(name))
        done = await sandbox.commands.run(f"pip install --no-index ./{name}-1.0-py3-none-any.whl", timeout=60)
        assert done.success, done.stderr
        assert (await sandbox.run_code(f"import {name}; {name}.value")).result == "42"
        assert (await sandbox.commands.run(["python", "-c", f"import {name}"])).success
        await sandbox.files.write("lib/mine.py", "")
        assert (await sandbox.run_code("import mine")).success
    async with AsyncSandbox.create() as another:
        assert not (await another.run_code(f"import {name}")).success


async def test_environment_and_directory_can_be_given(sandbox: AsyncSandbox) -> None:
    await sandbox.files.mkdir("sub")
    done = await sandbox.commands.run("echo $A; pwd", env={"A": "b"}, working_dir="sub")
    assert done.stdout == "b\n/workspace/sub\n"
    with pytest.raises(ProgramStartError, match="/workspace/nowhere"):
        await sandbox.commands.run("true", working_dir="nowhere")


async def test_a_program_that_is_not_there_or_can_not_run_has_an_exit_code(sandbox: AsyncSandbox) -> None:
    missing = await sandbox.commands.run(["nonsense-program"])
    assert (missing.exit_code, missing.success) == (127, False)
    assert "nonsense-program" in missing.stderr
    await sandbox.files.write("data", "no program", mode=0o755)
    assert (await sandbox.commands.run(["./data"])).exit_code == 126
    assert (await sandbox.commands.run(["true", "x" * 3_000_000])).exit_code == 126


async def test_a_signal_is_told_as_a_shell_tells_it(sandbox: AsyncSandbox) -> None:
    assert (await sandbox.commands.run(["sh", "-c", "kill -SEGV $$"])).exit_code == 139


async def test_at_its_timeout_a_command_is_killed_with_all_below_it(sandbox: AsyncSandbox) -> None:
    line = "echo begun; trap '' INT TERM; setsid sleep 1234 & sleep 1234 | sleep 1234"
    done = await sandbox.commands.run(line, timeout=1)
    assert (done.exit_code, done.timed_out, done.success, done.stdout) == (124, True, False, "begun\n")
    assert (await sandbox.commands.run("pgrep -c sleep")).stdout in ("0\n", "")


async def test_what_is_left_in_the_background_goes_on_and_holds_nobody_up(sandbox: AsyncSandbox) -> None:
    line = "(while [ ! -e go ]; do :; done; yes | head -c 1000000; touch done) &"
    assert (await sandbox.commands.run(line)).success
    await sandbox.files.write("go", "")
    waited = await sandbox.commands.run("while [ ! -e done ]; do :; done", timeout=60)
    assert waited.success


async def test_a_flood_is_cut_and_said(sandbox: AsyncSandbox) -> None:
    done = await sandbox.commands.run("head -c 30000000 /dev/zero | tr '\\0' x; yes | head -c 20000000 >&2; exit 5")
    assert done.exit_code == 5
    assert done.truncated
    assert len(done.stdout) == 10_000_000


async def test_it_ends_in_time_however_much_it_writes(sandbox: AsyncSandbox) -> None:
    done = await sandbox.commands.run("yes & yes >&2", timeout=0.5)
    assert (done.exit_code, done.timed_out, done.truncated) == (124, True, done.truncated)


async def test_commands_run_at_the_same_time(sandbox: AsyncSandbox) -> None:
    waiting = sandbox.commands.run("while [ ! -e go ]; do :; done; echo went", timeout=60)
    results = await asyncio.gather(waiting, sandbox.commands.run("touch go"))
    assert results[0].stdout == "went\n"


async def test_a_cancelled_command_is_killed(sandbox: AsyncSandbox) -> None:
    running = asyncio.create_task(sandbox.commands.run("touch begun; sleep 1234"))
    while not await sandbox.files.exists("begun"):
        pass
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await sandbox.commands.run("pgrep -c sleep")).stdout in ("0\n", "")


async def test_ctrl_c_means_to_a_command_what_it_always_does(sandbox: AsyncSandbox) -> None:
    done = await sandbox.commands.run("python -c 'import os, signal; os.kill(os.getpid(), signal.SIGINT)'")
    assert "KeyboardInterrupt" in done.stderr


async def test_words_that_can_be_no_command_are_refused(sandbox: AsyncSandbox) -> None:
    for command in ("", [], ["a\0b"]):
        with pytest.raises(ValueError, match="command"):
            await sandbox.commands.run(command)
