"""The same drivers with the engines themselves, where they run. The image is made here, and no registry asked."""

from __future__ import annotations

import asyncio
import io
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ipybox
from ipybox.command.binaries import find_binary
from ipybox.command.containers import ContainerDriver, DockerDriver, PodmanDriver
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.result import ExecResult
from ipybox.errors import IpyboxError, ProgramStartError
from tests.command.drivers import Sleeper
from tests.command.waiting import PATIENCE, soon

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio]

APPLETS = ("sh", "cat", "id", "env", "ls", "sleep", "touch", "mkdir", "chmod", "dd", "true", "setsid", "grep", "printf")


@dataclass(frozen=True)
class Engine:
    """An engine that runs containers here."""

    kind: type[ContainerDriver]
    binary: str
    image: str
    waived: tuple[str, ...]

    def driver(self, policy: ExecutionPolicy) -> ContainerDriver:
        return self.kind(policy, image=self.image, binary=self.binary, waive=self.waived)

    def containers(self) -> list[str]:
        """Names of all there are, running or not."""
        return _output(self.binary, "ps", "--all", "--format", "{{.Names}}").split()


def _output(*command: str, data: bytes | None = None) -> str:
    done = subprocess.run(command, input=data, capture_output=True, timeout=PATIENCE, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command[:2])} does not work here: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


@pytest.fixture(scope="module", params=[DockerDriver, PodmanDriver], ids=lambda kind: kind.name)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    kind: type[ContainerDriver] = request.param
    try:
        binary = find_binary(kind.name, f"{kind.name.upper()}_BIN", remedy=kind.remedy)
    except IpyboxError as error:
        pytest.skip(str(error))
    image = f"localhost/ipybox-test-{secrets.token_hex(6)}:1"
    _output(binary, "import", "-", image, data=_root_file_system())
    try:
        _output(binary, "run", "--rm", "--network=none", image, "true")
        yield Engine(kind, binary, image, _waived(kind, binary, image))
    finally:
        subprocess.run([binary, "rmi", "--force", image], capture_output=True, timeout=PATIENCE, check=False)


def _root_file_system() -> bytes:
    """A tar with a busybox that needs no libraries."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("there is nothing to make an image of: apt install busybox-static")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
        tar.add(os.path.realpath(busybox), "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return data.getvalue()


def _waived(kind: type[ContainerDriver], binary: str, image: str) -> tuple[str, ...]:
    """Limits that this engine does not have here; the driver says which."""
    asked = ExecutionPolicy.default().with_cpus(0.5).with_processes(20).with_timeout(PATIENCE)
    try:
        kind(asked, image=image, binary=binary).blocking().execute(["true"])
    except IpyboxError as error:
        return tuple(getattr(error, "fields", ()))
    return ()


@pytest.fixture
def policy(tmp_path: Path) -> ExecutionPolicy:
    base = tmp_path / "base"
    base.mkdir()
    return ExecutionPolicy.in_dir(base).with_timeout(PATIENCE)


async def sh(engine: Engine, policy: ExecutionPolicy, line: str, *arguments: Any, **options: Any) -> ExecResult:
    return await engine.driver(policy).execute(["sh", "-c", line, "sh", *map(str, arguments)], **options)


async def test_a_command_is_nobody_and_may_write_in_its_work_directory_only(
    engine: Engine, policy: ExecutionPolicy
) -> None:
    line = "id -u; echo $PWD $HOME; ls -A; echo mine > file; cat file; touch /file"
    result = await sh(engine, policy, f"{line}; grep -E 'CapEff|NoNew' /proc/self/status")
    uid, places, mine, capabilities, privileges = result.stdout.splitlines()
    assert int(uid) != 0 or engine.kind is DockerDriver  # one without privileges, whose root is the caller
    assert places == "/work /work"
    assert mine == "mine"
    assert int(capabilities.split()[1], 16) == 0
    assert privileges.split()[1] == "1"
    assert "Read-only file system" in result.stderr
    assert os.listdir(policy.base_dir) == []


async def test_paths_are_found_at_their_own_places(engine: Engine, policy: ExecutionPolicy, tmp_path: Path) -> None:
    readable, writable = tmp_path / 'to "read", only', tmp_path / "to,write:ro"
    for path in (readable, writable):
        path.mkdir()
        (path / "file").write_text("before")
        (path / "file").chmod(0o666)
        path.chmod(0o777)
    granted = policy.with_readable_paths(readable).with_writable_paths(writable)
    line = 'cat "$1/file" "$2/file"; echo no > "$1/file"; echo after > "$2/file"; ls "$3"'
    result = await sh(engine, granted, line, readable, writable, tmp_path)
    assert result.stdout.startswith("beforebefore")
    assert sorted(result.stdout.removeprefix("beforebefore").splitlines()) == sorted([readable.name, writable.name])
    assert (readable / "file").read_text() == "before"
    assert (writable / "file").read_text() == "after\n"


async def test_input_output_and_environment_are_exact(engine: Engine, policy: ExecutionPolicy) -> None:
    data = bytes(range(256)) * 4096 + b"\x10\x11 the keys that detach"
    with_env = policy.with_env({"LINES": "one\ntwo", "DOCKER_HOST": "inside"}).with_output_caps(len(data), 1024)
    result = await engine.driver(with_env).execute(["cat"], data)
    assert (result.stdout_bytes, result.stderr, result.exit_code) == (data, "", 0)
    result = await engine.driver(with_env).execute(["printf", "[%s]", "--rm", "-v", "", "$HOME", "a b\n"])
    assert result.stdout == "[--rm][-v][][$HOME][a b\n]"
    result = await sh(engine, with_env, 'echo "$LINES" $DOCKER_HOST')
    assert result.stdout == "one\ntwo inside\n"


async def test_there_is_no_network(engine: Engine, policy: ExecutionPolicy) -> None:
    assert (await sh(engine, policy, "ls /sys/class/net")).stdout == "lo\n"


async def test_exit_codes_and_a_missing_command(engine: Engine, policy: ExecutionPolicy) -> None:
    assert (await sh(engine, policy, "exit 125")).exit_code == 125
    assert (await engine.driver(policy).execute(["no-such-command"])).exit_code == 127
    assert (await engine.driver(policy).execute(["/etc"])).exit_code == 126
    result = await sh(engine, policy.with_cpu_time(1), "while :; do :; done")
    assert (result.exit_code, result.stop_reason) == (137, "signal")


async def test_memory_and_processes_are_limited(engine: Engine, policy: ExecutionPolicy) -> None:
    if engine.waived:
        pytest.skip(f"this engine does not limit {', '.join(engine.waived)} here")
    result = await sh(engine, policy.with_memory("32M"), "dd if=/dev/zero of=/dev/null bs=100M count=1; echo $?")
    assert result.stdout == "137\n"
    line = "i=0; while [ $i -lt 30 ]; do sleep 100 & i=$((i+1)); done; echo all"
    result = await sh(engine, policy.with_processes(10), line)
    assert "all" not in result.stdout


async def test_no_container_is_left(engine: Engine, policy: ExecutionPolicy) -> None:
    before, sleeper = engine.containers(), Sleeper()
    results = await asyncio.gather(*(sh(engine, policy, "echo $1", number) for number in range(8)))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(8)]
    line = "trap '' TERM; (setsid sleep $1 &); echo partial; while :; do sleep $1; done"
    result = await sh(engine, policy.with_idle_timeout(3), line, sleeper.seconds)
    assert (result.stdout, result.exit_code, result.stop_reason) == ("partial\n", 124, "idle")
    for seconds in (0.05, 0.15, 0.3):  # while it is being made
        await sh(engine, policy.with_timeout(seconds), line, sleeper.seconds)
    assert not sleeper.is_alive
    assert engine.containers() == before
    assert os.listdir(policy.base_dir) == []


OWNER = """
import asyncio, sys
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.sandbox import Sandbox

async def main():
    name, binary, image, waive, base, seconds = sys.argv[1:]
    policy = ExecutionPolicy.in_dir(base).with_timeout(60)
    sandbox = Sandbox.from_policy(policy).using(name, binary=binary, image=image, waive=waive.split())
    line = "trap '' TERM; echo running; while :; do sleep $1; done"
    await sandbox.execute(["sh", "-c", line, "sh", seconds], None, lambda stream, text: print(text, flush=True))

asyncio.run(main())
"""


async def test_no_container_outlives_a_killed_owner(engine: Engine, policy: ExecutionPolicy) -> None:
    before, sleeper = engine.containers(), Sleeper()
    words = (engine.kind.name, engine.binary, engine.image, " ".join(engine.waived), policy.base_dir, sleeper.seconds)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, *words],
        env={**os.environ, "PYTHONPATH": str(Path(ipybox.__file__).parent.parent)},
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    with owner.stdout as said:
        assert said.readline() == b"running\n"
        owner.send_signal(signal.SIGKILL)
        owner.wait(PATIENCE)

    def is_over() -> bool:
        return not sleeper.is_alive and engine.containers() == before and os.listdir(policy.base_dir) == []

    assert await soon(is_over)


async def test_an_image_that_is_not_there_is_no_result(engine: Engine, policy: ExecutionPolicy) -> None:
    driver = engine.kind(
        policy, image="localhost/ipybox-test-no-such-image:1", binary=engine.binary, waive=engine.waived
    )
    with pytest.raises(ProgramStartError, match=f"{engine.kind.name} did not start the command"):
        await driver.execute(["true"])
