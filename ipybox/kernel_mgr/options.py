"""Options of one execution, which travel to the kernel as data. Floor: kernel_mgr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from ipybox import arguments


class ExecutionOptions(TypedDict, total=False):
    """What a request's metadata tells ipybox's kernel."""

    env: dict[str, str]
    cwd: str
    file_name: str
    argv: list[str]


def checked(
    *,
    env: Mapping[str, str] | None,
    cwd: Path | str | None,
    file_name: str | None,
    argv: list[str] | None,
) -> ExecutionOptions:
    """The options that were given, checked. Raises ``ValueError`` and ``TypeError`` that name the argument."""
    options = ExecutionOptions()
    if env is not None:
        options["env"] = arguments.environment("env", env)
    if cwd is not None:
        options["cwd"] = arguments.path("cwd", cwd)
    if file_name is not None:
        options["file_name"] = _text("file_name", file_name)
    if argv is not None:
        if not isinstance(argv, list | tuple):
            raise TypeError(f"argv must be a list of strings, got {argv!r}")
        options["argv"] = [_text("argv", item) for item in argv]
    return options


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {value!r}")
    return value
