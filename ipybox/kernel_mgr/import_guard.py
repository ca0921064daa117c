"""Imports only what sandboxed code can't have written. Floor: kernel_mgr.

For the Python that kernels are forked from: it confines them, and it sees the same files as they do. Everything that
nobody inside may write is on a mount that is read-only, so the mount decides, wherever links lead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class ImportGuard:
    """A finder that takes the place of the one for files."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where a module is. Raises ``ImportError`` if that is where sandboxed code writes."""
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            for file in (spec.origin, spec.cached):
                if file is not None and is_writable(file):
                    raise ImportError(
                        f"{name} is in {os.path.realpath(file)}, where sandboxed code can write", name=name
                    )
        return spec


def is_writable(path: str) -> bool:
    """Whether a file is there, on a mount that can be written."""
    try:
        return not os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return False


@contextmanager
def guarded() -> Iterator[None]:
    """Guards the imports of this process."""
    guard = ImportGuard()
    sys.meta_path.insert(sys.meta_path.index(PathFinder), guard)
    try:
        yield
    finally:
        sys.meta_path.remove(guard)
