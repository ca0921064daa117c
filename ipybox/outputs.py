"""What an execution produces: ordered outputs, and the result that gathers them. Floor: base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class StreamOutput:
    """Text written to stdout or stderr."""

    name: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True)
class DisplayOutput:
    """A rich value in all the formats that the kernel offered.

    Attributes:
        kind: ``display_data`` (shown with ``display()``), ``execute_result`` (the value of the last expression) or
            ``update_display_data`` (a new version of a display that an earlier execution made).
        data: Mime type to content: text types are ``str``, images are base64 ``str``, JSON types are objects.
        metadata: Mime type to its metadata.
        display_id: The handle under which later updates name this display, if any.
        execution_count: The number in ``Out[n]``, for an ``execute_result``.
        image: Where the image in it was saved, if it has one and an image was saved.
    """

    kind: Literal["display_data", "execute_result", "update_display_data"]
    data: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    display_id: str | None = None
    execution_count: int | None = None
    image: Path | None = None

    @property
    def text(self) -> str:
        """The plain text form, empty if there is none."""
        value = self.data.get("text/plain", "")
        return "".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclass(frozen=True, slots=True)
class ErrorOutput:
    """The exception that ended an execution. The traceback is plain text without colour codes."""

    name: str
    value: str
    traceback: str


@dataclass(frozen=True, slots=True)
class ClearOutput:
    """``clear_output()`` was called. With ``wait`` the clearing happens when the next output arrives."""

    wait: bool


@dataclass(frozen=True, slots=True)
class InputRequest:
    """The code asks a question: ``input()``, or ``getpass()`` when ``password`` is set."""

    prompt: str
    password: bool


Output = StreamOutput | DisplayOutput | ErrorOutput
Event = StreamOutput | DisplayOutput | ErrorOutput | ClearOutput | InputRequest


@dataclass(frozen=True, slots=True)
class NetworkAccess:
    """A host that sandboxed code asked for, by name, and what the sandbox's policy said.

    Attributes:
        host: As the code wrote it.
        port: The port.
        allowed: Whether it was let through.
        reason: Which rule, or which class of refusal.
    """

    host: str
    port: int
    allowed: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port} {'allowed' if self.allowed else 'denied'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """What one execution produced.

    Attributes:
        text: Stdout, stderr and the plain text of displayed values in the order of their arrival, stripped; None
            when there was none. Where an output limit applies, the middle is cut out and the cut is marked.
        images: Saved images in the order in which they were shown, each directly below the client's ``images_dir``.
        stdout: All of stdout, unstripped. Under an output limit, cut like ``text``.
        stderr: All of stderr, likewise.
        outputs: Every output in order, as a notebook would show it at the end: adjacent text of one stream is
            joined, updates have replaced what they update, and ``clear_output`` has cleared (``text``, ``stdout``,
            ``stderr`` and ``images`` keep all of it). Under an output limit, stream text is left out here.
        execution_id: Names the execution in the gateway's journal.
        execution_count: The number in ``In[n]``; None when the kernel did not count it.
        duration: Seconds from sending the code to its end, as the client saw it.
        dropped: How many characters of ``text`` an output limit cut out. 0 when nothing is missing.
        full_text: The file with all of the text, when ``dropped`` is not 0. It belongs to the caller.
        network: Hosts that the code asked the sandbox's egress proxy for while it ran, each once, in order.
    """

    text: str | None
    images: list[Path] = field(default_factory=list)
    stdout: str = ""
    stderr: str = ""
    outputs: tuple[Output, ...] = ()
    execution_id: str = ""
    execution_count: int | None = None
    duration: float = 0.0
    dropped: int = 0
    full_text: Path | None = None
    network: tuple[NetworkAccess, ...] = ()

    @property
    def denied(self) -> tuple[NetworkAccess, ...]:
        """Those of :attr:`network` that the policy refused."""
        return tuple(access for access in self.network if not access.allowed)
