"""Many clients that do at once whatever can be done, while sandboxes are hurt; and what must be so all the same."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from tests.control.serving import FINAL, HANG, Server

OVER = ("completed", "failed", "timeout", "terminated")
_TRUE_STATE = 10.0
_KEPT = ("status", "status_reason", "stdout", "stderr", "return_value", "exit_code", "completed_at", "error_message")
_CELL = "import time\nprint(time.monotonic_ns())\n"


class ServerGoneError(Exception):
    """It was killed: what was asked for may have been done or not."""


@dataclass
class _Session:
    id: str
    mode: str
    final: str | None = None
    is_deleted: bool = False
    is_ending: bool = False
    """Whether somebody has asked for its end."""
    is_going: bool = False
    """Whether somebody has asked for its removal."""
    uploads: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass
class _Execution:
    id: str
    session: _Session
    kind: str
    marker: str
    sent: int
    taken: int
    final: dict[str, Any] | None = field(default=None, repr=False)


class Storm:
    """What clients do to a server, and what they were told.

    Args:
        seed: Decides what they do; not how it comes together.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self._server, self._random = server, random.Random(seed)
        self._clock = 0
        self._is_killed = False
        self.sessions: dict[str, _Session] = {}
        self.executions: dict[str, _Execution] = {}
        self.counts: Counter[str] = Counter()
        self._client = self._new_client()

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=HANG, trust_env=False, limits=httpx.Limits(max_connections=100))

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """An answer; of a server that is there, no failure of its own."""
        try:
            answer = await self._client.request(method, f"{self._server.url}/api/v1{path}", **options)
        except httpx.TransportError as error:
            if self._is_killed:
                raise ServerGoneError from error
            raise
        assert answer.status_code < 500, f"{method} {path}: {answer.status_code} {answer.text[:1000]}"
        self.counts[f"{method} {path.split('/')[1]} {answer.status_code}"] += 1
        return answer

    # ---- what clients do ------------------------------------------------------------------------------------------

    async def rage(self, clients: int, steps: int, *, kill_after: float | None = None) -> None:
        """So many clients take so many steps each; the server is killed meanwhile, or not."""
        self._is_killed = False
        working = [asyncio.create_task(self._work(steps)) for _ in range(clients)]
        hurting = asyncio.create_task(self._hurt())
        try:
            if kill_after is not None:
                await asyncio.wait(working, timeout=kill_after, return_when=asyncio.FIRST_EXCEPTION)
                self._is_killed = True
                await asyncio.to_thread(self._server.kill)
            await asyncio.gather(*working)
        finally:
            for each in (hurting, *working):
                each.cancel()
            await asyncio.gather(hurting, *working, return_exceptions=True)

    async def restart(self) -> None:
        """The next server."""
        await self._client.aclose()
        await asyncio.to_thread(self._server.start)
        self._client = self._new_client()

    async def close(self) -> None:
        """Ends all connections."""
        await self._client.aclose()

    async def _work(self, steps: int) -> None:
        doing: list[tuple[int, Callable[[_Session], Awaitable[None]]]] = [
            (20, self._submit),
            (12, self._run),
            (6, self._hang_up),
            (8, self._upload),
            (3, self._break_off_upload),
            (8, self._interrupt),
            (4, self._renew),
            (2, self._install),
            (4, self._terminate),
            (4, self._delete),
            (4, self._look),
            (1, self._synchronise),
        ]
        with suppress(ServerGoneError):
            for _ in range(steps):
                alive = [each for each in self.sessions.values() if each.final is None and not each.is_deleted]
                if len(alive) < 3 or (len(alive) < 8 and self._random.random() < 0.2):
                    await self._create()
                    continue
                step = self._random.choices([step for _, step in doing], [weight for weight, _ in doing])[0]
                await step(self._random.choice(alive))

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    async def _create(self) -> None:
        body = {"template_id": "python", "mode": self._random.choice(("stateless", "stateful")), "timeout": 600}
        key = {"Idempotency-Key": f"key-{self._tick()}"}
        times = self._random.choice((1, 1, 2))
        answers = await asyncio.gather(
            *(self.ask("POST", "/sessions", json=body, headers=key) for _ in range(times)), return_exceptions=True
        )
        ids = set()
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            if answer.status_code == 201:
                ids.add(answer.json()["id"])
            else:
                assert answer.status_code in (409, 429), answer.text
        assert len(ids) <= 1, f"one key made {ids}"
        for each in ids:
            self.sessions[each] = _Session(each, str(body["mode"]))

    def _code(self, session: _Session) -> tuple[str, str, dict[str, Any]]:
        marker = f"m{self._tick()}"
        kind = self._random.choice(("handler", "shell", "long", "crash", "flood", "cell", "cell", "spawn"))
        count = f"printf x >> count-{marker}"
        if kind == "cell" and session.mode == "stateful":
            pause = self._random.choice((0, 0, 0.05))
            return marker, kind, {"code": f"{_CELL}open('count-{marker}', 'a').write('x')\ntime.sleep({pause})"}
        if kind in ("handler", "cell"):
            code = f"def handler(event):\n open('count-{marker}', 'a').write('x')\n print('a')\n return event\n"
            return marker, "handler", {"code": code, "kind": "handler", "event": {"marker": marker}}
        shell = {
            "shell": f"{count}; echo one; echo two >&2; sleep 0.0{self._random.randrange(1, 9)}",
            "long": f"{count}; echo up; sleep 20",
            "crash": f"{count}; echo up; kill -9 $$",
            "flood": f"{count}; yes {marker} | head -c 400000",
            "spawn": f"{count}; (sleep 0.2; echo late) & (sleep 30 >/dev/null 2>&1) & echo done",
        }[kind]
        return marker, kind, {"code": shell, "language": "shell", "timeout": self._random.choice((1, 20))}

    async def _send(self, session: _Session, route: str, **options: Any) -> dict[str, Any] | None:
        """What was taken."""
        marker, kind, body = self._code(session)
        sent = self._tick()
        path = f"/executions/sessions/{session.id}/{route}"
        headers = {"Idempotency-Key": marker} if self._random.random() < 0.3 else {}
        answer = await self.ask("POST", path, json=body, headers=headers, **options)
        if answer.status_code not in (200, 201):
            excused = answer.status_code == 429 or (answer.status_code in (404, 409) and self._may_be_over(session))
            assert excused, f"{session}: {answer.status_code} {answer.text}"
            return None
        found: dict[str, Any] = answer.json()
        execution = _Execution(found["execution_id"], session, kind, marker, sent, self._tick())
        assert execution.id not in self.executions, f"{execution} is there twice"
        self.executions[execution.id] = execution
        if route == "execute-sync":
            self._note(execution, found)
        return found

    def _may_be_over(self, session: _Session) -> bool:
        return True  # its sandbox may have been killed

    async def _submit(self, session: _Session) -> None:
        for _ in range(self._random.choice((1, 1, 3))):
            await self._send(session, "execute")

    async def _run(self, session: _Session) -> None:
        await self._send(session, "execute-sync")

    async def _hang_up(self, session: _Session) -> None:
        with suppress(httpx.TimeoutException):
            await self._send(session, "execute-sync", timeout=self._random.uniform(0.001, 0.2))

    async def _upload(self, session: _Session) -> None:
        path, data = f"up/{self._tick()}", self._random.randbytes(self._random.choice((0, 100, 300_000)))
        answer = await self.ask("PUT", f"/sessions/{session.id}/files/{path}", content=data)
        assert answer.status_code in (200, 404, 409), answer.text
        if answer.status_code == 200:
            session.uploads[path] = data

    async def _break_off_upload(self, session: _Session) -> None:
        async def some() -> Any:
            yield b"x" * 1000
            await asyncio.sleep(self._random.uniform(0, 0.05))
            raise ConnectionAbortedError

        with suppress(ConnectionAbortedError):
            await self.ask("PUT", f"/sessions/{session.id}/files/half", content=some())

    async def _interrupt(self, session: _Session) -> None:
        unfinished = [each for each in self.executions.values() if each.session is session and each.final is None]
        for each in unfinished[-2:]:
            answer = await self.ask("POST", f"/executions/{each.id}/interrupt")
            assert answer.status_code == 200 or session.is_ending, answer.text

    async def _renew(self, session: _Session) -> None:
        answer = await self.ask("POST", f"/sessions/{session.id}/renew", json={"timeout": 700})
        assert answer.status_code in (200, 404, 409), answer.text

    async def _install(self, session: _Session) -> None:
        body = {
            "dependencies": [{"name": "nothing"}],
            "python_package_index_url": "https://nowhere.invalid/simple",
            "install_timeout": 30,
        }
        answer = await self.ask("POST", f"/sessions/{session.id}/dependencies/install", json=body)
        assert answer.status_code in (200, 404, 409), answer.text

    async def _terminate(self, session: _Session) -> None:
        session.is_ending = True
        known = [each for each in self.executions.values() if each.session is session and each.final is None]
        answer = await self.ask("POST", f"/sessions/{session.id}/terminate")
        if answer.status_code == 404:
            assert session.is_deleted or session.is_ending
            return
        assert answer.status_code == 200, answer.text
        self._note_session(session, answer.json())
        assert session.final is not None, answer.text
        for each in known:
            await self._check_that_it_has_ended(each)
        listed = await self.ask("GET", f"/executions/sessions/{session.id}/executions?limit=200")
        if listed.status_code == 200:
            states = {each["execution_id"]: each["status"] for each in listed.json()["items"]}
            open_ = {name: status for name, status in states.items() if status not in FINAL}
            assert not open_, f"{session} has ended, and these have not: {open_}"

    async def _check_that_it_has_ended(self, execution: _Execution) -> None:
        answer = await self.ask("GET", f"/executions/{execution.id}/result")
        if answer.status_code == 404:
            assert execution.session.is_ending, f"{execution} is lost"
            return
        assert answer.json()["status"] in FINAL, f"{execution} goes on after the end of its session: {answer.text}"
        self._note(execution, answer.json())

    async def _delete(self, session: _Session) -> None:
        session.is_ending = session.is_going = True
        answer = await self.ask("DELETE", f"/sessions/{session.id}")
        assert answer.status_code in (204, 404), answer.text
        session.is_deleted = True
        assert (await self.ask("GET", f"/sessions/{session.id}")).status_code == 404, f"{session} is back"

    async def _look(self, session: _Session) -> None:
        answer = await self.ask("GET", f"/sessions/{session.id}")
        if answer.status_code == 404:
            assert session.is_ending, f"{session} is lost"
            return
        self._note_session(session, answer.json())

    async def _synchronise(self, session: _Session) -> None:
        answer = await self.ask("POST", "/health/sync")
        result = answer.json()["result"]
        assert not any(result[name] for name in ("resumed", "failed", "crashed", "pending")), result

    async def _hurt(self) -> None:
        """Kills a process of a sandbox now and then, or has it stand still for a moment."""
        while True:
            await asyncio.sleep(self._random.uniform(0.1, 0.6))
            with suppress(psutil.Error, AssertionError):
                below = psutil.Process(self._server.pid).children(recursive=True)
                if below:
                    victim = self._random.choice(below)
                    if self._random.random() < 0.5:
                        victim.send_signal(signal.SIGSTOP)
                        try:
                            await asyncio.sleep(self._random.uniform(0.0, 0.6))
                        finally:
                            with suppress(psutil.Error):  # which must not take the place of a cancellation
                                victim.send_signal(self._random.choice((signal.SIGCONT, signal.SIGKILL)))
                    else:
                        victim.kill()

    # ---- what must be so ------------------------------------------------------------------------------------------

    def _note_session(self, session: _Session, seen: dict[str, Any]) -> None:
        if session.final is not None:
            assert seen["status"] == session.final, f"{session} is {seen['status']} now"
        elif seen["status"] in OVER:
            assert seen["status_reason"], seen
            assert seen["status_detail"], seen
            assert seen["status"] != "terminated" or session.is_ending, seen
            session.final = seen["status"]
            self.counts[f"session {seen['status']} {seen['status_reason']}"] += 1

    def _note(self, execution: _Execution, seen: dict[str, Any]) -> None:
        if execution.final is not None:
            changed = {
                name: (execution.final[name], seen[name]) for name in _KEPT if execution.final[name] != seen[name]
            }
            assert not changed, f"{execution} has changed after its end: {changed}"
        elif seen["status"] in FINAL:
            execution.final = seen
            self.counts[f"{execution.kind} {seen['status']} {seen['status_reason'] or ''}".strip()] += 1
            if seen["status"] != "completed":
                assert seen["status_reason"], seen
                assert seen["error_message"], seen
            elif execution.kind == "handler":
                assert seen["return_value"] == {"marker": execution.marker}, seen

    async def verify(self) -> None:
        """Everything comes to a true state soon, and is what was said."""
        deadline = asyncio.get_running_loop().time() + _TRUE_STATE
        for session in list(self.sessions.values()):
            await self._verify_session(session, deadline)
        ends = deadline + 25  # what sleeps comes to its end by itself
        for execution in list(self.executions.values()):
            await self._verify_execution(execution, ends)
        self._verify_order()

    async def _verify_session(self, session: _Session, deadline: float) -> None:
        while True:
            answer = await self.ask("GET", f"/sessions/{session.id}")
            if answer.status_code == 404:
                assert session.is_ending, f"{session} is lost"
                session.is_deleted = True
                return
            assert not session.is_deleted, f"{session} is back"
            seen = answer.json()
            is_installing = seen["dependency_install_status"] not in ("completed", "failed")
            if seen["status"] != "creating" and not is_installing:
                break
            assert asyncio.get_running_loop().time() < deadline + (40 if is_installing else 0), seen
            await asyncio.sleep(0.02)
        self._note_session(session, seen)
        for path, data in () if session.is_going else session.uploads.items():
            found = await self.ask("GET", f"/sessions/{session.id}/files/{path}")
            assert found.content == data, f"{path} of {session}"

    async def _verify_execution(self, execution: _Execution, deadline: float) -> None:
        while True:
            answer = await self.ask("GET", f"/executions/{execution.id}/result")
            if answer.status_code == 404:
                assert execution.session.is_deleted, f"{execution} is lost"
                return
            seen = answer.json()
            if seen["status"] in FINAL:
                break
            assert asyncio.get_running_loop().time() < deadline, seen
            await asyncio.sleep(0.05)
        self._note(execution, seen)
        events: list[dict[str, Any]] = []
        while True:
            after = events[-1]["seq"] if events else 0
            page = (await self.ask("GET", f"/executions/{execution.id}/events?after={after}")).json()
            events += page["items"]
            if page["is_final"] or not page["items"]:
                break
        assert [each["seq"] for each in events] == list(range(1, len(events) + 1)), execution
        assert [each["kind"] for each in events].count("end") == 1, execution
        assert events[-1]["data"]["status"] == seen["status"], execution
        for stream in ("stdout", "stderr"):
            said = "".join(each["data"]["text"] for each in events if each["kind"] == stream)
            assert said == seen[stream], f"{stream} of {execution}"
        counted = await self.ask("GET", f"/sessions/{execution.session.id}/files/count-{execution.marker}")
        times = len(counted.content) if counted.status_code == 200 else 0
        assert times <= 1, f"{execution} ran {times} times"
        if seen["status"] == "completed" and not execution.session.is_going:
            assert times == 1, f"{execution} is said to have run: {counted.status_code}"

    def _verify_order(self) -> None:
        """Cells that were taken before others were sent began before them."""
        for session in self.sessions.values():
            cells = [each for each in self.executions.values() if each.session is session and each.kind == "cell"]
            began = [
                (int(each.final["stdout"].split()[0]), each) for each in cells if each.final and each.final["stdout"]
            ]
            began.sort(key=lambda pair: pair[0])
            for number, (_, earlier) in enumerate(began):
                for _, later in began[:number]:
                    assert not earlier.taken < later.sent, f"{later} ran before {earlier}"

    async def end(self) -> None:
        """Removes all; nothing of it is left."""
        while listed := (await self.ask("GET", "/sessions?limit=200")).json()["items"]:  # some without an answer
            for each in listed:
                assert (await self.ask("DELETE", f"/sessions/{each['id']}")).status_code == 204
        health = (await self.ask("GET", "/health/detailed")).json()
        assert health["sessions"] == {"alive": 0, "sandboxes": 0}, health
        assert health["dependencies"]["runtime_nodes"][0]["executions"] == 0, health
        await self.ask("POST", "/health/sync")
        assert os.listdir(self._server.state_dir / "sandboxes" / "sessions") == []
