"""Entry point of the gateway process: ``python -m ipybox.kernel_mgr.gateway_process FD``. Floor: kernel_mgr."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_UNUSED_FORMATS = ("isoduration", "rfc3987_syntax")
"""Format checkers that ``jsonschema`` imports when they are there, and does without when they are not.

Nothing in a gateway validates documents with such formats, and the two take more than half of its start: one of them
compiles a grammar at import.
"""


def main(arguments: Sequence[str]) -> None:
    """Runs the gateway; the argument is the descriptor with its settings."""
    for name in _UNUSED_FORMATS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # makes importing it an ImportError
    from ipybox.kernel_mgr import gateway

    gateway.main(list(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])
