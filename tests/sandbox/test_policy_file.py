"""From JSON to a policy, or to everything that is wrong with it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ipybox.errors import PolicyError
from ipybox.sandbox.policy import FilesystemPolicy, Limits, NetworkPolicy, Packages, SandboxPolicy
from ipybox.sandbox.policy_file import DEFAULT_POLICY, LARGEST_FILE, parse_policy, read_policy

REPOSITORY = Path(__file__).parents[2]


def parse(data: object) -> SandboxPolicy:
    return parse_policy(data, "sandbox.json").policy


def error(data: object) -> str:
    with pytest.raises(PolicyError) as caught:
        parse(data)
    return str(caught.value)


def read(path: Path, content: str | bytes) -> PolicyError:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PolicyError) as caught:
        read_policy(path)
    return caught.value


# ---- what files say ---------------------------------------------------------------------------------------------


def test_the_default_is_what_the_example_file_and_an_empty_file_say() -> None:
    assert read_policy(REPOSITORY / "sandbox.json").policy == DEFAULT_POLICY == parse({})


def test_every_key_of_ours_reaches_the_policy() -> None:
    assert parse(
        {
            "$schema": "sandbox.schema.json",
            "network": {
                "allowedDomains": ["example.org", "*.example.org:8443", "[2001:db8::1]:443"],
                "deniedDomains": ["bad.example.org"],
                "allowLocalBinding": False,
                "allowUnixSockets": ["/run/x.sock"],
                "allowAllUnixSockets": True,
                "hosts": {"db.example.org": "10.0.0.7:5432"},
                "parentProxy": "http://proxy.example.org:3128",
            },
            "filesystem": {
                "denyRead": ["**/.env", "secrets/"],
                "allowRead": ["~/data"],
                "allowWrite": [".", {"path": "a[1]", "literal": True}],
                "denyWrite": ["src/**"],
            },
            "limits": {
                "memory": "2 GiB",
                "processes": 99,
                "openFiles": 256,
                "cpuTime": 60,
                "fileSize": "1.5 kB",
                "scratch": 1048576,
                "sharedMemory": "64MiB",
            },
            "packages": {"install": ["numpy>=2"], "wheels": "wheels"},
        }
    ) == SandboxPolicy(
        network=NetworkPolicy(
            allowed_domains=("example.org", "*.example.org:8443", "[2001:db8::1]:443"),
            denied_domains=("bad.example.org",),
            allow_local_binding=False,
            allow_unix_sockets=("/run/x.sock",),
            allow_all_unix_sockets=True,
            hosts=(("db.example.org", "10.0.0.7:5432"),),
            parent_proxy="http://proxy.example.org:3128",
        ),
        filesystem=FilesystemPolicy(
            deny_read=("**/.env", "secrets"),
            allow_read=("~/data",),
            allow_write=(".", "a[1]"),
            deny_write=("src/**",),
        ),
        limits=Limits(
            memory=2 * 1024**3,
            processes=99,
            open_files=256,
            cpu_time=60,
            file_size=1500,
            scratch=1024**2,
            shared_memory=64 * 1024**2,
        ),
        packages=Packages(install=("numpy>=2",), wheels="wheels"),
    )


def test_null_is_no_limit_where_there_can_be_none() -> None:
    limits = parse({"limits": {"memory": None, "cpuTime": None, "fileSize": None}}).limits
    assert (limits.memory, limits.cpu_time, limits.file_size) == (None, None, None)
    assert "limits.scratch" in error({"limits": {"scratch": None}})


def test_null_is_the_default_of_what_can_be_unset() -> None:
    given = {"network": {"parentProxy": None}, "packages": {"index": None, "wheels": None}}
    assert parse(given) == DEFAULT_POLICY


def test_a_parent_proxy_of_sandbox_runtime_is_one_of_ours() -> None:
    url = "http://proxy.example.org:3128"
    assert parse({"network": {"parentProxy": {"http": url, "https": url}}}).network.parent_proxy == url
    assert "one proxy" in error({"network": {"parentProxy": {"http": url, "https": "http://other:1"}}})
    assert "noProxy" in error({"network": {"parentProxy": {"http": url, "noProxy": "example.org"}}})


@pytest.mark.parametrize(
    "data",
    [
        {"allowPty": True},
        {"ripgrep": {"command": "rg", "args": ["x"]}},
        {"ignoreViolations": {"*": ["/usr"]}},
        {"mandatoryDenySearchDepth": 5},
        {"seccomp": {"applyPath": "/x"}},
        {"bwrapPath": "/usr/bin/bwrap"},
        {"windows": {"backend": "mxc"}},
        {"git": {"safeDirectories": ["."]}},
        {"network": {"strictAllowlist": True}},
        {"network": {"deniedDomainReasons": {"a.example.org": "no"}}},
        {"network": {"tlsTerminate": {"maxTunnels": 5}}},
    ],
)
def test_keys_that_change_nothing_here_are_noted(data: dict[str, Any]) -> None:
    file = parse_policy(data, "sandbox.json")
    assert file.policy == DEFAULT_POLICY
    (note,) = file.notes
    assert note.startswith("ignored here: ")


def test_a_note_says_which_key_and_why() -> None:
    assert parse_policy({"allowPty": True}, "x").notes == ("ignored here: allowPty (macOS only)",)
    assert parse_policy({"allowPty": False}, "x").notes == ()


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("enableWeakerNestedSandbox", {"enableWeakerNestedSandbox": True}),
    ("enableWeakerNetworkIsolation", {"enableWeakerNetworkIsolation": True}),
    ("allowNestedUserNamespaces", {"allowNestedUserNamespaces": True}),
    ("allowAppleEvents", {"allowAppleEvents": True}),
    ("credentials", {"credentials": {"files": []}}),
    ("filesystem.disabled", {"filesystem": {"disabled": True}}),
    ("filesystem.allowGitConfig", {"filesystem": {"allowGitConfig": True}}),
    ("network.httpProxyPort", {"network": {"httpProxyPort": 3128}}),
    ("network.socksProxyPort", {"network": {"socksProxyPort": 1080}}),
    ("network.mitmProxy", {"network": {"mitmProxy": {"socketPath": "/x"}}}),
    ("network.allowMachLookup", {"network": {"allowMachLookup": ["*"]}}),
    ("network.deniedResolvedAddresses", {"network": {"deniedResolvedAddresses": ["10.0.0.0/8"]}}),
    ("network.requireHostMatch", {"network": {"requireHostMatch": True}}),
]


@pytest.mark.parametrize(("path", "data"), REFUSED, ids=[path for path, _ in REFUSED])
def test_keys_that_would_leave_more_open_than_the_file_says_are_refused(path: str, data: dict[str, Any]) -> None:
    assert f"sandbox.json: {path}: is refused" in error(data)


def test_refused_keys_that_ask_for_nothing_are_fine() -> None:
    data = {
        "enableWeakerNestedSandbox": False,
        "credentials": {},
        "filesystem": {"disabled": False, "allowGitConfig": False},
        "network": {"allowMachLookup": [], "deniedResolvedAddresses": []},
    }
    assert parse_policy(data, "x") == parse_policy({}, "x")


# ---- what is wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"network": {"allowedDomain": []}},
            "sandbox.json: network.allowedDomain: unknown key; did you mean 'allowedDomains'?",
        ),
        ({"network": {"allowed_domains": []}}, "network.allowed_domains: unknown key; did you mean 'allowedDomains'?"),
        ({"allowedDomains": []}, "allowedDomains: unknown key; did you mean 'network.allowedDomains'?"),
        ({"network": {"denyRead": []}}, "did you mean 'filesystem.denyRead'?"),
        ({"limits": {"qqq": 1}}, "limits.qqq: unknown key; known here: memory, processes, openFiles"),
        ([], "sandbox.json: must be an object, got []"),
        (None, "sandbox.json: must be an object, got null"),
        ({"network": []}, "network: must be an object, got []"),
        ({"network": {"allowedDomains": "example.org"}}, 'must be a list, got "example.org"; write ["example.org"]'),
        ({"network": {"allowedDomains": [1]}}, "network.allowedDomains[0]: must be a text, got 1"),
        ({"network": {"allowLocalBinding": "yes"}}, 'must be true or false, got "yes"'),
        ({"network": {"allowedDomains": ["*"]}}, "sandbox.json: network.allowedDomains[0]: "),
        ({"network": {"allowedDomains": ["a.org", "*.com"]}}, "sandbox.json: network.allowedDomains[1]: "),
        ({"network": {"allowedDomains": ["http://x"]}}, "network.allowedDomains[0]"),
        ({"network": {"allowedDomains": ["a.org:99999"]}}, "network.allowedDomains[0]"),
        ({"network": {"deniedDomains": ["a.org", "x y"]}}, "network.deniedDomains[1]"),
        ({"network": {"hosts": {"1.2.3.4": "10.0.0.1"}}}, "network.hosts.1.2.3.4"),
        ({"network": {"hosts": {"a.org": "b.org"}}}, "network.hosts.a.org"),
        ({"network": {"hosts": {"a.org": 1}}}, "network.hosts.a.org: must be a text, got 1"),
        ({"network": {"hosts": {"a.org": "10.0.0.1", "A.org": "10.0.0.2"}}}, "twice"),
        ({"network": {"parentProxy": "ftp://x"}}, "network.parentProxy"),
        ({"network": {"parentProxy": "http://x/path"}}, "without a path"),
        ({"network": {"httpProxyPort": "x"}}, "network.httpProxyPort: must be a whole number"),
        ({"filesystem": {"allowWrite": [""]}}, "filesystem.allowWrite[0]: must not be empty"),
        ({"filesystem": {"allowWrite": ["a\0"]}}, "NUL"),
        ({"filesystem": {"allowWrite": ["~joe/x"]}}, "somebody else's home"),
        ({"filesystem": {"allowWrite": ["\ud800"]}}, "filesystem.allowWrite[0]"),
        ({"filesystem": {"allowWrite": ["src/**"]}}, 'got "src/**"; write "src", which is all of it'),
        ({"filesystem": {"allowRead": ["*.txt"]}}, "globs are for denyRead and denyWrite"),
        ({"filesystem": {"allowWrite": ["/", "//", "/x/.."]}}, "3 errors"),
        ({"filesystem": {"denyRead": ["a?"]}}, '"literal": true'),
        ({"filesystem": {"denyRead": ["*/../x"]}}, "'..' after a '*'"),
        ({"filesystem": {"denyRead": [{"path": "a*", "literal": True}]}}, "'*'"),
        ({"filesystem": {"denyRead": [{"path": "a"}]}}, "filesystem.denyRead[0]: must be a path, or"),
        ({"limits": {"memory": "12 potatoes"}}, 'limits.memory: must be a size, got "12 potatoes"'),
        ({"limits": {"memory": "1 MiB"}}, 'limits.memory: must be from 16777216 to 1152921504606846976, got "1 MiB"'),
        ({"limits": {"memory": 1e9}}, "limits.memory: must be a number of bytes"),
        ({"limits": {"processes": True}}, "limits.processes: must be a whole number, got true"),
        ({"limits": {"processes": 0}}, "limits.processes: must be from 1 to 4194304, got 0"),
        ({"packages": {"install": ["-r x"]}}, "packages.install[0]: must be a requirement, not an option"),
        ({"packages": {"install": ["a\nb"]}}, "packages.install[0]: must be one requirement"),
        ({"packages": {"index": "file:///x"}}, "packages.index: must be a URL"),
        ({"packages": {"index": "https://x", "wheels": "w"}}, "packages.index: is never asked"),
        ({"mandatoryDenySearchDepth": 11}, "mandatoryDenySearchDepth: must be from 1 to 10, got 11"),
    ],
)
def test_an_error_names_the_place_and_the_value(data: object, message: str) -> None:
    assert message in error(data)


def test_all_errors_are_named_in_the_order_of_the_document() -> None:
    with pytest.raises(PolicyError) as caught:
        parse({"limits": {"processes": 0}, "netwerk": {}, "network": {"allowedDomains": ["*", "ok.org", "a:0"]}})
    assert caught.value.where == "sandbox.json"
    lines = str(caught.value).splitlines()
    assert lines[0] == "sandbox.json: 4 errors"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "  - limits.processes",
        "  - netwerk",
        "  - network.allowedDomains[0]",
        "  - network.allowedDomains[2]",
    ]


def test_one_error_has_its_whole_path_in_where() -> None:
    with pytest.raises(PolicyError) as caught:
        parse({"limits": {"processes": 0}})
    assert caught.value.where == "sandbox.json: limits.processes"


def test_passwords_of_urls_are_never_shown() -> None:
    data = {"network": {"parentProxy": "ftp://u:hunter2@x"}, "packages": {"index": "ftp://u:hunter2@x"}}
    assert "hunter2" not in error(data)


def test_a_long_value_is_shown_in_part() -> None:
    assert len(error({"limits": {"memory": "x" * 10_000}})) < 400


# ---- files ------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="does not exist"):
        read_policy(tmp_path / "missing.json")


def test_a_name_that_no_file_can_have_is_an_error() -> None:
    with pytest.raises(PolicyError, match="not a path"):
        read_policy(Path("a\0b"))


def test_a_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="is a directory"):
        read_policy(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PolicyError, match="not a regular file"):
        read_policy(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").touch(mode=0)
    with pytest.raises(PolicyError, match="can't be read"):
        read_policy(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" " * (LARGEST_FILE + 1), "more than 1048576 bytes"),
        (b'{"a": "\xff"}', "is not UTF-8: byte 7 is 0xff"),
        ('{\n  "network": {,}\n}', "is not JSON: .* at line 2, column 15"),
        ("", "is not JSON"),
        ('{"limits": {"memory": NaN}}', "NaN is not a number"),
        ('{"limits": {"memory": 1e999}}', "too large"),
        ("[" * 200_000, "nested too deeply"),
        ('{"limits": {"memory": ' + "9" * 5000 + "}}", "is not JSON"),
        ('{"network": {}, "network": {}}', "network: is given more than once"),
        ('{"network": {"hosts": {"a.org": "10.0.0.1", "a.org": "10.0.0.1"}}}', "network.hosts.a.org: is given more"),
    ],
)
def test_what_is_no_good_json_is_an_error_with_the_name_of_the_file(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = tmp_path / "sandbox.json"
    caught = read(path, content)
    assert caught.where.startswith(str(path))
    with pytest.raises(PolicyError, match=message):
        raise caught


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "sandbox.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({}).encode())
    assert read_policy(path).policy == DEFAULT_POLICY
