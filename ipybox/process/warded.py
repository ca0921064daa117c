"""Starts a warden, and makes what its command needs when there is one to remove it. Floor: process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ipybox.process import warden


def start(
    options: Sequence[str],
    command: Sequence[str],
    *,
    pass_fds: Sequence[int],
    prepare: Callable[[], None] | None = None,
    **how: Any,
) -> subprocess.Popen[bytes]:
    """Starts a command under a warden.

    Args:
        options: The warden's.
        command: What it runs.
        pass_fds: What both inherit.
        prepare: Called when the warden is there, and before it runs the command. What is to be removed in the end is
            made here: whoever is killed between the two would leave it. What it raises is raised here.
        how: More options of ``Popen``.
    """
    if prepare is None:
        return _popen(options, command, pass_fds, how)
    go, word = os.pipe()
    try:
        try:
            process = _popen([*options, "--go-fd", str(go)], command, [*pass_fds, go], how)
        finally:
            os.close(go)
        try:
            prepare()
            os.write(word, b"+")
        except BaseException:
            _call_off(process, word)
            raise
        return process
    finally:
        os.close(word)


def _popen(
    options: Sequence[str], command: Sequence[str], pass_fds: Sequence[int], how: dict[str, Any]
) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-I", "-S", warden.__file__, *options, "--", *command]
    return subprocess.Popen(argv, pass_fds=pass_fds, cwd="/", start_new_session=True, **how)


def _call_off(process: subprocess.Popen[bytes], word: int) -> None:
    """The warden runs nothing, and has removed what there was when this returns."""
    try:
        os.write(word, b"-")
    except BrokenPipeError:
        pass  # it was killed
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
