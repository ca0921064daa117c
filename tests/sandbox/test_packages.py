"""Packages are there for sandboxed code and for nobody else, or nothing starts and pip's words say why."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import os
import socket
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from ipybox.errors import GatewayStartError, PolicyError
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from ipybox.sandbox.hosts import HostRules, parse_host, parse_pins
from ipybox.sandbox.packages import (
    PYPI,
    failure,
    index_hosts,
    install_policy,
    installation,
    last_lines,
    site_directories,
)
from ipybox.sandbox.policy import FilesystemPolicy, Limits, NetworkPolicy, Packages, SandboxPolicy
from tests.kernels.helpers import HANG
from tests.sandboxed.servers import text_of, write_policy

REAL = [pytest.mark.sandbox, pytest.mark.kernel, pytest.mark.asyncio]
NAME = "ipybox-testing-wheel"


def wheel(
    directory: Path, name: str = NAME, version: str = "1.0", requires: str = "", source: str = "ANSWER = 42\n"
) -> Path:
    """A tiny package, made by hand."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{module}/__init__.py": "ANSWER = 42\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-tool = {module}:main\n",
    }
    lines = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""])
    directory.mkdir(exist_ok=True)
    path = directory / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return path


METADATA = {
    "METADATA": "Metadata-Version: 2.1\nName: ipybox-testing-source\nVersion: 1.0\n",
    "WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "",
}
"""Of what a source distribution builds."""


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


# ---- what pip may touch -----------------------------------------------------------------------------------------


def test_pip_writes_its_prefix_and_reaches_its_index_and_nothing_else() -> None:
    policy = SandboxPolicy(
        network=NetworkPolicy(
            allowed_domains=("example.org",), hosts=(("example.org", "127.0.0.1"),), allow_all_unix_sockets=True
        ),
        filesystem=FilesystemPolicy(deny_read=("secret",), allow_read=("/data",), allow_write=(".",)),
        limits=Limits(processes=33),
        packages=Packages(install=("numpy",)),
    )
    installs = install_policy(policy, "/prefix", (("pypi.org", "192.0.2.1"), ("files.pythonhosted.org", "192.0.2.2")))
    assert installs.network == NetworkPolicy(
        allowed_domains=("pypi.org", "files.pythonhosted.org"),
        hosts=(("pypi.org", "192.0.2.1"), ("files.pythonhosted.org", "192.0.2.2")),
    )
    assert installs.filesystem.allow_write == ("/prefix",)
    assert installs.filesystem.deny_read == ("secret",)
    assert installs.limits == policy.limits


@pytest.mark.parametrize(
    ("index", "port"),
    [
        ("http://127.0.0.1:8123/simple", 8123),
        ("https://127.0.0.1/simple", 443),
        ("http://127.0.0.1/simple", 80),
        ("http://[::1]:8123/simple", 8123),
        ("http://[::1]/simple", 80),
        ("https://localhost:8443/a/b", 8443),
    ],
)
@pytest.mark.asyncio
async def test_the_index_is_reachable_by_the_rules_made_for_it(index: str, port: int) -> None:
    packages = Packages(install=("x",), index=index)
    hosts = await index_hosts(packages, None, {})
    network = install_policy(SandboxPolicy(packages=packages), "/prefix", hosts).network
    rules = HostRules.parse(network.allowed_domains)
    parse_pins(network.hosts)
    host = parse_host(index.split("//")[1].split("/")[0].removesuffix(f":{port}").strip("[]"))
    assert rules.decide(host, port).allowed
    assert not rules.decide(host, 22).allowed
    assert not rules.decide(parse_host("example.org"), port).allowed


@pytest.mark.asyncio
async def test_with_wheels_on_disk_there_is_no_network() -> None:
    packages = Packages(install=("x",), wheels="/wheels")
    assert await index_hosts(packages, None, {}) == ()
    policy = install_policy(SandboxPolicy(packages=packages), "/prefix", ())
    assert policy.network.allowed_domains == ()
    assert "/wheels" in policy.filesystem.allow_read


@pytest.mark.asyncio
async def test_an_index_without_an_address_is_an_error_of_the_policy() -> None:
    with pytest.raises(PolicyError, match=r"no-such-host\.invalid") as caught:
        await index_hosts(Packages(install=("x",), index="https://no-such-host.invalid/simple"), None, {})
    assert caught.value.where == "packages.index"
    assert "packages.wheels" in caught.value.hint


def test_the_command_names_one_source_and_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://elsewhere.example")
    monkeypatch.setenv("TOKEN", "secret")
    for packages, words in (
        (Packages(install=("a", "b>=2")), ["--index-url", PYPI]),
        (Packages(install=("a", "b>=2"), index="http://i/s"), ["--index-url", "http://i/s"]),
        (Packages(install=("a", "b>=2"), wheels="/w"), ["--no-index", "--find-links", "/w"]),
    ):
        program = installation(packages, "/usr/bin/python3", "/prefix", {"SSL_CERT_FILE": "/ca"})
        text = " ".join(program.argv)
        assert " ".join(words) in text
        assert program.argv[-2:] == ["a", "b>=2"]
        assert "--prefix /prefix" in text
        assert ("--index-url" in text) != ("--no-index" in text)
        assert set(program.env) == {"SSL_CERT_FILE", "PATH", "HOME", "TMPDIR", "LANG"}


def test_site_directories_are_below_the_prefix_and_of_this_python() -> None:
    directories = site_directories("/prefix")
    assert all(each.startswith("/prefix/") for each in directories)
    assert all(f"python{sys.version_info[0]}.{sys.version_info[1]}" in each for each in directories)


# ---- what pip said ----------------------------------------------------------------------------------------------


async def lines_of(data: bytes) -> list[str]:
    read, write = os.pipe()

    def send() -> None:
        with os.fdopen(write, "wb") as pipe:
            pipe.write(data)

    async with asyncio.timeout(HANG):
        lines, _ = await asyncio.gather(last_lines(read), asyncio.to_thread(send))
    with pytest.raises(OSError):
        os.fstat(read)
    return lines


@pytest.mark.asyncio
async def test_the_last_lines_are_kept() -> None:
    assert await lines_of(b"") == []
    assert await lines_of(b"one\ntwo\n\xff") == ["one", "two", "\N{REPLACEMENT CHARACTER}"]
    lines = await lines_of(b"".join(b"%d\n" % number for number in range(1000)))
    assert lines == [str(number) for number in range(970, 1000)]


@pytest.mark.parametrize("size", [2000, 65536, 65537, 300_000])
@pytest.mark.asyncio
async def test_a_line_may_be_of_any_length(size: int) -> None:
    """A compiler's command line, or what a hostile package prints while it is built."""
    assert await lines_of(b"before\n" + b"x" * size + b"\nafter\n") == ["before", "x" * 2000, "after"]


def test_the_error_has_the_packages_how_pip_ended_and_its_words() -> None:
    error = failure(Packages(install=("a", "b")), "exit code 1", ["ERROR: nothing", "found"])
    assert str(error).endswith("(a, b): pip ended with exit code 1\nERROR: nothing\nfound")


# ---- real kernels -----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files that is nobody else's, with a path short enough for gateways."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


def gateway_with(tmp_path: Path, **packages: Any) -> KernelGateway:
    workspace = tmp_path / "workspace"
    workspace.mkdir(exist_ok=True)
    config = write_policy(tmp_path, packages=packages)
    return KernelGateway(port=0, sandbox=True, sandbox_config=config, working_dir=workspace, log_level="WARNING")


async def fails(gateway: KernelGateway) -> GatewayStartError:
    """Asserts that a gateway does not start, and leaves nothing."""
    with pytest.raises(GatewayStartError) as caught:
        async with asyncio.timeout(4 * HANG), gateway:
            pass
    assert not gateway.is_running
    assert list(Path(tempfile.gettempdir()).iterdir()) == []
    return caught.value


class TestKernels:
    pytestmark = REAL

    async def test_a_wheel_is_there_for_the_kernel_read_only_and_gone_afterwards(
        self, tmp_path: Path, temporary: Path
    ) -> None:
        wheel(tmp_path / "wheels")
        environment = sorted(Path(sys.prefix, "bin").iterdir())
        async with (
            asyncio.timeout(4 * HANG),
            gateway_with(tmp_path, install=[NAME], wheels=str(tmp_path / "wheels")) as gateway,
        ):
            async with KernelClient(gateway.host, gateway.port) as client:
                text = await text_of(client, "import ipybox_testing_wheel as w; print(w.ANSWER, w.__file__)")
                answer, _, path = text.partition(" ")
                assert answer == "42"
                code = f"""
import os, subprocess, sys
directory = os.path.dirname({path!r})
while directory.count('/') > 1 and 'packages' in directory:
    try:
        open(directory + '/made', 'x')
        print('wrote', directory)
    except OSError:
        pass
    directory = os.path.dirname(directory)
print(subprocess.run([sys.executable, '-c', 'import ipybox_testing_wheel as w; print(w.ANSWER)'],
      capture_output=True, text=True).stdout, end='')
import importlib.metadata
print(importlib.metadata.version({NAME!r}))
import shutil
print(shutil.which({NAME + "-tool"!r}) is not None)
import IPython
print(IPython.__name__)
"""
                assert (await text_of(client, code)).split() == ["42", "1.0", "True", "IPython"]
                assert await text_of(client, SOCKETS) == "no way out"
        assert list(temporary.iterdir()) == []
        assert importlib.util.find_spec("ipybox_testing_wheel") is None
        assert sorted(Path(sys.prefix, "bin").iterdir()) == environment
        assert list((tmp_path / "workspace").iterdir()) == []

    async def test_every_kernel_of_a_gateway_has_it(self, tmp_path: Path) -> None:
        wheel(tmp_path / "wheels", requires="ipybox-testing-second>=2")
        wheel(tmp_path / "wheels", "ipybox-testing-second", "2.5")
        wheel(tmp_path / "wheels", "ipybox-testing-second", "1.5")
        async with (
            asyncio.timeout(4 * HANG),
            gateway_with(tmp_path, install=[f"{NAME}==1.0"], wheels=str(tmp_path / "wheels")) as gateway,
        ):
            for _ in range(2):
                async with KernelClient(gateway.host, gateway.port) as client:
                    code = "import importlib.metadata as m; print(m.version('ipybox-testing-second'))"
                    assert await text_of(client, code) == "2.5"

    async def test_wheels_may_lie_next_to_the_code(self, tmp_path: Path) -> None:
        """A relative path means the same as in the policy's other paths: it starts from the working directory."""
        (tmp_path / "workspace").mkdir()
        wheel(tmp_path / "workspace" / "wheels")
        async with asyncio.timeout(4 * HANG), gateway_with(tmp_path, install=[NAME], wheels="wheels") as gateway:
            async with KernelClient(gateway.host, gateway.port) as client:
                assert await text_of(client, "import ipybox_testing_wheel as w; print(w.ANSWER)") == "42"

    @pytest.mark.usefixtures("temporary")
    async def test_a_package_that_is_missing_is_told_in_pip_s_words(self, tmp_path: Path) -> None:
        wheel(tmp_path / "wheels")
        error = await fails(gateway_with(tmp_path, install=["no-such-package-x"], wheels=str(tmp_path / "wheels")))
        assert "no-such-package-x" in str(error)
        assert "No matching distribution found" in str(error)

    @pytest.mark.usefixtures("temporary")
    async def test_a_version_that_is_missing_is_told(self, tmp_path: Path) -> None:
        wheel(tmp_path / "wheels")
        error = await fails(gateway_with(tmp_path, install=[f"{NAME}>=2"], wheels=str(tmp_path / "wheels")))
        assert f"{NAME}>=2" in str(error)

    @pytest.mark.usefixtures("temporary")
    async def test_what_would_replace_a_part_of_the_environment_is_refused(self, tmp_path: Path) -> None:
        there = metadata.version("ipykernel")
        wheel(tmp_path / "wheels", "ipykernel", "0.1")
        error = await fails(gateway_with(tmp_path, install=["ipykernel==0.1"], wheels=str(tmp_path / "wheels")))
        assert "ipykernel" in str(error)
        assert metadata.version("ipykernel") == there

    async def test_what_the_environment_has_is_used(self, tmp_path: Path) -> None:
        wheel(tmp_path / "wheels", requires="ipykernel")
        async with (
            asyncio.timeout(4 * HANG),
            gateway_with(tmp_path, install=[NAME, "ipython"], wheels=str(tmp_path / "wheels")) as gateway,
        ):
            async with KernelClient(gateway.host, gateway.port) as client:
                assert await text_of(client, "import ipybox_testing_wheel as w; print(w.ANSWER)") == "42"

    async def test_wheels_that_are_not_there_are_an_error(self, tmp_path: Path, temporary: Path) -> None:
        with pytest.raises((GatewayStartError, PolicyError), match="nowhere"):
            async with (
                asyncio.timeout(4 * HANG),
                gateway_with(tmp_path, install=[NAME], wheels=str(tmp_path / "nowhere")),
            ):
                pass
        assert list(temporary.iterdir()) == []

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    async def test_from_an_index_on_this_machine(self, tmp_path: Path, host: str) -> None:
        with index(tmp_path, wheel(tmp_path / "files")) as (port, seen):
            async with (
                asyncio.timeout(4 * HANG),
                gateway_with(tmp_path, install=[NAME], index=f"http://{host}:{port}/simple") as gateway,
            ):
                asked = list(seen)
                assert any(path.endswith(".whl") for path in asked)
                async with KernelClient(gateway.host, gateway.port) as client:
                    assert await text_of(client, "import ipybox_testing_wheel as w; print(w.ANSWER)") == "42"
                    assert await text_of(client, SOCKETS.replace("PORT", str(port))) == "no way out"
                assert seen == asked

    async def test_building_reaches_nothing_but_the_index_and_writes_nothing_but_the_prefix(
        self, tmp_path: Path
    ) -> None:
        """A source distribution runs code of its author while it is installed."""
        other = socket.create_server(("127.0.0.1", 0))
        other.setblocking(False)
        project = tmp_path / "wheels"
        project.mkdir()
        (tmp_path / "workspace").mkdir()
        backend = f"""
import os, socket, zipfile
def get_requires_for_build_wheel(settings=None):
    return []
def prepare(path):
    try:
        open(path, 'x')
        return 'wrote ' + path
    except OSError:
        return ''
def build_wheel(directory, settings=None, metadata=None):
    seen = [prepare(path) for path in ({str(tmp_path / "workspace" / "made")!r}, {sys.prefix + "/made"!r})]
    try:
        socket.create_connection(('127.0.0.1', {other.getsockname()[1]}), 5)
        seen.append('connected')
    except OSError:
        pass
    name = 'ipybox_testing_source'
    with zipfile.ZipFile(directory + '/' + name + '-1.0-py3-none-any.whl', 'w') as archive:
        archive.writestr(name + '.py', 'SEEN = %r' % [each for each in seen if each])
        for file, text in {METADATA!r}.items():
            archive.writestr(name + '-1.0.dist-info/' + file, text)
    return name + '-1.0-py3-none-any.whl'
"""
        with zipfile.ZipFile(project / "ipybox_testing_source-1.0.zip", "w") as archive:
            top = "ipybox_testing_source-1.0"
            archive.writestr(f"{top}/backend.py", backend)
            archive.writestr(f"{top}/PKG-INFO", "Metadata-Version: 2.1\nName: ipybox-testing-source\nVersion: 1.0\n")
            archive.writestr(
                f"{top}/pyproject.toml",
                "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n",
            )
        async with (
            asyncio.timeout(4 * HANG),
            gateway_with(tmp_path, install=["ipybox-testing-source"], wheels=str(project)) as gateway,
        ):
            async with KernelClient(gateway.host, gateway.port) as client:
                assert await text_of(client, "import ipybox_testing_source as s; print(s.SEEN)") == "[]"
        with pytest.raises(BlockingIOError):
            other.accept()
        other.close()
        assert not (tmp_path / "workspace" / "made").exists()


SOCKETS = """
import socket, urllib.request
ways = [lambda: socket.create_connection(('127.0.0.1', 3128), 5),
        lambda: urllib.request.urlopen('http://127.0.0.1:PORT/simple/', timeout=5),
        lambda: urllib.request.urlopen('https://pypi.org/simple/', timeout=5)]
for way in ways:
    try:
        way()
        print('a way out')
    except Exception:
        pass
print('no way out')
"""


@contextmanager
def index(directory: Path, *wheels: Path, gate: threading.Event | None = None) -> Iterator[tuple[int, list[str]]]:
    """A package index on 127.0.0.1, which answers when the gate is open, and what was asked of it."""
    seen: list[str] = []
    root = directory / "index"
    for path in wheels:
        page = root / "simple" / path.name.split("-")[0].replace("_", "-") / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(f'<!DOCTYPE html><html><body><a href="/{path.name}">{path.name}</a></body></html>')
        (root / path.name).write_bytes(path.read_bytes())

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            seen.append(self.path)
            if gate is not None:
                gate.wait(4 * HANG)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_port, seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join(HANG)
