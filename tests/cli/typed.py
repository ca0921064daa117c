"""Commands of ours as people type them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.control.serving import ENVIRONMENT, HANG, IPYBOX


def ipybox(
    *arguments: object, stdin: bytes = b"", env: Mapping[str, str] = {}, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command of ours to its end."""
    return subprocess.run(
        [*IPYBOX, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env={**ENVIRONMENT, **env},
        cwd=cwd,
        timeout=HANG,
        check=False,
    )
