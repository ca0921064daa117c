"""The interpreters of the sides: our own, and one with the peer, which is made on first use and kept."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

from benchmarks.plan import SideName
from benchmarks.progress import say

ROOT = Path(__file__).resolve().parent.parent
PEER = ("ipybox==0.9.2", "mcp<2")
"""Its dependency mcp has no upper bound, and it does not start with mcp 2."""
_CONSTRAINTS = ROOT / "constraints" / "pinned.txt"


class PeerInstallError(Exception):
    """The peer's environment can't be made."""


def interpreter(side: SideName) -> Path:
    """The Python in which a side runs."""
    return _peer_interpreter() if side == "peer" else Path(sys.executable)


def _peer_interpreter() -> Path:
    """The same Python with the peer, and with the same Jupyter as ours, so that only the two differ."""
    directory = ROOT / ".venv-peer"
    python = directory / "bin" / "python"
    stamp = directory / ".benchmarks"
    key = hashlib.sha256(repr((sys.version, PEER)).encode() + _CONSTRAINTS.read_bytes()).hexdigest()
    with open(ROOT / ".venv-peer.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.is_file() and stamp.read_text(encoding="ascii") == key):
            say(f"making {directory.name} with {', '.join(PEER)}, this takes a minute")
            _run([sys.executable, "-m", "venv", "--clear", str(directory)])
            options = ["-qq", "--no-input", "--disable-pip-version-check", "--constraint", str(_CONSTRAINTS)]
            _run([str(python), "-m", "pip", "install", *options, *PEER])
            stamp.write_text(key, encoding="ascii")
    return python


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeerInstallError(f"the peer's environment can't be made: {error}") from error
