"""What a command's environment holds: what was set, and of the caller's nothing that is secret or loads code."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.command.environment import command_environment, is_loader_variable, is_stripped

PROMISED = (
    *("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT"),
    *("DYLD_INSERT_LIBRARIES", "DYLD_LIBRARY_PATH", "DYLD_FRAMEWORK_PATH"),
    *("PHP_INI_SCAN_DIR", "PHPRC"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "GCP_PROJECT", "GCP_SERVICE_KEY"),
    *("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"),
    *("GEM_HOME", "GEM_PATH", "RUBYOPT", "RUBYLIB"),
    *("NODE_OPTIONS", "NPM_TOKEN", "npm_config_registry"),
    *("PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME", "PIP_INDEX_URL", "PIP_CONFIG_FILE"),
)
"""Of what users were promised that it is stripped, at least one of each kind."""
SECRETS = (
    *("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GITHUB_TOKEN", "GH_TOKEN", "HF_TOKEN", "SLACK_BOT_TOKEN"),
    *("PGPASSWORD", "MYSQL_PASSWORD", "DATABASE_URL", "VAULT_TOKEN", "DJANGO_SECRET_KEY", "SSH_AUTH_SOCK"),
    *("HTTP_PROXY", "https_proxy", "ALL_PROXY", "KUBECONFIG", "DOCKER_HOST", "DBUS_SESSION_BUS_ADDRESS"),
)
CODE = (
    *("BASH_ENV", "ENV", "BASH_FUNC_ls%%", "PERL5LIB", "PERL5OPT", "GIT_SSH_COMMAND"),
    *("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "NODE_PATH", "GCONV_PATH", "OPENSSL_CONF"),
)
"""These have a program run or load something else."""
ORDINARY = (
    *("HOME", "USER", "LOGNAME", "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TERM", "SHELL", "PWD", "EDITOR"),
    *("DISPLAY", "XDG_CACHE_HOME", "ENVIRONMENT", "CI", "CC", "MAKEFLAGS", "GOPATH", "CARGO_HOME", "VIRTUAL_ENV"),
    *("OLD_PATH", "MY_LD_FLAGS", "LDFLAGS", "MONKEY", "KEYBOARD", "AUTHOR", "DIGIT_COUNT", "A", "_"),
)

NAMES = st.sampled_from([*PROMISED, *SECRETS, *CODE, *ORDINARY])
ENVIRONMENTS = st.dictionaries(NAMES, st.text(max_size=3))


@pytest.mark.parametrize("name", [*PROMISED, *SECRETS, *CODE])
def test_secrets_and_what_loads_code_are_not_inherited_however_they_are_written(name: str) -> None:
    for each in (name, name.lower(), name.upper(), name.title()):
        assert is_stripped(each)
        assert each not in command_environment({}, inherited={each: "x"})


@pytest.mark.parametrize("name", ORDINARY)
def test_what_is_neither_is_inherited(name: str) -> None:
    assert not is_stripped(name)
    assert command_environment({}, inherited={name: "x"})[name] == "x"


@pytest.mark.parametrize("name", [*PROMISED, *SECRETS, *ORDINARY])
def test_the_loaders_variables_are_those_of_both_systems(name: str) -> None:
    assert is_loader_variable(name) == name.startswith(("LD_", "DYLD_"))


def test_whoever_wants_a_secret_inside_names_it() -> None:
    inherited = {"GITHUB_TOKEN": "of the caller"}
    assert command_environment({"GITHUB_TOKEN": "for it"}, inherited=inherited)["GITHUB_TOKEN"] == "for it"


def test_without_anything_it_finds_programs_and_writes_unicode() -> None:
    assert command_environment({}, inherited=None) == {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


@settings(deadline=None)
@given(ENVIRONMENTS, st.none() | ENVIRONMENTS, st.none() | ENVIRONMENTS)
def test_what_is_set_wins_over_the_drivers_own_and_that_over_what_is_inherited(
    env: dict[str, str], inherited: dict[str, str] | None, own: dict[str, str] | None
) -> None:
    found = command_environment(env, inherited=inherited, own=own)
    passed = {name: value for name, value in (inherited or {}).items() if not is_stripped(name)}
    assert set(found) == {"PATH", "LANG"} | set(env) | set(own or {}) | set(passed)
    for name, value in found.items():
        first = next((each[name] for each in (env, own or {}, passed) if name in each), None)
        assert first is None or value == first


def test_what_was_given_stays_as_it_was() -> None:
    env, inherited, own = {"A": "1"}, {"A": "2", "B": "2", "GITHUB_TOKEN": "x"}, {"B": "3"}
    found = command_environment(env, inherited=inherited, own=own)
    found["A"] = "changed"
    assert (env, inherited, own) == ({"A": "1"}, {"A": "2", "B": "2", "GITHUB_TOKEN": "x"}, {"B": "3"})
