"""How kernels are confined on macOS, as far as that can be seen without one: command, environment, proxy."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ipybox.kernel_mgr.seatbelt_kernels import SeatbeltKernels, SeatbeltSettings
from ipybox.sandbox import seatbelt
from ipybox.sandbox.policy import NetworkPolicy, SandboxPolicy

KERNEL = "0f1e2d3c-0000-4000-8000-000000000000"


@pytest.fixture(autouse=True)
def a_sandbox_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seatbelt, "SANDBOX_EXEC", "/bin/sh")  # something that is there; it is not run


def settings(tmp_path: Path, policy: SandboxPolicy) -> SeatbeltSettings:
    for name in ("home", "work", "run"):
        (tmp_path / name).mkdir()
    return SeatbeltSettings(
        policy=policy,
        home=str(tmp_path / "home"),
        working_dir=str(tmp_path / "work"),
        python_paths=("/usr/lib/python3",),
        protected=(str(tmp_path / "work" / "sandbox.json"),),
    )


def kernels(tmp_path: Path, policy: SandboxPolicy, seen: list[dict[str, Any]] | None = None) -> SeatbeltKernels:
    events: list[dict[str, Any]] = [] if seen is None else seen
    return SeatbeltKernels(settings(tmp_path, policy), tmp_path / "run", events.append)


@pytest.mark.asyncio
async def test_a_kernel_runs_under_its_profile(tmp_path: Path) -> None:
    confined = kernels(tmp_path, SandboxPolicy())
    argv, env = await confined.confine(KERNEL, ["python", "-m", "kernel"], {"PATH": "/bin"})
    assert argv[0] == "/bin/sh"
    assert argv[1] == "-p"
    assert argv[3:] == ["--", "python", "-m", "kernel"]
    assert "(deny default)" in argv[2]
    assert str(tmp_path / "work") in argv[2]
    assert env["PATH"] == "/bin"


@pytest.mark.asyncio
async def test_its_home_is_a_directory_of_its_own_that_goes_with_it(tmp_path: Path) -> None:
    confined = kernels(tmp_path, SandboxPolicy())
    _, env = await confined.confine(KERNEL, ["python"], {"HOME": "/Users/me"})
    home = Path(env["HOME"])
    assert home.is_dir()
    assert home.is_relative_to(tmp_path / "run")
    (home / "left.txt").write_text("by the kernel before a restart")
    _, env = await confined.confine(KERNEL, ["python"], {})
    assert os.listdir(env["HOME"]) == []
    await confined.forget(KERNEL)
    assert not home.exists()


@pytest.mark.asyncio
async def test_without_allowed_hosts_there_is_no_proxy(tmp_path: Path) -> None:
    _, env = await kernels(tmp_path, SandboxPolicy()).confine(KERNEL, ["python"], {})
    assert "HTTPS_PROXY" not in env


@pytest.mark.asyncio
async def test_with_allowed_hosts_its_proxy_is_the_only_way_out(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    policy = SandboxPolicy(network=NetworkPolicy(allowed_domains=("example.org",)))
    confined = kernels(tmp_path, policy, seen)
    argv, env = await confined.confine(KERNEL, ["python"], {})
    port = env["HTTPS_PROXY"].rpartition(":")[2]
    assert f'(remote ip "localhost:{port}")' in argv[2]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.write(b"CONNECT elsewhere.test:443 HTTP/1.1\r\nHost: elsewhere.test:443\r\n\r\n")
    assert b"403" in await reader.readline()
    writer.close()
    assert [(event["tag"], event["host"], event["allowed"]) for event in seen] == [(KERNEL, "elsewhere.test", False)]
    await confined.forget(KERNEL)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(port))


def test_settings_survive_their_journey_to_the_gateway(tmp_path: Path) -> None:
    policy = SandboxPolicy(network=NetworkPolicy(allowed_domains=("a.test",), hosts=(("a.test", "192.0.2.1"),)))
    given = settings(tmp_path, policy)
    assert SeatbeltSettings.from_dict(json.loads(json.dumps(given.to_dict()))) == given
