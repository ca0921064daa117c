"""What a sandboxed kernel gets to know of its surroundings, and how its supervisor's words are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ipybox.errors import GatewayStartError, PolicyError, SandboxUnavailableError
from ipybox.kernel_mgr.sandboxing import Sandboxing
from ipybox.sandbox.policy import MIB
from ipybox.sandbox.policy_file import DEFAULT_POLICY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a supervisor is there on Linux only")


def sandboxing(tmp_path: Path, policy: object = None, memory_limit: int | None = None) -> Sandboxing:
    config = None
    if policy is not None:
        config = tmp_path / "policy.json"
        config.write_text(json.dumps(policy))
    return Sandboxing(config, memory_limit=memory_limit, working_dir=tmp_path, learn=False)


def test_without_a_file_it_is_the_default_policy(tmp_path: Path) -> None:
    assert sandboxing(tmp_path).policy == DEFAULT_POLICY
    assert sandboxing(tmp_path, memory_limit=64 * MIB).policy.limits.memory == 64 * MIB


def test_a_file_is_read_and_the_gateway_s_limit_counts_more(tmp_path: Path) -> None:
    policy = {"limits": {"memory": 128 * MIB, "processes": 77}}
    assert sandboxing(tmp_path, policy).policy.limits.memory == 128 * MIB
    limits = sandboxing(tmp_path, policy, 64 * MIB).policy.limits
    assert (limits.memory, limits.processes) == (64 * MIB, 77)
    with pytest.raises(PolicyError, match="nonsense"):
        sandboxing(tmp_path, {"nonsense": 1})


def test_a_kernel_s_environment_has_the_sandbox_s_places(tmp_path: Path) -> None:
    given = {"PATH": "/bin", "HOME": "/home/me", "SHELL": "/bin/zsh", "TMPDIR": "/scratch", "USER": "me", "MINE": "1"}
    env = sandboxing(tmp_path).kernel_env(given, tmp_path)
    assert (env["HOME"], env["TMPDIR"], env["USER"], env["SHELL"]) == ("/run/home", "/tmp", "sandbox", "/bin/sh")
    assert (env["PATH"], env["MINE"]) == ("/bin", "1")
    assert "/home/me" not in " ".join(env.values())


def test_packages_come_first_on_the_paths(tmp_path: Path) -> None:
    env = sandboxing(tmp_path, {"packages": {"install": ["x"]}}).kernel_env(
        {"PATH": "/bin", "PYTHONPATH": "/mine"}, tmp_path
    )
    assert env["PATH"] == f"{tmp_path}/packages/bin:/bin"
    assert env["PYTHONPATH"].startswith(f"{tmp_path}/packages/lib")
    assert env["PYTHONPATH"].endswith(":/mine")


def test_it_is_ready_when_both_are(tmp_path: Path) -> None:
    one = sandboxing(tmp_path)
    assert one.take([]) is False
    assert one.take([{"walls": "best"}]) is False
    assert one.tier == "best"
    assert one.take([{"gateway": True}]) is True


def test_both_may_speak_at_once(tmp_path: Path) -> None:
    assert sandboxing(tmp_path).take([{"gateway": True}, {"walls": "x"}]) is True


@pytest.mark.parametrize(
    ("facts", "kind", "text"),
    [
        ({"policy": ["here", "is wrong", "do that"]}, PolicyError, "here: is wrong; do that"),
        ({"unavailable": ["no walls", ["build some"]]}, SandboxUnavailableError, "no walls"),
        ({"failed": "pip ended badly"}, GatewayStartError, "pip ended badly"),
    ],
)
def test_what_went_wrong_is_raised(tmp_path: Path, facts: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        sandboxing(tmp_path).take([facts])
