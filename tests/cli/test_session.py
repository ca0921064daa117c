"""``ipybox session``, ``ipybox template`` and ``ipybox keys`` as people type them, against a real server."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.typed import ipybox
from tests.control.serving import ENVIRONMENT, HANG, IPYBOX, Server

pytestmark = pytest.mark.sandbox
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Server(tmp_path_factory.mktemp("served") / "state", rate_limit="100000/minute") as server:
        yield server.url


@pytest.fixture(scope="module")
def session(url: str) -> str:
    done = ipybox("session", "create", "--mode", "stateful", "--tag", "a=b", env={"IPYBOX_SERVER": url})
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()


class Typed:
    """Commands against one server."""

    def __init__(self, url: str) -> None:
        self.env = {"IPYBOX_SERVER": url}

    def __call__(self, *arguments: object, stdin: bytes = b"", cwd: Path | None = None) -> tuple[int, str, str]:
        done = ipybox(*arguments, stdin=stdin, env=self.env, cwd=cwd)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def json(self, *arguments: object) -> Any:
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture(scope="module")
def typed(url: str) -> Typed:
    return Typed(url)


def test_a_session_is_made_listed_shown_renewed_ended_and_forgotten(typed: Typed) -> None:
    code, out, _ = typed("session", "create", "python", "--timeout", "100", "--memory", "256Mi", "--tag", "x=y")
    id = out.strip()
    assert code == 0
    assert [each["id"] for each in typed.json("session", "list", "--tag", "x=y")] == [id]
    assert id in typed("session", "list", "--status", "running")[1]
    shown = typed.json("session", "show", id)
    assert (shown["status"], shown["timeout"], shown["resource_limit"]["memory"]) == ("running", 100, "256Mi")
    assert "256Mi" in typed("session", "show", id)[1]
    assert typed("session", "renew", id, "--timeout", "900")[0] == 0
    assert typed("session", "terminate", id)[0] == 0
    assert typed.json("session", "show", id)["status"] == "terminated"
    assert typed("session", "delete", id)[0] == 0
    code, _, err = typed("session", "show", id)
    assert (code, "404" in err) == (125, True)
    code, _, err = typed("session", "delete", id, id)
    assert (code, err.count("404")) == (125, 2)


def test_output_of_a_file_is_passed_on_and_its_variables_stay(typed: Typed, session: str, tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("import sys\nx = 'kept'\nprint('out')\nprint('err', file=sys.stderr)")
    assert typed("session", "run", session, file) == (0, "out\n", "err\n")
    assert typed("session", "run", session, "-", stdin=b"print(x)") == (0, "kept\n", "")


def test_the_exit_code_is_the_truth(typed: Typed, session: str, tmp_path: Path) -> None:
    assert typed("session", "exec", session, "--", "sh", "-c", 'echo "$1"; exit 7', "-", "a  b") == (7, "a  b\n", "")
    code, out, err = typed("session", "run", session, "-", stdin=b"1 / 0")
    assert (code, out) == (1, "")
    assert err.count("ZeroDivisionError: ") == 1
    code, _, err = typed("session", "run", session, "-", "--kind", "handler", stdin=b"def handler(e):\n    1 / 0")
    assert code != 0
    assert err.count("ZeroDivisionError: ") == 1
    code, _, err = typed("session", "exec", "--timeout", "1", session, "--", "sleep", "60")
    assert (code, "timeout" in err) == (124, True)
    code, _, err = typed("session", "exec", session, "--", "sh", "-c", "kill -9 $$")
    assert code == 137, err


def test_a_handler_gets_its_event_and_its_value_is_told(typed: Typed, session: str) -> None:
    source = b"def handler(event):\n    print(event)\n    return {'n': event['n'] + 1}"
    run = ("session", "run", session, "-", "--kind", "handler", "--event", '{"n": 1}')
    assert typed(*run, stdin=source) == (0, "{'n': 1}\n", 'ipybox: it returned {"n": 2}\n')
    code, out, err = typed(*run, "--json", stdin=source)
    said = json.loads(out)
    assert (code, err, said["return_value"], said["stdout"]) == (0, "", {"n": 2}, "{'n': 1}\n")


def test_a_file_is_run_by_what_its_name_says(typed: Typed, session: str, tmp_path: Path) -> None:
    file = tmp_path / "a.sh"
    file.write_text("echo $0 $A")
    code, out, _ = typed("session", "run", session, file, "--env", "A=1")
    assert (code, out.split()[-1]) == (0, "1")


def test_images_are_saved_here(typed: Typed, session: str, tmp_path: Path) -> None:
    source = f"import base64\nfrom IPython.display import Image, display\ndisplay(Image(base64.b64decode('{PIXEL}')))"
    code, out, err = typed("session", "run", session, "-", "--images-dir", tmp_path / "im", stdin=source.encode())
    (image,) = (tmp_path / "im").iterdir()
    assert (code, out, err) == (0, "", f"[image saved: {image}]\n")
    assert image.read_bytes() == base64.b64decode(PIXEL)


def test_what_was_said_is_shown_again(typed: Typed, session: str) -> None:
    assert typed("session", "exec", session, "--", "sh", "-c", "echo once; echo more >&2; exit 4")[0] == 4
    assert typed("session", "logs", session) == (0, "once\n", "more\n")
    assert typed("session", "logs", "--follow", session) == (4, "once\n", "more\n")
    events = typed.json("session", "logs", session)
    assert [each["seq"] for each in events] == list(range(1, len(events) + 1))
    assert events[-1]["kind"] == "end"


def test_files_go_there_and_back(typed: Typed, session: str, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "here.bin").write_bytes(content)
    assert typed("session", "upload", session, tmp_path / "here.bin")[0] == 0
    assert typed("session", "upload", session, "-", "d/in", stdin=b"piped")[0] == 0
    assert typed("session", "download", session, "here.bin", tmp_path / "back")[0] == 0
    assert (tmp_path / "back").read_bytes() == content
    assert typed("session", "upload", session, tmp_path / "here.bin", "into/")[0] == 0
    assert typed("session", "files", session, "into")[1].startswith("into/here.bin\tfile\t300000\t")
    assert typed("session", "download", session, "d/in", cwd=tmp_path)[0] == 0
    assert (tmp_path / "in").read_bytes() == b"piped"
    assert typed("session", "download", session, "d/in", "-") == (0, "piped", "")
    assert {"here.bin", "d"} <= {each["path"] for each in typed.json("session", "files", session)}
    assert "d/in\tfile\t5\t" in typed("session", "files", session, "--recursive")[1]
    for path in ("../../etc/passwd", "/etc/passwd"):
        assert typed("session", "download", session, path, "-")[:2] == (2, "")


def test_a_name_that_code_chose_does_nothing_to_a_terminal(typed: Typed, session: str) -> None:
    typed("session", "run", session, "-", stdin=b"open('\\x1b]0;title\\x07', 'w').close()")
    out = typed("session", "files", session)[1]
    assert "\\x1b]0;title\\x07" in out
    assert "\x1b" not in out


class Running:
    """A command that runs."""

    def __init__(self, url: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*IPYBOX, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**ENVIRONMENT, "IPYBOX_SERVER": url},
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_ctrl_c_interrupts_the_code_on_the_server_and_then_leaves(typed: Typed, url: str, session: str) -> None:
    script = "trap 'echo trapped; exit 3' INT; echo begun; while :; do sleep 0.05; done"
    with Running(url, "session", "exec", "--timeout", "600", session, "--", "bash", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=HANG)
        assert (process.returncode, rest) == (130, b"trapped\n")  # what it says meanwhile is not lost
    events = typed.json("session", "logs", session)
    assert events[-1]["kind"] == "end"


def test_who_stops_reading_ends_the_code(typed: Typed, url: str, session: str) -> None:
    with Running(url, "session", "exec", "--timeout", "600", session, "--", "sh", "-c", "yes") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(HANG) == 128 + signal.SIGPIPE
    assert typed("session", "interrupt", session)[0] == 1  # nothing runs there any more


def test_code_is_interrupted_from_elsewhere(typed: Typed, url: str, session: str) -> None:
    with Running(url, "session", "exec", "--timeout", "600", session, "--", "sh", "-c", "echo a; sleep 600") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"a\n"
        assert typed("session", "interrupt", session)[0] == 0
        assert process.wait(HANG) == 130


def test_keys_are_made_listed_rotated_and_revoked_and_shown_once(typed: Typed) -> None:
    code, out, _ = typed("keys", "create", "one", "--owner", "somebody", "--scope", "read")
    secret = out.strip()
    id = secret.split("_")[1]
    assert code == 0
    other = typed.json("keys", "rotate", id)
    assert typed("keys", "revoke", other["id"])[0] == 0
    out = typed("keys", "list")[1]
    assert id in out
    assert other["id"] in out
    assert secret not in out
    assert other["secret"] not in out
    code, out, err = typed("session", "list", "--api-key", secret)
    assert (code, "401" in err) == (125, True)
    assert secret not in out + err


def test_a_template_is_made_used_changed_emptied_and_deleted(typed: Typed) -> None:
    made = ("template", "create", "mine", "--memory", "256Mi", "--disk", "1Gi", "--processes", "64", "--env", "A=b")
    assert typed(*made, "--preload", "json", "--allow", "example.org", "--timeout", "100") == (0, "mine\n", "")
    found = typed.json("template", "show", "mine")
    assert (found["name"], found["default_memory_mb"], found["default_disk_mb"]) == ("mine", 256, 1024)
    assert (found["max_processes"], found["default_timeout"], found["preload"]) == (64, 100, ["json"])
    assert found["network"]["allowed_domains"] == ["example.org"]
    shown = typed("template", "show", "mine")[1]
    assert all(text in shown for text in ("memory 256Mi", "example.org", "json", "A=b"))
    assert "mine\tmine\t" in typed("template", "list")[1]
    assert [each["id"] for each in typed.json("template", "list")] == ["python", "mine"]

    denied = typed.json("template", "update", "mine", "--deny", "a.example.org")["network"]
    assert denied == {"allowed_domains": ["example.org"], "denied_domains": ["a.example.org"]}
    denied = typed.json("template", "update", "mine", "--allow", "*.example.org")["network"]
    assert denied == {"allowed_domains": ["*.example.org"], "denied_domains": ["a.example.org"]}

    session = typed("session", "create", "mine")[1].strip()
    assert typed("session", "exec", session, "--", "sh", "-c", "echo $A") == (0, "b\n", "")
    assert typed("session", "delete", session)[0] == 0

    changed = typed.json("template", "update", "mine", "--name", "other", "--clear", "network", "--clear", "env")
    assert (changed["name"], changed["network"]["allowed_domains"], changed["default_env_vars"]) == ("other", [], {})
    assert (changed["preload"], changed["default_memory_mb"]) == (["json"], 256)
    code, _, err = typed("template", "delete", "python", "mine", "mine")
    assert (code, err.count("409"), err.count("404")) == (125, 1, 1)
    assert [each["id"] for each in typed.json("template", "list")] == ["python"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["template", "create", "a b"], "must begin with a letter or digit"),
        (["template", "create", "a", "--memory", "1GB"], "--memory must be an integer and Mi or Gi"),
        (["template", "create", "a", "--env", "A"], "--env wants NAME=VALUE"),
        (["template", "update", "python", "--clear", "name"], "--clear wants one of env, preload"),
        (["session", "create", "--env", "A"], "--env wants NAME=VALUE"),
        (["session", "create", "--tag", "A"], "--tag wants NAME=VALUE"),
        (["session", "run", "s", "/does/not/exist"], "No such file"),
        (["session", "run", "s", "-", "--event", "{"], "--event must be JSON: Expecting"),
        (["session", "create", "--mode", "statefull"], "mode is 'stateless' or 'stateful'"),
        (["session", "upload", "s", "-"], "has no name"),
        (["session", "upload", "s", "-", "d/"], "has no name"),
        (["session", "create", "--memory", "1GB"], "body.memory: must be an integer and Mi or Gi, such as '512Mi'"),
        (["session", "create", "pyhton"], "there is no template 'pyhton'"),
        (["session", "list", "--server", "ftp://x"], "begins with http"),
        (["session", "list", "--api-key", "a b"], "the key has characters"),
    ],
)
def test_what_makes_no_sense_is_refused(typed: Typed, arguments: list[str], said: str) -> None:
    code, _, err = typed(*arguments)
    assert (code, said in err) == (2, True), err


def test_where_no_server_is_that_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    done = ipybox("session", "list", "--server", url)
    said = done.stderr.decode()
    assert (done.returncode, url in said, "does a server run there?" in said) == (125, True, True)
