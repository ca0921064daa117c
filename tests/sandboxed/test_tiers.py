"""Where only bubblewrap can make user namespaces each kernel gets one, and holds all the same; where nobody can, the
error says what stands against it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.helpers import HANG
from tests.sandboxed.servers import http_server

pytestmark = [pytest.mark.sandbox, pytest.mark.kernel]

CHECKOUT = Path(__file__).resolve().parent.parent.parent
NESTED, SEPARATE = "nested user namespaces", "one bubblewrap per kernel"
ONLY_START = "only start"

PROGRAM = """
import asyncio, json, sys, tempfile
from pathlib import Path
from ipybox.errors import IpyboxError, SandboxUnavailableError
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway

FACTS = {}

def clients(gateway, count, directory):
    return [
        KernelClient(gateway.host, gateway.port, images_dir=directory) for _ in range(count)
    ]

async def error_of(client, code, timeout=None):
    try:
        await client.execute(code, timeout)
    except IpyboxError as error:
        return error
    return None

async def use(gateway, directory):
    FACTS['tier'] = gateway.sandbox_tier
    if sys.argv[2:] == ['only start']:
        return
    client, *others = clients(gateway, 3, directory)
    for each in (client, *others):
        await each.connect()
    for code in sys.argv[2:]:
        result = await client.execute(code, 60)
        FACTS.setdefault('texts', []).append(result.text)
        FACTS.setdefault('network', []).append([str(access) for access in result.network])
    await client.execute('x = 41')
    error = await error_of(client, 'while True: pass', 1)
    FACTS['interrupted'] = [type(error).__name__, getattr(error, 'state_preserved', None)]
    FACTS['state'] = (await client.execute('x + 1')).text
    FACTS['died'] = str(getattr(await error_of(client, 'import os; os._exit(7)'), 'exit', None))
    FACTS['next'] = (await client.execute('6 * 7')).text
    FACTS['others'] = [(await each.execute("1 + 1; open('/tmp/mine', 'x'); print(2)")).text for each in others]
    for each in (client, *others):
        await each.disconnect()

async def main():
    with tempfile.TemporaryDirectory() as directory:
        config, workspace = Path(directory, 'policy.json'), Path(directory, 'workspace')
        config.write_text(sys.argv[1])
        workspace.mkdir()
        try:
            async with KernelGateway(port=0, sandbox=True, sandbox_config=config, working_dir=workspace) as gateway:
                await use(gateway, directory)
        except SandboxUnavailableError as error:
            FACTS['unavailable'] = [error.reason, list(error.remedies)]
        FACTS['left'] = sorted(path.name for path in workspace.iterdir())

asyncio.run(main())
print(json.dumps(FACTS))
"""

POSTURE = "import json; from ipybox.sandbox.posture import posture; print(json.dumps(posture()))"
HTTP = """
import urllib.request
try:
    print(urllib.request.urlopen({url!r}, timeout=20).read().decode())
except OSError as error:
    print(type(error).__name__)
"""
LOOK = """
import os
kept = [name for name in os.listdir('/proc') if name.isdigit()]
print(len(kept), os.path.exists('/proc/kcore') and os.access('/proc/kcore', os.R_OK))
try:
    open('/usr/made', 'w')
except OSError as error:
    print(error.strerror)
print(open('made', 'w').write('text'))
os.remove('made')
"""


async def with_few_namespaces(
    kind: str, number: int, *codes: str, policy: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Runs the program above where there are only so many user namespaces."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.sandboxed.few_namespaces", kind, str(number)),
        *(sys.executable, "-c", PROGRAM, json.dumps(policy or {}), *codes),
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(4 * HANG):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()
    facts: dict[str, Any] = json.loads(out)
    assert facts["left"] == []
    return facts


def holds(text: str) -> None:
    rows = json.loads(text)
    assert len(rows) >= 9
    assert {name: detail for name, (held, detail) in rows.items() if not held} == {}


def works(facts: dict[str, Any]) -> None:
    """A kernel is interrupted, dies and is replaced as everywhere, and has neighbours."""
    assert facts["interrupted"] == ["ExecutionTimeoutError", True]
    assert facts["state"] == "42"
    assert facts["died"] == "exit code 7"
    assert facts["next"] == "42"
    assert facts["others"] == ["2", "2"]


@pytest.mark.asyncio
async def test_one_bubblewrap_per_kernel_holds_in_every_row(tmp_path: Path) -> None:
    with http_server(tmp_path) as (port, seen):
        facts = await with_few_namespaces(
            "depth", 2, POSTURE, HTTP.format(url=f"http://127.0.0.1:{port}/"), HTTP.format(url="http://1.1.1.1/"), LOOK
        )
    assert facts["tier"] == SEPARATE
    posture, local, far, look = facts["texts"]
    holds(posture)
    assert (local, far) == ("URLError", "URLError")
    assert seen.requests == []
    assert look.split("\n") == ["2 False", "Read-only file system", "4"]
    works(facts)


@pytest.mark.asyncio
async def test_it_reaches_what_its_policy_allows_and_nothing_else(tmp_path: Path) -> None:
    with http_server(tmp_path) as (port, _):
        network = {"allowedDomains": [f"allowed.example:{port}"], "hosts": {"allowed.example": "127.0.0.1"}}
        codes = [HTTP.format(url=f"http://{name}.example:{port}/page") for name in ("allowed", "other")]
        facts = await with_few_namespaces("depth", 2, POSTURE, *codes, policy={"network": network})
    assert facts["tier"] == SEPARATE
    posture, allowed, other = facts["texts"]
    holds(posture)
    assert "Example Domain" in allowed
    assert "Error" in other
    _, (yes,), (no,) = facts["network"]
    assert yes.startswith(f"allowed.example:{port} allowed")
    assert no.startswith(f"other.example:{port} denied")
    works(facts)


@pytest.mark.asyncio
async def test_one_level_more_is_enough_for_one_wall_around_all(tmp_path: Path) -> None:
    facts = await with_few_namespaces("depth", 3, POSTURE)
    assert facts["tier"] == NESTED
    holds(facts["texts"][0])
    works(facts)


@pytest.mark.asyncio
async def test_a_wall_that_was_tried_holds_no_namespaces_when_the_next_is_tried() -> None:
    """The gateway's wall takes two, the outer one two more, and there is none left for a program in that: but without
    the outer one, there are two for a program's own."""
    facts = await with_few_namespaces("count", 4, ONLY_START)
    assert facts.get("unavailable") is None
    assert facts["tier"] == SEPARATE


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.asyncio
async def test_without_namespaces_the_error_names_the_limit_and_how_to_raise_it(count: int) -> None:
    facts = await with_few_namespaces("count", count)
    reason, remedies = facts["unavailable"]
    causes, _, tried = reason.partition(" (tried: ")
    assert tried
    assert "user.max_user_namespaces" in causes
    assert "max_user_namespaces" in remedies[0]


@pytest.mark.asyncio
async def test_each_wall_that_was_tried_says_why_it_failed_in_its_own_words() -> None:
    reason = (await with_few_namespaces("depth", 1))["unavailable"][0]
    tried = reason.partition(" (tried: ")[2]
    nested, _, separate = tried.partition(f"; {SEPARATE}: ")
    assert "No space left on device" in nested
    assert "No space left on device" in separate
