"""Shell and JavaScript beside Python, in the same session and with the same files."""

from __future__ import annotations

import shutil

import pytest

from tests.control.serving import Api

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def test_a_shell_writes_what_python_reads(api: Api, own_session: str) -> None:
    found = api.run(own_session, "echo out; echo err >&2; echo text > shared.txt; pwd", language="shell")
    assert (found["status"], found["exit_code"], found["kind"]) == ("completed", 0, "shell")
    assert found["stdout"] == "out\n/workspace\n"
    assert found["stderr"] == "err\n"
    assert [each["path"] for each in found["artifacts"]] == ["shared.txt"]
    assert api.run(own_session, "def handler(e): return open('shared.txt').read()")["return_value"] == "text\n"


def test_an_exit_code_of_a_shell_is_a_failure(api: Api, session: str) -> None:
    found = api.run(session, "echo out; exit 7", language="shell")
    assert (found["status"], found["status_reason"], found["exit_code"]) == ("failed", "exit_code", 7)
    assert found["stdout"] == "out\n"


def test_a_shell_that_does_not_end_is_ended_with_all_that_it_started(api: Api, own_session: str) -> None:
    code = "(while true; do date +%s%N > beat; sleep 0.05; done) & echo up; sleep 600"
    found = api.run(own_session, code, language="shell", timeout=1)
    assert (found["status"], found["stdout"]) == ("timeout", "up\n")
    processes = api.run(own_session, "ps -e -o args= | grep -c 'sleep' | cat", language="shell")
    assert processes["status"] == "completed"
    first = api.get(f"/sessions/{own_session}/files/beat").text
    assert api.run(own_session, "sleep 0.3", language="shell")["status"] == "completed"
    assert api.get(f"/sessions/{own_session}/files/beat").text == first


@needs_node
def test_javascript_has_a_handler_too(api: Api, session: str) -> None:
    code = "const handler = async (event) => { console.log('out'); return {n: event.n + 1, text: 'Grüße 🎉'}; };"
    found = api.run(session, code, language="javascript", event={"n": 1})
    assert (found["status"], found["exit_code"], found["kind"]) == ("completed", 0, "javascript")
    assert found["stdout"] == "out\n"
    assert found["return_value"] == {"n": 2, "text": "Grüße 🎉"}


@needs_node
def test_an_exception_in_javascript_is_a_failure_with_its_words(api: Api, session: str) -> None:
    found = api.run(session, "function handler() { throw new TypeError('my words') }", language="javascript")
    assert found["status"] == "failed"
    assert "TypeError" in found["stderr"]
    assert "my words" in found["stderr"]
    assert found["exit_code"] != 0


@needs_node
def test_javascript_that_does_not_end_is_ended(api: Api, session: str) -> None:
    found = api.run(session, "function handler() { while (true); }", language="javascript", timeout=1)
    assert found["status"] == "timeout"
