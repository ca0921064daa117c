"""What one execution has produced so far, and whether it is over. Pure: messages in, events out. Floor: kernel_mgr.

A request is answered on one channel and its output travels on another, in no order between the two. So an execution
is over when both its reply and the kernel's "idle" for it have arrived, whichever comes first.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.wire import Message
from ipybox.output_limit import OutputLimit, TextCollector
from ipybox.outputs import (
    ClearOutput,
    DisplayOutput,
    ErrorOutput,
    Event,
    ExecutionResult,
    InputRequest,
    NetworkAccess,
    Output,
    StreamOutput,
)
from ipybox.paths import PinnedDirectory

_MAX_ACCESSES = 1000
_ESCAPE_CODE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")


def plain(text: str) -> str:
    """Text without terminal escape codes."""
    return _ESCAPE_CODE.sub("", text).replace("\x1b", "")


@dataclass(slots=True)
class _StreamRun:
    """Adjacent text of one stream."""

    name: Literal["stdout", "stderr"]
    texts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Shown:
    """A display, which later updates may replace."""

    output: DisplayOutput


class ExecutionState:
    """Follows one execution.

    Args:
        execution_id: Id of the request.
        limit: Limit of the text in the result.
        spill: Where all of the text goes when the limit cuts something.
        owns_spill: Whether ``spill`` is closed at the end.
    """

    def __init__(
        self,
        execution_id: str,
        limit: OutputLimit | None = None,
        spill: PinnedDirectory | None = None,
        owns_spill: bool = False,
    ) -> None:
        self.execution_id = execution_id
        self.reply: dict[str, Any] | None = None
        self.is_idle = False
        self.error: ErrorOutput | None = None
        self.images: list[Path] = []
        self._limit = limit
        self._spill = spill
        self._owns_spill = owns_spill
        self._text = TextCollector(limit, spill)
        self._streams = {"stdout": TextCollector(limit), "stderr": TextCollector(limit)}
        self._outputs: list[_StreamRun | _Shown | ErrorOutput] = []
        self._network: dict[NetworkAccess, None] = {}
        self._clear_next = False
        self._count: int | None = None
        self._started = time.monotonic()
        self._ended: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether reply and idle are both there."""
        return self.reply is not None and self.is_idle

    @property
    def asked_to_exit(self) -> bool:
        """Whether the code called ``exit()``: the kernel ends right after its reply."""
        payload = (self.reply or {}).get("payload") or []
        if not isinstance(payload, list):
            return False
        items = [_mapping(item) for item in payload]
        return any(item.get("source") == "ask_exit" and not item.get("keepkernel") for item in items)

    def feed(self, message: Message) -> list[Event]:
        """Takes a message that answers this execution's request and returns what it means."""
        content = message.content
        match message.type:
            case "stream":
                return self._stream(str(content.get("name", "stdout")), str(content.get("text", "")))
            case "display_data" | "execute_result" | "update_display_data":
                return [self._display(message)]
            case "clear_output":
                wait = bool(content.get("wait"))
                if wait:
                    self._clear_next = True
                else:
                    self._outputs.clear()
                return [ClearOutput(wait)]
            case "error":
                self.error = _error(content)
                self._clear_if_due()
                self._outputs.append(self.error)
                return [self.error]
            case wire.EGRESS:
                self._note_access(content)
            case "execute_input":
                self._count = _count(content)
            case "input_request":
                return [InputRequest(str(content.get("prompt", "")), bool(content.get("password")))]
            case "execute_reply":
                self._replied(content)
            case "status" if content.get("execution_state") == "idle":
                self.is_idle = True
                self._end()
        return []

    def attach_image(self, display: DisplayOutput, path: Path) -> DisplayOutput:
        """Notes where the image of a display was saved."""
        self.images.append(path)
        saved = replace(display, image=path)
        for shown in self._outputs:
            if not isinstance(shown, _Shown):
                continue
            if shown.output is display:
                shown.output = saved
            elif display.kind == "update_display_data" and shown.output.display_id == display.display_id:
                shown.output = replace(shown.output, image=path)
        return saved

    def failure(self) -> ErrorOutput | None:
        """The exception that ended the code; None when it ended well, or not at all yet."""
        if self.reply is None or self.reply.get("status") == "ok":
            return None
        if self.error is not None:
            return self.error
        if self.reply.get("status") == "aborted":
            return ErrorOutput("Aborted", "the kernel did not run this request", "")
        return _error(self.reply)

    def result(self) -> ExecutionResult:
        """What there is so far."""
        ended = self._ended if self._ended is not None else time.monotonic()
        text = self._text.text().strip()
        return ExecutionResult(
            text=text or None,
            images=list(self.images),
            stdout=self._streams["stdout"].text(),
            stderr=self._streams["stderr"].text(),
            outputs=self._final_outputs(),
            execution_id=self.execution_id,
            execution_count=self._count,
            duration=ended - self._started,
            dropped=self._text.dropped,
            full_text=self._text.path,
            network=tuple(self._network),
        )

    def open(self) -> None:
        """Makes sure that text can be kept where it is to go. Raises ``ValueError``."""
        if self._spill is not None:
            try:
                self._spill.open()
            except OSError as error:
                raise ValueError(f"output_limit has a directory that can't be used: {error}") from error

    def close(self) -> None:
        """Finishes the file with all of the text, if there is one, and lets go of its directory."""
        self._text.close()
        if self._spill is not None and self._owns_spill:
            self._spill.close()

    def _stream(self, name: str, text: str) -> list[Event]:
        if not text:
            return []
        self._clear_if_due()
        stream: Literal["stdout", "stderr"] = "stderr" if name == "stderr" else "stdout"
        self._text.append(text)
        self._streams[stream].append(text)
        if self._limit is None:
            last = self._outputs[-1] if self._outputs else None
            if isinstance(last, _StreamRun) and last.name == stream:
                last.texts.append(text)
            else:
                self._outputs.append(_StreamRun(stream, [text]))
        return [StreamOutput(stream, text)]

    def _display(self, message: Message) -> DisplayOutput:
        content = message.content
        transient = _mapping(content.get("transient"))
        kind: Literal["display_data", "execute_result", "update_display_data"]
        kind = message.type  # type: ignore[assignment]
        display = DisplayOutput(
            kind=kind,
            data=_mapping(content.get("data")),
            metadata=_mapping(content.get("metadata")),
            display_id=transient.get("display_id"),
            execution_count=_count(content),
        )
        self._clear_if_due()
        self._text.append(display.text)
        if kind == "update_display_data":
            found = False
            for shown in self._outputs:
                if isinstance(shown, _Shown) and shown.output.display_id == display.display_id:
                    shown.output = replace(display, kind=shown.output.kind)
                    found = True
            if found:
                return display
        self._outputs.append(_Shown(display))
        return display

    def _note_access(self, content: dict[str, Any]) -> None:
        port = content.get("port")
        access = NetworkAccess(
            host=str(content.get("host") or ""),
            port=port if type(port) is int else 0,
            allowed=content.get("allowed") is True,
            reason=str(content.get("reason") or ""),
        )
        if len(self._network) < _MAX_ACCESSES:
            self._network.setdefault(access)

    def _replied(self, content: dict[str, Any]) -> None:
        self.reply = content
        if self._count is None:
            self._count = _count(content)
        self._end()

    def _end(self) -> None:
        if self.is_over:
            self._ended = time.monotonic()

    def _clear_if_due(self) -> None:
        if self._clear_next:
            self._clear_next = False
            self._outputs.clear()

    def _final_outputs(self) -> tuple[Output, ...]:
        final: list[Output] = []
        for item in self._outputs:
            match item:
                case _StreamRun(name, texts):
                    final.append(StreamOutput(name, "".join(texts)))
                case _Shown(output):
                    final.append(output)
                case ErrorOutput():
                    final.append(item)
        return tuple(final)


def _mapping(value: Any) -> dict[str, Any]:
    """What kernel code sent where a mapping belongs; nothing when it is none."""
    return value if isinstance(value, dict) else {}


def _count(content: dict[str, Any]) -> int | None:
    count = content.get("execution_count")
    return count if type(count) is int else None  # JSON's true is an int as well


def _error(content: dict[str, Any]) -> ErrorOutput:
    traceback = content.get("traceback")
    if not isinstance(traceback, list):
        traceback = []
    return ErrorOutput(
        name=str(content.get("ename") or "Error"),
        value=plain(str(content.get("evalue") or "")),
        traceback=plain("\n".join(str(line) for line in traceback)),
    )
