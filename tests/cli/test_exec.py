"""``ipybox exec`` as people type it: exit codes, pipes, and an end that comes from outside."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from tests.command.drivers import Sleeper
from tests.kernels.helpers import HANG, eventually, is_alive, survivors

pytestmark = pytest.mark.sandbox

IPYBOX = (sys.executable, "-c", "from ipybox.cli import main; main()")
HOST = ("--driver", "host", "--waive", "isolation")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
"""That of people: in which Python holds output back until there is more of it."""
either = pytest.mark.parametrize("driver", [HOST, ()], ids=["host", "bubblewrap"])


def exec_(
    *arguments: object,
    stdin: bytes | IO[bytes] = b"",
    stdout: int | IO[bytes] = subprocess.PIPE,
    env: Mapping[str, str] = {},
    cwd: Path | None = None,
    by: Sequence[str] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Runs ``ipybox exec`` to its end."""
    source: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    return subprocess.run(
        [*by, *IPYBOX, "exec", *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**ENVIRONMENT, **env},
        cwd=cwd,
        timeout=2 * HANG,
        check=False,
        **source,
    )


class Running:
    """An ``ipybox exec`` that runs."""

    def __init__(self, arguments: Sequence[str], **options: Any) -> None:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [*IPYBOX, "exec", *arguments], env=ENVIRONMENT, **streams
        )

    def line(self) -> bytes:
        """The next line that it writes."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], HANG)[0], "nothing came"
        return self.process.stdout.readline()

    def below(self) -> list[psutil.Process]:
        """Everybody that it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> tuple[int, bytes, bytes]:
        """Waits for its end: exit code and what else it wrote."""
        output, errors = self.process.communicate(timeout=HANG)
        return self.process.returncode, output or b"", errors or b""


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts what a test ends itself."""
    started: list[Running] = []

    def begin(*arguments: str, **options: Any) -> Running:
        running = Running(arguments, **options)
        started.append(running)
        return running

    yield begin
    for each in started:
        each.process.kill()
        each.process.wait(HANG)
        for stream in (each.process.stdin, each.process.stdout, each.process.stderr):
            if stream is not None:
                stream.close()


# ---- exit codes -------------------------------------------------------------------------------------------------


@either
@pytest.mark.parametrize(
    ("code", "command"),
    [
        (0, ["true"]),
        (1, ["false"]),
        (3, ["sh", "-c", "exit 3"]),
        (255, ["sh", "-c", "exit 255"]),
        (137, ["sh", "-c", "kill -KILL $$"]),
        (143, ["sh", "-c", "kill -TERM $$"]),
        (141, ["sh", "-c", "kill -PIPE $$"]),
    ],
    ids=str,
)
def test_the_exit_code_is_the_commands(driver: Sequence[str], code: int, command: list[str]) -> None:
    done = exec_(*driver, "--", *command)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


@either
def test_a_command_that_is_not_there_is_127_and_one_that_is_no_program_is_126(driver: Sequence[str]) -> None:
    done = exec_(*driver, "--", "no-such-command")
    assert (done.returncode, done.stderr) == (127, b"ipybox: no-such-command: command not found\n")
    done = exec_(*driver, "--", "/no/such/command")
    assert (done.returncode, done.stderr) == (127, b"ipybox: /no/such/command: No such file or directory\n")
    done = exec_(*driver, "--", "/etc/passwd")
    assert (done.returncode, done.stderr) == (126, b"ipybox: /etc/passwd: Permission denied\n")


@either
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--timeout", "0.5"], b"it ran for too long\n"),
        (["--timeout", "60", "--idle-timeout", "0.5"], b"it was silent for too long\n"),
    ],
    ids=["time", "silence"],
)
def test_who_takes_too_long_is_124_and_told_why(driver: Sequence[str], options: list[str], why: bytes) -> None:
    sleeper = Sleeper()
    done = exec_(*driver, *options, "--", "sh", "-c", "echo partial; sleep $1", "sh", sleeper.seconds)
    assert (done.returncode, done.stdout) == (124, b"partial\n")
    assert done.stderr.startswith(b"ipybox: stopped after ")
    assert done.stderr.endswith(why)
    assert not sleeper.is_alive


@either
def test_who_uses_too_much_memory_is_137_and_told_why(driver: Sequence[str]) -> None:
    code = "import time; kept = bytearray(200_000_000); time.sleep(999)"
    done = exec_(*driver, "--memory", "64M", "--timeout", "60", "--", sys.executable, "-I", "-S", "-c", code)
    assert done.returncode == 137
    assert done.stderr.endswith(b"it used too much memory\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing argument"),
        (["--"], "Missing argument"),
        (["--timeout", "soon", "--", "true"], "--timeout"),
        (["--timeout", "0", "--", "true"], "timeout must be a finite number of more than 0 seconds"),
        (["--idle-timeout", "-1", "--", "true"], "idle_timeout must be"),
        (["--memory", "-1", "--", "true"], "unbounded memory"),
        (["--memory", "lots", "--", "true"], "memory must be a number of bytes"),
        (["--cpus", "0", "--", "true"], "cpus must be from"),
        (["--cpu-time", "0", "--", "true"], "cpu_time must be at least 1"),
        (["--processes", "0", "--", "true"], "processes must be at least 1"),
        (["--env", "NAME", "--", "true"], "--env wants NAME=VALUE, got 'NAME'"),
        (["--env", "LD_PRELOAD=x", "--", "true"], "env must not have LD_PRELOAD"),
        (["--allow", "https://example.org/", "--", "true"], "write the host only: 'example.org'"),
        (["--allow", "example.org", "--network", "--", "true"], "--network is all hosts, --allow names some"),
        (["--driver", "bublewrap", "--", "true"], "did you mean 'bubblewrap'?"),
        (["--waive", "everything", "--", "true"], "waive must be of "),
        (["--image", "alpine:3", "--", "true"], "--image is for docker and podman"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_was_typed_wrong_is_2_and_told(arguments: list[str], said: str) -> None:
    done = exec_(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--tiemout=5", "--netwrok", "-x"])
def test_an_option_that_there_is_not_was_typed_wrong_as_well(option: str) -> None:
    done = exec_(option, "--", "true")
    assert done.returncode == 2
    assert option.partition("=")[0] in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--driver", "host", "--", "true"], "can't enforce readable_paths, writable_paths, network"),
        (["--cpus", "1", "--", "true"], "can't enforce cpus"),
        (["--read", "/no/such/path", "--", "true"], "readable_paths[0]: /no/such/path does not exist"),
        (["--write", "/proc", "--", "true"], "writable_paths[0]: /proc of the host is never visible"),
        (["--memory", "1M", "--", "true"], "too few to start anything"),
        ([*HOST, "--base-dir", "/no/such/path", "--", "true"], "base_dir /no/such/path is no directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_can_not_be_done_is_125_and_told(arguments: list[str], said: str) -> None:
    done = exec_(*arguments)
    assert (done.returncode, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"ipybox: ")
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_sandbox_that_is_not_there_is_125_and_named() -> None:
    done = exec_("--", "true", env={"BWRAP_BIN": "/no/such/bwrap"})
    assert done.returncode == 125
    assert b"/no/such/bwrap" in done.stderr


def test_the_help_names_every_exit_code() -> None:
    done = exec_("--help", env={"COLUMNS": "200", "TERM": "dumb"})
    text = done.stdout.decode()
    assert done.returncode == 0
    assert [code for code in ("124", "125", "126", "127", "128+N", "130") if code not in text] == []


# ---- the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["--", "echo", "--", "hi"], b"-- hi\n"),
        (["echo", "-n", "hi"], b"hi"),
        (["--", "printf", "[%s]", "a b", "", "--timeout", "-h", "$HOME"], b"[a b][][--timeout][-h][$HOME]"),
        (["--timeout", "60", "echo", "--timeout", "0"], b"--timeout 0\n"),
    ],
    ids=str,
)
def test_what_comes_after_the_options_is_the_commands(arguments: list[str], output: bytes) -> None:
    done = exec_(*HOST, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, output, b"")


def test_an_argument_that_is_no_text_is_passed_byte_by_byte() -> None:
    done = exec_("--", "printf", "%s", os.fsdecode(b"\xff\xe9"))
    assert done.stdout == b"\xff\xe9"


@either
def test_the_environment_is_what_was_typed(driver: Sequence[str]) -> None:
    env = {"ORDINARY": "of the caller", "MY_TOKEN": "secret"}
    done = exec_(*driver, "--env", "NAME=a=b c", "--env", "EMPTY=", "--", "env", env=env)
    lines = done.stdout.decode().splitlines()
    assert {"NAME=a=b c", "EMPTY="} <= set(lines)
    assert not [line for line in lines if line.startswith(("ORDINARY=", "MY_TOKEN="))]
    done = exec_(*driver, "--inherit-env", "--", "env", env=env)
    lines = done.stdout.decode().splitlines()
    assert "ORDINARY=of the caller" in lines
    assert not [line for line in lines if line.startswith("MY_TOKEN=")]


def test_paths_are_readable_and_writable_as_typed(tmp_path: Path) -> None:
    for name in ("r", "w"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    line = 'cd "$1"; cat r/file w/file; echo new > w/new; echo new > r/new'
    done = exec_("--read", "r", "--write", "w", "--", "sh", "-c", line, "sh", tmp_path, cwd=tmp_path)
    assert done.stdout == b"rw"
    assert (tmp_path / "w" / "new").read_text() == "new\n"
    assert not (tmp_path / "r" / "new").exists()


def test_limits_are_as_typed() -> None:
    done = exec_(*HOST, "--cpu-time", "7", "--", "sh", "-c", "ulimit -t")
    assert done.stdout == b"7\n"


# ---- pipes ------------------------------------------------------------------------------------------------------


@either
def test_input_output_and_errors_pass_through_byte_by_byte(driver: Sequence[str]) -> None:
    data = bytes(range(256)) * 4096
    code = "import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data); sys.stderr.buffer.write(data)"
    done = exec_(*driver, "--timeout", "60", "--", sys.executable, "-I", "-S", "-c", code, stdin=data)
    assert done.returncode == 0
    assert done.stdout == data
    assert done.stderr == data


@either
def test_all_of_the_output_passes_whatever_a_result_would_keep(driver: Sequence[str]) -> None:
    done = exec_(*driver, "--timeout", "60", "--", "head", "-c", "5000000", "/dev/zero")
    assert done.stdout == bytes(5_000_000)


@either
def test_input_without_end_ends_with_the_command(driver: Sequence[str]) -> None:
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as endless:
        assert endless.stdout is not None
        done = exec_(*driver, "--timeout", "60", "--", "head", "-n", "2", stdin=endless.stdout)
        endless.stdout.close()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"y\ny\n", b"")


@either
def test_a_conversation_is_possible(driver: Sequence[str], start: Any) -> None:
    running = start(
        *driver, "--timeout", "60", "--", "sh", "-c", "while read w; do echo got $w; done", stdin=subprocess.PIPE
    )
    stdin: IO[bytes] = running.process.stdin
    for word in (b"one", b"two"):
        stdin.write(word + b"\n")
        stdin.flush()
        assert running.line() == b"got " + word + b"\n"
    assert running.end() == (0, b"", b"")


@either
def test_who_stops_reading_ends_the_command(driver: Sequence[str], start: Any) -> None:
    sleeper = Sleeper()
    line = "echo first; yes; sleep $1"
    running = start(*driver, "--timeout", "60", "--", "sh", "-c", line, "sh", sleeper.seconds)
    assert running.line() == b"first\n"
    running.process.stdout.close()
    assert running.process.wait(HANG) == 128 + signal.SIGPIPE
    assert running.process.stderr.read() == b""
    assert not sleeper.is_alive


@either
def test_who_reads_nothing_at_all_is_told_in_the_exit_code(driver: Sequence[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    for arguments in (["echo", "hi"], ["yes"]):
        with os.fdopen(os.dup(write), "wb") as gone:
            done = exec_(*driver, "--timeout", "60", "--", *arguments, stdout=gone)
        assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
    os.close(write)


def test_who_reads_no_json_is_told_in_the_exit_code() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = exec_(*HOST, "--json", "--", "true", stdout=gone)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@either
def test_who_only_pretends_to_read_does_not_hold_up_the_end(driver: Sequence[str], start: Any) -> None:
    sleeper = Sleeper()
    running = start(*driver, "--timeout", "1", "--", "sh", "-c", "yes; sleep $1", "sh", sleeper.seconds)
    assert running.process.wait(HANG) == 124  # and nobody has read its output by then
    assert not sleeper.is_alive


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
@pytest.mark.parametrize("options", [pytest.param((), id="output"), pytest.param(("--json",), id="json")])
def test_a_full_disk_is_125_and_told(options: Sequence[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = exec_(*HOST, *options, "--", "echo", "hi", stdout=full)
    assert done.returncode == 125
    assert done.stderr == b"ipybox: [Errno 28] No space left on device\n"


def without(*fds: int) -> Sequence[str]:
    """A shell that starts what follows without some of the three standard streams."""
    return ("sh", "-c", f'exec "$@" {" ".join(f"{fd}>&-" for fd in fds)}', "sh")


@pytest.mark.parametrize(
    "fds",
    [
        pytest.param((0,), id="stdin"),
        pytest.param((1,), id="stdout"),
        pytest.param((2,), id="stderr"),
        pytest.param((0, 1, 2), id="all"),
    ],
)
@either
def test_who_has_closed_a_stream_gets_the_rest(driver: Sequence[str], fds: tuple[int, ...]) -> None:
    script = "cat; echo to stdout; echo to stderr >&2; exit 3"
    done = exec_(*driver, "--timeout", "60", "--", "sh", "-c", script, by=without(*fds))
    assert done.returncode == 3
    assert done.stdout == (b"" if 1 in fds else b"to stdout\n")
    assert done.stderr == (b"" if 2 in fds else b"to stderr\n")


# ---- JSON -------------------------------------------------------------------------------------------------------


@either
def test_a_result_can_be_had_as_json(driver: Sequence[str]) -> None:
    done = exec_(*driver, "--json", "--", "sh", "-c", r"cat; printf 'é\377'; echo err >&2; exit 3", stdin=b"in ")
    result = json.loads(done.stdout)
    assert isinstance(result.pop("duration"), float)
    assert result == {
        "stdout": "in é\N{REPLACEMENT CHARACTER}",
        "stderr": "err\n",
        "exit_code": 3,
        "timed_out": False,
        "truncated_stdout": False,
        "truncated_stderr": False,
        "success": False,
        "stop_reason": None,
    }
    assert (done.returncode, done.stderr) == (3, b"")


@either
@pytest.mark.parametrize(
    ("options", "command", "code", "reason"),
    [
        (["--timeout", "0.5"], ["sleep", "999"], 124, "wall"),
        (["--idle-timeout", "0.5"], ["sleep", "999"], 124, "idle"),
        ([], ["sh", "-c", "kill -KILL $$"], 137, "signal"),
        ([], ["no-such-command"], 127, None),
    ],
    ids=["wall", "idle", "signal", "not found"],
)
def test_json_says_how_it_ended_and_nothing_else_is_said(
    driver: Sequence[str], options: list[str], command: list[str], code: int, reason: str | None
) -> None:
    done = exec_(*driver, "--json", *options, "--", *command)
    result = json.loads(done.stdout)
    assert (result["exit_code"], result["stop_reason"]) == (code, reason)
    assert result["timed_out"] is (code == 124)
    assert (done.returncode, done.stderr) == (code, b"")


def test_json_has_the_end_of_what_is_too_long() -> None:
    done = exec_(*HOST, "--json", "--timeout", "60", "--", "sh", "-c", "head -c 2000000 /dev/zero; echo end")
    result = json.loads(done.stdout)
    assert result["truncated_stdout"] is True
    assert len(result["stdout"]) == 1024 * 1024
    assert result["stdout"].endswith("\0end\n")


# ---- an end from outside ----------------------------------------------------------------------------------------


@either
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda signum: signum.name)
def test_ctrl_c_is_130_and_nothing_is_left(driver: Sequence[str], signum: signal.Signals, start: Any) -> None:
    sleeper = Sleeper()
    line = "trap '' INT TERM HUP; echo go; (setsid sleep $1 &); while :; do sleep $1; done"
    running = start(*driver, "--timeout", "60", "--", "sh", "-c", line, "sh", sleeper.seconds)
    assert running.line() == b"go\n"
    below = running.below()
    running.process.send_signal(signum)
    assert running.end() == (130, b"", b"")
    assert below
    assert not sleeper.is_alive
    assert not any(is_alive(each) for each in below)


@either
def test_ctrl_c_again_and_again_is_130_as_well(driver: Sequence[str], start: Any) -> None:
    line = "trap '' INT TERM HUP; echo go; while :; do sleep 99; done"
    running = start(*driver, "--timeout", "60", "--", "sh", "-c", line)
    assert running.line() == b"go\n"
    below = running.below()
    for _ in range(20):
        running.process.send_signal(signal.SIGINT)
    assert running.end() == (130, b"", b"")
    assert not any(is_alive(each) for each in below)


@either
def test_what_was_written_before_ctrl_c_is_in_the_json(driver: Sequence[str], start: Any, tmp_path: Path) -> None:
    options = (*(driver or ("--write", str(tmp_path))), "--json", "--timeout", "60")
    running = start(*options, "--", "sh", "-c", 'echo partial; echo > "$1/ready"; sleep 99', "sh", str(tmp_path))
    assert asyncio.run(eventually((tmp_path / "ready").exists))
    running.process.send_signal(signal.SIGINT)
    code, output, errors = running.end()
    result = json.loads(output)
    assert (code, errors) == (130, b"")
    assert (result["stdout"], result["stop_reason"], result["success"]) == ("partial\n", "cancelled", False)


@either
def test_nothing_is_left_when_it_is_killed(driver: Sequence[str], start: Any) -> None:
    sleeper = Sleeper()
    running = start(*driver, "--timeout", "60", "--", "sh", "-c", "echo go; sleep $1", "sh", sleeper.seconds)
    assert running.line() == b"go\n"
    below = running.below()
    running.process.kill()
    running.process.wait(HANG)
    assert asyncio.run(survivors(below, HANG)) == []
    assert not sleeper.is_alive


INTERRUPTED_AT_ONCE = """
import os, signal, sys

def on_event(event, arguments):
    if event == "import" and arguments[0] == "ipybox.cli.app":
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(on_event)
from ipybox.cli import main
main()
"""


def test_ctrl_c_before_it_has_begun_is_no_error() -> None:
    command = [sys.executable, "-c", INTERRUPTED_AT_ONCE, "exec", "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
