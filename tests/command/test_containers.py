"""How Docker and Podman are told what to do, and what becomes of it. The engine is a stand-in, all else is real."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import ipybox
from ipybox.command import containers
from ipybox.command.cancellation import Cancellation
from ipybox.command.containers import DockerDriver, PodmanDriver
from ipybox.command.policy import ExecutionPolicy
from ipybox.errors import PolicyError, PolicyNotEnforcedError, ProgramStartError, SandboxUnavailableError
from tests.command.standin import DOCKER, PODMAN, StandIn
from tests.command.waiting import PATIENCE

pytestmark = pytest.mark.asyncio

DRIVERS = {"docker": (DockerDriver, DOCKER), "podman": (PodmanDriver, PODMAN)}
each_driver = pytest.mark.parametrize("name", DRIVERS)
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StandIn]:
    standin = StandIn(tmp_path / "engine")
    yield standin
    standin.close()


@pytest.fixture
def policy(tmp_path: Path) -> ExecutionPolicy:
    base = tmp_path / "base"
    base.mkdir()
    return ExecutionPolicy.in_dir(base).with_timeout(PATIENCE)


@pytest.fixture(autouse=True)
def not_on_wsl(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "6.1.0-generic")


def on(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((real[0], real[1], release, real[3], real[4])))


def driver(
    name: str, engine: StandIn, policy: ExecutionPolicy, plan: dict[str, Any] | None = None, **options: Any
) -> Any:
    kind, info = DRIVERS[name]
    engine.will(**{"info": info, **(plan or {})})
    return kind(policy, binary=engine.binary, **options)


def values(argv: list[str], option: str) -> list[str]:
    """What follows an option, wherever it is."""
    return [value for word, value in itertools.pairwise(argv) if word == option]


# ---- the command line -------------------------------------------------------------------------------------------


def user(name: str) -> str:
    return "65534:65534" if IS_ROOT or name == "podman" else f"{os.geteuid()}:{os.getegid()}"


@each_driver
async def test_the_whole_command_line(name: str, engine: StandIn, policy: ExecutionPolicy) -> None:
    result = await driver(name, engine, policy, {"stdout": "out", "stderr": "err", "exit": 3}).execute(
        ["--rm", "-v", "/:/host", "a b"]
    )
    assert (result.stdout, result.stderr, result.exit_code) == ("out", "err", 3)
    argv = engine.run["argv"]
    workspace = engine.run["workspace"]
    assert re.fullmatch(rf"{re.escape(policy.base_dir)}/sandbox-[0-9a-f]{{24}}", workspace)
    passed = {"-e", "LANG", "HOME=/work", "PWD"}
    assert [word for word in argv if word not in passed] == [
        *("run", "--rm", "--name", f"ipybox-{workspace[-24:]}"),
        *("--network=none", "--pids-limit=20", "--memory", "128m", "--memory-swap", "128m", "--cpus", "0.5"),
        *("--read-only", "--tmpfs", "/tmp:rw,noexec,nodev,nosuid,size=64m"),
        *("--cap-drop=ALL", "--security-opt", "no-new-privileges", "-u", user(name), "--log-driver=none"),
        *(["--http-proxy=false", "--detach-keys=", "--stop-timeout=0"] if name == "podman" else []),
        *(["--userns=keep-id:uid=65534,gid=65534"] if name == "podman" and not IS_ROOT else []),
        *("--mount", f"type=bind,source={workspace},target=/work", "-w", "/work"),
        *("--entrypoint=", "--", "alpine:3", "--rm", "-v", "/:/host", "a b"),
    ]


@each_driver
async def test_the_policy_becomes_options(name: str, engine: StandIn, policy: ExecutionPolicy) -> None:
    policy = policy.with_memory(20_000_000).with_cpus(1.25).with_cpu_time(7).with_processes(33).with_network(True)
    await driver(name, engine, policy, image="registry.example/image:1").execute(["true"])
    argv = engine.run["argv"]
    assert not any(word.startswith("--network") for word in argv)
    assert "--pids-limit=33" in argv
    assert values(argv, "--memory") == values(argv, "--memory-swap") == ["20000000b"]
    assert values(argv, "--cpus") == ["1.25"]
    assert values(argv, "--ulimit") == ["cpu=7:7"]
    assert argv[-2:] == ["registry.example/image:1", "true"]


@each_driver
async def test_there_is_an_input_only_where_something_is_to_be_read(
    name: str, engine: StandIn, policy: ExecutionPolicy
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"more"

    sandbox = driver(name, engine, policy)
    for stdin in (None, "", "text", chunks()):
        await sandbox.execute(["-i"], stdin)
    assert [record["stdin"] for record in engine.records] == [None, None, "text", "more"]


@each_driver
async def test_the_work_directory_is_private_and_goes_with_the_command(
    name: str, engine: StandIn, policy: ExecutionPolicy
) -> None:
    await driver(name, engine, policy).execute(["true"])
    assert engine.run["mode"] == 0o700
    assert engine.run["uid"] == (65534 if IS_ROOT else os.geteuid())
    assert os.listdir(policy.base_dir) == []


async def test_docker_without_privileges_calls_its_caller_root(engine: StandIn, policy: ExecutionPolicy) -> None:
    info = {**DOCKER, "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}
    await driver("docker", engine, policy, {"info": info}).execute(["true"])
    assert values(engine.run["argv"], "-u") == ["65534:65534" if IS_ROOT else "0:0"]


@each_driver
async def test_an_image_can_be_no_option(name: str, engine: StandIn, policy: ExecutionPolicy) -> None:
    for image, error in (("--privileged", ValueError), ("", ValueError), (None, TypeError)):
        with pytest.raises(error, match="image"):
            driver(name, engine, policy, image=image)


# ---- paths ------------------------------------------------------------------------------------------------------


@each_driver
async def test_paths_are_shown_at_their_own_places(
    name: str, engine: StandIn, policy: ExecutionPolicy, tmp_path: Path
) -> None:
    plain, odd, both = tmp_path / "plain", tmp_path / 'odd, "quoted":ro', tmp_path / "both"
    for path in (plain, odd, both):
        path.mkdir()
        path.chmod(0o777)
    policy = policy.with_readable_paths(plain, both).with_writable_paths(odd, both)
    await driver(name, engine, policy).execute(["true"])
    quoted = str(odd).replace('"', '""')
    assert values(engine.run["argv"], "--mount")[1:] == [
        f'type=bind,"source={quoted}","target={quoted}"',
        f"type=bind,source={both},target={both}",
        f"type=bind,source={plain},target={plain},readonly",
    ]


@each_driver
async def test_a_path_that_can_not_be_shown_is_refused_by_name(
    name: str, engine: StandIn, policy: ExecutionPolicy, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    for refused, where in (
        (policy.with_readable_paths("/usr", tmp_path / "gone"), r"readable_paths\[1\]: .*gone does not exist"),
        (policy.with_writable_paths(tmp_path / "gone"), r"writable_paths\[0\]: .*gone does not exist"),
        (policy.with_readable_paths("/"), r"readable_paths\[0\]: / is the container's own"),
        (policy.with_readable_paths("/proc/self"), r"readable_paths\[0\]: /proc/self is the container's own"),
        (policy.with_writable_paths("/tmp"), r"writable_paths\[0\]: /tmp is the container's own"),
        (policy.with_writable_paths(closed), r"writable_paths\[0\]: .*closed can't be written by"),
    ):
        with pytest.raises(PolicyError, match=where):
            await driver(name, engine, refused).execute(["true"])
    assert engine.records == []
    assert os.listdir(policy.base_dir) == []


async def test_another_file_system_would_stay_writable(
    engine: StandIn, policy: ExecutionPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    tree.chmod(0o777)
    monkeypatch.setattr(containers, "mount_points", lambda: ["/", str(tree), f"{tree}/inner"])
    with pytest.raises(PolicyError, match=r"readable_paths\[0\]: .*/tree/inner is another file system"):
        await driver("docker", engine, policy.with_readable_paths(tree)).execute(["true"])
    await driver("docker", engine, policy.with_writable_paths(tree)).execute(["true"])


# ---- environment ------------------------------------------------------------------------------------------------


@each_driver
async def test_values_are_in_no_command_line(
    name: str, engine: StandIn, policy: ExecutionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "caller's")
    policy = policy.with_env({"API_KEY": "top secret", "LINES": "line 1\nline 2", "OPENAI_API_KEY": "command's"})
    await driver(name, engine, policy).execute(["true"])
    argv, env = engine.run["argv"], engine.run["env"]
    assert {"API_KEY", "LINES", "OPENAI_API_KEY"} < set(values(argv, "-e"))
    assert not any("secret" in word or "line" in word or "command's" in word for word in argv)
    assert (env["API_KEY"], env["LINES"], env["OPENAI_API_KEY"]) == ("top secret", "line 1\nline 2", "command's")


@each_driver
async def test_what_the_client_needs_itself_stays_as_it_is(
    name: str, engine: StandIn, policy: ExecutionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///outside.sock")
    policy = policy.with_env({"DOCKER_HOST": "inside", "PATH": "/inside"})
    await driver(name, engine, policy).execute(["true"])
    argv, env = engine.run["argv"], engine.run["env"]
    assert {"DOCKER_HOST=inside", "PATH=/inside", "HOME=/work"} < set(values(argv, "-e"))
    assert (env["DOCKER_HOST"], env["PATH"]) == ("unix:///outside.sock", os.environ["PATH"])
    assert env.get("HOME") == os.environ.get("HOME")


@each_driver
async def test_an_inherited_environment_has_no_secrets_and_not_our_path(
    name: str, engine: StandIn, policy: ExecutionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDINARY", "ordinary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    await driver(name, engine, policy.with_inherited_env()).execute(["true"])
    passed = {value.partition("=")[0] for value in values(engine.run["argv"], "-e")}
    assert "ORDINARY" in passed
    assert not passed & {"AWS_SECRET_ACCESS_KEY", "PATH"}


@each_driver
async def test_a_name_that_is_a_pattern_is_refused(name: str, engine: StandIn, policy: ExecutionPolicy) -> None:
    with pytest.raises(PolicyError, match=r"env\['AWS_\*'\]"):
        await driver(name, engine, policy.with_env({"AWS_*": ""})).execute(["true"])


# ---- the end ----------------------------------------------------------------------------------------------------


@each_driver
async def test_a_container_that_takes_too_long_is_removed_by_name(
    name: str, engine: StandIn, policy: ExecutionPolicy
) -> None:
    result = await driver(name, engine, policy.with_timeout(0.5), {"sleep": True}).execute(["true"])
    assert (result.exit_code, result.stop_reason) == (124, "wall")
    removal = engine.records[-1]["argv"]
    assert removal == ["rm", "--force", engine.removed()]
    assert re.fullmatch(r"ipybox-[0-9a-f]{24}", removal[-1])
    assert os.listdir(policy.base_dir) == []


@each_driver
async def test_a_container_of_a_cancelled_command_is_removed_by_name(
    name: str, engine: StandIn, policy: ExecutionPolicy
) -> None:
    cancellation = Cancellation()
    result = await driver(name, engine, policy, {"sleep": True, "stdout": "go"}).execute(
        ["true"], None, lambda stream, text: cancellation.cancel(), cancellation=cancellation
    )
    assert (result.stdout, result.stop_reason) == ("go", "cancelled")
    assert [engine.removed()] == values(engine.run["argv"], "--name")


@each_driver
async def test_one_that_ends_by_itself_is_left_to_its_engine(
    name: str, engine: StandIn, policy: ExecutionPolicy
) -> None:
    await driver(name, engine, policy).execute(["true"])
    assert len(engine.records) == 1


OWNER = """
import asyncio, sys
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.sandbox import Sandbox

async def main():
    sandbox = Sandbox.from_policy(ExecutionPolicy.in_dir(sys.argv[3])).using(sys.argv[1], binary=sys.argv[2])
    await sandbox.execute(["true"], None, lambda stream, text: print(text, flush=True))

asyncio.run(main())
"""


@each_driver
async def test_no_container_outlives_a_killed_owner(name: str, engine: StandIn, policy: ExecutionPolicy) -> None:
    engine.will(DRIVERS[name][1], sleep=True, stdout="running")
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, name, str(engine.binary), policy.base_dir],
        env={**os.environ, "PYTHONPATH": str(Path(ipybox.__file__).parent.parent)},
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    with owner.stdout as said:
        assert said.readline() == b"running\n"
        owner.send_signal(signal.SIGKILL)
        owner.wait(PATIENCE)
        removed = await asyncio.to_thread(engine.removed)
        assert said.read() == b""
    assert [removed] == values(engine.run["argv"], "--name")


@each_driver
@pytest.mark.parametrize(
    ("code", "expected"), [(0, None), (1, None), (126, None), (127, None), (128, None), (137, "signal"), (255, None)]
)
async def test_exit_codes_are_handed_on_and_those_of_signals_are_known(
    name: str, engine: StandIn, policy: ExecutionPolicy, code: int, expected: str | None
) -> None:
    result = await driver(name, engine, policy, {"exit": code, "stderr": "words"}).execute(["true"])
    assert (result.exit_code, result.stop_reason, result.stderr) == (code, expected, "words")


# ---- engines that fail ------------------------------------------------------------------------------------------


@each_driver
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (125, "docker: Error response from daemon: pull access denied.\nSee 'docker run --help'.\n"),
        (125, "Unable to find image 'x' locally\ndocker: Error response from daemon: no such host\n"),
        (125, "Error: x: image not known\n"),
        (125, "unknown flag: --cpus\nSee 'podman run --help'\n"),
        (126, "Error: OCI runtime error: runc: unable to set memory limit\n"),
    ],
)
async def test_what_an_engine_fails_with_is_no_result(
    name: str, engine: StandIn, policy: ExecutionPolicy, code: int, words: str
) -> None:
    with pytest.raises(ProgramStartError) as caught:
        await driver(name, engine, policy, {"exit": code, "stderr": words}).execute(["true"])
    assert words.strip() in str(caught.value)
    assert os.listdir(policy.base_dir) == []


@each_driver
@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [
        (125, "", "my own words\n"),
        (125, "output", "Error: output came from the command\n"),
        (1, "", "Error: mine\n"),
        (126, "", "Error: crun: permission denied: OCI permission denied\n"),
        (127, "", "Error: crun: executable file not found in $PATH\n"),
    ],
)
async def test_a_command_may_fail_like_that_itself(
    name: str, engine: StandIn, policy: ExecutionPolicy, code: int, stdout: str, stderr: str
) -> None:
    result = await driver(name, engine, policy, {"exit": code, "stdout": stdout, "stderr": stderr}).execute(["true"])
    assert (result.exit_code, result.stdout, result.stderr) == (code, stdout, stderr)


@each_driver
async def test_an_engine_that_does_not_run_is_named_with_its_words(
    name: str, engine: StandIn, policy: ExecutionPolicy
) -> None:
    for plan, words in (
        ({"info": {"ServerErrors": ["Cannot connect to the daemon"]}}, "does not run: Cannot connect to the daemon"),
        ({"info": {}, "info_error": "no daemon", "info_exit": 1}, "does not run: no daemon"),
        ({"info": "", "info_error": "what?", "info_exit": 1}, "what it can do: what?"),
        ({"info": "[]"}, "what it can do: it said nothing"),
    ):
        with pytest.raises(SandboxUnavailableError, match=re.escape(words)):
            await driver(name, engine, policy, plan).execute(["true"])
    assert engine.records == []


@each_driver
async def test_a_client_that_is_no_program_is_named(name: str, engine: StandIn, policy: ExecutionPolicy) -> None:
    sandbox = driver(name, engine, policy)
    engine.binary.write_text("#!/no/such/interpreter\n")
    with pytest.raises(SandboxUnavailableError, match=r"client can't be executed: No such file or directory"):
        await sandbox.execute(["true"])


@each_driver
async def test_a_missing_client_is_named(
    name: str, policy: ExecutionPolicy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"{name.upper()}_BIN", str(tmp_path / "gone"))
    with pytest.raises(SandboxUnavailableError, match=rf"{name.upper()}_BIN='.*gone' is no executable file"):
        DRIVERS[name][0](policy)


# ---- limits that an engine does not keep ------------------------------------------------------------------------


@each_driver
async def test_hosts_and_too_little_memory_are_refused(name: str, engine: StandIn, policy: ExecutionPolicy) -> None:
    with pytest.raises(PolicyNotEnforcedError) as caught:
        driver(name, engine, policy.with_network(["example.org"]))
    assert caught.value.fields == ("hosts",)
    with pytest.raises(PolicyError, match="memory: 1048576 bytes are too few"):
        driver(name, engine, policy.with_memory("1M"))


async def test_docker_on_a_kernel_without_limits_is_refused_unless_that_is_waived(
    engine: StandIn, policy: ExecutionPolicy
) -> None:
    plan = {"info": {**DOCKER, "MemoryLimit": False, "PidsLimit": False}}
    for asked, fields in ((policy, ("memory",)), (policy.with_processes(5), ("memory", "processes"))):
        with pytest.raises(PolicyNotEnforcedError) as caught:
            await driver("docker", engine, asked, plan).execute(["true"])
        assert caught.value.fields == fields
    assert engine.records == []
    await driver("docker", engine, policy, plan, waive="memory").execute(["true"])
    assert not any(word.startswith(("--memory", "--pids")) for word in engine.run["argv"])


@pytest.mark.parametrize(
    ("host", "fields"),
    [
        ({"cgroupVersion": "v1", "security": {"rootless": True}}, ("memory", "cpus", "processes")),
        ({"cgroupControllers": ["memory", "pids"], "security": {"rootless": True}}, ("cpus",)),
        ({"cgroupControllers": None}, ("memory", "cpus", "processes")),
    ],
)
async def test_podman_without_controllers_is_refused(
    engine: StandIn, policy: ExecutionPolicy, host: dict[str, Any], fields: tuple[str, ...]
) -> None:
    plan = {"info": {"host": {**PODMAN["host"], **host}}}
    with pytest.raises(PolicyNotEnforcedError) as caught:
        await driver("podman", engine, policy.with_cpus(1).with_processes(5), plan).execute(["true"])
    assert caught.value.fields == fields
    assert engine.records == []


async def test_podman_on_wsl2_limits_neither_memory_nor_processors(
    engine: StandIn, policy: ExecutionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, "5.15.153.1-microsoft-standard-WSL2")
    with pytest.raises(PolicyNotEnforcedError) as caught:
        driver("podman", engine, policy.with_cpus(1))
    assert caught.value.fields == ("memory", "cpus")
    await driver("podman", engine, policy, waive=["memory"]).execute(["true"])
    argv = engine.run["argv"]
    assert argv[:2] == ["--cgroup-manager=cgroupfs", "run"]
    assert not any(word.startswith(("--memory", "--cpus")) for word in argv)
    assert "--pids-limit=20" in argv
    await driver("docker", engine, policy).execute(["true"])


@each_driver
async def test_swap_is_limited_only_where_it_can_be(name: str, engine: StandIn, policy: ExecutionPolicy) -> None:
    old = {"docker": {**DOCKER, "SwapLimit": False}, "podman": {"host": {**PODMAN["host"], "cgroupVersion": "v1"}}}
    await driver(name, engine, policy, {"info": old[name]}).execute(["true"])
    assert "--memory" in engine.run["argv"]
    assert "--memory-swap" not in engine.run["argv"]
