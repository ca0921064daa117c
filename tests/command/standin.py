"""A stand-in for a container engine's client: records how it is called, and does what it was told."""

from __future__ import annotations

import json
import os
import select
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.command.waiting import PATIENCE

DOCKER = {"MemoryLimit": True, "SwapLimit": True, "CpuCfsQuota": True, "PidsLimit": True, "SecurityOptions": []}
PODMAN = {
    "host": {
        "cgroupVersion": "v2",
        "cgroupControllers": ["cpuset", "cpu", "io", "memory", "pids"],
        "security": {"rootless": False},
    }
}

_PROGRAM = """
import json, os, signal, sys
place = os.path.dirname(os.path.abspath(__file__))
plan = json.load(open(place + "/plan.json"))
what = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
if what == "info":
    sys.stdout.write(plan["info"] if isinstance(plan["info"], str) else json.dumps(plan["info"]))
    sys.stderr.write(plan.get("info_error", ""))
    sys.exit(plan.get("info_exit", 0))
record = {"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}
if what == "run":
    source = next(word for word in sys.argv if "sandbox-" in word and "source=" in word).split("source=")[1]
    workspace = source.split(",target=")[0]
    found = os.stat(workspace)
    record.update(workspace=workspace, mode=found.st_mode & 0o7777, uid=found.st_uid, stdin=None)
    if "-i" in sys.argv[: sys.argv.index("--")]:
        record["stdin"] = sys.stdin.read()
with open(place + "/records", "a") as file:
    file.write(json.dumps(record) + "\\n")
if what == "rm":
    told = os.open(place + "/removed", os.O_WRONLY)
    os.write(told, sys.argv[-1].encode() + b"\\n")
    print(sys.argv[-1])
if what == "run":
    if plan.get("sleep"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.write(plan.get("stdout", ""))
    sys.stderr.write(plan.get("stderr", ""))
    sys.stdout.flush()
    while plan.get("sleep"):
        signal.pause()
    sys.exit(plan.get("exit", 0))
"""


@dataclass
class StandIn:
    """A stand-in in a directory of its own."""

    place: Path

    def __post_init__(self) -> None:
        self.place.mkdir()
        self.binary = self.place / "client"
        self.binary.write_text(f"#!{sys.executable} -IS\n{_PROGRAM}")
        self.binary.chmod(0o755)
        os.mkfifo(self.place / "removed")
        self._removed = os.open(self.place / "removed", os.O_RDWR | os.O_NONBLOCK)

    def close(self) -> None:
        os.close(self._removed)

    def will(self, info: Any, **plan: Any) -> None:
        """What it does from now on."""
        (self.place / "plan.json").write_text(json.dumps({"info": info, **plan}))

    @property
    def records(self) -> list[dict[str, Any]]:
        """How it was called, without ``info``."""
        path = self.place / "records"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def run(self) -> dict[str, Any]:
        """The only call of ``run``."""
        (record,) = (each for each in self.records if "run" in each["argv"])
        return record

    def removed(self) -> str:
        """Waits for a container to be removed; its name."""
        ready, _, _ = select.select([self._removed], [], [], PATIENCE)
        assert ready, "no container was removed"
        return os.read(self._removed, 4096).decode().strip()
