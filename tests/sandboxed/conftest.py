"""Rooms with sandboxed kernels, one for each policy, and canaries of the host that no kernel may see."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ipybox.sandbox.protected import CREDENTIALS
from tests.sandboxed.inside import Room

SECRET = "hunter2-of-the-canaries"


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(SECRET.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@dataclass
class Host:
    """What the host has, and what sandboxed code must not get.

    Attributes:
        base: Where it all is.
        home: The caller's home, as far as a gateway knows.
        shared: A directory that some policy lets be read.
        file: A file beside all others in the host's /tmp.
        http_port: A server on every address of the host.
        vsock_port: Where an AF_VSOCK server listens; None if the host can't have one.
        abstract: Name of an abstract socket.
        heard: What arrived at the sockets.
    """

    base: Path
    home: Path
    shared: Path
    file: Path
    http_port: int = 0
    vsock_port: int | None = None
    abstract: str = ""
    heard: list[bytes] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    def listen(self, path: Path, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A Unix socket at a path, which anybody may use."""
        ours = socket.socket(socket.AF_UNIX, kind)
        ours.bind(str(path))
        path.chmod(0o777)
        if kind != socket.SOCK_DGRAM:
            ours.listen()
        ours.setblocking(False)
        self.sockets.append(ours)
        return ours

    def workspace(self, name: str) -> Path:
        """A new working directory."""
        path = self.base / name
        path.mkdir()
        return path


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The canaries."""
    base = tmp_path_factory.mktemp("box")
    found = Host(base=base, home=base / "home", shared=base / "shared", file=base / "canary")
    found.home.mkdir()
    found.shared.mkdir()
    (found.shared / "open.txt").write_text("open")
    found.file.write_text(SECRET)
    (found.home / "diary.txt").write_text(SECRET)
    for name in CREDENTIALS:
        path = found.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SECRET)
    server = ThreadingHTTPServer(("0.0.0.0", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.http_port = server.server_port
    found.abstract = f"ipybox-canary-{os.getpid()}"
    for address in (f"\0{found.abstract}", f"\0{found.abstract}-dgram"):
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if address.endswith("dgram") else socket.SOCK_STREAM)
        ours.bind(address)
        if not address.endswith("dgram"):
            ours.listen()
        found.sockets.append(ours)
    _listen_vsock(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANARY_SECRET", SECRET)
        yield found
    for ours in found.sockets:
        ours.close()
    server.shutdown()
    server.server_close()


def _listen_vsock(found: Host) -> None:
    try:
        ours = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError:
        return
    try:
        ours.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        ours.listen()
    except OSError:
        ours.close()
        return
    found.vsock_port = ours.getsockname()[1]
    found.sockets.append(ours)


def start(host: Host, room: Room) -> Room:
    """Starts a room's gateway as somebody whose home is the canaries'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(host.home))
        return room.__enter__()


@pytest.fixture(scope="session", params=["nested user namespaces", "one bubblewrap per kernel"])
def plain(host: Host, request: pytest.FixtureRequest) -> Iterator[Room]:
    """The default policy, with each of the two ways in which kernels are kept apart."""
    nested = request.param == "nested user namespaces"
    workspace = host.workspace("plain" if nested else "plain-2")
    host.listen(workspace / "earlier.sock", socket.SOCK_DGRAM)
    room = start(host, Room(workspace, nested=nested))
    assert room.gateway.sandbox_tier == request.param
    host.listen(room.workspace / "stream.sock")
    host.listen(room.workspace / "packet.sock", socket.SOCK_SEQPACKET)
    host.listen(room.workspace / "datagram.sock", socket.SOCK_DGRAM)
    yield room
    room.__exit__()


@pytest.fixture(scope="session")
def ruled(host: Host) -> Iterator[Room]:
    """A policy with a rule of every kind, and a workspace with something for each of them."""
    workspace = host.workspace("ruled")
    furnish(workspace)
    out = host.base / "out"
    (out / "kept").mkdir(parents=True)
    (out / "kept" / "file.txt").write_text("original")
    policy = {
        "filesystem": {
            "denyRead": ["secret.txt", "hidden", "**/*.key", "**/.env", "partly", str(host.shared / "closed")],
            "allowRead": [str(host.shared), "partly/open", "~"],
            "allowWrite": [".", str(out)],
            "denyWrite": ["fixed", "fixed.txt", "later.txt", "**/*.lock", str(out / "kept")],
        },
        "limits": {"scratch": "4 MiB", "sharedMemory": "2 MiB"},
    }
    (host.shared / "closed").mkdir()
    (host.shared / "closed" / "file.txt").write_text(SECRET)
    (workspace / "sandbox.json").write_text(json.dumps(policy))
    (workspace / "outside.link").symlink_to(host.file)
    (workspace / "outside.d").symlink_to(host.base)
    room = start(host, Room(workspace, sandbox_config=workspace / "sandbox.json"))
    yield room
    room.__exit__()


def furnish(workspace: Path) -> None:
    """A workspace with files to hide, files to keep as they are, and all the names that matter to others."""
    for name in ("secret.txt", "a.key", "sub/deeper/b.key", ".env", "sub/.env", "hidden/x.txt", "hidden/sub/y.txt"):
        _file(workspace / name, SECRET)
    _file(workspace / "partly/closed.txt", SECRET)
    for name in (
        "partly/open/file.txt",
        "fixed.txt",
        "fixed/file.txt",
        "uv.lock",
        "sub/poetry.lock",
        "free.txt",
        ".git/HEAD",
        ".git/config",
        ".git/hooks/pre-commit",
        ".git/modules/part/HEAD",
        ".git/modules/part/config",
        ".gitmodules",
        ".gitconfig",
        ".bashrc",
        ".zshrc",
        ".profile",
        ".envrc",
        ".mcp.json",
        ".ripgreprc",
        ".vscode/settings.json",
        ".idea/workspace.xml",
        ".codex/config.toml",
        ".claude/commands/run.md",
        ".claude/agents/one.md",
        ".claude/settings.json",
        "one/two/.vscode/tasks.json",
        "one/repo/.git/HEAD",
        "one/repo/.git/config",
        "one/repo/.git/hooks/post-checkout",
        ".venv/pyvenv.cfg",
        ".venv/bin/python",
        ".venv/lib/python3/site-packages/x.py",
        "envs/two/pyvenv.cfg",
        "envs/two/bin/python",
    ):
        _file(workspace / name, "original")
    _file(workspace / "elsewhere/settings.json", "original")
    (workspace / "linked").mkdir()
    (workspace / "linked" / ".vscode").symlink_to("../elsewhere")
    (workspace / "linked" / ".envrc").symlink_to("nowhere")


def _file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="session")
def read_only(host: Host) -> Iterator[Room]:
    """A policy that lets nothing be written."""
    workspace = host.workspace("readonly")
    _file(workspace / "file.txt", "original")
    config = host.base / "readonly.json"
    config.write_text(json.dumps({"filesystem": {"allowWrite": []}}))
    room = start(host, Room(workspace, sandbox_config=config))
    yield room
    room.__exit__()


@pytest.fixture(scope="session")
def with_unix(host: Host) -> Iterator[Room]:
    """A policy that lets Unix sockets be made."""
    workspace = host.workspace("unix")
    config = host.base / "unix.json"
    config.write_text(json.dumps({"network": {"allowAllUnixSockets": True}}))
    host.listen(workspace / "stream.sock")
    host.listen(workspace / "packet.sock", socket.SOCK_SEQPACKET)
    host.listen(workspace / "datagram.sock", socket.SOCK_DGRAM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        host.listen(Path("relative.sock"))
    host.listen(host.base / "far.sock")
    (workspace / "sub").mkdir()
    (workspace / "sub" / "linked.sock").hardlink_to(host.base / "far.sock")
    room = start(host, Room(workspace, sandbox_config=config))
    yield room
    room.__exit__()
