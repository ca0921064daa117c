"""The messages between a client and a fake kernel; they carry what no wire could. Free of I/O. Floor: testing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipybox.kernel_mgr import wire
from ipybox.kernel_mgr.execution import InputCallback
from ipybox.kernel_mgr.wire import Message
from ipybox.output_limit import OutputLimit
from ipybox.outputs import ClearOutput, DisplayOutput, ErrorOutput, Event, ExecutionResult, InputRequest, StreamOutput


@dataclass(frozen=True, slots=True)
class Call:
    """One execution that a fake kernel was asked for; the arguments are those of ``KernelClient.execute``.

    Attributes:
        answers: What its questions were answered, in order.
    """

    code: str
    timeout: float | None = None
    env: Mapping[str, str] | None = None
    cwd: Path | str | None = None
    file_name: str | None = None
    argv: list[str] | None = None
    on_input: InputCallback | None = None
    output_limit: OutputLimit | None = None
    answers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class CallMessage(Message):
    """The request for an execution, with the call that led to it."""

    call: Call = field(kw_only=True)

    @classmethod
    def of(cls, request: Message, call: Call) -> CallMessage:
        """A request with its call."""
        return cls(
            request.channel,
            request.header,
            request.parent,
            request.metadata,
            request.content,
            request.buffers,
            call=call,
        )


@dataclass(slots=True)
class ScriptedReply(Message):
    """The reply to a request, with the end that the script gives it.

    Attributes:
        error: What is raised.
        result: What is returned, or carried by the error, in place of the result that is made from the events.
    """

    error: BaseException | None = None
    result: ExecutionResult | None = None


class ScriptedBundle(dict[str, Any]):
    """The formats of a display, with the image that is saved already.

    Attributes:
        is_saved: Whether nothing of it is to be saved any more.
        image: Where its image is, if it has one.
    """

    def __init__(self, data: Mapping[str, Any], is_saved: bool, image: Path | None) -> None:
        super().__init__(data)
        self.is_saved = is_saved
        self.image = image


def message_of(event: Event, request: Message, session: str, saves_images: bool) -> Message:
    """An event as the message in which a kernel tells of it.

    Args:
        event: What happened.
        request: What the kernel was asked for.
        session: The kernel's session.
        saves_images: Whether the client is to save the image of a display that says of none where it is.
    """
    channel, content = "iopub", dict[str, Any]()
    match event:
        case StreamOutput(name, text):
            kind, content = "stream", {"name": name, "text": text}
        case DisplayOutput():
            kind = event.kind
            content = {
                "data": ScriptedBundle(event.data, event.image is not None or not saves_images, event.image),
                "metadata": dict(event.metadata),
                "transient": {"display_id": event.display_id},
                "execution_count": event.execution_count,
            }
        case ErrorOutput():
            kind, content = "error", error_content(event)
        case ClearOutput(wait):
            kind, content = "clear_output", {"wait": wait}
        case InputRequest(prompt, password):
            channel, kind, content = "stdin", "input_request", {"prompt": prompt, "password": password}
    return wire.request(channel, kind, content, session=session, parent=request.header)


def error_content(error: ErrorOutput) -> dict[str, Any]:
    """An error as messages have it."""
    return {"ename": error.name, "evalue": error.value, "traceback": error.traceback.split("\n")}
