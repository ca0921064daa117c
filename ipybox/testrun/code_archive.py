"""Compiled modules of a project, made once and read by every sandbox. Floor: testrun.

A fresh sandbox would compile what it imports again and again: what another one wrote is not there, and is not to be
trusted. So one sandbox that runs nothing of the project compiles the modules that were loaded when its tests were
found, into a file in memory that nobody can change any more. Compiling is not running, so what is in there is what
each sandbox would have come to itself. The format::

    8 bytes length of the index, big-endian | index, JSON | code objects, as `marshal` writes them
"""

from __future__ import annotations

import importlib
import json
import marshal
import mmap
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import SourceFileLoader
from types import CodeType
from typing import Any

MOST_BYTES = 64 * 1024 * 1024
"""Bytes of source that are compiled; the rest is compiled where it is needed."""
PLAIN, REWRITTEN = "plain", "rewritten"


def loaded_sources(root: str) -> tuple[list[str], list[str]]:
    """Source files of the modules that are loaded: those of the project, and all that pytest has rewritten."""
    plain, rewritten = [], []
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        origin, loader = getattr(spec, "origin", None), getattr(spec, "loader", None)
        if not isinstance(origin, str) or not origin.endswith(".py"):
            continue
        if type(loader).__name__ == "AssertionRewritingHook":
            rewritten.append(origin)
        elif origin.startswith(f"{root}/"):
            plain.append(origin)
    return sorted(set(plain)), sorted(set(rewritten))


def write(fd: int, plain: Iterable[str], rewritten: Iterable[str], rewrite: Callable[[str, bytes], CodeType]) -> None:
    """Compiles files and writes the archive; what can't be compiled is left out, and fails where it is imported.

    Args:
        fd: An empty file.
        plain: Files to be compiled as they are.
        rewritten: Files to be compiled by ``rewrite``.
        rewrite: Compiles a file, given its name and its text.
    """
    index: dict[str, list[Any]] = {}
    codes: list[bytes] = []
    at = total = 0
    for kind, names in ((PLAIN, plain), (REWRITTEN, rewritten)):
        for name in names:
            try:
                with open(name, "rb") as file:
                    status, source = os.fstat(file.fileno()), file.read()
                total += len(source)
                if total > MOST_BYTES:
                    continue
                code = rewrite(name, source) if kind == REWRITTEN else compile(source, name, "exec", dont_inherit=True)
                data = marshal.dumps(code)
            except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            index[f"{kind}:{name}"] = [at, len(data), status.st_mtime_ns, status.st_size]
            codes.append(data)
            at += len(data)
    text = json.dumps(index).encode()
    with os.fdopen(fd, "wb") as out:
        out.write(len(text).to_bytes(8, "big") + text)
        out.writelines(codes)


class Archive:
    """Reads one.

    Args:
        fd: Of the file; closed by this.
    """

    def __init__(self, fd: int) -> None:
        try:
            self._data = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
        size = int.from_bytes(self._data[:8], "big")
        self._index: Mapping[str, list[int]] = json.loads(self._data[8 : 8 + size])
        self._start = 8 + size

    def code(self, kind: str, name: str) -> CodeType | None:
        """The code of a file, if it is here and the file is what it was."""
        found = self._index.get(f"{kind}:{name}")
        if found is None:
            return None
        at, length, changed, size = found
        try:
            status = os.stat(name)
        except OSError:
            return None
        if (status.st_mtime_ns, status.st_size) != (changed, size):
            return None
        start = self._start + at
        code: CodeType = marshal.loads(self._data[start : start + length])
        return code

    def install(self) -> Callable[[], None]:
        """Has imports of source files look here first; returns what undoes that."""
        original = SourceFileLoader.get_code

        def get_code(loader: SourceFileLoader, name: str) -> CodeType | None:
            code = self.code(PLAIN, loader.path) if type(loader) is SourceFileLoader else None
            return original(loader, name) if code is None else code

        SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]
        writes = sys.dont_write_bytecode
        sys.dont_write_bytecode = True  # nobody would read it
        undo_rewriting = self._install_rewritten()

        def undo() -> None:
            del SourceFileLoader.get_code
            sys.dont_write_bytecode = writes
            undo_rewriting()

        return undo

    def _install_rewritten(self) -> Callable[[], None]:
        if "_pytest.assertion.rewrite" not in sys.modules:
            return lambda: None
        rewriting: Any = importlib.import_module("_pytest.assertion.rewrite")
        original = rewriting._rewrite_test

        def rewrite_test(path: os.PathLike[str], config: Any) -> tuple[Any, CodeType]:
            code = None if config.getini("enable_assertion_pass_hook") else self.code(REWRITTEN, os.fspath(path))
            return original(path, config) if code is None else (b"", code)

        rewriting._rewrite_test = rewrite_test

        def undo() -> None:
            rewriting._rewrite_test = original

        return undo
