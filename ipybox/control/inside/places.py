"""Where things are in a session's sandbox. Floor: control."""

from __future__ import annotations

from typing import Final

WORKSPACE: Final = "/workspace"
"""What lasts; on the host's disk."""
SESSIONS: Final = "/run/sessions"
"""What all sessions have on the host's disk, as the launcher sees it, and nobody else."""
PACKAGES: Final = "/run/packages"
"""Packages of the session itself; read-only."""
TEMPLATE: Final = "/run/template"
"""Packages of its template; read-only."""
INSTALLED: Final = "/run/home/.packages"
"""Where code itself installs what it wants, which is gone with the sandbox."""
REQUESTS: Final = 3
"""Descriptor of the agent: a pipe that requests come from."""
REPLIES: Final = 4
"""Descriptor of the agent: a pipe that replies go to."""
FIRST: Final = 3
"""Descriptor from which a handler of its own Python is read, or its interpreter's cells."""
SECOND: Final = 4
"""Descriptor at which such a handler answers, or such an interpreter shows things."""
COLD: Final = "ipybox.control.inside.cold"
"""The module that such a Python runs."""
BACKEND: Final = "module://matplotlib_inline.backend_inline"
"""matplotlib's backend that shows figures at the end of a cell."""
HANDLER_FILE: Final = "<handler>"
"""What tracebacks call the code of a handler."""


def body_limit(output_bytes: int) -> int:
    """Bytes of the largest body that an agent sends: room for an error, however little output is wanted."""
    return max(output_bytes, 1024 * 1024)
