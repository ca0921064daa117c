"""The environment of a command. Floor: command.

What a caller's environment holds is passed on only where the policy says so, and even then without two kinds of
variables: secrets, which would be given away, and those that make a program load code or read another configuration,
which would change what the command is.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

LOADER_VARIABLES = ("LD_*", "DYLD_*")
"""What the dynamic loader reads, in every program."""

STRIPPED = (
    *LOADER_VARIABLES,
    "BASH*",
    "CLASSPATH",
    "ENV",
    "GLIBC_TUNABLES",
    "JDK_JAVA_OPTIONS",
    "LESSCLOSE",
    "LESSOPEN",
    "LUA_*",
    "PROMPT_COMMAND",
    "PS4",
    "R_*",
    "SHELLOPTS",
    "ZDOTDIR",
    "GCONV_PATH",
    "GEM_HOME",
    "GEM_PATH",
    "GIT_*",
    "JAVA_TOOL_OPTIONS",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NPM_*",
    "OPENSSL_*",
    "PERL*",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PIP_*",
    "PYTHON*",
    "RUBY*",
    "_JAVA_OPTIONS",
    # secrets
    "AWS_*",
    "AZURE_*",
    "COMPOSER_AUTH",
    "*_DSN",
    "*_PASS",
    "*_PAT",
    "*_PWD",
    "*_URI",
    "*_URL",
    "*WEBHOOK*",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_*",
    "GCP_*",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GPG_*",
    "*_PROXY",  # often with a password
    "KUBECONFIG",
    "NETRC",
    "PGPASSFILE",
    "SUDO_ASKPASS",
    "XAUTHORITY",
    "SSH_*",
    "*ACCESS_KEY*",
    "*API_KEY*",
    "*APIKEY*",
    "*AUTH_KEY*",
    "*CREDENTIAL*",
    "*PASSPHRASE*",
    "*PASSWD*",
    "*PASSWORD*",
    "*_KEY",
    "*_KEY_*",
    "*SECRET*",
    "*TOKEN*",
)
"""Never inherited; patterns without regard to case. Whoever wants one of them names it in ``ExecutionPolicy.env``."""

_DEFAULTS = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}


def is_loader_variable(name: str) -> bool:
    """Whether the dynamic loader reads it."""
    return _matches(name, LOADER_VARIABLES)


def is_stripped(name: str) -> bool:
    """Whether it is never inherited."""
    return _matches(name, STRIPPED)


def command_environment(
    env: Mapping[str, str], *, inherited: Mapping[str, str] | None, own: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The complete environment of a command.

    Args:
        env: What the policy sets; it wins over all else.
        inherited: The caller's environment, where it is passed on.
        own: What a driver sets, such as ``HOME``; it wins over what is inherited.
    """
    passed = {name: value for name, value in (inherited or {}).items() if not is_stripped(name)}
    return {**_DEFAULTS, **passed, **(own or {}), **env}


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in patterns)
