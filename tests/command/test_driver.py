"""What every driver says before it runs anything: what it refuses, what is waived, and who is meant."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import pytest

from ipybox.command.bubblewrap import BubblewrapDriver
from ipybox.command.driver import ISOLATION, CanExecuteCommand, CommandDriver, Field
from ipybox.command.host import HostDriver
from ipybox.command.policy import ExecutionPolicy
from ipybox.command.result import ExecResult
from ipybox.command.sandbox import DRIVERS, Sandbox
from ipybox.errors import IpyboxError, PolicyNotEnforcedError, ProgramStartError, SandboxUnavailableError

POLICY = ExecutionPolicy.in_dir("/tmp")
ALL = POLICY.with_cpus(1).with_cpu_time(5).with_processes(20)
"""Asks for everything that a driver may be unable to enforce; the network is off."""
HOSTS = POLICY.with_network(["example.org"])
OPEN = POLICY.with_network(True)
every = pytest.mark.parametrize("name", list(DRIVERS))


def driver_class(name: str) -> type[CommandDriver]:
    module, _, attribute = DRIVERS[name].partition(":")
    found: type[CommandDriver] = getattr(import_module(module), attribute)
    return found


@contextmanager
def few_descriptors(count: int) -> Iterator[None]:
    """This process can open only so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def refused(name: str, policy: ExecutionPolicy, waive: str | Sequence[str] = ()) -> tuple[str, ...]:
    """What a driver says that it can't enforce."""
    with pytest.raises(PolicyNotEnforcedError) as refusal:
        Sandbox(policy).using(name, waive=waive)
    assert refusal.value.driver == name
    return refusal.value.fields


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "policy", "fields"),
    [
        ("host", POLICY, ("readable_paths", "writable_paths", "network")),
        ("host", OPEN, ("readable_paths", "writable_paths")),
        ("host", HOSTS, ("readable_paths", "writable_paths", "hosts")),
        ("host", ALL, ("readable_paths", "writable_paths", "cpus", "processes", "network")),
        ("bubblewrap", ALL, ("cpus",)),
        ("bubblewrap", HOSTS.with_cpus(2), ("cpus",)),
        ("firejail", POLICY.with_cpus(1), ("cpus",)),
        ("firejail", HOSTS, ("hosts",)),
        ("docker", HOSTS, ("hosts",)),
        ("podman", HOSTS, ("hosts",)),
    ],
)
def test_what_a_driver_can_not_enforce_is_refused_by_name(
    name: str, policy: ExecutionPolicy, fields: tuple[str, ...]
) -> None:
    assert refused(name, policy) == fields


@every
@pytest.mark.parametrize(
    ("policy", "network"), [(ALL, ["network"]), (ALL.with_network(True), []), (ALL.with_network(["a.test"]), ["hosts"])]
)
def test_a_driver_refuses_exactly_what_it_does_not_enforce(
    name: str, policy: ExecutionPolicy, network: list[str]
) -> None:
    asked = ["memory", "readable_paths", "writable_paths", "cpus", "cpu_time", "processes", *network]
    unenforced = tuple(each for each in asked if each not in driver_class(name).enforces)
    if unenforced:
        assert refused(name, policy) == unenforced
    else:
        with suppress(SandboxUnavailableError):  # what the driver needs may not be on this machine
            assert Sandbox(policy).using(name).policy == policy


@every
def test_what_a_driver_enforces_is_of_what_can_be_asked_for(name: str) -> None:
    assert driver_class(name).enforces <= set(get_args(Field))
    assert driver_class(name).name == name


@every
def test_the_refusal_names_the_driver_the_fields_and_the_way_out(name: str) -> None:
    policy = HOSTS.with_cpus(1)
    with pytest.raises(SandboxUnavailableError) as refusal:
        Sandbox(policy).using(name)
    text = str(refusal.value)
    fields = refused(name, policy)
    assert f"the driver {name!r} can't enforce {', '.join(fields)}" in text
    assert f"waive={list(fields)!r}" in text


def test_the_way_out_is_not_the_driver_that_has_refused() -> None:
    with pytest.raises(PolicyNotEnforcedError) as refusal:
        Sandbox(POLICY.with_cpus(1)).using("bubblewrap")
    assert not any("such as 'bubblewrap'" in remedy for remedy in refusal.value.remedies)


# ---- what is waived ---------------------------------------------------------------------------------------------


def test_isolation_stands_for_all_about_files_and_network() -> None:
    assert ISOLATION == ("readable_paths", "writable_paths", "network", "hosts")
    for policy in (POLICY, OPEN, HOSTS):
        assert Sandbox(policy).using("host", waive="isolation").policy == policy
        assert Sandbox(policy).using("host", waive=ISOLATION).policy == policy


def test_isolation_does_not_stand_for_the_rest() -> None:
    assert refused("host", ALL, "isolation") == ("cpus", "processes")


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, iter])
def test_what_is_waived_may_come_as_any_collection(kind: Any) -> None:
    assert Sandbox(ALL).using("host", waive=kind(["isolation", "cpus", "processes"])).policy == ALL


@pytest.mark.parametrize("some", list(combinations(["readable_paths", "writable_paths", "network"], 2)), ids=str)
def test_what_is_not_waived_is_still_refused(some: tuple[str, ...]) -> None:
    (missing,) = {"readable_paths", "writable_paths", "network"} - set(some)
    assert refused("host", POLICY, some) == (missing,)


@pytest.mark.parametrize("waive", ["isolated", "timeout", ["network", "net"], "", [""], "network,hosts"])
def test_what_can_not_be_waived_is_refused_with_all_that_can(waive: str | Sequence[str]) -> None:
    with pytest.raises(ValueError, match=r"^waive must be of ") as refusal:
        Sandbox(POLICY).using("host", waive=waive)
    for each in (*get_args(Field), "isolation"):
        assert each in str(refusal.value)


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_waiving_what_is_enforced_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    sandbox = Sandbox.bubblewrap(ExecutionPolicy.in_dir(tmp_path).with_timeout(60), waive="isolation")
    result = await sandbox.execute(["cat", str(tmp_path / "secret")])
    assert (result.stdout, result.success) == ("", False)


# ---- who is meant -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bublewrap", "did you mean 'bubblewrap'?"),
        ("Docker", "did you mean 'docker'?"),
        ("local", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_a_driver_that_there_is_not_is_refused_with_those_that_there_are(name: Any, hint: str) -> None:
    with pytest.raises(ValueError) as refusal:
        Sandbox(POLICY).using(name)
    text = str(refusal.value)
    assert text.startswith(f"driver must be one of host, bubblewrap, firejail, docker, podman, got {name!r}")
    assert hint in text


@every
def test_each_driver_has_a_shortcut(name: str) -> None:
    with pytest.raises(PolicyNotEnforcedError) as refusal:
        getattr(Sandbox, name)(HOSTS.with_cpus(1))
    assert refusal.value.driver == name


@pytest.mark.sandbox
def test_a_driver_is_what_its_name_says() -> None:
    assert isinstance(Sandbox(POLICY).using("bubblewrap"), BubblewrapDriver)
    assert isinstance(Sandbox.bubblewrap(POLICY), BubblewrapDriver)
    assert isinstance(Sandbox(POLICY).using("host", waive="isolation"), HostDriver)
    assert isinstance(Sandbox.host(POLICY, waive="isolation"), HostDriver)


def test_an_option_that_a_driver_does_not_take_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="image"):
        Sandbox(POLICY).using("host", waive="isolation", image="alpine:3")


@pytest.mark.parametrize("policy", [None, "/tmp", {"base_dir": "/tmp"}, ExecutionPolicy])
def test_a_policy_has_to_be_one(policy: Any) -> None:
    with pytest.raises(TypeError, match=r"^policy must be an ExecutionPolicy, got "):
        Sandbox.from_policy(policy)
    with pytest.raises(TypeError, match=r"^policy must be an ExecutionPolicy, got "):
        HostDriver(policy, waive="isolation")


def test_the_policy_is_kept_as_it_was_given() -> None:
    assert Sandbox.from_policy(ALL).policy is ALL
    assert HostDriver(ALL, waive=["isolation", "cpus", "processes"]).policy is ALL


# ---- the protocol -----------------------------------------------------------------------------------------------


class Scripted:
    """Somebody's own double."""

    policy = POLICY

    async def execute(self, argv: Sequence[str], stdin: Any = None, on_output: Any = None) -> ExecResult:
        return ExecResult(stdout=" ".join(argv))


@pytest.mark.sandbox
def test_every_driver_can_execute_commands_and_so_can_whoever_looks_like_one() -> None:
    for each in (HostDriver(POLICY, waive="isolation"), BubblewrapDriver(POLICY), Scripted()):
        assert isinstance(each, CanExecuteCommand)
    for other in (Sandbox(POLICY), POLICY, object()):
        assert not isinstance(other, CanExecuteCommand)


@pytest.mark.asyncio
async def test_a_driver_that_keeps_nothing_ready_can_be_opened_all_the_same(tmp_path: Path) -> None:
    driver = HostDriver(ExecutionPolicy.in_dir(tmp_path), waive="isolation")
    async with driver as opened:
        assert opened is driver
        async with driver:
            assert (await driver.execute(["true"])).success


# ---- the directory ----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["gone", "file"])
async def test_a_directory_that_is_none_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    driver = HostDriver(ExecutionPolicy.in_dir(tmp_path / name), waive="isolation")
    with pytest.raises(ProgramStartError, match=f"base_dir {tmp_path / name} is no directory"):
        await driver.execute(["true"])
    (tmp_path / "gone").mkdir()
    assert name == "file" or (await driver.execute(["true"])).success


@pytest.mark.asyncio
@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every directory")
async def test_a_directory_that_may_not_be_entered_is_an_error_that_names_it(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0)
    with pytest.raises(ProgramStartError, match="base_dir"):
        await HostDriver(ExecutionPolicy.in_dir(closed), waive="isolation").execute(["true"])


@pytest.mark.asyncio
async def test_a_command_runs_in_that_directory_and_leaves_there_what_it_makes(tmp_path: Path) -> None:
    driver = HostDriver(ExecutionPolicy.in_dir(tmp_path), waive="isolation")
    result = await driver.execute(["sh", "-c", "pwd -P; echo made > file"])
    assert result.stdout == f"{tmp_path.resolve()}\n"
    assert (tmp_path / "file").read_text() == "made\n"


# ---- giving up --------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
async def test_who_gives_up_leaves_no_task_behind(tmp_path: Path, again: bool) -> None:
    driver, begun = HostDriver(ExecutionPolicy.in_dir(tmp_path).with_timeout(60), waive="isolation"), asyncio.Event()
    task = asyncio.ensure_future(
        driver.execute(["sh", "-c", "echo go; sleep 999"], None, lambda stream, text: begun.set())
    )
    await begun.wait()
    task.cancel()
    while not task.done():
        if again:
            task.cancel()
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


# ---- not the command's fault ------------------------------------------------------------------------------------


@pytest.mark.sandbox
@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["host", "bubblewrap"])
async def test_too_few_descriptors_are_no_fault_of_the_command(tmp_path: Path, name: str) -> None:
    driver = Sandbox(ExecutionPolicy.in_dir(tmp_path)).using(name, waive="isolation")
    with few_descriptors(6), pytest.raises((IpyboxError, OSError)):
        await driver.execute(["true"])
