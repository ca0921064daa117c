"""What a sandbox of a test run is asked to do. Floor: testrun."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

Framework = Literal["pytest", "unittest"]

REQUEST_FD = 3
"""Where a sandbox finds its request, a file."""
REPORT_FD = 1000
"""Where it reports: out of the way of programs that close all descriptors that they know of."""
ARCHIVE_FD = 1001
"""Where it finds compiled modules, or writes them; see :mod:`ipybox.testrun.code_archive`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sandbox's task.

    Attributes:
        mode: ``collect`` finds the tests, ``run`` runs some, ``compile`` runs nothing and compiles what it is told.
        framework: Whose tests they are.
        key: The secret of the private line, in hex; see :mod:`ipybox.testrun.channel`.
        arguments: For the framework's command line: options, and in the end what to look at.
        ids: The tests to be run, for ``run``.
        data_limit: Bytes of private memory at which an allocation fails.
        plain: Files to be compiled, for ``compile``.
        rewritten: Files to be compiled as the framework does it, for ``compile``.
        has_archive: Whether there are compiled modules to be read, or an archive to be written.
        root: The project's directory.
    """

    mode: Literal["collect", "run", "compile"]
    framework: Framework = "pytest"
    key: str = field(repr=False)
    arguments: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    data_limit: int = 0
    plain: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()
    has_archive: bool = False
    root: str = ""

    def to_json(self) -> str:
        """The form in which it travels."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what :meth:`to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**values)
