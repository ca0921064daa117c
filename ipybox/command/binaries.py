"""Where a program is that runs sandboxes. Floor: command."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from ipybox.errors import SandboxUnavailableError
from ipybox.sandbox.path_patterns import is_below

DIRECTORIES = ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin", "/snap/bin")
"""Where it is looked for after ``PATH``, which daemons and applications with a window often have little of."""


def find_binary(
    name: str,
    variable: str,
    *,
    remedy: str,
    binary: str | os.PathLike[str] | None = None,
    outside: Iterable[str] = (),
) -> str:
    """The absolute path of a program.

    Args:
        name: Its name.
        variable: An environment variable that may hold its path, such as ``DOCKER_BIN``.
        remedy: How to install it.
        binary: Its path, where the caller knows it: nothing else counts then.
        outside: Directories that commands may write, where it is not looked for.

    Raises:
        SandboxUnavailableError: It is not there, or what the caller or the variable says is no executable file.
    """
    writable = tuple(map(os.path.realpath, outside))
    if binary is not None:
        return _checked(os.path.abspath(binary), f"binary={os.fspath(binary)!r}", "name the program itself", writable)
    if value := os.environ.get(variable):
        wrong = f"{variable}={value!r}"
        if not os.path.isabs(value):
            raise SandboxUnavailableError(f"{wrong} is no absolute path", [f"give the whole path, or unset {variable}"])
        return _checked(value, wrong, f"correct {variable}, or unset it", writable)
    for candidate in _candidates(name):
        if _is_executable(candidate) and not is_below(os.path.realpath(candidate), writable):
            return candidate
    raise SandboxUnavailableError(
        f"{name} was not found", [remedy, f"set {variable} to its path, if it is installed somewhere else"]
    )


def _checked(path: str, what: str, remedy: str, writable: Sequence[str]) -> str:
    if not _is_executable(path):
        raise SandboxUnavailableError(f"{what} is no executable file", [remedy])
    if is_below(os.path.realpath(path), writable):
        raise SandboxUnavailableError(f"{what} is where commands may write, and so replace it", [remedy])
    return path


def _candidates(name: str) -> Iterator[str]:
    for directory in (*os.environ.get("PATH", "").split(os.pathsep), *DIRECTORIES):
        if os.path.isabs(directory):  # a relative one would be wherever we happen to be
            yield os.path.join(directory, name)


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
