"""``ipybox serve``: the control plane in the foreground. Floor: cli."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipybox.control.errors import ServerSettingsError
from ipybox.control.settings import ServerSettings
from ipybox.errors import IpyboxError

USAGE, OURSELVES = 2, 125


def run_server(flags: Mapping[str, Any], config: Path | None) -> int:
    """Serves until a signal asks for the end, and returns the exit code."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
    try:
        # An empty list is what typer gives for an option that was not given.
        settings = ServerSettings.load(
            {name: value for name, value in given.items() if value != ()}, os.environ, config
        )
    except ServerSettingsError as error:
        return complain(str(error), USAGE)
    try:
        from ipybox.control.serve import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "ipybox":
            raise
        return complain(f'a server needs {error.name}: pip install "ipybox[server]"', OURSELVES)
    try:
        return serve(settings, _announce)
    except ServerSettingsError as error:
        return complain(str(error), USAGE)
    except (IpyboxError, OSError) as error:
        return complain(str(error), OURSELVES)


def _announce(url: str) -> None:
    """The only line on stdout: for scripts that let us pick a port."""
    if sys.stdout is not None:
        try:
            sys.stdout.write(f"{url}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            pass  # nobody wants to know


def complain(text: str, code: int) -> int:
    """Says on stderr what is wrong, and gives the exit code back."""
    if sys.stderr is not None:
        sys.stderr.write(f"ipybox: {text}\n")
    return code
