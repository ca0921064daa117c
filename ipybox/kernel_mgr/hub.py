"""All channels of one kernel: ZMQ on one side, a journal and any number of connections on the other.
Floor: kernel_mgr.

One subscription per kernel feeds the journal; connections are cursors into it. So a message is read once however many
listen, a connection that breaks loses nothing, and a slow one is served from disk. When a connected client lags too
far behind, reading stops until it has caught up: the kernel keeps its output then, and nothing is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import zmq
from jupyter_client.session import DELIM, Session

from ipybox.errors import KernelStartError
from ipybox.exit_status import ExitStatus
from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.journal import Journal
from ipybox.kernel_mgr.zmq_reader import ZmqReader

log = logging.getLogger("ipybox.kernel_mgr")

_DRAINS = 16
_SUSPICIOUS = re.compile(rb"ipybox|[\\\x00\x80-\xff]")
"""What a header has to have in it to be a message of ours: our names, or an encoding in which they can hide."""
_REQUEST_CHANNELS = ("shell", "control", "stdin")
_NUDGE_INTERVAL = 0.5
_LAST_WORDS = 0.5
"""Seconds to wait for what a dead kernel still has on its way, when the connection does not say that it ended."""
_RECEIVE_AHEAD = 1_000
"""Messages that ZMQ takes from the kernel before we look at them."""
_MAX_SESSIONS = 256
_MAX_EXECUTIONS = 10_000

LastWords = Callable[[dict[str, int]], list[tuple[str, str]]]
"""Given how many characters of each stream were sent, what was printed after them: stream and text."""


@dataclass(slots=True)
class ExecutionRecord:
    """Where an execution is in the journal: numbers of its first message, its reply and its idle status."""

    start: int
    reply: int | None = None
    idle: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether its reply and its idle status are there."""
        return self.reply is not None and self.idle is not None

    @property
    def end(self) -> int:
        """Number of the message that ended it; only of one that is over."""
        assert self.reply is not None
        assert self.idle is not None
        return max(self.reply, self.idle)


class Subscriber(Protocol):
    """Somebody who reads the journal as it grows."""

    cursor: int

    def pump(self) -> None:
        """Takes what is new from the journal."""


def endpoint(info: dict[str, Any], channel: str) -> str:
    """The ZMQ address of one of a kernel's channels."""
    port = info[f"{channel}_port"]
    separator = "-" if info["transport"] == "ipc" else ":"
    return f"{info['transport']}://{info['ip']}{separator}{port}"


class KernelHub:
    """The channels of one kernel over all its incarnations.

    Args:
        kernel_id: Whose they are.
        context: ZMQ context without a high-water mark; not owned.
        journal_dir: Where the journal's files live.
        journal_bytes: How much of the kernel's output is kept.
        on_activity: Called with the execution state whenever it changes.
    """

    def __init__(
        self,
        kernel_id: str,
        context: zmq.Context[zmq.Socket[bytes]],
        journal_dir: Path,
        journal_bytes: int,
        on_activity: Callable[[str], None],
    ) -> None:
        self.kernel_id = kernel_id
        self.journal = Journal(journal_dir, journal_bytes)
        self.exit_status: ExitStatus | None = None
        self.incarnation = 0
        self._context = context
        self._on_activity = on_activity
        self._loop = asyncio.get_running_loop()
        self._subscribers: set[Subscriber] = set()
        self._info: dict[str, Any] = {}
        self._session = Session()
        self._iopub: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._readers: list[ZmqReader] = []
        self._iopub_reader: ZmqReader | None = None
        self._monitor_reader: ZmqReader | None = None
        self._sockets: OrderedDict[str, dict[str, tuple[zmq.Socket[bytes], ZmqReader]]] = OrderedDict()
        self._waiting: list[tuple[str, str, list[bytes]]] = []
        self._ready = self._loop.create_future()
        self._heard_iopub = asyncio.Event()
        self._heard_reply = asyncio.Event()
        self._iopub_ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last: tuple[int, bytes] | None = None
        self._executions: OrderedDict[str, ExecutionRecord] = OrderedDict()
        self._requests: OrderedDict[str, None] = OrderedDict()
        self._running: str | None = None
        self._running_header: dict[str, Any] = {}
        self._last_streams: dict[str, bytes] = {}
        self._unanswered: dict[str, dict[str, Any]] = {}
        self._closed = False
        self._collected = False

    # ---- the kernel's side ------------------------------------------------------------------------------------

    def open(self, info: dict[str, Any]) -> None:
        """Connects to a kernel process that was just started. ``wait_ready`` tells when it answers."""
        self._close_sockets()
        self.incarnation += 1
        self.exit_status = None
        self._collected = False
        self._running = None
        self._running_header = {}
        self._last_streams = {}
        self._unanswered = {}
        self._info = info
        key = info["key"]
        self._session = Session(
            key=key if isinstance(key, bytes) else key.encode(), signature_scheme=info["signature_scheme"]
        )
        if self._ready.done():
            self._ready = self._loop.create_future()
        self._heard_iopub = asyncio.Event()
        self._heard_reply = asyncio.Event()
        self._iopub_ended = asyncio.Event()
        socket = self._context.socket(zmq.SUB)
        # When we pause, ZMQ must stop taking as well: it is the kernel that keeps its output then, without a limit.
        socket.setsockopt(zmq.RCVHWM, _RECEIVE_AHEAD)
        self._iopub = socket
        self._monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        socket.subscribe(b"")
        socket.connect(endpoint(info, "iopub"))
        self._iopub_reader = ZmqReader(socket, self._from_iopub, self._loop)
        self._monitor_reader = ZmqReader(self._monitor, self._iopub_disconnected, self._loop)
        self._spawn(self._become_ready())

    @property
    def is_ready(self) -> bool:
        """Whether the kernel answers, as far as we know."""
        return (
            not self._closed
            and self.exit_status is None
            and self._ready.done()
            and not self._ready.cancelled()
            and self._ready.exception() is None
        )

    async def wait_ready(self, timeout: float) -> None:
        """Waits until the kernel answers and its output arrives. Raises :class:`KernelStartError`."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._ready)
        except TimeoutError:
            raise KernelStartError(f"it did not answer within {timeout:g} s") from None

    def kernel_exited(self, status: ExitStatus, log_tail: str, last_words: LastWords) -> None:
        """The process is gone. What it sent before still comes first, then what it printed and could not send."""
        self._spawn(self._announce_exit(status, log_tail, last_words))

    async def kernel_replaced(self, last_words: LastWords) -> None:
        """The process was ended on somebody's request; another one is about to take its place."""
        if await self._collect(last_words):
            self._append_status("restarting", ExitStatus("restarted"))
        self._close_sockets()
        if self._ready.done():
            self._ready = self._loop.create_future()

    def close(self) -> None:
        """Lets go of everything."""
        self._closed = True
        self._close_sockets()
        for task in self._tasks:
            task.cancel()
        if not self._ready.done():
            self._ready.set_exception(KernelStartError("it was shut down before it answered"))
        self._ready.exception()  # nobody may be waiting
        self.journal.close()

    # ---- the clients' side ------------------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber) -> None:
        """Feeds a subscriber from its cursor on."""
        self._subscribers.add(subscriber)
        subscriber.pump()

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Stops feeding a subscriber."""
        self._subscribers.discard(subscriber)
        self.caught_up()

    @property
    def subscribers(self) -> int:
        """How many are connected."""
        return len(self._subscribers)

    def execution(self, execution_id: str) -> ExecutionRecord | None:
        """Where an execution is in the journal, if it ran here and is not too long ago."""
        return self._executions.get(execution_id)

    def ended_between(self, first: int, last: int) -> list[str]:
        """Executions whose reply or idle status is among the messages from ``first`` to before ``last``."""
        return [
            execution_id
            for execution_id, record in self._executions.items()
            if record.is_over
            and any(number is not None and first <= number < last for number in (record.reply, record.idle))
        ]

    def read(self, number: int) -> bytes:
        """A framed message from the journal. Raises ``KeyError`` when it is gone."""
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        return self.journal.read(number)

    def caught_up(self) -> None:
        """A subscriber moved on or left; goes on reading when none lags any more."""
        self.journal.trim(min((subscriber.cursor for subscriber in self._subscribers), default=self.journal.next))
        if self._iopub_reader is not None and self._lag() < self.journal.capacity // 4:
            self._iopub_reader.resume()

    def greet(self, session_id: str) -> None:
        """A client is there: connects its channels, so that they are when it needs them."""
        if self.is_ready:
            self._socket(session_id, "stdin")

    def note_egress(self, host: str, port: int, allowed: bool, reason: str) -> None:
        """The kernel asked for a host: tells whoever follows the execution that runs."""
        if not self._closed:
            content = {"host": host, "port": port, "allowed": allowed, "reason": reason}
            message = wire.request("iopub", wire.EGRESS, content, session=wire.HUB_SESSION, parent=self._speaker())
            self._append("iopub", message.parts())

    def send(self, session_id: str, channel: str, parts: Sequence[bytes | memoryview]) -> None:
        """Sends a client's message to the kernel. The kernel's death is announced again when there is none."""
        if channel not in _REQUEST_CHANNELS or self._closed:
            return
        frames = [bytes(part) for part in parts]
        if self._is_repeated(frames):
            return
        if self.exit_status is not None:
            self._append_status("dead", self.exit_status)
        elif not (self._ready.done() and self._ready.exception() is None):
            self._waiting.append((session_id, channel, frames))
        else:
            self._send(session_id, channel, frames)

    def _is_repeated(self, frames: list[bytes]) -> bool:
        """Whether a client that connected again sent a message a second time, not knowing that it had arrived."""
        try:
            message_id = str(wire.unpack(frames[0]).get("msg_id", ""))
        except (ValueError, IndexError):
            return True  # not a Jupyter message
        if message_id in self._requests:
            return True
        self._requests[message_id] = None
        while len(self._requests) > _MAX_EXECUTIONS:
            self._requests.popitem(last=False)
        return False

    # ---- inside -----------------------------------------------------------------------------------------------

    async def _become_ready(self) -> None:
        """Asks until the kernel answers and its output is heard: only then is no message lost."""
        while not (self._heard_iopub.is_set() and self._heard_reply.is_set()):
            if not self._heard_reply.is_set() or not self._heard_iopub.is_set():
                message = wire.request("shell", "kernel_info_request", {}, session=wire.HUB_SESSION)
                self._send(wire.HUB_SESSION, "shell", message.parts())
            try:
                async with asyncio.timeout(_NUDGE_INTERVAL):
                    await self._heard_reply.wait()
                    await self._heard_iopub.wait()
            except TimeoutError:
                continue
        if not self._ready.done():
            self._on_activity("idle")
            self._ready.set_result(None)
        waiting, self._waiting = self._waiting, []
        for session_id, channel, frames in waiting:
            self._send(session_id, channel, frames)

    async def _announce_exit(self, status: ExitStatus, log_tail: str, last_words: LastWords) -> None:
        if not await self._collect(last_words):
            return
        self.exit_status = status
        self._append_status("dead", status)
        self._close_sockets()
        self._waiting.clear()
        if not self._ready.done():
            self._ready.set_exception(KernelStartError(str(status), log_tail))
            self._ready.exception()

    async def _collect(self, last_words: LastWords) -> bool:
        """Takes what a process that is gone had sent, and what it had printed and not sent; False if that was done."""
        incarnation = self.incarnation
        if self._iopub is not None:
            try:
                async with asyncio.timeout(_LAST_WORDS):
                    await self._iopub_ended.wait()
            except TimeoutError:
                pass
        if self._closed or self._collected or incarnation != self.incarnation:
            return False
        self._collected = True
        if self._iopub_reader is not None:
            self._iopub_reader.resume()
            while self._iopub_reader.read():
                pass
        try:
            words_left = last_words(self._sent_characters())
        except Exception:  # whatever it was: the death is announced
            words_left = []
        for stream, text in words_left:
            words = wire.request("iopub", "stream", {"name": stream, "text": text}, session=wire.HUB_SESSION)
            words.parent = self._speaker()
            self._append("iopub", words.parts())
        return True

    def _from_iopub(self, frames: list[bytes]) -> None:
        self._heard_iopub.set()
        parts = _parts(frames)
        if parts is None or _poses_as_hub(parts[0]):
            return
        number = self._append("iopub", parts)
        if b'"status"' in parts[0]:
            self._note_status(parts, number)
        elif b'"stream"' in parts[0]:
            self._last_streams["stderr" if b'"stderr"' in parts[2] else "stdout"] = parts[2]
        if self._lag() > self.journal.capacity // 2 and self._iopub_reader is not None:
            self._iopub_reader.pause()

    def _note_status(self, parts: list[bytes], number: int) -> None:
        try:
            header, parent, content = wire.unpack(parts[0]), wire.unpack(parts[1]), wire.unpack(parts[3])
        except ValueError:
            return
        if header.get("msg_type") != "status" or parent.get("msg_type") != "execute_request":
            return
        execution = str(parent.get("msg_id", ""))
        state = str(content.get("execution_state", ""))
        if state == "busy":
            self._running, self._running_header = execution, parent
            self._executions.setdefault(execution, ExecutionRecord(number))
            while len(self._executions) > _MAX_EXECUTIONS:
                self._executions.popitem(last=False)
        elif state == "idle":
            self._unanswered.pop(execution, None)
            if execution in self._executions:
                self._executions[execution].idle = number
            if execution == self._running:
                self._running = None
        self._on_activity(state)

    def _speaker(self) -> dict[str, Any]:
        """Header of the request that was running: a kernel may die before its "busy" for it is out."""
        if self._running is None and self._unanswered:
            return next(iter(self._unanswered.values()))
        return self._running_header

    def _sent_characters(self) -> dict[str, int]:
        """How many characters of each stream the kernel's messages carried."""
        sent = {}
        for metadata in self._last_streams.values():
            try:
                ours = wire.unpack(metadata).get(wire.METADATA_KEY) or {}
                sent[str(ours["stream"])] = int(ours["sent"])
            except (ValueError, KeyError, TypeError, OverflowError):  # user code can write what it likes there
                continue
        return sent

    def _from_request_channel(self, session_id: str, channel: str, frames: list[bytes]) -> None:
        parts = _parts(frames)
        if parts is None or (session_id != wire.HUB_SESSION and _poses_as_hub(parts[0])):
            return
        if session_id == wire.HUB_SESSION:
            self._heard_reply.set()
            return
        if channel == "stdin" and self._iopub_reader is not None:
            # What was printed before a question comes before it; the kernel sent it first, on its other channel. It is
            # there by now, so a kernel that goes on printing is not waited for.
            for _ in range(_DRAINS):
                if not self._iopub_reader.read():
                    break
        number = self._append(channel, parts)
        if b'"execute_reply"' in parts[0]:
            try:
                parent = str(wire.unpack(parts[1]).get("msg_id", ""))
            except ValueError:
                return
            # The reply may overtake the kernel's "busy", which travels on another channel.
            self._executions.setdefault(parent, ExecutionRecord(number)).reply = number

    def _iopub_disconnected(self, frames: list[bytes]) -> None:
        self._iopub_ended.set()

    def _append(self, channel: str, parts: Sequence[bytes]) -> int:
        framed = wire.frame(channel, parts)
        needed = min((subscriber.cursor for subscriber in self._subscribers), default=None)
        number = self.journal.append(framed, needed)
        self._last = (number, framed)
        for subscriber in tuple(self._subscribers):
            subscriber.pump()
        return number

    def _append_status(self, state: str, status: ExitStatus) -> None:
        message = wire.request("iopub", "status", {"execution_state": state}, session=wire.HUB_SESSION)
        message.metadata = {wire.METADATA_KEY: {"exit": status.to_dict(), "incarnation": self.incarnation}}
        self._append("iopub", message.parts())
        self._running = None
        self._on_activity(state)

    def _lag(self) -> int:
        """Bytes that the slowest subscriber has not taken yet, as an upper bound."""
        behind = min((s.cursor for s in self._subscribers), default=self.journal.next)
        if behind >= self.journal.next:
            return 0
        return self.journal.size_from(behind)

    def _send(self, session_id: str, channel: str, parts: list[bytes]) -> None:
        socket, reader = self._socket(session_id, channel)
        if channel == "shell" and b'"execute_request"' in parts[0]:
            header = wire.unpack(parts[0])
            self._unanswered[str(header.get("msg_id", ""))] = header
        socket.send_multipart([DELIM, self._session.sign(parts[:4]), *parts], zmq.NOBLOCK)
        reader.kick()

    def _socket(self, session_id: str, channel: str) -> tuple[zmq.Socket[bytes], ZmqReader]:
        sockets = self._sockets.get(session_id)
        if sockets is None:
            sockets = self._sockets[session_id] = {}
            # The kernel answers on the stdin socket of the session that asked, so all three share the identity.
            for name in _REQUEST_CHANNELS:
                socket = self._context.socket(zmq.DEALER)
                socket.setsockopt(zmq.IDENTITY, session_id.encode())
                socket.connect(endpoint(self._info, name))
                reader = ZmqReader(socket, _bound(self._from_request_channel, session_id, name), self._loop)
                sockets[name] = socket, reader
            while len(self._sockets) > _MAX_SESSIONS:
                _, oldest = self._sockets.popitem(last=False)
                _close(oldest)
        self._sockets.move_to_end(session_id)
        return sockets[channel]

    def _close_sockets(self) -> None:
        for sockets in self._sockets.values():
            _close(sockets)
        self._sockets.clear()
        for reader in (self._iopub_reader, self._monitor_reader):
            if reader is not None:
                reader.close()
        self._iopub_reader = self._monitor_reader = None
        if self._iopub is not None:
            self._iopub.disable_monitor()
            self._iopub.close(linger=0)
            self._iopub = None
        if self._monitor is not None:
            self._monitor.close(linger=0)
            self._monitor = None

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _poses_as_hub(header: bytes) -> bool:
    """Whether kernel code tries to speak to clients in our name, in whatever spelling of JSON they would understand."""
    if not _SUSPICIOUS.search(header):
        return False
    try:
        said = wire.unpack(header)
    except ValueError:
        return True
    return said.get("session") == wire.HUB_SESSION or said.get("msg_type") in (wire.GAP, wire.OVER, wire.EGRESS)


def _bound(
    handler: Callable[[str, str, list[bytes]], None], session_id: str, channel: str
) -> Callable[[list[bytes]], None]:
    return lambda frames: handler(session_id, channel, frames)


def _close(sockets: dict[str, tuple[zmq.Socket[bytes], ZmqReader]]) -> None:
    for socket, reader in sockets.values():
        reader.close()
        socket.close(linger=0)


def _parts(frames: list[bytes]) -> list[bytes] | None:
    """Header, parent, metadata, content and buffers of a ZMQ message; None for one that is none of Jupyter's."""
    try:
        start = frames.index(DELIM) + 2
    except ValueError:
        return None
    return frames[start:] if len(frames) - start >= 4 else None
