"""A policy is checked when it is made: nothing is clamped, everything is refused by name, and it never changes."""

from __future__ import annotations

import copy
import math
import os
import pickle
import re
from collections.abc import Callable, Iterable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.command.policy import ExecutionPolicy, memory_bytes

KIB, MIB, GIB = 1024, 1024**2, 1024**3
BASE = ExecutionPolicy.in_dir("/srv")
FULL = ExecutionPolicy(
    base_dir="/srv/base",
    timeout=7.5,
    idle_timeout=2.0,
    memory=256 * MIB,
    cpus=0.5,
    cpu_time=9,
    processes=30,
    readable_paths=("/srv/read",),
    writable_paths=("/srv/write",),
    env={"A": "1", "B": "2"},
    inherit_env=True,
    network=("example.org",),
    stdout_cap=2048,
    stderr_cap=4096,
)
"""A policy in which every field has another value than by default."""


def made(name: str, value: object) -> ExecutionPolicy:
    """The default policy with one field as a caller may give it."""
    values: dict[str, Any] = {"base_dir": "/srv", name: value}
    return ExecutionPolicy(**values)


def facts(policy: ExecutionPolicy) -> dict[str, Any]:
    return {each.name: getattr(policy, each.name) for each in fields(policy)}


# ---- defaults ---------------------------------------------------------------------------------------------------


def test_the_defaults_are_what_the_documentation_says() -> None:
    assert facts(ExecutionPolicy.in_dir("/srv")) == {
        "base_dir": "/srv",
        "timeout": 5.0,
        "idle_timeout": None,
        "memory": 128 * MIB,
        "cpus": None,
        "cpu_time": None,
        "processes": None,
        "readable_paths": (),
        "writable_paths": (),
        "env": {},
        "inherit_env": False,
        "network": False,
        "stdout_cap": 1_048_576,
        "stderr_cap": 1_048_576,
    }


def test_the_default_policy_is_in_the_temporary_directory_of_the_system() -> None:
    assert ExecutionPolicy.default() == ExecutionPolicy.in_dir("/tmp")


def test_only_the_directory_has_to_be_named() -> None:
    with pytest.raises(TypeError, match="base_dir"):
        ExecutionPolicy()  # type: ignore[call-arg]


# ---- what is refused --------------------------------------------------------------------------------------------

TYPES: dict[str, Iterable[object]] = {
    "base_dir": (None, 5, b"/srv", ["/srv"]),
    "timeout": (None, "5", True, [5]),
    "idle_timeout": ("5", False, [5]),
    "memory": (None, True, 134_217_728.0, b"128M", ["128M"]),
    "cpus": ("1", True, [1]),
    "cpu_time": (1.0, "1", True),
    "processes": (20.0, "20", True),
    "readable_paths": (None, "/usr", b"/usr", Path("/usr"), 5, [5], [None], [b"/usr"]),
    "writable_paths": (None, "/usr", b"/usr", Path("/usr"), 5, [5], [None], [b"/usr"]),
    "env": ("A=1", ["A=1"], {"A": 1}, {1: "A"}, {"A": None}, {b"A": b"1"}),
    "inherit_env": (None, 1, "yes"),
    "network": (None, 1, "example.org"),
    "stdout_cap": (None, 2048.0, "1M", True),
    "stderr_cap": (None, 2048.0, "1M", True),
}
VALUES: dict[str, Iterable[object]] = {
    "base_dir": ("", "a\0b", "\ud800"),
    "timeout": (0, 0.0, -1, math.inf, math.nan, 10**400),
    "idle_timeout": (0, -0.5, math.inf, math.nan),
    "memory": (0, -5, MIB - 1, 2**60 + 1, "0", "-5", "512k", "1023K", "1T", "128MB", "1.5G", "128 M", "M", "", "much"),
    "cpus": (0, 0.009, -1, math.inf, math.nan, 4097),
    "cpu_time": (0, -1, 2**31),
    "processes": (0, -1, 2**22 + 1),
    "readable_paths": ([""], ["a\0b"], ["\ud800"]),
    "writable_paths": ([""], ["a\0b"], ["\ud800"]),
    "env": ({"": "1"}, {"A=B": "1"}, {"A": "\0"}, {"A": "\ud800"}, {"LD_PRELOAD": "x"}, {"DYLD_INSERT_LIBRARIES": "x"}),
    "network": ([], (), ["*"], ["http://example.org/"], ["example.org:0"], ["example.org:65536"], ["a b"], ["*.*"]),
    "stdout_cap": (0, -1, 1023),
    "stderr_cap": (0, -1, 1023),
}


def each_of(table: dict[str, Iterable[object]]) -> pytest.MarkDecorator:
    parameters = [
        pytest.param(name, value, id=f"{name}={value!r}"[:60].encode("ascii", "backslashreplace").decode())
        for name, values in table.items()
        for value in values
    ]
    return pytest.mark.parametrize(("name", "value"), parameters)


@each_of(TYPES)
def test_a_value_of_the_wrong_type_is_a_type_error_that_names_the_field(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"^{name}\b"):
        made(name, value)


@each_of(VALUES)
def test_a_value_that_makes_no_sense_is_a_value_error_that_names_the_field(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        made(name, value)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        pytest.param("memory", "9" * 5000, ValueError),  # more digits than Python reads
        ("cpus", 10**400, ValueError),  # more than a float can be
        ("network", b"example.org", TypeError),
        ("network", [5], TypeError),
        ("network", [""], ValueError),
    ],
    ids=["memory", "cpus", "network of bytes", "network of numbers", "network of nothing"],
)
def test_odd_nonsense_is_refused_by_name_as_well(name: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{name}\b"):
        made(name, value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("timeout", lambda: BASE.with_timeout(0)),
        ("idle_timeout", lambda: BASE.with_idle_timeout(-1)),
        ("memory", lambda: BASE.with_memory("lots")),
        ("cpus", lambda: BASE.with_cpus(0)),
        ("cpu_time", lambda: BASE.with_cpu_time(0)),
        ("processes", lambda: BASE.with_processes(0)),
        ("env", lambda: BASE.with_env({"A": 1})),  # type: ignore[dict-item]
        ("inherit_env", lambda: BASE.with_inherited_env("no")),  # type: ignore[arg-type]
        ("inherit_env", lambda: BASE.with_env({}, inherit=1)),  # type: ignore[arg-type]
        ("network", lambda: BASE.with_network("example.org")),
        ("network", lambda: BASE.with_network([])),
        ("network", lambda: BASE.with_network(5)),  # type: ignore[arg-type]
        ("readable_paths", lambda: BASE.with_readable_paths("")),
        ("writable_paths", lambda: BASE.with_writable_paths("a\0b")),
        pytest.param("readable_paths", lambda: BASE.with_readable_paths(["/usr"])),  # type: ignore[arg-type]
        pytest.param("writable_paths", lambda: BASE.with_writable_paths(5)),  # type: ignore[arg-type]
        ("base_dir", lambda: BASE.with_base_dir("")),
        pytest.param("base_dir", lambda: ExecutionPolicy.in_dir(None)),  # type: ignore[arg-type]
        ("stdout_cap", lambda: BASE.with_output_caps(1023, 1024)),
        ("stderr_cap", lambda: BASE.with_output_caps(1024, 1023)),
    ],
)
def test_a_change_is_checked_as_a_new_policy_is(name: str, change: Callable[[], object]) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
        change()


@pytest.mark.parametrize("value", [-1, "-1", " -1 "])
def test_memory_without_a_bound_is_refused_in_so_many_words(value: int | str) -> None:
    with pytest.raises(ValueError, match=r"^memory .*unbounded memory"):
        BASE.with_memory(value)


def test_the_element_that_is_wrong_is_told_by_its_number() -> None:
    with pytest.raises(ValueError, match=r"^readable_paths\[1\] "):
        BASE.with_readable_paths("/usr", "")
    with pytest.raises(ValueError, match=r"^network\[2\]: .*write the host only: 'example.org'"):
        BASE.with_network(["a.test", "b.test", "https://example.org/path"])


def test_variables_that_the_loader_reads_are_refused_with_the_way_out() -> None:
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "DYLD_LIBRARY_PATH"):
        with pytest.raises(ValueError, match=rf"^env must not have {name}.*\['env', '{name}=\.\.\.'"):
            BASE.with_env({name: "/lib/x.so"})


def test_every_host_is_not_a_list_of_hosts() -> None:
    with pytest.raises(ValueError, match=r"network\[0\].*every host"):
        BASE.with_network(["*"])


# ---- what is taken ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("timeout", 1, 1.0),
        ("timeout", 0.05, 0.05),
        ("idle_timeout", 10, 10.0),
        ("memory", MIB, MIB),
        ("memory", 2**60, 2**60),
        ("cpus", 1, 1.0),
        ("cpus", 0.01, 0.01),
        ("cpus", 4096, 4096.0),
        ("cpu_time", 2**31 - 1, 2**31 - 1),
        ("processes", 1, 1),
        ("processes", 2**22, 2**22),
        ("stdout_cap", 1024, 1024),
        ("stderr_cap", 10**12, 10**12),
        ("env", None, {}),
        ("env", {"NAME": "a=b\n", "lower": "", "é": "ü"}, {"NAME": "a=b\n", "lower": "", "é": "ü"}),
    ],
    ids=repr,
)
def test_everything_within_the_bounds_is_kept_as_it_is(name: str, value: object, kept: object) -> None:
    found = getattr(made(name, value), name)
    assert found == kept
    assert not isinstance(kept, float) or type(found) is float


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", MIB),
        ("1024K", MIB),
        ("1024k", MIB),
        ("1M", MIB),
        ("128m", 128 * MIB),
        ("1G", GIB),
        ("8g", 8 * GIB),
        (" 512M ", 512 * MIB),
        ("007M", 7 * MIB),
    ],
)
def test_memory_can_be_written_as_text(text: str, size: int) -> None:
    assert made("memory", text).memory == size
    assert BASE.with_memory(text).memory == size


@settings(deadline=None)
@given(st.integers(0, 2**64), st.sampled_from(["", "k", "K", "m", "M", "g", "G"]))
def test_memory_as_text_is_that_number_exactly_or_is_refused(number: int, unit: str) -> None:
    size = number * {"": 1, "k": KIB, "m": MIB, "g": GIB}[unit.lower()]
    if MIB <= size <= 2**60:
        assert memory_bytes("memory", f"{number}{unit}") == size
    else:
        with pytest.raises(ValueError, match=r"^memory must be at (least|most) "):
            memory_bytes("memory", f"{number}{unit}")


@settings(deadline=None)
@given(st.text(max_size=12) | st.from_regex(r"\s*[-+]?[\d_.]*\s*[KMGTkmgt]?[iI]?[bB]?\s*", fullmatch=True))
def test_any_other_text_is_no_memory(text: str) -> None:
    if re.fullmatch(r"\s*[0-9]+[KMGkmg]?\s*", text):
        return
    with pytest.raises(ValueError, match=r"^memory must "):
        memory_bytes("memory", text)


@pytest.mark.parametrize(
    "hosts",
    [
        ("example.org",),
        ("*.example.org", "example.org:8443"),
        ("192.0.2.7", "[2001:db8::1]:443"),
        ("xn--bcher-kva.example",),
    ],
    ids=str,
)
def test_a_network_of_hosts_is_kept_as_it_was_written(hosts: tuple[str, ...]) -> None:
    assert BASE.with_network(hosts).network == hosts
    assert BASE.with_network(list(hosts)).network == hosts
    assert BASE.with_network(host for host in hosts).network == hosts
    assert made("network", list(hosts)).network == hosts


def test_all_of_the_network_and_none_of_it_are_true_and_false() -> None:
    assert BASE.with_network(True).network is True
    assert BASE.with_network(True).with_network(False).network is False


# ---- paths ------------------------------------------------------------------------------------------------------


def test_paths_are_made_absolute_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    policy = ExecutionPolicy.in_dir("work/../base/").with_readable_paths("a//b/.", ".").with_writable_paths(Path("c"))
    monkeypatch.chdir("/")
    assert policy.base_dir == str(tmp_path / "base")
    assert policy.readable_paths == (str(tmp_path / "a/b"), str(tmp_path))
    assert policy.writable_paths == (str(tmp_path / "c"),)


def test_a_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/mine")
    policy = BASE.with_readable_paths("~/data").with_writable_paths("~/out/")
    assert policy.readable_paths == ("/home/of/mine/data",)
    assert policy.writable_paths == ("/home/of/mine/out",)


def test_links_stay_what_they_are_and_nothing_has_to_exist_yet(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    policy = ExecutionPolicy.in_dir(tmp_path / "link").with_readable_paths(tmp_path / "link" / "later")
    assert policy.base_dir == str(tmp_path / "link")
    assert policy.readable_paths == (str(tmp_path / "link" / "later"),)


def test_a_path_that_is_no_text_is_taken_as_the_system_has_it() -> None:
    name = os.fsdecode(b"/srv/\xff")
    assert BASE.with_readable_paths(name).readable_paths == (name,)


# ---- changes ----------------------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[Callable[[ExecutionPolicy], ExecutionPolicy], dict[str, Any]]] = {
    "base_dir": (lambda policy: policy.with_base_dir("/other"), {"base_dir": "/other"}),
    "timeout": (lambda policy: policy.with_timeout(60), {"timeout": 60.0}),
    "idle_timeout": (lambda policy: policy.with_idle_timeout(3), {"idle_timeout": 3.0}),
    "no idle_timeout": (lambda policy: policy.with_idle_timeout(None), {"idle_timeout": None}),
    "memory": (lambda policy: policy.with_memory("1G"), {"memory": GIB}),
    "cpus": (lambda policy: policy.with_cpus(2), {"cpus": 2.0}),
    "no cpus": (lambda policy: policy.with_cpus(None), {"cpus": None}),
    "cpu_time": (lambda policy: policy.with_cpu_time(4), {"cpu_time": 4}),
    "no cpu_time": (lambda policy: policy.with_cpu_time(None), {"cpu_time": None}),
    "processes": (lambda policy: policy.with_processes(8), {"processes": 8}),
    "no processes": (lambda policy: policy.with_processes(None), {"processes": None}),
    "readable_paths": (lambda policy: policy.with_readable_paths("/a", "/b"), {"readable_paths": ("/a", "/b")}),
    "no readable_paths": (lambda policy: policy.with_readable_paths(), {"readable_paths": ()}),
    "writable_paths": (lambda policy: policy.with_writable_paths("/a", "/b"), {"writable_paths": ("/a", "/b")}),
    "no writable_paths": (lambda policy: policy.with_writable_paths(), {"writable_paths": ()}),
    "env": (lambda policy: policy.with_env({"C": "3"}), {"env": {"C": "3"}}),
    "env, inherit": (lambda policy: policy.with_env({}, inherit=False), {"env": {}, "inherit_env": False}),
    "inherit_env": (lambda policy: policy.with_inherited_env(), {"inherit_env": True}),
    "no inherit_env": (lambda policy: policy.with_inherited_env(False), {"inherit_env": False}),
    "network": (lambda policy: policy.with_network(["b.test"]), {"network": ("b.test",)}),
    "no network": (lambda policy: policy.with_network(False), {"network": False}),
    "output caps": (lambda policy: policy.with_output_caps(5000, 6000), {"stdout_cap": 5000, "stderr_cap": 6000}),
}


@pytest.mark.parametrize("start", [BASE, FULL], ids=["default", "full"])
@pytest.mark.parametrize(("change", "changed"), CHANGES.values(), ids=CHANGES)
def test_a_change_replaces_what_it_names_and_gives_another_policy(
    change: Callable[[ExecutionPolicy], ExecutionPolicy], changed: dict[str, Any], start: ExecutionPolicy
) -> None:
    before = facts(start)
    assert facts(change(start)) == before | changed
    assert facts(start) == before


def test_every_field_can_be_changed() -> None:
    changed = {name for _, changes in CHANGES.values() for name in changes}
    assert changed == {each.name for each in fields(ExecutionPolicy)}


def test_a_limit_on_silence_can_be_cleared_again() -> None:
    assert BASE.with_idle_timeout(2).with_idle_timeout(None) == BASE


def test_paths_are_replaced_and_not_added_to() -> None:
    assert BASE.with_readable_paths("/a").with_readable_paths("/b").readable_paths == ("/b",)
    assert BASE.with_writable_paths("/a").with_writable_paths("/b").writable_paths == ("/b",)


def test_an_environment_leaves_what_is_inherited_alone_unless_told() -> None:
    inheriting = BASE.with_inherited_env()
    assert inheriting.with_env({"A": "1"}).inherit_env is True
    assert inheriting.with_env({"A": "1"}, inherit=False).inherit_env is False


# ---- it is a value ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [each.name for each in fields(ExecutionPolicy)])
def test_no_field_can_be_assigned(name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(FULL, name, getattr(FULL, name))


def test_the_environment_can_not_be_changed_from_either_side() -> None:
    given = {"A": "1"}
    policy = BASE.with_env(given)
    given["B"] = "2"
    assert policy.env == {"A": "1"}
    with pytest.raises(TypeError):
        policy.env["B"] = "2"  # type: ignore[index]


def test_lists_that_were_given_are_the_callers_again() -> None:
    paths, hosts = ["/a"], ["a.test"]
    policy = ExecutionPolicy("/srv", readable_paths=paths, network=hosts)  # type: ignore[arg-type]
    paths.append("/b")
    hosts.append("b.test")
    assert (policy.readable_paths, policy.network) == (("/a",), ("a.test",))


@pytest.mark.parametrize("policy", [BASE, FULL], ids=["default", "full"])
def test_copies_are_equal_and_as_fixed_as_the_original(policy: ExecutionPolicy) -> None:
    copies = [pickle.loads(pickle.dumps(policy, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for other in [*copies, copy.copy(policy), copy.deepcopy(policy)]:
        assert other == policy
        assert hash(other) == hash(policy)
        assert facts(other) == facts(policy)
        with pytest.raises(TypeError):
            other.env["new"] = "variable"


def test_what_means_the_same_is_equal_and_has_one_hash() -> None:
    one = ExecutionPolicy("/srv", timeout=5, memory=BASE.with_memory("1G").memory, env={"A": "1", "B": "2"})
    other = ExecutionPolicy.in_dir(Path("/srv/")).with_env({"B": "2", "A": "1"}).with_memory("1024M")
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other}) == 1


@pytest.mark.parametrize(("change", "changed"), CHANGES.values(), ids=CHANGES)
def test_policies_that_differ_anywhere_are_not_equal(
    change: Callable[[ExecutionPolicy], ExecutionPolicy], changed: dict[str, Any]
) -> None:
    start = FULL if changed != {"inherit_env": True} else BASE
    assert change(start) != start
