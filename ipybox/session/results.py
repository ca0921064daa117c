"""What became of a command, of code, and what is in a directory, as values. Floor: session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """What became of a command.

    Attributes:
        stdout: What it wrote, as text; what is no UTF-8 is replaced. The last 10 MB.
        stderr: The same for stderr.
        exit_code: What it exited with; 128 and the signal that ended it; 124 if it ran for too long; 127 if there is no
            such program, 126 if it can't be executed.
        execution_time: Seconds that it ran.
        timed_out: Whether it was killed because it ran for too long.
        truncated: Whether it wrote more than is here.
    """

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    execution_time: float = 0.0
    timed_out: bool = False
    truncated: bool = False

    @property
    def success(self) -> bool:
        """Whether it exited with 0."""
        return self.exit_code == 0

    def to_dict(self) -> dict[str, Any]:
        """The JSON shape: all attributes and ``success``."""
        return {**asdict(self), "success": self.success}


@dataclass(frozen=True, slots=True, kw_only=True)
class RichOutput:
    """Something that code showed and that is more than text.

    Attributes:
        type: Its MIME type, such as ``image/png``.
        format: The short name of that: ``png``, ``jpeg``, ``svg``, ``html``, ``markdown``, ``latex``, ``json``.
        data: The content as text; base64 for what is binary.
        metadata: What the library says about it; ``kind`` is ``execute_result`` or ``display_data``.
    """

    type: str
    format: str
    data: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeResult:
    """What became of code.

    Attributes:
        success: Whether it came to its end without an error, in time. ``sys.exit(0)`` is such an end.
        stdout: What it and all that it started wrote, as text; what is no UTF-8 is replaced. The last 10 MB. What was
            written in the background since the code before is here too.
        stderr: The same for stderr, with the traceback of an error.
        exit_code: 0 if and only if it was a success; 1 after an error; what was given to ``sys.exit``; 124 if it ran
            for too long; for code that ended its interpreter what that exited with (1 if that is 0).
        execution_time: Seconds that it ran.
        result: The value of the last expression, as ``repr`` shows it; None if there is none.
        error: The error in one line, such as ``ZeroDivisionError: division by zero``; None if there is none.
        rich_outputs: What it showed besides text: values with ``_repr_html_`` and the like, figures of matplotlib.
        timed_out: Whether it was stopped because it ran for too long.
        state_lost: Whether variables of earlier code are gone, as the interpreter had to be replaced.
        truncated: Whether there was more output than is here.
    """

    success: bool = True
    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    execution_time: float = 0.0
    result: str | None = None
    error: str | None = None
    rich_outputs: tuple[RichOutput, ...] = ()
    timed_out: bool = False
    state_lost: bool = False
    truncated: bool = False

    @property
    def png(self) -> str | None:
        """The first picture in that format, in base64; None if there is none."""
        return self._first("png")

    @property
    def html(self) -> str | None:
        """The first piece of HTML; None if there is none."""
        return self._first("html")

    @property
    def svg(self) -> str | None:
        """The first picture in that format; None if there is none."""
        return self._first("svg")

    @property
    def markdown(self) -> str | None:
        """The first piece of Markdown; None if there is none."""
        return self._first("markdown")

    @property
    def json_output(self) -> str | None:
        """The first piece of JSON, as text; None if there is none."""
        return self._first("json")

    def to_dict(self) -> dict[str, Any]:
        """The JSON shape: all attributes."""
        return {**asdict(self), "rich_outputs": [asdict(each) for each in self.rich_outputs]}

    def _first(self, format: str) -> str | None:
        return next((each.data for each in self.rich_outputs if each.format == format), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One entry of a directory in a sandbox.

    Attributes:
        name: Its name there.
        path: Its absolute path in the sandbox.
        is_dir: Whether it is a directory, or a link to one.
        is_link: Whether it is a symbolic link.
        size: Bytes.
        mode: Permissions.
        modified: When its content changed last, in seconds since 1970.
    """

    name: str
    path: str
    is_dir: bool
    is_link: bool
    size: int
    mode: int
    modified: float

    def to_dict(self) -> dict[str, Any]:
        """The JSON shape: all attributes."""
        return asdict(self)
