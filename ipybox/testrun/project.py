"""Where a project is, and what its tests find in their sandbox. Floor: testrun."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from ipybox.sandbox.access import SANDBOX_HOME, HostFacts
from ipybox.sandbox.policy import FilesystemPolicy, Limits, NetworkPolicy, SandboxPolicy
from ipybox.sandbox.python_paths import python_paths
from ipybox.sandbox.view import View, kernel_view
from ipybox.testrun.settings import RunSettings

_MARKS = (
    "pytest.ini",
    ".pytest.ini",
    "pyproject.toml",
    "tox.ini",
    "setup.cfg",
    "setup.py",
    "package.json",
    ".git",
)


def project_root(paths: Sequence[str], cwd: str) -> str:
    """The directory that tests may change in their sandboxes: the nearest one around all of the paths and the working
    directory that has a project's configuration; without one, the innermost that has all of them."""
    places = [cwd]
    for path in paths:
        absolute = os.path.join(cwd, path.partition("::")[0])
        places.append(absolute if os.path.isdir(absolute) else os.path.dirname(absolute))
    around = os.path.commonpath([os.path.realpath(place) for place in places])
    directory = around
    while True:
        if any(os.path.exists(os.path.join(directory, mark)) for mark in _MARKS):
            return directory
        if directory in (os.path.realpath(os.path.expanduser("~")), os.path.dirname(directory)):
            return around
        directory = os.path.dirname(directory)


def policy_for(settings: RunSettings) -> SandboxPolicy:
    """What a test may do."""
    return SandboxPolicy(
        network=NetworkPolicy(
            allowed_domains=settings.network if isinstance(settings.network, tuple) else (),
            allow_all_unix_sockets=True,  # of its own sandbox; nobody else's can be reached
        ),
        filesystem=FilesystemPolicy(deny_read=(), allow_read=settings.readable, allow_write=(), deny_write=()),
        limits=Limits(memory=settings.memory, processes=settings.processes, scratch=settings.scratch),
    )


def view_for(policy: SandboxPolicy, root: str, uid: int | None) -> View:
    """What a test sees. Raises :class:`PolicyError` for what can't be shown."""
    facts = HostFacts(
        home=os.path.realpath(os.path.expanduser("~")),
        working_dir=root,
        python_paths=python_paths(),
        uid=os.getuid() if uid is None else uid,
        gid=os.getgid() if uid is None else uid,
    )
    return replace(kernel_view(policy, facts), working_dir=root)


def environment_for(settings: RunSettings) -> dict[str, str]:
    """The variables that a test finds: the same on every machine, but for where Python is."""
    bin_directory = os.path.dirname(sys.executable)
    own = {
        "HOME": SANDBOX_HOME,
        "LANG": settings.locale,
        "LC_ALL": settings.locale,
        "LOGNAME": "sandbox",
        "PATH": f"{bin_directory}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONHASHSEED": str(settings.hash_seed),
        "SHELL": "/bin/sh",
        "TMPDIR": "/tmp",
        "TZ": settings.time_zone,
        "USER": "sandbox",
    }
    if sys.prefix != sys.base_prefix:
        own["VIRTUAL_ENV"] = sys.prefix
    return {**own, **settings.env}
