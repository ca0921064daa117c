"""What can be said in requests, once for all methods that take it. Floor: control."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from ipybox.control.client.models import Dependency, Json, NetworkRules

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(.*?)\s*\Z", re.DOTALL)

Packages = Sequence[Dependency | str]
"""Packages, as texts such as ``pandas==2.3.3`` or apart."""
Network = NetworkRules | Sequence[str]
"""Hosts that may be reached: ``example.org``, ``*.example.org``, ``example.org:8443``; empty is no network."""


class TemplateOptions(TypedDict, total=False):
    """Fields of a template; see :class:`ipybox.control.client.TemplateInfo`."""

    name: str | None
    image_url: str | None
    runtime_type: str | None
    default_cpu_cores: float | None
    default_memory_mb: int | None
    default_disk_mb: int | None
    default_timeout: int | None
    default_env_vars: Mapping[str, str] | None
    max_processes: int | None
    preload: Sequence[str] | None
    packages: Packages | None
    package_index_url: str | None
    network: Network | None
    warm: bool | None


class SessionOptions(TypedDict, total=False):
    """What a new session is to be; what is left out is what its template says.

    ``mode`` is ``stateless`` or ``stateful``, ``timeout`` seconds for which it is kept unused, ``cpu`` processors,
    ``memory`` and ``disk`` such as ``512Mi`` and ``1Gi``, ``dependencies`` packages to install before it runs.
    """

    id: str | None
    mode: str | None
    timeout: int | None
    cpu: str | float | None
    memory: str | None
    disk: str | None
    max_processes: int | None
    env_vars: Mapping[str, str] | None
    event: Json
    tags: Mapping[str, str] | None
    network: Network | None
    dependencies: Packages | None
    install_timeout: int | None
    fail_on_dependency_error: bool | None
    allow_version_conflicts: bool | None
    python_package_index_url: str | None


class CodeOptions(TypedDict, total=False):
    """How code is run.

    ``language`` is ``python``, ``javascript`` or ``shell``; ``kind`` of Python is ``handler`` (defines
    ``handler(event)``) or ``cell``, and goes with the session's mode if nothing is said; ``timeout`` in seconds;
    ``event`` is what a handler gets.
    """

    language: str
    kind: str | None
    timeout: int | None
    event: Json
    env_vars: Mapping[str, str] | None


_MODES = (None, "stateless", "stateful")


def only(kind: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options that there are: a server ignores what it does not know, so what is misspelt would be lost without a word.

    Args:
        kind: One of the classes above.

    Raises:
        TypeError: There is no such option.
        ValueError: There is no such mode, which a server takes for the first one.
    """
    for name in options:
        if name not in kind.__annotations__:
            raise TypeError(f"there is no option {name!r}; there are {', '.join(sorted(kind.__annotations__))}")
    if options.get("mode") not in _MODES:
        raise ValueError(f"mode is 'stateless' or 'stateful', got {options['mode']!r}")
    return options


def as_body(options: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A body of a request. What is None is left out."""
    said = {name: value for name, value in {**more, **options}.items() if value is not None}
    for name in ("dependencies", "packages"):
        if name in said:
            said[name] = [_package(each) for each in said[name]]
    if "network" in said:
        said["network"] = _network(said["network"])
    if "preload" in said:
        said["preload"] = list(said["preload"])
    return said


def _package(package: Dependency | str) -> dict[str, str]:
    if isinstance(package, Dependency):
        return {"name": package.name, "version": package.version}
    found = _REQUIREMENT.match(package)
    return {"name": package, "version": ""} if found is None else {"name": found[1], "version": found[2]}


def _network(network: Network) -> dict[str, list[str]]:
    if isinstance(network, NetworkRules):
        return {"allowed_domains": list(network.allowed_domains), "denied_domains": list(network.denied_domains)}
    if isinstance(network, str):
        raise TypeError("network is a list of hosts, not a text")
    return {"allowed_domains": list(network)}
