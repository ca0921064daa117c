"""Installs packages with pip, in a sandbox that is there for nothing else. Floor: control.

``SETTINGS``: copies what was installed earlier, so that a failure changes nothing of it, and runs pip on the copy. pip
sees what the session and its template have, and not what this Python happens to have for itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

EARLIER: Final = "/run/earlier"
"""What was installed before; read-only."""
CONFLICT: Final = 3
"""Exit code where what was installed does not go together."""
_ALONE = "/tmp/pip"
_BROKEN = re.compile(r"requires .+, (but you have .+ which is incompatible|which is not installed)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallerSettings:
    """What it is told.

    Attributes:
        command: pip's arguments.
        prefix: Where to install.
        own: Directories of the prefix that packages are found in.
        template: Directories of the template's packages.
        allow_conflicts: Whether packages may be there that do not go together.
    """

    command: Sequence[str]
    prefix: str
    own: Sequence[str]
    template: Sequence[str]
    allow_conflicts: bool = False

    def to_json(self) -> str:
        """The form in which it travels."""
        return json.dumps(asdict(self))


def main(arguments: Sequence[str]) -> int:
    """Installs; returns pip's exit code, or :data:`CONFLICT`."""
    settings = InstallerSettings(**json.loads(arguments[0]))
    shutil.copytree(EARLIER, settings.prefix, symlinks=True, dirs_exist_ok=True)
    pip = _alone()
    code, lines = _run(settings, [pip, *settings.own, *settings.template])
    if code and any("Read-only file system" in line for line in lines) and settings.template:
        _tell("a package of the template is to be replaced: what is needed is installed beside it\n")
        code, lines = _run(settings, [pip, *settings.own])
    broken = [line for line in lines if _BROKEN.search(line)]
    if code == 0 and broken and not settings.allow_conflicts:
        _tell("\n".join(["these packages do not go together:", *broken, ""]))
        return CONFLICT
    return code


def _run(settings: InstallerSettings, path: Sequence[str]) -> tuple[int, list[str]]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-P", "-s", "-S", *settings.command]
    lines: list[str] = []
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            _tell(line)
            lines = [*lines[-200:], line.rstrip()]
    return process.returncode, lines


def _tell(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _alone() -> str:
    """A place where there is pip and nothing else."""
    found = importlib.util.find_spec("pip")
    if found is not None and found.submodule_search_locations:
        os.makedirs(_ALONE)
        os.symlink(next(iter(found.submodule_search_locations)), f"{_ALONE}/pip")
        return _ALONE
    bundled = importlib.util.find_spec("ensurepip")
    folder = f"{os.path.dirname(bundled.origin or '')}/_bundled" if bundled is not None else ""
    wheels = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for name in wheels:
        if name.startswith("pip-"):
            return f"{folder}/{name}"
    sys.exit("there is no pip in this Python")
