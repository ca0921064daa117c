"""What every driver promises, and the fake: one suite for all of them, with real commands."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ipybox.command.cancellation import Cancellation
from ipybox.command.driver import CanExecuteCommand
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.result import ExecResult
from tests.command.drivers import Sleeper, Subject, parameters

every = pytest.mark.parametrize("subject", parameters())
running = pytest.mark.parametrize("subject", parameters(running=True))
isolating = pytest.mark.parametrize("subject", parameters(isolating=True))
pytestmark = pytest.mark.asyncio

LONG = 60.0
"""Seconds that nothing here takes, on no machine."""


@pytest.fixture
def policy(tmp_path: Path) -> ExecutionPolicy:
    return ExecutionPolicy.in_dir(tmp_path).with_timeout(LONG)


def shell(line: str, *arguments: str) -> list[str]:
    return ["sh", "-c", line, "sh", *arguments]


# ---- what a result says -----------------------------------------------------------------------------------------


@every
async def test_a_sandbox_is_what_the_protocol_says(subject: Subject, policy: ExecutionPolicy) -> None:
    async with subject.open(policy) as sandbox:
        assert isinstance(sandbox, CanExecuteCommand)
        assert sandbox.policy == policy


@every
async def test_output_and_exit_code_come_back_apart(subject: Subject, policy: ExecutionPolicy) -> None:
    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(shell("echo to stdout; echo to stderr >&2; exit 3"))
    assert (result.stdout, result.stderr, result.exit_code) == ("to stdout\n", "to stderr\n", 3)
    assert not result.success
    assert not result.timed_out
    assert not result.truncated_stdout
    assert not result.truncated_stderr
    assert result.stop_reason is None
    assert result.duration > 0


@every
async def test_success_is_exit_code_0(subject: Subject, policy: ExecutionPolicy) -> None:
    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(["true"])
    assert result.success
    assert ExecResult.from_dict(result.to_dict()) == result


@every
async def test_arguments_are_passed_as_they_are(subject: Subject, policy: ExecutionPolicy) -> None:
    arguments = ["a b", "", "$HOME", "*", ";", "'", '"', "--help", "-", "é", "\n", "\\"]
    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(["printf", "[%s]", *arguments])
    assert result.stdout == "".join(f"[{each}]" for each in arguments)


@every
async def test_a_command_that_is_not_there_is_127(subject: Subject, policy: ExecutionPolicy) -> None:
    async with subject.open(policy) as sandbox:
        for name in ("no-such-command", "/no/such/command"):
            result = await sandbox.execute([name, "argument"])
            assert result.exit_code == 127
            assert name in result.stderr


@every
async def test_a_file_that_is_no_program_is_126(subject: Subject, policy: ExecutionPolicy) -> None:
    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(["/etc/passwd"])
    assert result.exit_code == 126
    assert "/etc/passwd" in result.stderr


@every
async def test_a_command_that_a_signal_ends_is_128_and_its_number(subject: Subject, policy: ExecutionPolicy) -> None:
    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(shell("echo before; kill -KILL $$"))
    assert (result.stdout, result.exit_code, result.stop_reason) == ("before\n", 137, "signal")


@every
async def test_what_is_no_text_is_there_byte_by_byte(subject: Subject, policy: ExecutionPolicy) -> None:
    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(["printf", r"\377\000a\303\251"])
    assert result.stdout_bytes == b"\xff\0a\xc3\xa9"
    assert result.stdout == "\N{REPLACEMENT CHARACTER}\0aé"


@every
async def test_a_command_has_its_environment_and_no_more(subject: Subject, policy: ExecutionPolicy) -> None:
    os.environ["IPYBOX_TEST_ORDINARY"] = "ordinary"
    try:
        async with subject.open(policy.with_env({"GREETING": "hello world", "EMPTY": ""})) as sandbox:
            result = await sandbox.execute(["env"])
    finally:
        del os.environ["IPYBOX_TEST_ORDINARY"]
    lines = result.stdout.splitlines()
    assert "GREETING=hello world" in lines
    assert "EMPTY=" in lines
    assert not any(line.startswith("IPYBOX_TEST_") for line in lines)


@every
async def test_an_inherited_environment_has_no_secrets(
    subject: Subject, policy: ExecutionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = {"AWS_SECRET_ACCESS_KEY": "s1", "OPENAI_API_KEY": "s2", "PYTHONSTARTUP": "s3", "npm_config_x": "s4"}
    for name, value in {**secret, "IPYBOX_TEST_ORDINARY": "ordinary"}.items():
        monkeypatch.setenv(name, value)
    async with subject.open(policy.with_inherited_env()) as sandbox:
        result = await sandbox.execute(["env"])
    lines = result.stdout.splitlines()
    assert "IPYBOX_TEST_ORDINARY=ordinary" in lines
    assert not any(line.partition("=")[0] in secret for line in lines)


# ---- input ------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("stdin", ["text é", b"bytes \xff\0", "", None, b""], ids=repr)
async def test_input_arrives(subject: Subject, policy: ExecutionPolicy, stdin: str | bytes | None) -> None:
    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(["cat"], stdin)
    assert result.stdout_bytes == (stdin.encode() if isinstance(stdin, str) else stdin or b"")
    assert result.stderr == ""


@every
async def test_input_may_come_bit_by_bit(subject: Subject, policy: ExecutionPolicy) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(5):
            yield b"%d" % number
            await asyncio.sleep(0)

    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(["cat"], chunks())
    assert result.stdout == "01234"


@every
async def test_large_input_and_output_at_once_do_not_block_each_other(
    subject: Subject, policy: ExecutionPolicy
) -> None:
    data = bytes(range(256)) * 32768  # 8 MiB, far more than pipes hold
    async with subject.open(policy.with_output_caps(len(data), 1024)) as sandbox:
        result = await sandbox.execute(["cat"], data)
    assert result.stdout_bytes == data


@every
async def test_input_that_nobody_reads_holds_nothing_up(subject: Subject, policy: ExecutionPolicy) -> None:
    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(["true"], b"x" * 1_000_000)
        assert result.success
        result = await sandbox.execute(["head", "-c", "3"], b"x" * 1_000_000)
    assert result.stdout == "xxx"


@running
async def test_input_without_end_ends_with_the_command(subject: Subject, policy: ExecutionPolicy) -> None:
    async def forever() -> AsyncIterator[bytes]:
        for _ in itertools.count():
            yield b"y\n"

    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(["head", "-n", "2"], forever())
    assert result.stdout == "y\ny\n"


@every
@pytest.mark.parametrize(
    ("argv", "stdin", "error"),
    [
        ("echo hi", None, TypeError),
        (b"echo", None, TypeError),
        ([], None, ValueError),
        ([""], None, ValueError),
        (["echo", 1], None, TypeError),
        (["a\0b"], None, ValueError),
        (["cat"], 5, TypeError),
    ],
)
async def test_nonsense_is_refused_before_anything_runs(
    subject: Subject, policy: ExecutionPolicy, argv: object, stdin: object, error: type[Exception]
) -> None:
    async with subject.open(policy) as sandbox:
        with pytest.raises(error, match=r"argv|stdin"):
            await sandbox.execute(argv, stdin)


# ---- output -----------------------------------------------------------------------------------------------------


@every
async def test_a_cap_keeps_the_end_and_cuts_no_character(subject: Subject, policy: ExecutionPolicy) -> None:
    line = "i=0; while [ $i -lt 1000 ]; do printf 'é€'; i=$((i+1)); done; echo end; echo small >&2"
    async with subject.open(policy.with_output_caps(1024, 1024)) as sandbox:
        result = await sandbox.execute(shell(line))
    assert result.truncated_stdout
    assert not result.truncated_stderr
    assert result.stderr == "small\n"
    assert result.stdout.endswith("é€end\n")
    assert 1020 <= len(result.stdout_bytes) <= 1024
    assert "\N{REPLACEMENT CHARACTER}" not in result.stdout


@every
async def test_the_callback_gets_all_of_it_whatever_the_cap(subject: Subject, policy: ExecutionPolicy) -> None:
    heard: dict[str, list[str]] = {"out": [], "err": []}
    line = "i=0; while [ $i -lt 5000 ]; do echo line $i é; i=$((i+1)); done; echo done >&2"
    async with subject.open(policy.with_output_caps(1024, 1024)) as sandbox:
        result = await sandbox.execute(shell(line), None, lambda stream, text: heard[stream].append(text))
    assert "".join(heard["out"]) == "".join(f"line {number} é\n" for number in range(5000))
    assert "".join(heard["err"]) == "done\n"
    assert "".join(heard["out"]).endswith(result.stdout)


@every
async def test_what_is_written_last_reaches_the_callback(subject: Subject, policy: ExecutionPolicy) -> None:
    heard: list[tuple[str, str]] = []
    async with subject.open(policy) as sandbox:
        for _ in range(5):
            heard.clear()
            await sandbox.execute(shell("printf last"), None, lambda stream, text: heard.append((stream, text)))
            assert heard == [("out", "last")]


@running
async def test_output_comes_while_the_command_runs(subject: Subject, policy: ExecutionPolicy) -> None:
    first = asyncio.Event()

    async def answer() -> AsyncIterator[bytes]:
        await first.wait()  # never set if output came at the end only
        yield b"answer\n"

    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(
            shell("echo question; read reply; echo $reply"), answer(), lambda stream, text: first.set()
        )
    assert result.stdout == "question\nanswer\n"


@every
async def test_a_callback_may_be_a_coroutine_and_is_called_one_at_a_time(
    subject: Subject, policy: ExecutionPolicy
) -> None:
    inside, most, heard = 0, 0, []

    async def on_output(stream: str, text: str) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(3):
            await asyncio.sleep(0)
        heard.append(text)
        inside -= 1

    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(shell("for i in 1 2 3 4 5; do echo $i; echo $i >&2; done"), None, on_output)
    assert most == 1
    assert len("".join(heard)) == len(result.stdout) + len(result.stderr)


@every
async def test_characters_are_whole_in_every_chunk(subject: Subject, policy: ExecutionPolicy) -> None:
    heard: list[str] = []
    line = r"printf '\303'; sleep 0.05; printf '\251'; printf '\342\202'; sleep 0.05; printf '\254\377'"
    async with subject.open(policy) as sandbox:
        await sandbox.execute(shell(line), None, lambda stream, text: heard.append(text))
    assert "".join(heard) == "é€\N{REPLACEMENT CHARACTER}"
    assert "" not in heard


@every
async def test_bytes_can_be_had_as_they_are(subject: Subject, policy: ExecutionPolicy) -> None:
    heard: list[tuple[str, bytes]] = []
    async with subject.open(policy) as sandbox:
        await sandbox.execute(["printf", r"\377\000"], on_bytes=lambda stream, data: heard.append((stream, data)))
    assert b"".join(data for _, data in heard) == b"\xff\0"


@every
async def test_what_a_callback_raises_ends_the_command_and_is_raised(subject: Subject, policy: ExecutionPolicy) -> None:
    def on_output(stream: str, text: str) -> None:
        raise LookupError("enough")

    sleeper = Sleeper()
    line = "echo go; sleep $1" if subject.runs else "echo go"
    async with subject.open(policy) as sandbox:
        with pytest.raises(LookupError, match="enough"):
            await sandbox.execute(shell(line, sleeper.seconds), None, on_output)
        assert not sleeper.is_alive


# ---- the end ----------------------------------------------------------------------------------------------------


@every
async def test_time_is_limited_and_what_was_written_is_kept(subject: Subject, policy: ExecutionPolicy) -> None:
    sleeper = Sleeper()
    async with subject.open(policy.with_timeout(0.5)) as sandbox:
        result = await sandbox.execute(shell("echo partial; sleep $1", sleeper.seconds))
    assert (result.stdout, result.exit_code, result.timed_out) == ("partial\n", 124, True)
    assert result.stop_reason == "wall"
    assert not result.success
    assert not sleeper.is_alive


@every
async def test_silence_is_limited_and_output_counts_as_life(subject: Subject, policy: ExecutionPolicy) -> None:
    line = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done; sleep 999"
    async with subject.open(policy.with_idle_timeout(0.8)) as sandbox:
        result = await sandbox.execute(shell(line))
    assert (result.stdout, result.exit_code, result.timed_out) == ("1\n2\n3\n4\n5\n6\n", 124, True)
    assert result.stop_reason == "idle"


@running
async def test_who_does_not_listen_does_not_make_a_command_idle(subject: Subject, policy: ExecutionPolicy) -> None:
    async def slowly(stream: str, text: str) -> None:
        await asyncio.sleep(1.0)

    async with subject.open(policy.with_idle_timeout(0.6)) as sandbox:
        result = await sandbox.execute(shell("echo a; sleep 0.3; echo b"), None, slowly)
    assert (result.stdout, result.stop_reason) == ("a\nb\n", None)


@every
async def test_who_ignores_a_request_to_end_is_ended(subject: Subject, policy: ExecutionPolicy) -> None:
    sleeper = Sleeper()
    line = "trap '' TERM INT HUP QUIT; echo deaf; while :; do sleep $1; done"
    async with subject.open(policy.with_timeout(0.5)) as sandbox:
        result = await sandbox.execute(shell(line, sleeper.seconds))
    assert (result.stdout, result.exit_code, result.stop_reason) == ("deaf\n", 124, "wall")
    assert not sleeper.is_alive


@running
async def test_nothing_that_a_command_leaves_behind_outlives_it(subject: Subject, policy: ExecutionPolicy) -> None:
    sleeper = Sleeper()
    line = "(setsid sleep $1 >/dev/null 2>&1 </dev/null &) ; (sleep $1 &) ; echo left"
    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(shell(line, sleeper.seconds))
    assert (result.stdout, result.exit_code, result.stop_reason) == ("left\n", 0, None)
    assert not sleeper.is_alive


@running
async def test_a_command_that_kills_all_it_can_ends_and_harms_nobody(subject: Subject, policy: ExecutionPolicy) -> None:
    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(shell("kill -KILL 0; echo still here"))
        assert result.exit_code == 137
        assert (await sandbox.execute(["echo", "next"])).stdout == "next\n"


@running
async def test_a_cancelled_task_leaves_nothing_behind(subject: Subject, policy: ExecutionPolicy) -> None:
    sleeper, begun = Sleeper(), asyncio.Event()
    async with subject.open(policy) as sandbox:
        task = asyncio.create_task(
            sandbox.execute(shell("echo go; sleep $1", sleeper.seconds), None, lambda stream, text: begun.set())
        )
        async with asyncio.timeout(LONG):
            await begun.wait()
        assert sleeper.is_alive
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not sleeper.is_alive


@running
async def test_a_cancelled_command_says_what_it_gave(subject: Subject, policy: ExecutionPolicy) -> None:
    sleeper, cancellation = Sleeper(), Cancellation()

    def on_output(stream: str, text: str) -> None:
        threading.Thread(target=cancellation.cancel).start()  # from any thread

    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(
            shell("echo go; sleep $1", sleeper.seconds), None, on_output, cancellation=cancellation
        )
        assert (result.stdout, result.stop_reason, result.timed_out) == ("go\n", "cancelled", False)
        assert result.exit_code in (137, 143)
        assert not sleeper.is_alive
        again = await sandbox.execute(["sleep", sleeper.seconds], cancellation=cancellation)
        assert again.stop_reason == "cancelled"


@running
async def test_memory_is_limited(subject: Subject, policy: ExecutionPolicy) -> None:
    code = "import time; kept = bytearray(200_000_000); print('filled', flush=True); time.sleep(999)"
    async with subject.open(policy.with_memory("64M")) as sandbox:
        result = await sandbox.execute([sys.executable, "-I", "-S", "-c", code])
    assert not result.success
    assert not result.timed_out
    if subject.name != "firejail":  # which has the system refuse the memory
        assert (result.exit_code, result.stop_reason) == (137, "memory")


@running
async def test_memory_of_all_processes_together_is_limited(subject: Subject, policy: ExecutionPolicy) -> None:
    code = (
        "import os, time\n"
        "for _ in range(5):\n"
        "    if os.fork() == 0:\n"
        "        kept = bytearray(os.urandom(1)) * 40_000_000\n"
        "        time.sleep(999)\n"
        "time.sleep(999)\n"
    )
    async with subject.open(policy.with_memory("100M")) as sandbox:
        result = await sandbox.execute([sys.executable, "-I", "-S", "-c", code])
    assert (result.exit_code, result.stop_reason) == (137, "memory")


@running
async def test_processor_time_is_limited(subject: Subject, policy: ExecutionPolicy) -> None:
    async with subject.open(policy.with_cpu_time(1)) as sandbox:
        result = await sandbox.execute(shell("while :; do :; done"))
    assert result.exit_code in (128 + 24, 137)  # SIGXCPU, or SIGKILL from who ignores it
    assert result.stop_reason == "signal"


@every
async def test_many_commands_at_once_do_not_mix(subject: Subject, policy: ExecutionPolicy) -> None:
    async with subject.open(policy) as sandbox:
        results = await asyncio.gather(*(sandbox.execute(["cat"], f"{number}\n" * 1000) for number in range(12)))
    assert [result.stdout for result in results] == [f"{number}\n" * 1000 for number in range(12)]


@running
async def test_a_flood_ends_in_time_and_takes_no_more_memory_than_its_cap(
    subject: Subject, policy: ExecutionPolicy
) -> None:
    async with subject.open(policy.with_timeout(1)) as sandbox:
        result = await sandbox.execute(["yes", "no end in sight"])
    assert result.stop_reason == "wall"
    assert result.truncated_stdout
    assert len(result.stdout_bytes) <= policy.stdout_cap


@every
async def test_no_file_is_left_behind(subject: Subject, policy: ExecutionPolicy, tmp_path: Path) -> None:
    async with subject.open(policy.with_timeout(1)) as sandbox:
        await sandbox.execute(["true"])
        await sandbox.execute(["no-such-command"])
        await sandbox.execute(["sleep", "999"])
    assert list(tmp_path.iterdir()) == []


@running
async def test_no_descriptor_is_left_behind(subject: Subject, policy: ExecutionPolicy) -> None:
    async def some() -> None:
        await sandbox.execute(["cat"], "text")
        await sandbox.execute(["no-such-command"])

    async with subject.open(policy) as sandbox:
        await some()
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await some()
        assert sorted(os.listdir("/proc/self/fd")) == before


# ---- isolation --------------------------------------------------------------------------------------------------


@isolating
async def test_a_command_starts_in_an_empty_directory_of_its_own(subject: Subject, policy: ExecutionPolicy) -> None:
    async with subject.open(policy) as sandbox:
        for _ in range(2):
            result = await sandbox.execute(shell("ls -A; echo mine > file && cat file"))
            assert (result.stdout, result.stderr) == ("mine\n", "")


@isolating
async def test_files_of_the_host_are_out_of_reach(subject: Subject, policy: ExecutionPolicy, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    async with subject.open(policy) as sandbox:
        result = await sandbox.execute(["cat", str(secret)])
        assert not result.success
        assert result.stdout == ""
        await sandbox.execute(shell('echo changed > "$1"; rm -f "$1"', str(secret)))
        result = await sandbox.execute(["ls", "-A", os.path.expanduser("~")])
        assert result.stdout == "" or not set(result.stdout.split()) & {".ssh", ".bashrc", ".profile", ".cache"}
    assert secret.read_text() == "secret"


@isolating
async def test_named_paths_can_be_read_and_others_written(
    subject: Subject, policy: ExecutionPolicy, tmp_path: Path
) -> None:
    readable, writable = tmp_path / "to read", tmp_path / "to,write:here"
    for directory in (readable, writable):
        directory.mkdir()
        (directory / "file").write_text("before")
    granted = policy.with_readable_paths(readable).with_writable_paths(writable)
    line = (
        'cat "$1/file"; echo no > "$1/file"; echo no > "$1/new"; cat "$2/file"; echo after > "$2/file"; echo > "$2/new"'
    )
    async with subject.open(granted) as sandbox:
        result = await sandbox.execute(shell(line, str(readable), str(writable)))
    assert result.stdout == "beforebefore"
    assert (readable / "file").read_text() == "before"
    assert not (readable / "new").exists()
    assert (writable / "file").read_text() == "after\n"
    assert (writable / "new").exists()


@isolating
async def test_a_named_path_that_is_not_there_is_refused_by_name(
    subject: Subject, policy: ExecutionPolicy, tmp_path: Path
) -> None:
    for granted in (policy.with_readable_paths(tmp_path / "gone"), policy.with_writable_paths(tmp_path / "gone")):
        with pytest.raises(ValueError, match=r"(readable|writable)_paths.*gone"):
            async with subject.open(granted) as sandbox:
                await sandbox.execute(["true"])


@isolating
async def test_without_network_nothing_is_reached(subject: Subject, policy: ExecutionPolicy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)"
        async with subject.open(policy) as sandbox:
            result = await sandbox.execute([sys.executable, "-I", "-c", code, str(server.getsockname()[1])])
    assert result.exit_code == 1
    assert "refused" in result.stderr or "unreachable" in result.stderr


@isolating
async def test_processes_are_limited(subject: Subject, policy: ExecutionPolicy) -> None:
    sleeper = Sleeper()
    line = "i=0; while [ $i -lt 60 ]; do sleep $1 & i=$((i+1)); done; echo all"
    async with subject.open(policy.with_processes(15)) as sandbox:
        result = await sandbox.execute(shell(line, sleeper.seconds))
    assert "all" not in result.stdout
    assert not sleeper.is_alive
