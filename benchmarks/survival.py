"""``python -m benchmarks.survival``: kills a server at random moments under load, and holds the next one to its word.

Clients create sessions, run code and move files, and write down what was answered. The server is killed with SIGKILL,
in the middle of that or of its own start. Then nothing of it may run any more, and the next server must say the same as
the one before: what was acknowledged is there, and all that was going on has come to an end or goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.survival_server import Server, ViolationError, adopt_orphans

_CLIENTS = 6
_TRUE_STATE = 10.0
"""Seconds within which everything has a true state after a restart."""
_FINAL = ("completed", "failed", "timeout", "crashed")
_OVER = ("completed", "failed", "timeout", "terminated")
_LOST = ("server_restarted", "server_stopped")
_TEMPLATES = ("python", "small", "large")
_KEPT = ("status", "status_reason", "stdout", "stderr", "return_value", "exit_code", "artifacts", "completed_at")


class _DownError(Exception):
    """The server did not answer: what was asked for may have been done or not."""


@dataclass
class _Session:
    id: str
    mode: str
    ran: bool = False
    """Whether it was seen running."""
    final: str | None = None
    maybe_final: bool = False
    deleted: bool = False
    maybe_deleted: bool = False
    files: dict[str, set[bytes | None]] = field(default_factory=dict, repr=False)
    """What may be there by now; None is nothing."""


@dataclass
class _Execution:
    id: str
    session: _Session
    marker: str
    kind: str
    ran: bool = False
    interrupted: bool = False
    final: dict[str, Any] | None = field(default=None, repr=False)


@dataclass
class _Key:
    """A request with an idempotency key, and what it made, as far as that is known."""

    path: str
    body: dict[str, Any]
    session: _Session | None
    made: str | None = None


class World:
    """What clients do, and what they were told."""

    def __init__(self, server: Server, seed: int) -> None:
        self._server, self._random = server, random.Random(seed)
        self._number = 0
        self.is_stopping = False
        self.sessions: dict[str, _Session] = {}
        self.executions: dict[str, _Execution] = {}
        self.keys: dict[str, _Key] = {}
        self.counts: Counter[str] = Counter()
        self._client = httpx.AsyncClient(timeout=30, trust_env=False, limits=httpx.Limits(max_connections=64))

    async def close(self) -> None:
        """Ends all connections."""
        await self._client.aclose()

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """An answer."""
        try:
            answer = await self._client.request(method, f"{self._server.url}/api/v1{path}", **options)
        except httpx.TransportError as error:
            raise _DownError(str(error)) from error
        if answer.status_code == 503 and self.is_stopping:
            raise _DownError(answer.text)
        if answer.status_code >= 500:
            raise ViolationError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        self.counts[f"{method} {answer.status_code}"] += 1
        return answer

    # ---- what clients do ------------------------------------------------------------------------------------------

    async def work(self, number: int) -> None:
        """One client of several, until the server is gone."""
        there = [each for each in self.sessions.values() if not each.deleted]
        mine = [each for each in there if not each.maybe_deleted][number::_CLIENTS]
        try:
            while True:
                alive = [each for each in mine if each.final is None and not each.deleted]
                if not alive or (len(alive) < 3 and self._random.random() < 0.15):
                    mine.append(await self._create())
                    continue
                await self._one_step(self._random.choice(alive), mine)
        except _DownError:
            return

    async def _one_step(self, session: _Session, mine: list[_Session]) -> None:
        steps: list[tuple[int, Callable[[_Session], Awaitable[None]]]] = [
            (30, self._execute),
            (20, self._execute_sync),
            (15, self._upload),
            (8, self._download),
            (4, self._remove_file),
            (4, self._terminate),
            (5, self._delete),
            (4, self._renew),
            (6, self._interrupt),
            (6, self._look),
            (1, self._install),
        ]
        chosen = self._random.choices([step for _, step in steps], [weight for weight, _ in steps])[0]
        await chosen(session)
        for each in [each for each in mine if each.final is not None and not each.deleted]:
            if self._random.random() < 0.1:
                await self._delete(each)

    def _name(self) -> str:
        self._number += 1
        return f"n{self._number}"

    async def _make(self, path: str, body: dict[str, Any], session: _Session | None) -> httpx.Response:
        name = self._name()
        key = self.keys[name] = _Key(path, body, session)
        answer = await self.ask("POST", path, json=body, headers={"Idempotency-Key": name})
        if answer.status_code in (200, 201):
            found = answer.json()
            key.made = found.get("execution_id") or found["id"]
        else:
            del self.keys[name]
        return answer

    async def _create(self) -> _Session:
        mode = self._random.choice(("stateless", "stateless", "stateful"))
        body = {"template_id": self._random.choice(_TEMPLATES), "mode": mode, "tags": {"key": f"n{self._number + 1}"}}
        answer = await self._make("/sessions", body, None)
        if answer.status_code != 201:
            raise ViolationError(f"create: {answer.status_code} {answer.text[:300]}")
        session = self.sessions[answer.json()["id"]] = _Session(answer.json()["id"], mode)
        return session

    def _code(self, session: _Session) -> tuple[str, str, dict[str, Any]]:
        marker, pause = self._name(), self._random.choice((0, 0, 0.02, 0.2))
        kind = self._random.choice(("handler", "shell", "cell" if session.mode == "stateful" else "handler"))
        lines = (
            f"open('count-{marker}', 'a').write('x')\n{{}}for i in range(3):\n{{}} print('{marker}', i, flush=True)\n"
        )
        if kind == "shell":
            code = f"printf x >> count-{marker}; for i in 0 1 2; do echo {marker} $i; done; sleep {pause}"
            return marker, kind, {"code": code, "language": "shell", "timeout": 20}
        if kind == "handler":
            code = f"import time\ndef handler(event):\n {lines.format(' ', ' ')} time.sleep({pause})\n return event\n"
            return marker, kind, {"code": code, "kind": "handler", "event": {"marker": marker}, "timeout": 20}
        return marker, kind, {"code": f"import time\n{lines.format('', '')}time.sleep({pause})\n", "timeout": 20}

    async def _execute(self, session: _Session) -> None:
        marker, kind, body = self._code(session)
        answer = await self._make(f"/executions/sessions/{session.id}/execute", body, session)
        if self._is_taken(session, answer):
            made = answer.json()["execution_id"]
            self.executions[made] = _Execution(made, session, marker, kind)

    async def _execute_sync(self, session: _Session) -> None:
        marker, kind, body = self._code(session)
        answer = await self._make(f"/executions/sessions/{session.id}/execute-sync", body, session)
        if self._is_taken(session, answer):
            made = answer.json()["execution_id"]
            self.executions[made] = execution = _Execution(made, session, marker, kind)
            session.files.setdefault(f"count-{marker}", {b"x"})
            self._note(execution, answer.json())

    def _is_taken(self, session: _Session, answer: httpx.Response) -> bool:
        if answer.status_code in (200, 201):
            return True
        is_excused = session.final or session.maybe_final or session.maybe_deleted or session.deleted
        if answer.status_code == 429 or (answer.status_code in (404, 409) and is_excused):
            return False
        raise ViolationError(f"execute in {session}: {answer.status_code} {answer.text[:300]}")

    async def _upload(self, session: _Session) -> None:
        path = f"up/{self._random.randrange(5)}"
        data = self._random.randbytes(self._random.choice((0, 100, 100_000, 2_000_000)))
        before = session.files.setdefault(path, {None})
        before.add(data)
        answer = await self.ask("PUT", f"/sessions/{session.id}/files/{path}", content=data)
        if answer.status_code == 200:
            before.clear()
            before.add(data)

    async def _download(self, session: _Session) -> None:
        for path, allowed in list(session.files.items())[:3]:
            await self._check_file(session, path, allowed)

    async def _remove_file(self, session: _Session) -> None:
        for path, allowed in list(session.files.items()):
            if path.startswith("up/"):
                allowed.add(None)
                answer = await self.ask("DELETE", f"/sessions/{session.id}/files/{path}")
                if answer.status_code in (200, 404) and not session.maybe_deleted:
                    allowed.clear()
                    allowed.add(None)
                return

    async def _terminate(self, session: _Session) -> None:
        session.maybe_final = True
        answer = await self.ask("POST", f"/sessions/{session.id}/terminate")
        if answer.status_code == 200:
            session.final = answer.json()["status"]

    async def _delete(self, session: _Session) -> None:
        session.maybe_final = session.maybe_deleted = True
        answer = await self.ask("DELETE", f"/sessions/{session.id}")
        if answer.status_code in (204, 404):
            session.deleted = True

    async def _renew(self, session: _Session) -> None:
        await self.ask("POST", f"/sessions/{session.id}/renew", json={"timeout": self._random.randrange(600, 3000)})

    async def _install(self, session: _Session) -> None:
        body = {
            "dependencies": [{"name": "nothing"}],
            "python_package_index_url": "https://nowhere.invalid/simple",
            "install_timeout": 30,
        }
        await self.ask("POST", f"/sessions/{session.id}/dependencies/install", json=body)

    async def _interrupt(self, session: _Session) -> None:
        running = [each for each in self.executions.values() if each.session is session and each.final is None]
        if running:
            running[-1].interrupted = True
            await self.ask("POST", f"/executions/{running[-1].id}/interrupt")

    async def _look(self, session: _Session) -> None:
        answer = await self.ask("GET", f"/sessions/{session.id}")
        if answer.status_code == 200:
            session.ran = session.ran or answer.json()["status"] == "running"
        for each in [each for each in self.executions.values() if each.session is session and each.final is None][:5]:
            answer = await self.ask("GET", f"/executions/{each.id}/result")
            if answer.status_code == 200:
                each.ran = each.ran or answer.json()["status"] == "running"
                if answer.json()["status"] in _FINAL:
                    self._note(each, answer.json())

    # ---- what must be so ------------------------------------------------------------------------------------------

    def _note(self, execution: _Execution, seen: dict[str, Any]) -> None:
        """The first word about an end is what everything later is held against."""
        execution.final = seen
        self.counts[f"execution {seen['status']} {seen['status_reason'] or ''}".strip()] += 1
        lines = [f"{execution.marker} {number}" for number in range(3)]
        if seen["status"] == "completed":
            if seen["stdout"].splitlines() != lines:
                raise ViolationError(f"{execution} says {seen['stdout']!r}")
            if execution.kind == "handler" and seen["return_value"] != {"marker": execution.marker}:
                raise ViolationError(f"{execution} returned {seen['return_value']!r}")
            if f"count-{execution.marker}" not in [each["path"] for each in seen["artifacts"]]:
                raise ViolationError(f"{execution} has no artifact of its file: {seen['artifacts']}")
        elif not seen["status_reason"] or not seen["error_message"]:
            raise ViolationError(f"{execution} has no reason: {seen}")
        elif seen["status"] == "crashed" and seen["status_reason"] not in (*_LOST, "session_ended"):
            raise ViolationError(f"{execution} crashed by itself: {seen}")
        elif seen["status"] == "failed" and not (execution.interrupted and seen["status_reason"] == "interrupted"):
            raise ViolationError(f"{execution} failed by itself: {seen}")

    async def verify(self, everything: bool = False) -> None:
        """Holds the server to what it said."""
        deadline = time.monotonic() + _TRUE_STATE
        known = [each for each in self.sessions.values() if everything or not each.deleted]
        gone = [each for each in self.sessions.values() if each.deleted]
        known += [] if everything else self._random.sample(gone, min(5, len(gone)))
        for session in known:
            await self._check_session(session, deadline)
        for execution in list(self.executions.values()):
            if not execution.session.deleted and (everything or execution.final is None or self._random.random() < 0.1):
                await self._check_execution(execution, deadline)
        keys = list(self.keys.items())
        unanswered = [(name, key) for name, key in keys if key.made is None]
        for name, key in unanswered + self._random.sample(keys, min(10, len(keys))):
            await self._check_key(name, key, deadline)

    async def _check_session(self, session: _Session, deadline: float) -> None:
        while True:
            answer = await self.ask("GET", f"/sessions/{session.id}")
            if answer.status_code == 404:
                if not (session.deleted or session.maybe_deleted):
                    raise ViolationError(f"{session} is lost")
                session.deleted = True
                return
            seen = answer.json()
            if seen["status"] != "creating":
                break
            if time.monotonic() > deadline:
                raise ViolationError(f"{session} is still {seen['status']}: {seen}")
            await asyncio.sleep(0.02)
        if session.deleted:
            raise ViolationError(f"{session} is back: {seen}")
        if session.final is not None and seen["status"] != session.final:
            raise ViolationError(f"{session} was {session.final} and is {seen}")
        if seen["status"] in _OVER:
            is_lost = session.mode == "stateful" and seen["status_reason"] in _LOST
            if not is_lost and not session.maybe_final:
                raise ViolationError(f"{session} has ended without a cause: {seen}")
            if not seen["status_reason"] or not seen["status_detail"]:
                raise ViolationError(f"{session} has no reason: {seen}")
            session.final = seen["status"]
        elif session.ran and session.mode == "stateful":
            raise ViolationError(f"{session} was lost with its variables, and is said to run: {seen}")
        if seen["dependency_install_status"] in ("installing", "pending"):
            raise ViolationError(f"{session} is still being installed: {seen}")
        self.counts[f"session {seen['status']}"] += 1
        for path, allowed in session.files.items():
            await self._check_file(session, path, allowed)

    async def _check_file(self, session: _Session, path: str, allowed: set[bytes | None]) -> None:
        answer = await self.ask("GET", f"/sessions/{session.id}/files/{path}")
        found = answer.content if answer.status_code == 200 else None
        if answer.status_code not in (200, 404):
            raise ViolationError(f"{path} of {session.id}: {answer.status_code} {answer.text[:300]}")
        if session.maybe_deleted and found is None:
            return
        if found not in allowed:
            sizes = [None if each is None else len(each) for each in allowed]
            raise ViolationError(f"{path} of {session} is {found if found is None else len(found)}, not {sizes}")

    async def _check_execution(self, execution: _Execution, deadline: float) -> None:
        while True:
            answer = await self.ask("GET", f"/executions/{execution.id}/result")
            if answer.status_code == 404:
                if not execution.session.maybe_deleted:
                    raise ViolationError(f"{execution} is lost")
                return
            seen = answer.json()
            if seen["status"] in _FINAL:
                break
            if time.monotonic() > deadline:
                raise ViolationError(f"{execution} is still {seen['status']}")
            await asyncio.sleep(0.02)
        if execution.final is None:
            if execution.ran and seen["status"] != "completed" and seen["status_reason"] is None:
                raise ViolationError(f"{execution} ran, and is {seen}")
            self._note(execution, seen)
        elif changed := [name for name in _KEPT if seen[name] != execution.final[name]]:
            raise ViolationError(f"{execution} has other {changed}: {seen} after {execution.final}")
        events = (await self.ask("GET", f"/executions/{execution.id}/events")).json()["items"]
        if [each["seq"] for each in events] != list(range(1, len(events) + 1)):
            raise ViolationError(f"{execution} has gaps in its events: {[each['seq'] for each in events]}")
        ends = [number for number, each in enumerate(events) if each["kind"] == "end"]
        if ends != [len(events) - 1] or events[-1]["data"]["status"] != seen["status"]:
            raise ViolationError(f"{execution} does not end as it should: {events[-3:]}")
        counted = await self.ask("GET", f"/sessions/{execution.session.id}/files/count-{execution.marker}")
        allowed = (b"x",) if seen["status"] == "completed" else (b"x", b"")  # it may have ended in the middle
        if counted.status_code == 200 and counted.content not in allowed:
            raise ViolationError(f"{execution} ran {len(counted.content)} times")

    async def _check_key(self, name: str, key: _Key, deadline: float) -> None:
        """The same request again makes nothing new, and something only if it has not been made."""
        session = key.session
        if name not in self.keys:
            return
        if session is not None and (session.maybe_deleted or session.deleted):
            return
        answer = await self.ask("POST", key.path, json=key.body, headers={"Idempotency-Key": name})
        if answer.status_code not in (200, 201):
            if key.made is None and session is not None and answer.status_code == 409 and session.final is not None:
                self.keys.pop(name, None)
                return
            raise ViolationError(f"again {key}: {answer.status_code} {answer.text[:300]}")
        found = answer.json()
        made = found.get("execution_id") or found["id"]
        if key.made not in (None, made):
            raise ViolationError(f"{key} made {made} the second time")
        if key.made is None and session is None:
            self.sessions[made] = _Session(made, key.body["mode"])
            listed = (await self.ask("GET", "/sessions", params={"tag": f"key:{key.body['tags']['key']}"})).json()
            if [each["id"] for each in listed["items"]] != [made]:
                raise ViolationError(f"{key} made {listed}")
            await self._check_session(self.sessions[made], deadline)
        key.made = made

    async def crowd(self, count: int) -> str:
        """How long many sessions take that are made at once, and what they use."""
        for session in list(self.sessions.values()):
            if not session.deleted:
                await self._delete(session)
        before, began = self._server.memory, time.monotonic()
        made = [answer.json()["id"] for answer in await self._for_all("POST", ["/sessions"] * count)]
        waiting = set(made)
        while waiting:
            for each in list(waiting):
                seen = (await self.ask("GET", f"/sessions/{each}")).json()
                if seen["status"] != "creating":
                    waiting.discard(each)
                if seen["status"] not in ("creating", "running"):
                    raise ViolationError(f"{each} did not come up: {seen}")
        seconds, memory = time.monotonic() - began, self._server.memory - before
        began = time.monotonic()
        await self._for_all("DELETE", [f"/sessions/{each}" for each in made])
        return (
            f"{count} sessions at once were up after {seconds:.1f} s, took {memory / count / 2**20:.1f} MiB each "
            f"(proportional set size), and were deleted in {time.monotonic() - began:.1f} s"
        )

    async def _for_all(self, method: str, paths: list[str]) -> list[httpx.Response]:
        options = {"json": {"template_id": "python"}} if method == "POST" else {}
        answers = await asyncio.gather(*(self.ask(method, path, **options) for path in paths))
        if bad := [answer.text for answer in answers if answer.status_code not in (201, 204)]:
            raise ViolationError(f"{method} of {len(paths)}: {bad[0]}")
        return list(answers)

    async def check_places(self) -> None:
        """No directory without its session."""
        below = self._server.state / "sandboxes" / "sessions"
        for name in os.listdir(below):
            if (await self.ask("GET", f"/sessions/{name}")).status_code == 404:
                raise ViolationError(f"{name} is left in {below}")


async def _round(server: Server, world: World, chance: random.Random, gone: list[float], starts: float) -> str:
    """From a server that runs to the next one."""
    clients = [asyncio.create_task(world.work(number)) for number in range(_CLIENTS)]
    pause = chance.uniform(0.0, 0.9)
    await asyncio.sleep(pause)
    for each in clients:
        if each.done() and each.exception() is not None:
            each.result()
    if server.has_ended() or any(each.done() for each in clients):
        raise ViolationError(f"the server ended by itself: {server.said()}")
    moment = f"after {pause:.3f} s of load"
    if chance.random() < 0.25:
        world.is_stopping, late = True, chance.uniform(0.0, 0.5)
        server.ask_to_stop()
        await asyncio.sleep(late)
        moment += f" and {late:.3f} s after SIGTERM"
    gone.append(await asyncio.to_thread(server.kill))
    await asyncio.gather(*clients)
    world.is_stopping = False
    while chance.random() < 0.3:
        early = chance.uniform(0.0, starts * 1.2)
        server.launch()
        await asyncio.sleep(early)
        gone.append(await asyncio.to_thread(server.kill))
        moment += f", {early:.3f} s after its start"
    server.launch()
    await asyncio.to_thread(server.wait_ready)
    return moment


async def survive(kills: int, seed: int, database: str | None, crowd: int, log: Callable[[str], None]) -> None:
    """All of it. Raises :class:`ViolationError`."""
    adopt_orphans()
    place = Path(tempfile.mkdtemp(prefix="ipybox-survival-"))
    server, chance = Server(place, database), random.Random(seed)
    world, gone, moment, done = World(server, seed), [0.0], "at the start", 0
    mounts, began = _mounts(), time.monotonic()
    try:
        server.launch()
        server.wait_ready()
        starts = time.monotonic() - began
        for name, memory in (("small", 256), ("large", 1024)):
            body = {"id": name, "name": name, "default_memory_mb": memory, "warm": False}
            assert (await world.ask("POST", "/templates", json=body)).status_code == 201
        while len(gone) <= kills:
            moment = f"kill {len(gone)}"
            moment = f"{moment}, {await _round(server, world, chance, gone, starts)}"
            health = await world.ask("GET", "/health/detailed")
            if health.json()["status"] != "healthy":
                raise ViolationError(f"not well: {health.text}")
            await world.verify()
            if _mounts() - mounts:
                raise ViolationError(f"mounts are left: {_mounts() - mounts}")
            if len(gone) - 1 >= done + 10:
                done = len(gone) - 1
                log(f"{done} kills, {time.monotonic() - began:.0f} s")
        moment = "at the end"
        await world.verify(everything=True)
        await world.check_places()
        if crowd:
            moment = f"with {crowd} sessions"
            log(await world.crowd(crowd))
        if (code := await asyncio.to_thread(server.stop)) != 0:
            raise ViolationError(f"exit code {code}: {server.said()}")
        if left := os.listdir(server.temporary):
            raise ViolationError(f"left in its temporary directory: {left}")
    except (ViolationError, _DownError) as error:
        said = f"seed {seed}, {moment}: {error!r}\n--- its log ends with\n{server.said()}"
        raise ViolationError(said) from error
    finally:
        await world.close()
        try:
            server.kill()
        finally:
            shutil.rmtree(place, ignore_errors=True)
    seconds = time.monotonic() - began
    log(f"{len(gone) - 1} kills in {seconds:.0f} s, seed {seed}: nothing acknowledged was lost, nothing was left")
    log(f"{len(world.sessions)} sessions, {len(world.executions)} executions, {len(world.keys)} idempotency keys")
    log(f"processes were gone after {max(gone) * 1000:.0f} ms at most, {sum(gone) / len(gone) * 1000:.0f} on average")
    log(f"memory of the clients: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")
    for name, count in sorted(world.counts.items()):
        log(f"  {count:6} {name}")


def _mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return {line.split()[4] for line in lines if "ipybox" in line}


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Runs it, and exits with 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.survival", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--database", metavar="URL", help="postgresql://...; default: SQLite")
    parser.add_argument("--crowd", type=int, default=0, metavar="N", help="make N sessions at once at the end")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        asyncio.run(survive(options.kills, options.seed, options.database, options.crowd, _say))
    except ViolationError as error:
        sys.exit(f"a promise was broken: {error}")


if __name__ == "__main__":
    main()
