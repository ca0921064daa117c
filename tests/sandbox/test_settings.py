"""What a supervisor is told arrives as it was sent."""

from __future__ import annotations

from ipybox.sandbox.policy import FilesystemPolicy, Limits, NetworkPolicy, Packages, SandboxPolicy
from ipybox.sandbox.settings import SupervisorSettings

POLICY = SandboxPolicy(
    network=NetworkPolicy(
        allowed_domains=("a.example", "*.b.example:8443"),
        denied_domains=("c.example",),
        allow_unix_sockets=("/s",),
        allow_all_unix_sockets=True,
        hosts=(("a.example", "10.0.0.1"), ("b.example", "10.0.0.2:80")),
        parent_proxy="http://proxy:3128",
    ),
    filesystem=FilesystemPolicy(deny_read=("**/*.key",), allow_read=("~/x",), allow_write=("ü",), deny_write=("no",)),
    limits=Limits(memory=2**30, cpu_time=5),
    packages=Packages(install=("numpy>=2",), index="https://i.example/simple"),
)


def settings(policy: SandboxPolicy) -> SupervisorSettings:
    return SupervisorSettings(
        policy=policy,
        home="/home/ü",
        working_dir="/w",
        python="/usr/bin/python3",
        python_paths=("/usr", "/venv"),
        certificates={"SSL_CERT_FILE": "/ca"},
        config_file=None,
        run_dir="/run",
        client_argv=("python", "-m", "x"),
        client_env={"TOKEN": "secret"},
        client_fds=(3, 4),
        control_fd=5,
        ready_fd=6,
        learn=True,
    )


def test_they_travel_whole() -> None:
    for policy in (POLICY, SandboxPolicy()):
        assert SupervisorSettings.from_json(settings(policy).to_json()) == settings(policy)


def test_the_environment_is_not_shown() -> None:
    assert "secret" not in repr(settings(POLICY))
