"""What the commands say about sandboxes. Floor: cli."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ipybox.outputs import NetworkAccess


def minimal_policy(accesses: Iterable[NetworkAccess]) -> dict[str, Any]:
    """The network section that would have been enough, as it is written in a policy file.

    Web ports need no port in a rule; any other does. Hosts that were refused although nothing was to be are not in it.
    """
    rules = {
        _in_rule(access.host) if access.port in (80, 443) else f"{_in_rule(access.host)}:{access.port}"
        for access in accesses
        if access.allowed
    }
    return {"network": {"allowedDomains": sorted(rules)}}


def learned_text(accesses: Iterable[NetworkAccess]) -> str:
    """The policy for a file, and what could not be learned because it is never allowed."""
    accesses = list(accesses)
    refused = [f"not learned: {access}" for access in accesses if not access.allowed]
    return "\n".join([json.dumps(minimal_policy(accesses), indent=2), *refused])


def _in_rule(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
