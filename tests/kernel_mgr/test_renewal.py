"""Forks of one Python share no randomness, no temporary names and no keys once they are renewed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from typing import Any

import pytest

from tests.process.witness import needs_linux

pytestmark = needs_linux

SCRIPT = r"""
import ctypes, os, sys

renews, apart = sys.argv[1] == "renewed", sys.argv[2] == "equal pids"

def unshare():
    assert ctypes.CDLL(None, use_errno=True).unshare(0x20000000) == 0

if apart:  # this Python has the same pid as well, so nothing can notice a fork by it
    unshare()
    if inner := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))

import json, multiprocessing, multiprocessing.util, random, secrets, ssl, tempfile, uuid
import numpy
from ipybox.kernel_mgr import renewal

# All of it was used before, as imported modules may.
used = [random.random(), numpy.random.random(), tempfile.mktemp(), uuid.uuid1(), uuid.uuid4(), ssl.RAND_bytes(8)]
multiprocessing.current_process().authkey
multiprocessing.util.get_temp_dir()

def facts():
    made = multiprocessing.Process(target=print)
    return {
        "pid": os.getpid(),
        "random.random": random.random(),
        "random.Random": random.Random().random(),
        "numpy.random.random": numpy.random.random(),
        "numpy.random.randint": int(numpy.random.randint(2**62)),
        "numpy.random.default_rng": numpy.random.default_rng().random(),
        "tempfile": tempfile.mktemp(),
        "tempfile prefix": tempfile.mktemp(prefix="x", dir="/"),
        "uuid1": str(uuid.uuid1()),
        "uuid4": str(uuid.uuid4()),
        "ssl": ssl.RAND_bytes(16).hex(),
        "authkey": bytes(multiprocessing.current_process().authkey).hex(),
        "multiprocessing directory": multiprocessing.util.get_temp_dir(),
        "secrets": secrets.token_hex(),
        "urandom": os.urandom(16).hex(),
        "process name": made.name,
    }

def fork(work):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        code = 1
        try:
            data = json.dumps(work()).encode()
            while data:
                data = data[os.write(write, data):]
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(said)

def kernel():
    if renews:
        renewal.renew()
    return facts()

def alone():
    '''In a pid namespace of its own, as a sandboxed kernel: all of them have the same pid there.'''
    unshare()
    return fork(kernel)

multiprocessing.util._finalizer_registry.clear()
print(json.dumps([fork(alone if apart else kernel) for _ in range(6)]))
"""

PIDS = [
    "own pids",
    pytest.param("equal pids", marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs a pid namespace")),
]


@cache
def forks(state: str, pids: str) -> list[dict[str, Any]]:
    """What several forks of one Python say."""
    command = [sys.executable, "-c", SCRIPT, state, pids]
    with tempfile.TemporaryDirectory() as place:  # they leave theirs behind
        env = {**os.environ, "TMPDIR": place}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if "assert ctypes" in done.stderr:
        pytest.skip("no pid namespace here")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


DIFFERENT = [
    "random.random",
    "random.Random",
    "numpy.random.random",
    "numpy.random.randint",
    "numpy.random.default_rng",
    "tempfile",
    "tempfile prefix",
    "uuid1",
    "uuid4",
    "ssl",
    "authkey",
    "multiprocessing directory",
    "secrets",
    "urandom",
]


@pytest.mark.parametrize("pids", PIDS)
@pytest.mark.parametrize("what", DIFFERENT)
def test_forks_differ_from_each_other(what: str, pids: str) -> None:
    found = [fork[what] for fork in forks("renewed", pids)]
    assert len(set(found)) == len(found), found


@pytest.mark.parametrize("pids", PIDS)
def test_forks_count_their_processes_from_one(pids: str) -> None:
    assert {fork["process name"] for fork in forks("renewed", pids)} == {"Process-1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a pid namespace")
def test_their_pids_really_are_equal() -> None:
    assert {fork["pid"] for fork in forks("renewed", "equal pids")} == {1}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a pid namespace")
@pytest.mark.parametrize("what", ["numpy.random.random", "authkey", "tempfile", "multiprocessing directory"])
def test_without_renewal_they_would_not(what: str) -> None:
    """Else the tests above would tell nothing."""
    assert len({fork[what] for fork in forks("as they are", "equal pids")}) == 1


UNLOADED = """
import sys
from ipybox.kernel_mgr import renewal
before = set(sys.modules)
renewal.renew()
print(sorted(set(sys.modules) - before))
"""


def test_it_loads_nothing_that_was_not_there() -> None:
    done = subprocess.run([sys.executable, "-c", UNLOADED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
