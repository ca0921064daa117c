"""Programs that people really use, going out through the egress proxy as sandboxed code does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import websockets

from ipybox.sandbox.egress import EgressEvent, EgressProxy
from ipybox.sandbox.policy import NetworkPolicy
from tests.sandbox.test_egress import hang_up, head_of, listening

PATIENCE = 60.0
HOST = "web.test"


@dataclass
class Site:
    """A web site outside, and the proxy that leads to it under the name ``web.test`` and to nothing else."""

    root: Path
    proxy: str = ""
    events: list[EgressEvent] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), self.proxy)
        return {**kept, **proxies, "HOME": str(self.root), "NO_PROXY": "localhost,127.0.0.1,::1", **more}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            lines = (await head_of(reader)).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            path = lines[0].split(" ")[1].partition("?")[0]
            if "sec-websocket-key" in headers:
                await self._echo_one_message(headers["sec-websocket-key"], reader, writer)
            elif path == "/redirect":
                writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://denied.test/\r\nContent-Length: 0\r\n\r\n")
            elif path == "/upload":
                body = await reader.readexactly(int(headers["content-length"]))
                self._respond(writer, hashlib.sha256(body).hexdigest().encode())
            else:
                await self._respond_with_file(path, writer)
            await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            await hang_up(writer)

    async def _respond_with_file(self, path: str, writer: asyncio.StreamWriter) -> None:
        file = self.root / path.strip("/")
        if file.is_dir():
            links = "".join(f'<a href="{item.name}">{item.name}</a>' for item in sorted(file.iterdir()))
            self._respond(writer, f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), "text/html")
        elif file.is_file():
            self._respond(writer, file.read_bytes())
        else:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    @staticmethod
    def _respond(writer: asyncio.StreamWriter, body: bytes, kind: str = "application/octet-stream") -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    @staticmethod
    async def _echo_one_message(key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accept = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        writer.write(b"Sec-WebSocket-Accept: " + base64.b64encode(accept) + b"\r\n\r\n")
        start = await reader.readexactly(2)
        mask = await reader.readexactly(4)
        masked = await reader.readexactly(start[1] & 0x7F)
        text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(masked))
        writer.write(bytes([start[0], len(text)]) + text + b"\x88\x00")
        await writer.drain()
        await reader.read(64)  # the client's part of closing


@asynccontextmanager
async def site(root: Path, certificate: Path | None = None) -> AsyncIterator[Site]:
    web = Site(root)
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    async def record(event: EgressEvent) -> None:
        web.events.append(event)

    server = await asyncio.start_server(web.answer, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    policy = NetworkPolicy(allowed_domains=(HOST,), hosts=((HOST, f"127.0.0.1:{port}"),))
    try:
        async with EgressProxy(policy, environment={}, on_event=record) as proxy:
            listener = listening()
            web.proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
            await proxy.listen(listener, "kernel")
            yield web
    finally:
        server.close()
        await server.wait_closed()


def certificate_for(name: str, directory: Path) -> Path:
    """A self-signed certificate and its key in one file; it can be its own authority."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed; it makes the certificate of the test's server")
    key, certificate, both = directory / "key.pem", directory / "certificate.pem", directory / "both.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={name}", "-days", "2"]
    subprocess.run([*command, "-addext", f"subjectAltName=DNS:{name}"], check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return both


async def run(command: Sequence[str], environment: dict[str, str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(PATIENCE):
            output, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


def installed(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


@pytest.mark.asyncio
async def test_urllib_gets_posts_and_is_told_why_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    async with site(tmp_path) as web:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": web.proxy, "https": web.proxy}))

        def get(url: str, data: bytes | None = None) -> bytes:
            with opener.open(url, data, timeout=PATIENCE) as response:
                body: bytes = response.read()
                return body

        assert await asyncio.to_thread(get, f"http://{HOST}/file") == b"x" * 3_000_000
        digest = await asyncio.to_thread(get, f"http://{HOST}/upload", b"y" * 1_000_000)
        assert digest.decode() == hashlib.sha256(b"y" * 1_000_000).hexdigest()
        for url in ("http://denied.test/", f"http://{HOST}/redirect"):
            with pytest.raises(urllib.error.HTTPError, match="403") as error:
                await asyncio.to_thread(get, url)
            with error.value as response:
                assert response.headers["X-Ipybox-Denied"] == "not in allowedDomains"
                assert b'add "denied.test" to network.allowedDomains' in response.read()
        with pytest.raises(urllib.error.URLError, match="403"):
            await asyncio.to_thread(get, "https://denied.test/")
        assert [event.host for event in web.events if not event.allowed] == ["denied.test"] * 3


@pytest.mark.asyncio
async def test_aiohttp_gets_streams_and_talks_to_websockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"not "
        yield b"counted"

    async with site(tmp_path) as web:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, web.proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with aiohttp.ClientSession(trust_env=True) as session:
            async with session.get(f"http://{HOST}/file") as response:
                assert len(await response.read()) == 3_000_000
            async with session.get("http://denied.test/") as response:
                assert response.status == 403
            async with session.ws_connect(f"http://{HOST}/ws") as socket:
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await session.ws_connect("http://denied.test/ws")


@pytest.mark.asyncio
async def test_the_websockets_library_goes_through_connect(tmp_path: Path) -> None:
    async with site(tmp_path) as web:
        async with websockets.connect(f"ws://{HOST}/ws", proxy=web.proxy) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
        with pytest.raises(websockets.exceptions.ProxyError, match="403"):
            await websockets.connect("ws://denied.test/ws", proxy=web.proxy)
        assert [event.protocol for event in web.events] == ["connect", "connect"]


@pytest.mark.asyncio
async def test_tls_is_verified_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"secret")
    certificate = certificate_for(HOST, tmp_path)
    async with site(tmp_path, certificate) as web:
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with aiohttp.ClientSession() as session:
            async with session.get(f"https://{HOST}/file", proxy=web.proxy, ssl=trusting) as response:
                assert await response.read() == b"secret"
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(f"https://{HOST}/file", proxy=web.proxy)
            with pytest.raises(aiohttp.ClientHttpProxyError) as error:
                await session.get("https://denied.test/", proxy=web.proxy)
            assert error.value.status == 403
            # Another name inside the tunnel: fronting.
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"https://{HOST}/", proxy=web.proxy, ssl=trusting, server_hostname="denied.test")
        assert web.events[-1].reason == "TLS server name is not the requested host"


@pytest.mark.asyncio
async def test_curl_speaks_every_protocol_of_the_proxy(tmp_path: Path) -> None:
    curl = installed("curl")
    (tmp_path / "file").write_bytes(b"content")
    certificate = certificate_for(HOST, tmp_path)
    async with site(tmp_path, certificate) as web:
        address = web.proxy.removeprefix("http://")
        get = [curl, "-sS", "--cacert", str(certificate), "--max-time", "30"]
        secure = web.environment()
        assert await run([*get, f"https://{HOST}/file"], secure) == (0, "content")
        assert await run([*get, "-x", f"socks5h://{address}", f"https://{HOST}/file"], secure) == (0, "content")
        for options in (
            [],
            ["-x", f"socks5h://{address}"],
            ["-x", f"socks4a://{address}"],
            ["-x", f"socks4://{address}"],
        ):
            code, _ = await run([*get, *options, "https://denied.test/file"], secure)
            assert code != 0
    async with site(tmp_path) as web:
        get = [curl, "-sS", "--max-time", "30"]
        assert await run([*get, f"http://{HOST}/file"], web.environment()) == (0, "content")
        assert await run([*get, "--proxytunnel", f"http://{HOST}/file"], web.environment()) == (0, "content")
        upload = [
            *get,
            "-H",
            "Expect: 100-continue",
            "--data-binary",
            "@" + str(tmp_path / "file"),
            f"http://{HOST}/upload",
        ]
        assert await run(upload, web.environment()) == (0, hashlib.sha256(b"content").hexdigest())
        code, output = await run([*get, "-L", f"http://{HOST}/redirect"], web.environment())
        assert "denied.test:80 is blocked: not in allowedDomains" in output


@pytest.mark.asyncio
async def test_pip_downloads_from_an_allowed_index_and_from_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "simple" / "egress-sample"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "egress_sample-1.0-py3-none-any.whl", "w") as wheel:
        info = "egress_sample-1.0.dist-info/"
        wheel.writestr("egress_sample.py", "value = 1\n")
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: egress-sample\nVersion: 1.0\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(info + "RECORD", "")
    certificate = certificate_for(HOST, tmp_path)
    async with site(tmp_path, certificate) as web:
        environment = web.environment(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_CACHE_DIR="1", PIP_RETRIES="0")
        pip = [sys.executable, "-I", "-m", "pip", "download", "--no-deps", "-d", str(tmp_path / "got")]
        pip += ["--cert", str(certificate), "egress-sample", "-i"]
        environment["PIP_CONFIG_FILE"] = os.devnull
        code, output = await run([*pip, f"https://{HOST}/simple/"], environment)
        assert code == 0, output
        assert [item.name for item in (tmp_path / "got").iterdir()] == ["egress_sample-1.0-py3-none-any.whl"]
        code, _ = await run([*pip, "https://denied.test/simple/"], environment)
        assert code != 0
        assert web.events[-1] == EgressEvent("kernel", "denied.test", 443, False, "not in allowedDomains", "connect")


@pytest.mark.asyncio
async def test_git_clones_from_an_allowed_host(tmp_path: Path) -> None:
    git = installed("git")
    work, bare = tmp_path / "work", tmp_path / "repo.git"
    certificate = certificate_for(HOST, tmp_path)
    quiet = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    for command in (
        [git, "init", "-q", str(work)],
        [git, "-C", str(work), *identity, "commit", "-q", "--allow-empty", "-m", "first"],
        [git, "clone", "-q", "--bare", str(work), str(bare)],
        [git, "-C", str(bare), "update-server-info"],
    ):
        code, output = await run(command, quiet)
        assert code == 0, output
    async with site(tmp_path, certificate) as web:
        environment = web.environment(**quiet, GIT_SSL_CAINFO=str(certificate))
        code, output = await run([git, "clone", "-q", f"https://{HOST}/repo.git", str(tmp_path / "got")], environment)
        assert code == 0, output
        code, output = await run([git, "-C", str(tmp_path / "got"), "log", "--format=%s"], quiet)
        assert (code, output) == (0, "first\n")
        code, output = await run(
            [git, "clone", "-q", "https://denied.test/repo.git", str(tmp_path / "no")], environment
        )
        assert code != 0
        assert "403" in output
