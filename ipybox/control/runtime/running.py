"""An execution as its host follows it: what its agent says becomes events and an outcome. Floor: control.

All of it is looked at as what a stranger says. A lie can make an execution look other than it was, which its own code
could have done anyway, and nothing else.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import signal
import time
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from ipybox.control.json_text import LARGE, JsonText
from ipybox.control.records import Metrics
from ipybox.control.runtime import untrusted_json
from ipybox.control.runtime.host import Ending, OnEvent, RunOutcome, RunRequest
from ipybox.control.runtime.untrusted_json import UntrustedJsonError
from ipybox.control.states import ExecutionKind, ExecutionStatus, Reason
from ipybox.session.frames import FrameError, optional, value

log = logging.getLogger("ipybox.control")

_STREAMS = ("stdout", "stderr")
_SHOWN = ("display", "result", "error", "clear")
_MESSAGE = 2000
_MEBIBYTE = 1024 * 1024
_MOST_SHOWN = 20_000


class RunningExecution:
    """Follows one execution.

    Args:
        request: What is run.
        on_event: Gets what it says.
        limit: Bytes of each output, of all that is shown, and of a return value.
    """

    def __init__(self, request: RunRequest, on_event: OnEvent, limit: int) -> None:
        self.request = request
        self.pid: int | None = None
        """Its process, as the sandbox counts; what the agent says."""
        self.done: asyncio.Future[RunOutcome] = asyncio.get_running_loop().create_future()
        self.is_queued = True
        self.has_ended = False
        """Whether its agent has said so."""
        self._on_event, self._limit = on_event, limit
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in _STREAMS}
        self._left = dict.fromkeys((*_STREAMS, "display"), limit)
        self._cut: set[str] = set()
        self._shown = 0
        self._verdict: tuple[ExecutionStatus, Reason, str] | None = None
        self._began = time.monotonic()

    def begin(self) -> None:
        """Its turn has come."""
        self.is_queued = False
        self._began = time.monotonic()

    def judge(self, status: ExecutionStatus, reason: Reason, message: str) -> None:
        """Says why it is about to end; the first who says so is right."""
        if self._verdict is None:
            self._verdict = status, reason, message

    def take(self, head: Mapping[str, Any], body: bytes) -> Iterator[None] | None:
        """Takes what the agent says about it. Raises :class:`FrameError`.

        Returns:
            What is left to be done, in pieces, before it can take anything else.
        """
        if self.done.done() or self.has_ended:
            return None
        kind = value(head, "is", str)
        if kind in _STREAMS:
            self._write(kind, body)
        elif kind in _SHOWN:
            return self._show(kind, body)
        elif kind == "truncated":
            self._truncate(value(head, "stream", str))
        elif kind == "began":
            self.pid = value(head, "pid", int)
        elif kind == "end":
            return self._end(head, body)
        else:
            raise FrameError(f"{kind!r} is nothing that is said about an execution")
        return None

    def give_up(self, ending: Ending) -> None:
        """Its sandbox has ended."""
        self.judge(ExecutionStatus.CRASHED, ending.reason, ending.detail)
        self._finish(self._outcome(None, None))

    def refuse(self, reason: Reason | None, message: str, status: ExecutionStatus = ExecutionStatus.FAILED) -> None:
        """It is not run at all."""
        self._emit("stderr", {"text": f"{message}\n"})
        self._finish(
            RunOutcome(
                status=status,
                reason=reason,
                error_message=message,
                metrics=Metrics(duration_ms=self._milliseconds()),
            )
        )

    # ---- what it says ------------------------------------------------------------------------------------------

    def _write(self, stream: str, data: bytes) -> None:
        room = self._left[stream]
        if room <= 0 and data:
            return self._truncate(stream)
        self._left[stream] -= len(data)
        text = self._decoders[stream].decode(data[:room])
        if text:
            self._emit(stream, {"text": text})
        if len(data) > room:
            self._truncate(stream)

    def _truncate(self, stream: str) -> None:
        if stream not in self._left or stream in self._cut:
            return
        self._left[stream] = 0
        if stream in self._decoders:
            self._flush(stream)
        self._cut.add(stream)
        self._emit("truncated", {"stream": stream})

    def _flush(self, stream: str) -> None:
        rest = self._decoders[stream].decode(b"", True)
        self._decoders[stream].reset()
        if rest and stream not in self._cut:
            self._emit(stream, {"text": rest})

    def _show(self, kind: str, body: bytes) -> Iterator[None] | None:
        self._shown += 1
        if len(body) > self._left["display"] or self._shown > _MOST_SHOWN:
            self._truncate("display")
            return None
        self._left["display"] -= len(body)
        if len(body) > LARGE:
            return self._show_large(kind, body)
        try:
            data = untrusted_json.read(body)
        except UntrustedJsonError as error:
            raise FrameError(f"{kind}: {error}") from None
        if not isinstance(data, dict):
            raise FrameError(f"{kind} is no object")
        self._emit(kind, _checked(kind, data))
        return None

    def _show_large(self, kind: str, body: bytes) -> Iterator[None]:
        try:
            data = yield from untrusted_json.members_in_pieces(body)
            for name in ("data", "metadata"):
                if isinstance(found := data.get(name), JsonText):
                    data[name] = yield from untrusted_json.members_in_pieces(found.text)
        except UntrustedJsonError as error:
            raise FrameError(f"{kind}: {error}") from None
        self._emit(kind, _checked(kind, data))

    def _emit(self, kind: str, data: Mapping[str, Any]) -> None:
        if self.done.done():
            return
        try:
            self._on_event(kind, data)
        except Exception:
            log.exception("an event of execution %s could not be taken", self.request.execution_id)

    # ---- how it ended ------------------------------------------------------------------------------------------

    def _end(self, head: Mapping[str, Any], body: bytes) -> Iterator[None] | None:
        rest = self._ended(head, body)
        if len(body) > LARGE:
            self.has_ended = True
            return rest
        for _ in rest:
            pass
        return None

    def _ended(self, head: Mapping[str, Any], body: bytes) -> Generator[None, None, None]:
        for stream in _STREAMS:
            self._flush(stream)
        refused = optional(head, "refused", str)
        if refused is not None:
            self.judge(ExecutionStatus.FAILED, Reason.START_FAILED, untrusted_json.text_of(refused[:_MESSAGE]))
            return self._finish(self._outcome(None, None))
        bad = optional(head, "bad", str)
        returned: Any = None
        has_value = value(head, "has_value", bool)
        if has_value:
            try:
                if len(body) > self._limit:
                    raise UntrustedJsonError(f"it has more than {self._limit} bytes")
                returned = yield from untrusted_json.read_in_pieces(body)
            except UntrustedJsonError as error:
                has_value, bad = False, f"what was returned can't be passed on: {error}"
        self._finish(self._outcome(head, bad, returned=returned, has_value=has_value))

    def _outcome(
        self, head: Mapping[str, Any] | None, bad: str | None, *, returned: Any = None, has_value: bool = False
    ) -> RunOutcome:
        status, reason, message, exit_code, name = self._status(head, bad)
        if status is not ExecutionStatus.COMPLETED:
            returned, has_value = None, False
        return RunOutcome(
            status=status,
            reason=reason,
            exit_code=exit_code,
            error_name=name,
            error_message=message,
            return_value=returned,
            has_return_value=has_value,
            metrics=self._metrics(head),
            truncated=bool(self._cut),
            state_lost=head is not None and value(head, "state_lost", bool),
        )

    def _status(
        self, head: Mapping[str, Any] | None, bad: str | None
    ) -> tuple[ExecutionStatus, Reason | None, str | None, int | None, str | None]:
        code = None if head is None else value(head, "code", int)
        stopped = "" if head is None else value(head, "stopped", str)
        name = None if head is None else optional(head, "name", str)
        said = None if head is None else optional(head, "value", str)
        is_lost = head is not None and bool(optional(head, "died", bool))
        name = None if name is None else untrusted_json.text_of(name[:200])
        if code is not None:
            code = 128 - code if -128 < code < 0 else code & 0xFF
        number = (code or 0) - 128
        if self._verdict is not None:
            status, reason, message = self._verdict
            return status, reason, message, code, name
        if stopped == "timeout":
            message = f"it ran for longer than {self.request.timeout:g} seconds"
            if is_lost:
                message += "; its interpreter had to be ended, so variables are lost"
            return ExecutionStatus.TIMEOUT, Reason.TIMED_OUT, message, code, name
        if bad is not None:
            return ExecutionStatus.FAILED, Reason.BAD_RESULT, untrusted_json.text_of(bad[:_MESSAGE]), code or 1, name
        if stopped and (code != 0 or is_lost):
            return ExecutionStatus.FAILED, Reason.INTERRUPTED, "it was interrupted", code, name or "KeyboardInterrupt"
        if is_lost:
            message = f"its interpreter ended with {_how(code or 0)}; variables are lost"
            return ExecutionStatus.CRASHED, Reason.INTERPRETER_ENDED, message, code, name
        if name is not None:
            text = untrusted_json.text_of(f"{name}: {said}"[:_MESSAGE]).removesuffix(": ")
            return ExecutionStatus.FAILED, Reason.RAISED, text, code, name
        if head is not None and value(head, "code", int) < 0:
            return ExecutionStatus.CRASHED, Reason.SIGNALLED, f"it was ended by {_signal(number)}", code, name
        if code:
            return ExecutionStatus.FAILED, Reason.EXIT_CODE, f"it ended with exit code {code}", code, name
        return ExecutionStatus.COMPLETED, None, None, code, name

    def _metrics(self, head: Mapping[str, Any] | None) -> Metrics:
        usage = {} if head is None else value(head, "usage", dict)
        peak = _number(usage, "peak_bytes")
        read, written = _number(usage, "read_bytes"), _number(usage, "write_bytes")
        return Metrics(
            duration_ms=self._milliseconds(),
            cpu_time_ms=_number(usage, "cpu_ms"),
            peak_memory_mb=None if peak is None else peak / _MEBIBYTE,
            io_read_bytes=None if read is None else int(read),
            io_write_bytes=None if written is None else int(written),
        )

    def _milliseconds(self) -> float:
        return (time.monotonic() - self._began) * 1000

    def _finish(self, outcome: RunOutcome) -> None:
        if not self.done.done():
            self.done.set_result(outcome)


def is_cell(request: RunRequest) -> bool:
    """Whether it waits for the cells before it."""
    return request.kind is ExecutionKind.CELL


def _checked(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """What an event holds, each part of the type that it must be of."""
    if kind == "clear":
        return {"wait": value(data, "wait", bool)}
    if kind == "error":
        trace = value(data, "traceback", list)
        if not all(isinstance(line, str) for line in trace):
            raise FrameError("traceback holds more than text")
        return {"name": value(data, "name", str), "value": value(data, "value", str), "traceback": trace}
    return {
        "data": value(data, "data", dict),
        "metadata": value(data, "metadata", dict),
        "display_id": optional(data, "display_id", str),
        "update": value(data, "update", bool),
    }


def _number(usage: Mapping[str, Any], name: str) -> float | None:
    found = usage.get(name)
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if is_number and 0 <= found < 2**63 else None  # type: ignore[operator, arg-type]


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _how(code: int) -> str:
    return _signal(code - 128) if code > 128 else f"exit code {code}"
