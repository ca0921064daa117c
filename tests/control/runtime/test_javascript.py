"""JavaScript in a session, where there is node."""

from __future__ import annotations

import shutil

import pytest

from ipybox.control.states import ExecutionStatus, Reason
from tests.control.runtime.boxes import Box, Boxes

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")


@needs_node
@pytest.mark.parametrize(
    "code",
    [
        "function handler(event) { return {n: event.n + 1}; }",
        "const handler = async (event) => ({n: event.n + 1});",
        "exports.handler = (event) => ({n: event.n + 1});",
        "module.exports = {handler: (event) => ({n: event.n + 1})};",
    ],
)
async def test_a_handler_is_found_and_its_value_returned(box: Box, code: str) -> None:
    ran = await box.node(f"console.log('hi');\n{code}", event={"n": 1})
    assert (ran.status, ran.outcome.return_value) == (ExecutionStatus.COMPLETED, {"n": 2})
    assert ran.text() == "hi\n"


@needs_node
async def test_code_without_a_handler_is_just_run(box: Box) -> None:
    ran = await box.node(
        "const fs = require('fs'); fs.writeFileSync('js.txt', 'x'); setTimeout(() => console.log(1), 5)"
    )
    assert (ran.status, ran.outcome.has_return_value, ran.text()) == (ExecutionStatus.COMPLETED, False, "1\n")
    assert (box.workspace / "js.txt").read_text() == "x"


@needs_node
async def test_what_is_thrown_is_told(box: Box) -> None:
    ran = await box.node("function handler() { throw new TypeError('no'); }")
    assert (ran.status, ran.outcome.reason, ran.outcome.exit_code) == (ExecutionStatus.FAILED, Reason.RAISED, 1)
    assert ran.outcome.error_message == "TypeError: no"
    assert "<handler>:1" in ran.text("stderr")
    assert "[eval]" not in ran.text("stderr")
    ran = await box.node("const x = ;")
    assert ran.outcome.error_name == "SyntaxError"


@needs_node
@pytest.mark.parametrize("value", ["10n", "(() => { const a = {}; a.a = a; return a; })()", "() => 1"])
async def test_what_is_no_json_is_a_bad_result(box: Box, value: str) -> None:
    ran = await box.node(f"const handler = () => {value}")
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.FAILED, Reason.BAD_RESULT)


@needs_node
async def test_its_exit_code_is_told_and_it_can_be_too_long(box: Box) -> None:
    assert (await box.node("process.exit(5)")).outcome.exit_code == 5
    ran = await box.node("console.log('a'); setInterval(() => {}, 1000)", timeout=0.5)
    assert (ran.status, ran.text()) == (ExecutionStatus.TIMEOUT, "a\n")


@needs_node
async def test_its_children_do_not_get_its_line(box: Box) -> None:
    code = (
        "exports.handler = () => require('child_process').execSync('ls /proc/self/fd').toString().trim().split('\\n')"
    )
    ran = await box.node(code)
    assert set(ran.outcome.return_value) <= {"0", "1", "2", "3"}


async def test_without_node_it_says_so(boxes: Boxes) -> None:
    box = await boxes.make(env={"PATH": "/nowhere"})
    ran = await box.node("1")
    assert ran.status is ExecutionStatus.FAILED
    assert "node is not installed" in (ran.outcome.error_message or "")
    assert "node is not installed" in ran.text("stderr")
