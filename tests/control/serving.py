"""A real server in a process of its own, and a client that knows nothing of ours: plain HTTP."""

from __future__ import annotations

import json
import os
import select
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import pytest

T = TypeVar("T")
HANG = 60.0
IPYBOX = (sys.executable, "-c", "from ipybox.cli import main; main()")
_NOT_OURS = ("PYTHON", "IPYBOX_", "AWS_", "OTEL_")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
FINAL = ("completed", "failed", "timeout", "crashed")
HELLO = "def handler(event):\n    print('hello')\n    return {'message': 'Hello, World!', 'event': event}\n"


def eventually(look: Callable[[], T], wanted: Callable[[T], object] = bool, seconds: float = HANG) -> T:
    """What is looked at, as soon as it is as wanted."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if wanted(seen):
            return seen
        assert time.monotonic() < deadline, f"still not so after {seconds:g} s: {seen!r}"
        time.sleep(0.01)


class Api(httpx.Client):
    """The API of a server, from its prefix on."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        given = dict(headers or {})
        if key is not None:
            given["Authorization"] = f"Bearer {key}"
        super().__init__(
            base_url=f"{url}/api/v1", headers=given, timeout=HANG, trust_env=False, verify=True if tls is None else tls
        )

    def new_session(self, template_id: str = "python", **body: Any) -> str:
        """Id of a new session, which is still about to start."""
        answer = self.post("/sessions", json={"template_id": template_id, **body})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def session(self, session_id: str) -> dict[str, Any]:
        """What the server says about one."""
        answer = self.get(f"/sessions/{session_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def session_when(self, session_id: str, *statuses: str) -> dict[str, Any]:
        """The same, as soon as its status is one of these."""
        return eventually(lambda: self.session(session_id), lambda seen: seen["status"] in statuses)

    def running_session(self, template_id: str = "python", **body: Any) -> str:
        """Id of a new session that runs."""
        session_id = self.new_session(template_id, **body)
        assert self.session_when(session_id, "running", "failed")["status"] == "running"
        return session_id

    def run(self, session_id: str, code: str, **body: Any) -> dict[str, Any]:
        """Result of code."""
        answer = self.post(f"/executions/sessions/{session_id}/execute-sync", json={"code": code, **body})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def submit(self, session_id: str, code: str, **body: Any) -> str:
        """Id of an execution that nobody waits for."""
        answer = self.post(f"/executions/sessions/{session_id}/execute", json={"code": code, **body})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["execution_id"])

    def execution(self, execution_id: str) -> dict[str, Any]:
        """An execution as it is now."""
        answer = self.get(f"/executions/{execution_id}/result")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def execution_when(self, execution_id: str, *statuses: str) -> dict[str, Any]:
        """The same, as soon as its status is one of these; of the final ones, if none is said."""
        return eventually(lambda: self.execution(execution_id), lambda seen: seen["status"] in (statuses or FINAL))

    def said(self, execution_id: str, text: str) -> None:
        """Waits until an execution has written something."""
        eventually(lambda: self.execution(execution_id), lambda seen: text in seen["stdout"])


class Server:
    """A server over a state directory: to be started, stopped, killed and started again.

    Args:
        state_dir: Where it keeps everything.
        settings: Others than the default ones, by name. Requests may be many, as who waits asks all the time.
        through: A command that becomes the server.
        environment: Variables besides those of settings.

    Attributes:
        url: Where it answers, while it runs.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        through: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        self.state_dir, self._through = state_dir, through
        settings = {"rate_limit": "100000/minute", **settings}
        self._env = {f"IPYBOX_{name.upper()}": _text(value) for name, value in settings.items()}
        self._env.update(environment or {})
        self._process: subprocess.Popen[str] | None = None
        self._log = state_dir.parent / f"{state_dir.name}.log"
        self._clients: list[Api] = []
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()
        try:
            if self._process is not None:
                self.stop()
        finally:
            self.kill()

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it has written about itself, over all of its lives."""
        return self._log.read_text(encoding="utf-8")

    def start(self, **more: object) -> None:
        """Starts it, and returns when it answers."""
        env = {**ENVIRONMENT, **self._env, **{f"IPYBOX_{name.upper()}": _text(value) for name, value in more.items()}}
        with open(self._log, "a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [*self._through, *IPYBOX, "serve", "--port", "0", "--state-dir", str(self.state_dir)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                text=True,
            )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], HANG)
        self.url = self._process.stdout.readline().strip() if ready else ""
        if not self.url.startswith("http"):
            self.kill()
            pytest.fail(f"the server did not start: {self.log}")

    def api(self, key: str | None = None, headers: Mapping[str, str] | None = None) -> Api:
        """A client of it, which is closed with the server."""
        client = Api(self.url, key, headers)
        self._clients.append(client)
        return client

    def ask_to_stop(self) -> None:
        """Sends SIGTERM."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def reload(self) -> None:
        """Sends SIGHUP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def wait(self) -> int:
        """Its exit code, when it has ended."""
        assert self._process is not None
        process = self._process
        try:
            return process.wait(HANG)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # so that the log says where it hangs
            pytest.fail(f"the server did not stop: {self.log[-4000:]}")
        finally:
            self.kill()

    def stop(self) -> None:
        """Asks it to stop, and expects it to do so in order."""
        self.ask_to_stop()
        code = self.wait()
        assert code == 0, f"exit code {code}: {self.log[-4000:]}"

    def last_words(self) -> str:
        """Stops it, and gives what it has written to its standard output after its URL."""
        self.ask_to_stop()
        assert self._process is not None
        said, _ = self._process.communicate(timeout=HANG)
        assert self._process.returncode == 0, self.log[-4000:]
        self._process = None
        return said

    def kill(self) -> None:
        """SIGKILL: it has no say in this."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def new_key(self, name: str, owner: str, *scopes: str, **more: object) -> str:
        """The secret of a new key, made as the operator makes the first one."""
        options = [word for scope in scopes for word in ("--scope", scope)]
        options += [word for option, value in more.items() for word in (f"--{option.replace('_', '-')}", str(value))]
        command = [*IPYBOX, "keys", "create", name, "--owner", owner, "--state-dir", str(self.state_dir), "--json"]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, env=ENVIRONMENT, timeout=HANG, check=False
        )
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["secret"])


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, elsewhere: dict[str, Any]) -> Iterator[Server]:
    """A server without keys that all tests share; nothing of the sessions of others may matter to a test."""
    state = tmp_path_factory.mktemp("server") / "state"
    settings: dict[str, Any] = {"rate_limit": "100000/minute", "max_upload_bytes": 20 * 1024**2, "drain_timeout": 0.5}
    with Server(state, console=False, **settings, **elsewhere) as running:
        yield running
        assert '"level": "error"' not in running.log, running.log
    assert "Traceback" not in running.log, running.log


@pytest.fixture(scope="session")
def api(server: Server) -> Api:
    """A client of the server that all tests share."""
    return server.api()


@pytest.fixture(scope="session")
def session(api: Api) -> str:
    """Id of a session that runs, for all tests that leave nothing in it."""
    return api.running_session()


@pytest.fixture(scope="session")
def stateful(api: Api) -> str:
    """Id of a stateful session that runs, for all tests that leave it as it was but for names of their own."""
    return api.running_session(mode="stateful")
