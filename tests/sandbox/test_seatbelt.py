"""Profiles of seatbelt, read back with a small reader of its language that decides as macOS does."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.errors import PolicyError, SandboxUnavailableError
from ipybox.sandbox import seatbelt
from ipybox.sandbox.policy import FilesystemPolicy, NetworkPolicy, SandboxPolicy
from ipybox.sandbox.seatbelt import SeatbeltFacts, command, profile

GOLDEN = Path(__file__).parent / "golden"
PROJECT = "/Users/me/project"
FACTS = SeatbeltFacts(
    home="/Users/me",
    working_dir=PROJECT,
    python_paths=("/opt/python", f"{PROJECT}/.venv"),
    run_dir="/private/var/folders/x1/run",
    tmp_dir="/private/var/folders/x1/tmp",
    protected=(f"{PROJECT}/sandbox.json", f"{PROJECT}/tools/env"),
    resolve=lambda path: path,
)
POLICIES = {
    "closed": (SandboxPolicy(), FACTS),
    "open": (
        SandboxPolicy(
            network=NetworkPolicy(
                allowed_domains=("example.org",),
                allow_local_binding=False,
                allow_unix_sockets=("/var/run/docker.sock",),
                allow_all_unix_sockets=True,
            ),
            filesystem=FilesystemPolicy(
                deny_read=("~/data", "**/*.key"),
                allow_read=("~/data/public", "/opt/models"),
                allow_write=(".", "/tmp/out"),
                deny_write=("src/conf.py", "**/generated/**"),
            ),
        ),
        replace(FACTS, proxy_port=3128, tool_port=8900, pty=True),
    ),
}

Expression: TypeAlias = "str | list[Expression]"


def parse(text: str) -> list[Any]:
    """The expressions of a profile. Strings keep their opening quote, so that they are no words."""
    tokens = re.findall(r'\s+|;[^\n]*|[()]|"(?:[^"\\]|\\.)*"|[^\s()";]+|.', text, re.DOTALL)
    assert "".join(tokens) == text
    stack: list[list[Any]] = [[]]
    for token in tokens:
        if token.isspace() or token.startswith(";"):
            continue
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        elif token.startswith('"'):
            assert len(token) > 1, "a string without an end"
            stack[-1].append('"' + re.sub(r"\\(.)", r"\1", token[1:-1]))
        else:
            stack[-1].append(token)
    (top,) = stack
    return top


def _meets(rule: Any, path: str, kind: str) -> bool:
    name, *arguments = rule
    match name:
        case "literal":
            return bool(path == arguments[0][1:])
        case "subpath":
            return path == arguments[0][1:] or path.startswith(arguments[0][1:] + "/")
        case "regex":
            return re.search(arguments[0][1:], path) is not None
        case "require-all":
            return all(_meets(each, path, kind) for each in arguments)
        case "vnode-type":
            return bool(arguments[0] == kind)
        case "extension":
            return False
    raise AssertionError(rule)


def allowed(text: str, operation: str, path: str, kind: str = "REGULAR-FILE") -> bool:
    """Whether a profile allows a file operation: the last rule that matches decides."""
    verdict = "deny"
    for action, *rest in parse(text):
        operations = [each for each in rest if isinstance(each, str)]
        filters = [each for each in rest if isinstance(each, list)]
        if action not in ("allow", "deny") or not any(
            operation == each or (each.endswith("*") and operation.startswith(each[:-1])) for each in operations
        ):
            continue
        if not filters or any(_meets(each, path, kind) for each in filters):
            verdict = action
    return verdict == "allow"


def _readable(text: str, path: str) -> bool:
    return allowed(text, "file-read-data", path)


def _writable(text: str, path: str) -> bool:
    return allowed(text, "file-write-data", path) and allowed(text, "file-write-create", path)


def _movable(text: str, path: str) -> bool:
    return allowed(text, "file-write-unlink", path, "DIRECTORY")


def _files(facts: SeatbeltFacts = FACTS, **given: tuple[str, ...]) -> str:
    return profile(SandboxPolicy(filesystem=FilesystemPolicy(**given)), facts)


# ---- whole profiles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_a_profile_is_what_was_reviewed(name: str) -> None:
    """After a change that is meant: python -m tests.sandbox.test_seatbelt"""
    assert profile(*POLICIES[name]) == (GOLDEN / f"{name}.sb").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", POLICIES)
def test_everything_is_denied_first_and_nothing_is_allowed_without_a_filter(name: str) -> None:
    version, default, *rules = parse(profile(*POLICIES[name]))
    assert version == ["version", "1"]
    assert default == ["deny", "default"]
    unfiltered = {rule[1] for rule in rules if rule[0] == "allow" and not any(isinstance(each, list) for each in rule)}
    assert unfiltered <= {"process-exec*", "process-fork", "pseudo-tty"}


# ---- network ----------------------------------------------------------------------------------------------------


def _network(text: str, operation: str) -> list[Any]:
    return [rule for action, op, *rule in parse(text) if action == "allow" and op == operation]


def test_without_a_proxy_nothing_goes_out_but_to_the_kernels_own_sockets() -> None:
    own = [["remote", "unix-socket", ["subpath", f'"{FACTS.run_dir}']]]
    assert _network(profile(SandboxPolicy(), FACTS), "network-outbound") == [own]


def test_with_a_proxy_only_its_port_and_that_of_the_tools_are_reachable() -> None:
    text = profile(SandboxPolicy(), replace(FACTS, proxy_port=3128, tool_port=8900))
    remote = [rule[0] for rule in _network(text, "network-outbound") if rule[0][1] == "ip"]
    assert remote == [["remote", "ip", '"localhost:3128'], ["remote", "ip", '"localhost:8900']]


@pytest.mark.parametrize("name", POLICIES)
def test_nothing_is_allowed_to_go_out_by_where_it_comes_from(name: str) -> None:
    """``(local ip ...)`` of an unbound socket matches every connection (sandbox-runtime #131)."""
    assert all(rule[0][0] == "remote" for rule in _network(profile(*POLICIES[name]), "network-outbound"))


def test_servers_listen_on_the_loopback_interface_only_and_never_in_place_of_the_proxy() -> None:
    text = profile(SandboxPolicy(), replace(FACTS, proxy_port=3128))
    bound = [rule for rule in _network(text, "network-bind") if rule[0][1] == "ip"]
    assert bound == [[["local", "ip", '"localhost:*']]]
    assert ["deny", "network-bind", ["local", "ip", '"localhost:3128']] in parse(text)


def test_without_local_binding_nobody_listens() -> None:
    text = profile(SandboxPolicy(network=NetworkPolicy(allow_local_binding=False)), FACTS)
    assert "(local ip" not in text


def test_sockets_of_the_host_are_reachable_only_if_they_are_named() -> None:
    policy = SandboxPolicy(network=NetworkPolicy(allow_unix_sockets=("/var/run/docker.sock",)))
    paths = [rule[0][2][1][1:] for rule in _network(profile(policy, FACTS), "network-outbound")]
    assert paths == [FACTS.run_dir, "/private/var/run/docker.sock"]


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match="port"):
        profile(SandboxPolicy(), replace(FACTS, proxy_port=port))


# ---- services ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_no_service_helps_to_get_out(name: str) -> None:
    text = profile(*POLICIES[name])
    for word in ("trustd", "launchservices", "coreservices", "SecurityServer", "securityd", "appleevent", "lsopen"):
        assert word not in text
    assert "global-name-prefix" not in text
    assert "job-creation" not in text


def test_terminals_are_there_only_if_needed_and_never_those_of_the_user() -> None:
    assert "tty" not in profile(SandboxPolicy(), FACTS)
    text = profile(SandboxPolicy(), replace(FACTS, pty=True))
    assert allowed(text, "file-ioctl", "/dev/ptmx")
    assert not allowed(text, "file-ioctl", "/dev/ttys003")  # which has no extension of the sandbox


# ---- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "readable"),
    [
        ("/usr/lib/libz.dylib", True),
        ("/opt/python/bin/python", True),
        (f"{PROJECT}/main.py", True),
        (f"{PROJECT}/.env", False),
        (f"{PROJECT}/.ENV", False),
        ("/Users/me/other/file", False),
        ("/Users/you/file", False),
        ("/Users/me/.ssh/id_ed25519", False),
        ("/Users/me/.AWS/credentials", False),
        ("/Users/me/Library/Keychains/login.keychain-db", False),
        ("/Library/Keychains/System.keychain", False),
        ("/private/etc/master.passwd", False),
        ("/System/Volumes/Data/Users/me/.ssh/id_ed25519", False),
        ("/private/tmp/of-somebody", False),
        ("/private/var/folders/x1/other", False),
    ],
)
def test_what_is_readable_by_default(path: str, readable: bool) -> None:
    assert _readable(profile(SandboxPolicy(), FACTS), path) is readable


def test_the_longest_path_decides_what_is_readable() -> None:
    text = _files(deny_read=("~/data", "~/data/a/b/c"), allow_read=("~/data/a", "/opt/models"))
    assert not _readable(text, "/Users/me/data/x")
    assert _readable(text, "/Users/me/data/a/x")
    assert not _readable(text, "/Users/me/data/a/b/c/x")
    assert _readable(text, "/opt/models/x")


def test_at_equal_length_the_denial_wins() -> None:
    assert not _readable(_files(deny_read=("~/data",), allow_read=("~/data",)), "/Users/me/data/x")


@pytest.mark.parametrize("given", ["~", "/Users", "/Users/me/.ssh", "~/.ssh/id_ed25519"])
def test_credentials_are_not_readable_even_if_they_are_allowed(given: str) -> None:
    assert not _readable(_files(allow_read=(given,)), "/Users/me/.ssh/id_ed25519")


def test_a_denied_home_still_leaves_python_and_the_kernels_own_directories() -> None:
    text = _files(replace(FACTS, python_paths=("/Users/me/.pyenv",)), deny_read=("~",), allow_write=("~/project/out",))
    assert _readable(text, "/Users/me/.pyenv/bin/python")
    assert _readable(text, f"{PROJECT}/out/x")
    assert not _readable(text, f"{PROJECT}/main.py")


@pytest.mark.parametrize(
    ("pattern", "hit", "miss"),
    [
        ("**/.env", f"{PROJECT}/a/b/.env", f"{PROJECT}/a/b/x.env"),
        ("**/.env", f"{PROJECT}/.Env", f"{PROJECT}/.env2"),
        ("*.key", f"{PROJECT}/a.key", f"{PROJECT}/a/b.key"),
        ("keys/*/id", f"{PROJECT}/keys/a/id", f"{PROJECT}/keys/a/b/id"),
        ("build/**", f"{PROJECT}/build/x", f"{PROJECT}/building"),
        ("**/private/**", f"{PROJECT}/a/private/b", f"{PROJECT}/a/private2/b"),
        ("~/project/**/[a].txt*", f"{PROJECT}/x/[a].txt", f"{PROJECT}/x/a.txt"),
        ("**/é*", f"{PROJECT}/e\N{COMBINING ACUTE ACCENT}t\N{LATIN SMALL LETTER E WITH ACUTE}", f"{PROJECT}/ete"),
        ("**/.env", "/private/tmp/out/a/.env", "/private/tmp/out/a/env"),
    ],
)
def test_patterns_mean_what_they_mean_on_linux(pattern: str, hit: str, miss: str) -> None:
    text = _files(deny_read=(pattern,), allow_write=(".", "/tmp/out"))
    assert not _readable(text, hit)
    assert not _readable(text, f"{hit}/below")
    assert not _writable(text, hit)
    assert not _movable(text, hit)
    assert _readable(text, miss)


# ---- writing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "writable"),
    [
        (f"{PROJECT}/main.py", True),
        (f"{FACTS.tmp_dir}/x", True),
        (f"{FACTS.run_dir}/x", True),
        ("/Users/me/other", False),
        ("/usr/lib/x", False),
        (f"{PROJECT}/.env", False),
        (f"{PROJECT}/.git/hooks/pre-commit", False),
        (f"{PROJECT}/.GIT/Hooks/pre-commit", False),
        (f"{PROJECT}/a/b/.git/config", False),
        (f"{PROJECT}/.git/modules/x/hooks/post-checkout", False),
        (f"{PROJECT}/.git", False),
        (f"{PROJECT}/.git/objects/ab/cd", True),
        (f"{PROJECT}/.git/refs/heads/config", True),
        (f"{PROJECT}/.bashrc", False),
        (f"{PROJECT}/a/.zshrc", False),
        (f"{PROJECT}/.vscode/tasks.json", False),
        (f"{PROJECT}/.idea/workspace.xml", False),
        (f"{PROJECT}/.claude/commands/x.md", False),
        (f"{PROJECT}/.claude/agents/x.md", False),
        (f"{PROJECT}/.claude/settings.local.json", False),
        (f"{PROJECT}/.codex/config.toml", False),
        (f"{PROJECT}/.agents/x", False),
        (f"{PROJECT}/.mcp.json", False),
        (f"{PROJECT}/.envrc", False),
        (f"{PROJECT}/.venv/bin/python", False),
        (f"{PROJECT}/a/venv/lib/x.pth", False),
        (f"{PROJECT}/tools/env/bin/python", False),
        (f"{PROJECT}/sandbox.json", False),
        (f"{FACTS.tmp_dir}/clone/.git/hooks/pre-commit", False),
    ],
)
def test_what_is_writable_by_default(path: str, writable: bool) -> None:
    assert _writable(profile(SandboxPolicy(), FACTS), path) is writable


def test_a_writable_home_is_not_writable_where_it_matters() -> None:
    text = _files(allow_write=("~",))
    assert _writable(text, "/Users/me/x")
    for path in (".ipython/profile_default/startup/0.py", ".jupyter/x.py", "Library/LaunchAgents/x.plist", ".ssh/rc"):
        assert not _writable(text, f"/Users/me/{path}")


def test_denied_writes_win_from_inside_and_from_around() -> None:
    text = _files(allow_write=(".", "out/a"), deny_write=("src", "out"))
    assert not _writable(text, f"{PROJECT}/src/x")
    assert not _writable(text, f"{PROJECT}/out/a/x")
    assert _writable(text, f"{PROJECT}/x")


def test_nothing_writable_means_nothing_but_the_private_directories() -> None:
    text = _files(allow_write=())
    assert not _writable(text, f"{PROJECT}/x")
    assert _writable(text, f"{FACTS.tmp_dir}/x")


def test_what_is_hidden_is_not_writable_unless_a_longer_path_is() -> None:
    text = _files(deny_read=("data",), allow_read=("data/in",), allow_write=(".", "data/out"))
    assert not _writable(text, f"{PROJECT}/data/x")
    assert not _writable(text, f"{PROJECT}/data/in/x")
    assert _writable(text, f"{PROJECT}/data/out/x")
    assert _readable(text, f"{PROJECT}/data/out/x")


@pytest.mark.parametrize(
    "path",
    [
        PROJECT,
        f"{PROJECT}/src",
        f"{PROJECT}/src/deep",
        f"{PROJECT}/SRC",
        f"{PROJECT}/.git",
        f"{PROJECT}/a/.git",
        f"{PROJECT}/.claude",
        f"{PROJECT}/keys",
        f"{PROJECT}/keys/a",
        f"{PROJECT}/x/y/certs",
        f"{PROJECT}/tools",
        f"{PROJECT}/secret",
    ],
)
def test_nothing_around_a_denied_path_can_be_moved_away(path: str) -> None:
    text = _files(deny_write=("src/deep/conf.py", "**/certs/id"), deny_read=("keys/*/id", "secret/of/mine"))
    assert not _movable(text, path)
    assert _movable(text, f"{PROJECT}/free")
    assert _movable(text, f"{PROJECT}/x/y")


@pytest.mark.parametrize("path", [f"{PROJECT}/src", f"{PROJECT}/.git", f"{PROJECT}/a/.claude"])
def test_nothing_can_be_put_in_place_of_what_is_around_a_denied_path(path: str) -> None:
    assert not allowed(_files(deny_write=("src/conf.py",)), "file-write-create", path)


def test_no_file_becomes_setuid_and_none_gets_a_second_name() -> None:
    text = profile(SandboxPolicy(), FACTS)
    assert not allowed(text, "file-write-setugid", f"{PROJECT}/x")
    assert not allowed(text, "file-link", f"{PROJECT}/x")


# ---- links ------------------------------------------------------------------------------------------------------


def test_links_of_the_system_are_followed() -> None:
    text = _files(replace(FACTS, resolve=lambda path: path), allow_write=("/tmp/out",))
    assert _writable(text, "/private/tmp/out/x")


@pytest.mark.parametrize("key", ["allow_read", "allow_write"])
def test_a_link_that_could_have_been_planted_is_refused(key: str) -> None:
    facts = replace(FACTS, resolve=lambda path: path.replace(f"{PROJECT}/out", "/Users/me/other"))
    given = {"allow_write": (".",), key: (".", "out")}
    with pytest.raises(PolicyError, match=r"link.*'/Users/me/other'") as caught:
        _files(facts, **given)
    assert caught.value.where.startswith(f"filesystem.{'allowRead' if key == 'allow_read' else 'allowWrite'}[1]")


def test_a_link_elsewhere_is_followed() -> None:
    facts = replace(FACTS, resolve=lambda path: path.replace("/opt/models", "/Volumes/models"))
    assert _readable(_files(facts, allow_read=("/opt/models",)), "/Volumes/models/x")


def test_a_denied_link_is_denied_together_with_what_it_leads_to() -> None:
    facts = replace(FACTS, resolve=lambda path: path.replace(f"{PROJECT}/.env", f"{PROJECT}/real"))
    text = _files(facts, deny_read=(".env",))
    assert not _readable(text, f"{PROJECT}/.env")
    assert not _readable(text, f"{PROJECT}/real")


# ---- quoting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a\nb", "a\tb", "a\x7fb", "a\x1bb"])
def test_control_characters_are_refused(path: str) -> None:
    with pytest.raises(PolicyError, match="control character"):
        _files(deny_read=(path,))
    with pytest.raises(PolicyError, match="control character"):
        profile(SandboxPolicy(), replace(FACTS, run_dir=f"/{path}"))


def test_a_path_that_is_too_long_is_refused_rather_than_cut() -> None:
    with pytest.raises(PolicyError, match="too long"):
        _files(deny_read=("x" * 400,))


NASTY = st.text(st.sampled_from("ab/\".\\()[]{}^$|+?#;~ é'*"), min_size=1, max_size=12).filter(
    lambda text: not text.startswith("~")
)
PLAIN = NASTY.filter(lambda text: "*" not in text and "." not in text)


def _shape(expression: Any) -> Any:
    if isinstance(expression, str):
        return '"' if expression.startswith('"') else expression
    return [_shape(each) for each in expression]


@settings(max_examples=60, deadline=None)
@given(deny=PLAIN, allow=PLAIN, write=PLAIN, place=PLAIN)
def test_no_path_can_add_or_end_an_expression(deny: str, allow: str, write: str, place: str) -> None:
    """A profile for odd names has the same expressions as one for plain names, but for how many filters there are."""
    facts = replace(FACTS, protected=(f"/p/{place}",), python_paths=(f"/p/{place}",))
    text = _files(facts, deny_read=(deny,), allow_read=(allow,), allow_write=(write,), deny_write=(deny,))
    plain = _files(FACTS, deny_read=("a", "b"), allow_read=("a/c", "b"), allow_write=("d",), deny_write=("a", "*"))
    known = {str(_shape(part)) for rule in parse(plain) for part in rule} | {"allow", "deny"}
    for rule in parse(text):
        assert {str(_shape(part)) for part in rule} <= known


@settings(max_examples=60, deadline=None)
@given(path=PLAIN)
def test_a_denied_path_is_denied_whatever_its_name(path: str) -> None:
    place = re.sub("/+", "/", path if path.startswith("/") else f"{PROJECT}/{path}").rstrip("/") or "/"
    text = _files(deny_read=(path,), allow_write=(".",))
    if place not in ("/", PROJECT):
        assert not _readable(text, place)
        assert not _writable(text, place)
    if place.startswith(PROJECT):
        assert _readable(text, f"{PROJECT}/zzz") or place == PROJECT


@settings(max_examples=60, deadline=None)
@given(path=NASTY)
def test_a_pattern_never_matches_beyond_its_directory(path: str) -> None:
    if ".." not in path and not path.startswith("/"):
        assert _readable(_files(deny_read=(f"only/{path}*",)), f"{PROJECT}/other")


# ---- the command ------------------------------------------------------------------------------------------------


def test_the_command_runs_a_program_under_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sandbox-exec"
    program.touch(mode=0o755)
    monkeypatch.setattr(seatbelt, "SANDBOX_EXEC", str(program))
    assert command("(version 1)", ["python", "-c", ""]) == [str(program), "-p", "(version 1)", "--", "python", "-c", ""]
    with pytest.raises(ValueError, match="argv"):
        command("(version 1)", [])


def test_without_sandbox_exec_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seatbelt, "SANDBOX_EXEC", str(tmp_path / "missing"))
    with pytest.raises(SandboxUnavailableError, match="missing"):
        command("(version 1)", ["python"])


if __name__ == "__main__":
    for name, case in POLICIES.items():
        (GOLDEN / f"{name}.sb").write_text(profile(*case), encoding="utf-8")
