"""Which parts of the file system a Python environment consists of. Floor: sandbox."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import ipybox


def python_paths() -> tuple[str, ...]:
    """What sandboxed code must be able to read so that this interpreter and its packages work.

    The prefixes, where the interpreter really is, the packages on its path, directories that ``.pth`` files add (as
    editable installs do), and this package itself. Not what ``PYTHONPATH`` or a script's own directory add.
    """
    found = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    found += [sys.executable, os.path.realpath(sys.executable)]
    for entry in sys.path:
        if "-packages" in entry and os.path.isdir(entry):
            found.append(entry)
            found += _added(Path(entry))
    found.append(os.path.dirname(os.path.abspath(ipybox.__file__)))
    return tuple(dict.fromkeys(os.path.abspath(path) for path in found if path and os.path.exists(path)))


def site_packages() -> list[str]:
    """Where packages are installed, without what path configuration files add."""
    return [entry for entry in dict.fromkeys(sys.path) if "-packages" in entry and os.path.isdir(entry)]


def _added(packages: Path) -> list[str]:
    """Directories that path configuration files add; see the documentation of ``site``."""
    added = []
    for file in sorted(packages.glob("*.pth")):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.strip() and not line.startswith(("#", "import ", "import\t")):
                path = (packages / line.strip()).resolve()
                if path.is_dir():
                    added.append(str(path))
    return added
