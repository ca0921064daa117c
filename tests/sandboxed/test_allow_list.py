"""The allow-list from inside of kernels, with ordinary clients: what is on it is reached, and nothing else is.

The servers are on this machine; ``network.hosts`` of the policy leads the names there.
"""

import asyncio
import json
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ipybox.errors import ConnectionLostError, ExecutionError, GatewayConnectionError, KernelDiedError
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from ipybox.outputs import NetworkAccess
from tests.integration.test_kernel_mgr import TestSandbox as _Seed
from tests.kernels.helpers import HANG, family, survivors
from tests.sandboxed.servers import (
    PAGE,
    Seen,
    counting_server,
    http_server,
    make_authority,
    supervisor_of,
    text_of,
    write_policy,
)

pytestmark = [pytest.mark.sandbox, pytest.mark.kernel]

HTTP_CODE = _Seed.HTTP_CODE
"""What users were promised, word for word."""
NAMES = ["example.org", "sub.wild.test", "files.test", "odd.test"]
PROXY = "('127.0.0.1', 3128)"


@dataclass(frozen=True)
class Site:
    """The world outside, as far as it concerns these tests."""

    workspace: Path
    config: Path
    env: dict[str, str]
    http: int
    https: int
    seen_http: Seen
    seen_https: Seen
    private: int
    visits: list[object]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_files(directory: Path) -> None:
    """A package index with one wheel, and a git repository, both to be served as they are."""
    index = directory / "files" / "simple" / "tiny-package"
    index.mkdir(parents=True)
    name = "tiny_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(index / name, "w") as wheel:
        wheel.writestr("tiny_package.py", "answer = 42\n")
        wheel.writestr(
            "tiny_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n"
        )
        wheel.writestr(
            "tiny_package-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_package-1.0.dist-info/RECORD", "")
    (index / "index.html").write_text(f'<!DOCTYPE html><html><body><a href="{name}">{name}</a></body></html>')
    repository = directory / "repository"
    repository.mkdir()
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments: str, cwd: Path) -> None:
        subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True, env=environment)

    git("init", cwd=repository)
    (repository / "hello.txt").write_text("hello from git\n")
    git("add", "hello.txt", cwd=repository)
    git("commit", "-m", "first", cwd=repository)
    git("clone", "--bare", str(repository), str(directory / "files" / "hello.git"), cwd=directory)
    git("update-server-info", cwd=directory / "files" / "hello.git")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    workspace, secrets, files = (tmp_path_factory.mktemp(name) for name in ("workspace", "secrets", "served"))
    authority = make_authority(secrets, NAMES)
    certificate = workspace / "ca.pem"
    certificate.write_bytes(authority.certificate.read_bytes())
    make_files(files)
    with (
        http_server(files) as (http, seen_http),
        http_server(files, authority.context()) as (https, seen_https),
        counting_server() as (private, visits),
    ):
        config = write_policy(
            secrets,
            network={
                "allowedDomains": [
                    *("example.org", "*.wild.test", "files.test", "files.test:8080", "portonly.test:8080"),
                    *("localhost", f"localhost:{private}", "silent.test"),
                ],
                "deniedDomains": ["bad.wild.test"],
                "hosts": {
                    "example.org": f"127.0.0.1:{https}",
                    "sub.wild.test": f"127.0.0.1:{http}",
                    "bad.wild.test": f"127.0.0.1:{private}",
                    "files.test": f"127.0.0.1:{http}",
                    "portonly.test": f"127.0.0.1:{http}",
                    "secret.test": f"127.0.0.1:{private}",
                },
            },
        )
        env = {
            name: str(certificate)
            for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT")
        }
        yield Site(workspace, config, env, http, https, seen_http, seen_https, private, visits)
        assert visits == []  # nobody ever got there


@pytest_asyncio.fixture(scope="module")
async def gateway(site: Site) -> AsyncIterator[KernelGateway]:
    options: dict[str, Any] = {"sandbox_config": site.config, "working_dir": site.workspace, "env": site.env}
    async with KernelGateway(port=0, sandbox=True, **options) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def closed_gateway(site: Site) -> AsyncIterator[KernelGateway]:
    """A gateway with the default policy: no network."""
    async with KernelGateway(port=0, sandbox=True, working_dir=site.workspace, env=site.env) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def kernel_id(gateway: KernelGateway) -> str:
    """A kernel that most cases share; it ends with the gateway."""
    async with KernelClient(gateway.host, gateway.port, keep_kernel=True) as first:
        return first.kernel_id


@pytest_asyncio.fixture
async def client(gateway: KernelGateway, kernel_id: str) -> AsyncIterator[KernelClient]:
    async with KernelClient(gateway.host, gateway.port, kernel_id=kernel_id) as connected:
        yield connected


async def failure_of(client: KernelClient, code: str) -> ExecutionError:
    """The error of code that must fail."""
    with pytest.raises(ExecutionError) as caught:
        async with asyncio.timeout(HANG):
            await client.execute(code)
    return caught.value


def denied(error: ExecutionError) -> tuple[NetworkAccess, ...]:
    assert error.result is not None
    return error.result.denied


def fetch(url: str) -> str:
    return f"import urllib.request\nprint(urllib.request.urlopen({url!r}, timeout=20).read().decode())"


def ask(request: bytes, more: str = "") -> str:
    """Code that says something to the proxy and prints the answer, to its end."""
    return f"""
import socket
connection = socket.create_connection({PROXY}, timeout=20)
connection.sendall({request!r})
{more}
answer = b''
try:
    while data := connection.recv(65536): answer += data
except ConnectionError: pass
print(answer.decode('latin-1'))
"""


def connect_request(target: str) -> bytes:
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()


# ---- the promise ----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_promised_code_reaches_the_promised_site(client: KernelClient, site: Site) -> None:
    async with asyncio.timeout(HANG):
        result = await client.execute(HTTP_CODE)
    assert result.text is not None
    assert "Example Domain" in result.text
    assert result.network == (NetworkAccess("example.org", 443, True, "in allowedDomains (rule 'example.org')"),)
    assert result.denied == ()


@pytest.mark.asyncio
async def test_the_promised_code_ends_in_an_url_error_by_default(closed_gateway: KernelGateway) -> None:
    async with KernelClient(closed_gateway.host, closed_gateway.port) as client:
        error = await failure_of(client, HTTP_CODE)
        assert error.name == "URLError"
        assert "URLError" in str(error)


@pytest.mark.asyncio
async def test_without_an_allow_list_there_is_no_proxy(closed_gateway: KernelGateway) -> None:
    async with KernelClient(closed_gateway.host, closed_gateway.port) as client:
        code = f"import socket\nprint(socket.socket().connect_ex({PROXY}))"
        assert await text_of(client, code) == "111"
        code = "import os\nprint([name for name in os.environ if 'proxy' in name.lower()])"
        assert await text_of(client, code) == "[]"


@pytest.mark.asyncio
async def test_the_environment_shows_the_way_out(client: KernelClient) -> None:
    code = "import os\nfor name in ('HTTPS_PROXY', 'http_proxy', 'ALL_PROXY'): print(os.environ[name])"
    assert set((await text_of(client, code)).split()) == {"http://127.0.0.1:3128"}


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://sub.wild.test/a", "/a"),
        ("http://SuB.WiLd.TeSt/b", "/b"),
        ("http://sub.wild.test./c", "/c"),
        ("http://files.test/d?e=f", "/d?e=f"),
        ("http://files.test:8080/g", "/g"),
        ("http://portonly.test:8080/h", "/h"),
        ("https://EXAMPLE.org/i", "/i"),
    ],
)
@pytest.mark.asyncio
async def test_what_is_allowed_is_reached(client: KernelClient, url: str, what: str) -> None:
    assert f"{PAGE} {what}" in await text_of(client, fetch(url))


# ---- denied ---------------------------------------------------------------------------------------------------

DENIED = {
    "http://denied.test/": ("denied.test", 80, "not in allowedDomains"),
    "http://evilwild.test/": ("evilwild.test", 80, "not in allowedDomains"),
    "http://wild.test/": ("wild.test", 80, "not in allowedDomains"),
    "http://example.org.evil.test/": ("example.org.evil.test", 80, "not in allowedDomains"),
    "http://sub.example.org/": ("sub.example.org", 80, "not in allowedDomains"),
    "http://BAD.wild.test/": ("bad.wild.test", 80, "in deniedDomains (rule 'bad.wild.test')"),
    "http://secret.test/": ("secret.test", 80, "not in allowedDomains"),  # a pin is no permission
    "http://portonly.test/": ("portonly.test", 80, "port 80 is not allowed"),
    "http://example.org:8080/": ("example.org", 8080, "port 8080 is not allowed"),
    "http://169.254.169.254/latest/meta-data/": ("169.254.169.254", 80, ""),
    "http://100.100.100.200/": ("100.100.100.200", 80, ""),
    "http://10.0.0.1/": ("10.0.0.1", 80, ""),
    "http://1.1.1.1/": ("1.1.1.1", 80, ""),
    "http://[2606:4700::1111]/": ("[2606:4700::1111]", 80, ""),
}


@pytest.mark.parametrize("url", DENIED)
@pytest.mark.asyncio
async def test_what_is_not_allowed_is_refused_and_told(client: KernelClient, url: str) -> None:
    host, port, reason = DENIED[url]
    error = await failure_of(client, fetch(url))
    assert error.name == "HTTPError"
    assert "403" in error.value
    (access,) = denied(error)
    assert (access.host, access.port, access.allowed) == (host, port, False)
    assert reason in access.reason


@pytest.mark.asyncio
async def test_a_refused_tunnel_is_an_url_error(client: KernelClient) -> None:
    error = await failure_of(client, fetch("https://denied.test/"))
    assert error.name == "URLError"
    assert "403" in error.value
    assert denied(error) == (NetworkAccess("denied.test", 443, False, "not in allowedDomains"),)


@pytest.mark.asyncio
async def test_a_refusal_says_why_in_its_body_and_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"sandbox_config": site.config, "working_dir": site.workspace}
    with caplog.at_level(logging.DEBUG, logger="ipybox.gateway"):
        async with KernelGateway(port=0, sandbox=True, **options) as gateway:
            async with KernelClient(gateway.host, gateway.port) as client:
                body = await text_of(client, ask(b"GET http://denied.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n"))
                hidden = await text_of(client, ask(b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    assert body.startswith("HTTP/1.1 403")
    assert "denied.test" in body
    assert "not in allowedDomains" in body
    assert "X-Ipybox-Denied" in body
    assert hidden.startswith("HTTP/1.1 403")
    assert "127.0.0.1" not in hidden  # what a name leads to is nobody's business inside
    assert any("denied.test" in line and "not in allowedDomains" in line for line in caplog.messages)


SPELLINGS = [
    *("127.0.0.1", "127.1", "0", "0.0.0.0", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "127.000.000.001"),
    *(
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[::127.0.0.1]",
    ),
    *(
        "[fe80::1%25lo]",
        "[::1%lo]",
        "localhost",
        "LOCALHOST.",
        "sub.localhost",
        "ip6-localhost",
        "127.0.0.1%00.wild.test",
    ),
    *("user@127.0.0.1", "example.org@127.0.0.1", "127.0.0.1#.wild.test", "127.0.0.1\\.wild.test", "①②⑦.0.0.1"),
]


@pytest.mark.asyncio
async def test_loopback_is_out_of_reach_however_it_is_spelled(client: KernelClient, site: Site) -> None:
    """Over CONNECT, plain HTTP and SOCKS5, with the port of a server that would be reached."""
    gateway_port = client.port
    code = f"""
import socket
def talk(*parts):
    connection = socket.create_connection({PROXY}, timeout=20)
    answer = b''
    try:
        for part in parts:
            connection.sendall(part)
            answer = connection.recv(65536)
    except ConnectionError: pass
    finally: connection.close()
    return answer
for host in {SPELLINGS!r}:
    for port in ({site.private}, {gateway_port}):
        name = host.encode()
        target = name + b':%d' % port
        answers = [
            talk(b'CONNECT ' + target + b' HTTP/1.1\\r\\nHost: ' + target + b'\\r\\n\\r\\n'),
            talk(b'GET http://' + target + b'/ HTTP/1.1\\r\\nHost: ' + target + b'\\r\\n\\r\\n'),
        ]
        for answer in answers:
            if answer[9:12] not in (b'403', b'400', b''): print(host, port, answer[:200])
        plain = name.strip(b'[]')
        reply = talk(b'\\5\\1\\0', b'\\5\\1\\0\\3' + bytes([len(plain)]) + plain + port.to_bytes(2, 'big'))
        if reply[1:2] == b'\\0': print('socks', host, port, reply)
for port in ({site.private}, {gateway_port}):
    for kind, address in ((1, socket.inet_aton('127.0.0.1')), (4, socket.inet_pton(socket.AF_INET6, '::1'))):
        reply = talk(b'\\5\\1\\0', b'\\5\\1\\0' + bytes([kind]) + address + port.to_bytes(2, 'big'))
        if reply[1:2] == b'\\0': print('socks', kind, port, reply)
print('done')
"""
    assert await text_of(client, code) == "done"
    assert site.visits == []


@pytest.mark.parametrize("name", ["localhost"])
@pytest.mark.asyncio
async def test_an_allowed_name_that_leads_inside_is_refused(client: KernelClient, site: Site, name: str) -> None:
    async with asyncio.timeout(HANG):
        result = await client.execute(ask(connect_request(f"{name}:{site.private}")))
    assert result.stdout.startswith("HTTP/1.1 403")
    (access,) = result.denied
    assert (access.host, access.port) == (name, site.private)
    assert "127.0.0.1" not in access.reason


@pytest.mark.asyncio
async def test_nothing_is_reached_without_the_proxy(client: KernelClient, site: Site) -> None:
    code = f"""
import errno, socket
for family, address in [
    (socket.AF_INET, ('127.0.0.1', {site.private})), (socket.AF_INET, ('127.0.0.1', {site.http})),
    (socket.AF_INET, ('1.1.1.1', 443)), (socket.AF_INET, ('169.254.169.254', 80)),
    (socket.AF_INET6, ('::1', {site.private})), (socket.AF_INET6, ('2606:4700::1111', 443)),
]:
    with socket.socket(family) as s: print(s.connect_ex(address) in (errno.ECONNREFUSED, errno.ENETUNREACH))
try: socket.getaddrinfo('example.org', 443)
except socket.gaierror: print(True)
"""
    assert set((await text_of(client, code)).split()) == {"True"}


@pytest.mark.parametrize("port", ["0", "65536", "65979", "80abc", "", "-1", "443 ", "+443"])
@pytest.mark.asyncio
async def test_ports_that_are_none_are_refused(client: KernelClient, port: str) -> None:
    answer = await text_of(client, ask(connect_request(f"example.org:{port}")))
    assert answer[:10] == "HTTP/1.1 4", answer


@pytest.mark.asyncio
async def test_a_redirect_leads_no_further_than_the_allow_list(client: KernelClient) -> None:
    assert PAGE in await text_of(client, fetch("http://files.test/redirect/sub.wild.test"))
    error = await failure_of(client, fetch("http://files.test/redirect/denied.test"))
    assert "403" in str(error)
    assert [(access.host, access.port) for access in denied(error)] == [("denied.test", 80)]


TLS = """
import socket, ssl
connection = socket.create_connection({proxy}, timeout=20)
connection.sendall(b'CONNECT example.org:443 HTTP/1.1\\r\\nHost: example.org:443\\r\\n\\r\\n')
assert connection.recv(4096).startswith(b'HTTP/1.1 200')
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
try:
    with context.wrap_socket(connection, server_hostname={name!r}) as tls:
        tls.sendall(b'GET /sni HTTP/1.1\\r\\nHost: example.org\\r\\nConnection: close\\r\\n\\r\\n')
        answer = b''
        while data := tls.recv(65536): answer += data
    print('reached', b'Example Domain' in answer)
except OSError as error:
    print('closed')
finally:
    connection.close()
"""


@pytest.mark.parametrize("name", ["example.org", "EXAMPLE.org", None])
@pytest.mark.asyncio
async def test_tls_for_the_name_that_was_asked_for(client: KernelClient, name: str | None) -> None:
    assert await text_of(client, TLS.format(proxy=PROXY, name=name)) == "reached True"


@pytest.mark.parametrize("name", ["denied.test", "sub.wild.test", "example.org.denied.test"])
@pytest.mark.asyncio
async def test_tls_for_another_name_is_cut_off(client: KernelClient, site: Site, name: str) -> None:
    before = list(site.seen_https.names)
    async with asyncio.timeout(HANG):
        result = await client.execute(TLS.format(proxy=PROXY, name=name))
    assert result.stdout == "closed\n"
    assert site.seen_https.names == before
    assert [access.allowed for access in result.network] == [True, False]


@pytest.mark.asyncio
async def test_socks5_goes_through_the_same_rules(client: KernelClient) -> None:
    code = f"""
import socket
def socks(name, port, request=b''):
    with socket.create_connection({PROXY}, timeout=20) as connection:
        connection.sendall(b'\\5\\1\\0')
        assert connection.recv(2) == b'\\5\\0'
        connection.sendall(b'\\5\\1\\0\\3' + bytes([len(name)]) + name + port.to_bytes(2, 'big'))
        reply = connection.recv(10)
        answer = b''
        if reply[1] == 0:
            connection.sendall(request)
            while data := connection.recv(65536): answer += data
        return reply[1], b'Example Domain' in answer
request = b'GET /socks HTTP/1.1\\r\\nHost: files.test\\r\\nConnection: close\\r\\n\\r\\n'
print(socks(b'files.test', 80, request), socks(b'denied.test', 80), socks(b'files.test', 22))
"""
    assert await text_of(client, code) == "(0, True) (2, False) (2, False)"


@pytest.mark.asyncio
async def test_a_plain_tunnel_to_a_pinned_name(client: KernelClient) -> None:
    more = (
        "assert connection.recv(4096).startswith(b'HTTP/1.1 200')\n"
        "connection.sendall(b'GET /tunnel HTTP/1.1\\r\\nHost: files.test\\r\\nConnection: close\\r\\n\\r\\n')"
    )
    assert f"{PAGE} /tunnel" in await text_of(client, ask(connect_request("files.test:8080"), more))


@pytest.mark.asyncio
async def test_the_host_header_follows_the_url(client: KernelClient, site: Site) -> None:
    """Who is asked for decides, not who is named: a server with several sites must not be told another name."""
    request = b"GET http://files.test/fronted HTTP/1.1\r\nHost: denied.test\r\nConnection: close\r\n\r\n"
    await text_of(client, ask(request))
    assert "files.test /fronted" in site.seen_http.requests
    assert not [seen for seen in site.seen_http.requests if seen.startswith("denied.test")]
    request = b"GET http://denied.test/fronted HTTP/1.1\r\nHost: files.test\r\nConnection: close\r\n\r\n"
    assert (await text_of(client, ask(request))).startswith("HTTP/1.1 403")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET ftp://files.test/ HTTP/1.1\r\nHost: files.test\r\n\r\n",
        b"GET file:///etc/passwd HTTP/1.1\r\nHost: files.test\r\n\r\n",
        b"GET https://files.test/ HTTP/1.1\r\nHost: files.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: files.test\r\n\r\n",
        b"GET http://files.test/\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://files.test/ HTTP/1.1\nHost: files.test\n\n",
        b"POST http://files.test/ HTTP/1.1\r\nHost: files.test\r\nContent-Length: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
    ],
)
@pytest.mark.asyncio
async def test_what_is_no_proper_request_is_refused(client: KernelClient, site: Site, request_: bytes) -> None:
    before = len(site.seen_http.requests)
    answer = await text_of(client, ask(request_))
    assert answer[:10] in ("HTTP/1.1 4", ""), answer
    assert len(site.seen_http.requests) == before


@pytest.mark.asyncio
async def test_each_kernel_has_its_own_proxy_and_its_own_account(gateway: KernelGateway) -> None:
    async with KernelClient(gateway.host, gateway.port) as one, KernelClient(gateway.host, gateway.port) as two:
        attempts = await asyncio.gather(
            *(failure_of(client, fetch(f"http://{name}.test/")) for client, name in ((one, "first"), (two, "second")))
        )
        assert [[access.host for access in denied(error)] for error in attempts] == [["first.test"], ["second.test"]]
        # One kernel takes all connections that it may have; the other one has its own.
        hold = f"import socket\nheld = [socket.create_connection({PROXY}) for _ in range(300)]"
        await one.execute(hold)
        assert PAGE in await text_of(two, fetch("http://files.test/"))
        await one.reset()
        assert PAGE in await text_of(one, fetch("http://files.test/"))


@pytest.mark.asyncio
async def test_accesses_belong_to_the_execution_that_made_them(client: KernelClient) -> None:
    await failure_of(client, fetch("http://denied.test/"))
    async with asyncio.timeout(HANG):
        result = await client.execute(fetch("http://files.test/"))
        assert [access.host for access in result.network] == ["files.test"]
        assert (await client.execute("1")).network == ()
        twice = await client.execute(fetch("http://files.test/") + "\n" + fetch("http://files.test/"))
    assert len(twice.network) == 1


@pytest.mark.asyncio
async def test_accesses_of_children_are_told_as_well(client: KernelClient) -> None:
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {fetch('http://denied.test/')!r}])"
    async with asyncio.timeout(HANG):
        result = await client.execute(code)
    assert [access.host for access in result.denied] == ["denied.test"]


@pytest.mark.asyncio
async def test_without_its_supervisor_there_is_neither_network_nor_kernel(site: Site) -> None:
    options: dict[str, Any] = {"sandbox_config": site.config, "working_dir": site.workspace, "env": site.env}
    async with KernelGateway(port=0, sandbox=True, **options) as gateway:
        async with KernelClient(gateway.host, gateway.port) as client:
            assert PAGE in await text_of(client, fetch("http://files.test/before"))
            processes = family(gateway.pid)
            supervisor_of(gateway).kill()
            with pytest.raises((ConnectionLostError, GatewayConnectionError, KernelDiedError, ExecutionError)):
                await text_of(client, fetch("http://files.test/after"))
        assert not await survivors(processes, HANG)
    assert not [seen for seen in site.seen_http.requests if "/after" in seen]


# ---- clients --------------------------------------------------------------------------------------------------

CLIENTS = {
    "requests": "import requests\nprint(requests.get({url!r}, timeout=20).text)",
    "httpx": "import httpx\nprint(httpx.get({url!r}, timeout=20).text)",
    "httpx asynchronous": (
        "import httpx\nasync with httpx.AsyncClient(timeout=20) as http: print((await http.get({url!r})).text)"
    ),
    "aiohttp": (
        "import aiohttp\nasync with aiohttp.ClientSession(trust_env=True) as http:\n"
        "    async with http.get({url!r}) as answer:\n        if answer.status != 200: raise OSError(answer.status)\n"
        "        print(await answer.text())"
    ),
    "urllib3": (
        "import urllib3, os\nwith urllib3.ProxyManager(os.environ['HTTPS_PROXY'], ca_certs=os.environ['SSL_CERT_FILE'])"
        " as http: print(http.request('GET', {url!r}, retries=False).data.decode())"
    ),
    "curl": (
        "import subprocess\n"
        "print(subprocess.run(['curl', '-sSf', {url!r}], check=True, capture_output=True, text=True).stdout)"
    ),
    "the shell": "!curl -sSf {url}",
}


@pytest.mark.parametrize("what", [name for name in CLIENTS if name != "the shell"])
@pytest.mark.asyncio
async def test_clients_reach_what_is_allowed(client: KernelClient, what: str) -> None:
    for scheme, host in (("https", "example.org"), ("http", "files.test")):
        assert f"{PAGE} /x" in await text_of(client, CLIENTS[what].format(url=f"{scheme}://{host}/x"))


@pytest.mark.parametrize("what", [name for name in CLIENTS if name != "the shell"])
@pytest.mark.asyncio
async def test_clients_are_refused_what_is_not(client: KernelClient, what: str) -> None:
    error = await failure_of(client, CLIENTS[what].format(url="https://denied.test/x"))
    assert error.name not in ("ModuleNotFoundError", "ImportError")
    assert {(access.host, access.port) for access in denied(error)} == {("denied.test", 443)}


@pytest.mark.asyncio
async def test_shell_escapes_use_the_proxy(client: KernelClient) -> None:
    assert PAGE in await text_of(client, CLIENTS["the shell"].format(url="https://example.org/"))


@pytest.mark.asyncio
async def test_pip_downloads_from_an_allowed_index(client: KernelClient) -> None:
    code = """
import glob, subprocess, sys
options = ['--index-url', 'http://files.test/files/simple/', '--trusted-host', 'files.test', '-d', '/tmp/wheels']
command = [sys.executable, '-m', 'pip', 'download', '--no-deps', *options, 'tiny-package']
done = subprocess.run(command, capture_output=True, text=True)
print(done.stderr if done.returncode else glob.glob('/tmp/wheels/*'))
"""
    assert await text_of(client, code) == "['/tmp/wheels/tiny_package-1.0-py3-none-any.whl']"


@pytest.mark.asyncio
async def test_pip_installs_into_a_directory_and_the_package_works(client: KernelClient) -> None:
    code = """
import subprocess, sys
options = ['--index-url', 'http://files.test/files/simple/', '--trusted-host', 'files.test', '--target', '/tmp/here']
command = [sys.executable, '-m', 'pip', 'install', *options, 'tiny-package']
done = subprocess.run(command, capture_output=True, text=True)
sys.path.insert(0, '/tmp/here')
try: import tiny_package; print(tiny_package.answer)
except ImportError: print(done.stdout, done.stderr)
"""
    assert await text_of(client, code) == "42"


@pytest.mark.asyncio
async def test_git_clones_over_https(client: KernelClient) -> None:
    code = """
import subprocess
command = ['git', 'clone', 'https://example.org/files/hello.git', '/tmp/hello']
done = subprocess.run(command, capture_output=True, text=True)
print(done.stderr if done.returncode else open('/tmp/hello/hello.txt').read())
"""
    assert await text_of(client, code) == "hello from git"


@pytest.mark.asyncio
async def test_a_wrong_certificate_is_noticed_inside(site: Site) -> None:
    """The proxy passes TLS on unopened, so only the client can know, and without the authority it must."""
    options: dict[str, Any] = {"sandbox_config": site.config, "working_dir": site.workspace}
    async with KernelGateway(port=0, sandbox=True, **options) as gateway:
        async with KernelClient(gateway.host, gateway.port) as client:
            error = await failure_of(client, HTTP_CODE)
            assert "CERTIFICATE_VERIFY_FAILED" in str(error)


# ---- learning -------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_learning_lets_through_and_notes(site: Site, tmp_path: Path) -> None:
    pins = {"learned.test": f"127.0.0.1:{site.http}", "denied.test": f"127.0.0.1:{site.private}"}
    config = write_policy(tmp_path, network={"hosts": pins, "deniedDomains": ["denied.test"]})
    options: dict[str, Any] = {"sandbox_config": config, "working_dir": site.workspace, "learn": True}
    async with KernelGateway(port=0, sandbox=True, **options) as gateway:
        async with KernelClient(gateway.host, gateway.port) as client:
            async with asyncio.timeout(HANG):
                result = await client.execute(fetch("http://learned.test/"))
            assert PAGE in (result.text or "")
            assert result.network == (NetworkAccess("learned.test", 80, True, "learned"),)
            error = await failure_of(client, fetch("http://denied.test/"))
            assert [access.host for access in denied(error)] == ["denied.test"]
            for host in ("127.0.0.1", "localhost", "169.254.169.254", "10.0.0.1"):
                answer = await text_of(client, ask(connect_request(f"{host}:{site.private}")))
                assert answer.startswith("HTTP/1.1 403"), host


async def ipybox_run(*arguments: object, cwd: Path, **env: str) -> tuple[int | None, str, str]:
    """``ipybox run``: exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from ipybox.cli import main; main()",
        "run",
        *map(str, arguments),
        cwd=cwd,
        env={**os.environ, **env},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(HANG):
        output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


@pytest.mark.asyncio
async def test_the_command_line_learns_a_policy_that_then_is_enough(site: Site, tmp_path: Path) -> None:
    pins = dict.fromkeys(("learned.test", "odd.test"), f"127.0.0.1:{site.http}")
    config = write_policy(tmp_path, network={"hosts": pins})
    program = tmp_path / "program.py"
    program.write_text(fetch("http://learned.test/one") + "\n" + fetch("http://odd.test:8080/two"))
    code, output, errors = await ipybox_run("--learn", "--sandbox-config", config, program, cwd=tmp_path)
    assert (code, output.count(PAGE)) == (0, 2), errors
    policy = json.loads(errors[errors.index("{") : errors.rindex("}") + 1])
    assert policy == {"network": {"allowedDomains": ["learned.test", "odd.test:8080"]}}
    policy["network"]["hosts"] = pins
    enough = write_policy(tmp_path, "enough.json", **policy)
    code, output, errors = await ipybox_run("--sandbox", "--sandbox-config", enough, program, cwd=tmp_path)
    assert (code, output.count(PAGE), errors) == (0, 2, "")


@pytest.mark.asyncio
async def test_the_command_line_says_what_the_sandbox_refused(site: Site, tmp_path: Path) -> None:
    config = write_policy(tmp_path, network={"allowedDomains": ["example.org"]})
    program = tmp_path / "program.py"
    program.write_text(fetch("http://denied.test/"))
    code, _, errors = await ipybox_run("--sandbox-config", config, program, cwd=tmp_path)
    assert code == 1
    assert "HTTPError" in errors
    assert "denied.test:80" in errors
    assert "not in allowedDomains" in errors


@pytest.mark.asyncio
async def test_the_command_line_runs_a_file_in_a_sandbox(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\nprint(os.path.expanduser('~') != sys.argv[1], sys.argv[2:])\n"
        "try: import urllib.request; urllib.request.urlopen('https://example.org')\n"
        "except OSError as error: print(type(error).__name__)\nsys.exit(7)"
    )
    home = os.path.expanduser("~")
    code, output, errors = await ipybox_run("--sandbox", program, home, "a", "b", cwd=tmp_path)
    assert (code, output) == (7, "True ['a', 'b']\nURLError\n"), errors


@pytest.mark.asyncio
async def test_the_command_line_refuses_a_bad_policy(tmp_path: Path) -> None:
    config = write_policy(tmp_path, network={"allowedDomains": ["*"]})
    (tmp_path / "program.py").write_text("open('ran', 'w').close()")
    code, output, errors = await ipybox_run("--sandbox-config", config, "program.py", cwd=tmp_path)
    assert (code, output) == (2, "")
    assert "allowedDomains[0]" in errors
    assert not (tmp_path / "ran").exists()
