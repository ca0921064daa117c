"""A server with a certificate of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from ipybox.control.client.blocking import ControlClient
from ipybox.control.server import ControlServer
from ipybox.control.settings import ServerSettings
from tests.cli.typed import ipybox
from tests.control.console.site import Site
from tests.control.serving import HANG, HELLO, Api, Server, eventually


class Authority:
    """Vouches for servers on the loopback; ``file`` is what clients are given of it."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self.file = directory / "ca.pem"
        self.chain, self.key = directory / "chain.pem", directory / "key.pem"
        self._ca.cert_pem.write_to_path(str(self.file))
        self.context = ssl.create_default_context(cafile=str(self.file))
        self.issue()

    def issue(self) -> None:
        """Replaces the server's certificate and key by new ones."""
        issued = self._ca.issue_cert("127.0.0.1", "localhost")
        for path, blobs in ((self.chain, issued.cert_chain_pems), (self.key, [issued.private_key_pem])):
            path.unlink(missing_ok=True)
            for blob in blobs:
                blob.write_to_path(str(path), append=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One for all tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Server]:
    """A server with its certificate, that needs a key."""
    state = tmp_path_factory.mktemp("tls") / "state"
    with Server(state, auth="always", drain_timeout=0.5, tls_cert=authority.chain, tls_key=authority.key) as server:
        yield server
    assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="module")
def admin_key(secure: Server) -> str:
    """A key for all of it."""
    return secure.new_key("root", "me", "admin")


def served(url: str) -> str:
    """The certificate that new connections are shown."""
    host, port = url.removeprefix("https://").split(":")
    return ssl.get_server_certificate((host, int(port)), timeout=HANG)


def test_code_runs_over_tls_and_its_output_streams(secure: Server, authority: Authority, admin_key: str) -> None:
    assert secure.url.startswith("https://127.0.0.1:")
    with ControlClient(secure.url, admin_key, tls=authority.context) as client, client.session() as session:
        assert session.run(HELLO).return_value == {"message": "Hello, World!", "event": {}}
        session.upload("big.bin", b"x" * 5_000_000)
        assert session.download("big.bin") == b"x" * 5_000_000


def test_who_does_not_know_the_authority_is_not_led_to_believe(secure: Server, admin_key: str) -> None:
    with Api(secure.url, admin_key) as stranger, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        stranger.get("/sessions")


@pytest.mark.parametrize(("file", "code"), [("file", 0), ("key", 125), (None, 125)])
def test_commands_believe_the_authority_of_the_environment(
    secure: Server, authority: Authority, admin_key: str, file: str | None, code: int
) -> None:
    known = {} if file is None else {"IPYBOX_CA_FILE": str(getattr(authority, file))}
    done = ipybox("session", "list", "--server", secure.url, env={"IPYBOX_API_KEY": admin_key, **known})
    assert done.returncode == code, done.stderr
    assert (b"IPYBOX_CA_FILE" in done.stderr) is (code != 0)
    assert b"Traceback" not in done.stderr


def test_keys_are_not_taken_in_the_clear(secure: Server) -> None:
    host, port = secure.url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), timeout=HANG) as line:
        line.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        try:
            assert not line.recv(4096).startswith(b"HTTP")
        except ConnectionResetError:
            pass


def test_the_cookie_of_the_console_is_for_tls_only(secure: Server, authority: Authority, admin_key: str) -> None:
    with Site(secure.url, tls=authority.context) as site:
        answer = site.sign_in(admin_key)
        assert "; Secure" in answer.headers["set-cookie"]
        assert site.get("/console").status_code == 200


def test_a_new_certificate_is_taken_while_code_runs(secure: Server, authority: Authority, admin_key: str) -> None:
    with Api(secure.url, admin_key, tls=authority.context) as api:
        session_id = api.running_session()
        execution = api.submit(
            session_id, "echo up; while ! [ -e go ]; do sleep 0.02; done; echo went", language="shell"
        )
        api.said(execution, "up")
        before = served(secure.url)
        authority.issue()
        assert served(secure.url) == before, "it reads them when it is told to"
        secure.reload()
        eventually(lambda: served(secure.url), lambda shown: shown != before)
        assert api.put(f"/sessions/{session_id}/files/go", content=b"").status_code == 200
        assert api.execution_when(execution)["stdout"] == "up\nwent\n"


def test_a_certificate_that_can_not_be_used_is_not_taken(
    secure: Server, authority: Authority, admin_key: str, tmp_path: Path
) -> None:
    before, key = served(secure.url), authority.key.read_bytes()
    authority.key.write_bytes(Authority(tmp_path).key.read_bytes())  # of another certificate
    secure.reload()
    eventually(lambda: secure.log, lambda log: "it goes on with the certificate that it has" in log)
    assert served(secure.url) == before
    with Api(secure.url, admin_key, tls=authority.context) as api:
        assert api.get("/sessions").status_code == 200
    authority.key.write_bytes(key)


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        ("missing.pem", "", "missing.pem can't be used: [Errno 2]"),
        ("ca.pem", "", "ca.pem can't be used"),
        ("chain.pem", "other.pem", "can't be used"),
        ("", "key.pem", "tls_key: is the key of a certificate, which tls_cert has to name"),
    ],
)
def test_it_does_not_start_with_what_it_can_not_use(
    authority: Authority, tmp_path: Path, cert: str, key: str, said: str
) -> None:
    other = Authority(tmp_path).key
    other.rename(authority.file.parent / "other.pem")
    given = {"--tls-cert": cert, "--tls-key": key}
    options = [word for name, file in given.items() if file for word in (name, str(authority.file.parent / file))]
    done = ipybox("serve", "--port", "0", "--state-dir", tmp_path / "state", *options, env={"COLUMNS": "400"})
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert not (tmp_path / "state").exists()


def test_it_says_so_when_keys_are_sent_in_the_clear(tmp_path: Path, authority: Authority) -> None:
    files = {"tls_cert": str(authority.chain), "tls_key": str(authority.key)}
    for given, is_warned in (({}, True), (files, False)):
        variables = {f"IPYBOX_{name.upper()}": value for name, value in given.items()}
        with Server(tmp_path / str(is_warned), environment=variables, host="0.0.0.0", console=False) as server:
            assert ("keys are sent in the clear" in server.log) is is_warned


@pytest.mark.asyncio
async def test_a_handshake_that_does_not_go_on_holds_no_connection(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one that has begun takes a third of a megabyte."""
    monkeypatch.setattr("ipybox.control.server.HEAD_SECONDS", 0.3)
    settings = ServerSettings(
        port=0, state_dir=str(tmp_path / "state"), tls_cert=str(authority.chain), tls_key=str(authority.key)
    )
    async with ControlServer(settings) as server:
        host, port = server.url.removeprefix("https://").split(":")
        for begun in (b"", b"\x16\x03\x01"):
            reading, writing = await asyncio.open_connection(host, int(port))
            writing.write(begun)
            with contextlib.suppress(ConnectionResetError):
                # Much less than the minute that it would have otherwise.
                assert await asyncio.wait_for(reading.read(), HANG / 2) == b""
            writing.close()
