"""Runs a module of this package in a Python that loads nothing from anywhere else. Floor: process.

A script: ``python -I -S bootstrap.py [--site DIR]... MODULE [ARG]...`` calls ``MODULE.main([ARG...])``. It is for
processes that must not run what sandboxed code wrote. Where ipybox is used from its sources, or another package is
installed in place, a directory that such code may write is on Python's path, and Python itself would run a
``sitecustomize.py`` from there. So ``site`` is left out, no ``.pth`` file is read, and this package is loaded from
where this file is, without its parent on the path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module, util

SCRIPT = os.path.abspath(__file__)


def command(
    python: str, module: str, *arguments: str, sites: Sequence[str] = (), ignore_environment: bool = True
) -> list[str]:
    """The command that runs a module.

    Args:
        python: The interpreter.
        module: Such as ``ipybox.sandbox.launcher``.
        arguments: For its ``main``.
        sites: Directories with installed packages that it needs.
        ignore_environment: Whether Python's own variables mean nothing to it.
    """
    options = [option for site in sites for option in ("--site", site)]
    return [python, "-I" if ignore_environment else "-P", "-S", SCRIPT, *options, module, *arguments]


def main(arguments: list[str]) -> object:
    """Loads the package, then the module, and calls its ``main``; returns what that returns."""
    while arguments[0] == "--site":
        sys.path.append(arguments[1])
        arguments = arguments[2:]
    package = os.path.dirname(os.path.dirname(SCRIPT))
    name = os.path.basename(package)
    spec = util.spec_from_file_location(name, f"{package}/__init__.py", submodule_search_locations=[package])
    assert spec is not None
    assert spec.loader is not None
    loaded = util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return import_module(arguments[0]).main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))  # type: ignore[arg-type]
