"""Where sessions run: what the service asks of a place, whichever it is. Floor: control.

There is one implementation, this machine (``runtime.local``). Another one will place sessions on other machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from ipybox.control.records import Dependency, InstalledDependency, Json, Metrics, NetworkRules, ResourceLimits
from ipybox.control.states import ExecutionKind, ExecutionStatus, Reason, SessionMode

OnEvent = Callable[[str, Mapping[str, Any]], None]
"""Gets the kind and the data of an event, in order, as it happens, in the event loop; see ``ExecutionEvent``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmSpec:
    """What all sessions of a template share: sessions with equal ones share a wall and a warm Python.

    Attributes:
        limits, network: At most this much; sessions have their own below it.
        preload: Modules to import.
        packages_dir: A directory of installed packages that all of them see; None for none.
    """

    limits: ResourceLimits
    network: NetworkRules
    preload: tuple[str, ...] = ()
    packages_dir: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """One session.

    Attributes:
        workspace: Its directory on this machine, which exists; ``/workspace`` inside, writable.
        packages_dir: Its own installed packages; exists, may be empty; read-only inside, before all others on the path.
        env_vars: Environment of all that it runs.
    """

    id: str
    warm: WarmSpec
    workspace: Path
    packages_dir: Path
    mode: SessionMode
    limits: ResourceLimits
    network: NetworkRules
    env_vars: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """Code to run. ``event`` is for handlers, ``timeout`` in seconds."""

    execution_id: str
    kind: ExecutionKind
    code: str
    timeout: float
    event: Json = None
    env_vars: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What became of it. The status is a final one; all events were delivered before."""

    status: ExecutionStatus
    reason: Reason | None = None
    exit_code: int | None = None
    error_name: str | None = None
    error_message: str | None = None
    return_value: Json = None
    has_return_value: bool = False
    metrics: Metrics
    truncated: bool = False
    state_lost: bool = False
    """Whether variables of a stateful session are gone; the next cell begins with none."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a sandbox ended."""

    reason: Reason
    detail: str


class RunningSession(Protocol):
    """A session's sandbox, from its start to its end."""

    @property
    def container_id(self) -> str:
        """Its name, unique among all that ever were."""
        ...

    async def run(self, request: RunRequest, on_event: OnEvent) -> RunOutcome:
        """Runs code to its end; never raises for what code does, nor when the sandbox ends meanwhile.

        Cells run one after the other, everything else side by side. Who is cancelled ends the execution.
        """
        ...

    async def interrupt(self, execution_id: str) -> bool:
        """What Ctrl-C does, and after a grace period a kill; False if nothing of that id runs."""
        ...

    async def ended(self) -> Ending:
        """Waits until the sandbox is gone, for whatever reason."""
        ...

    async def close(self) -> None:
        """Ends it with all that runs in it. Nothing of it is left after this."""
        ...

    @property
    def denied_hosts(self) -> Mapping[str, int]:
        """Hosts that it wanted and might not reach, and how often."""
        ...


class SessionHost(Protocol):
    """A place for sessions. An async context manager: leaving it ends all of them."""

    @property
    def node(self) -> str:
        """Its name."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def warm(self, spec: WarmSpec) -> None:
        """Has the wall and the warm Python ready, and keeps them until :meth:`cool`.

        Raises:
            PreloadError: A module can't be imported once for all.
            SandboxUnavailableError: There can be no sandbox here.
        """
        ...

    async def cool(self, spec: WarmSpec) -> None:
        """Keeps it no longer than sessions need it."""
        ...

    async def start(self, spec: SessionSpec) -> RunningSession:
        """Starts a session's sandbox, and returns when it can run code.

        Raises:
            PreloadError, SandboxUnavailableError: As :meth:`warm`.
            ProgramStartError: It did not come up.
        """
        ...

    async def install(
        self,
        dependencies: Sequence[Dependency],
        *,
        into: Path,
        index_url: str | None,
        limits: ResourceLimits,
        timeout: float,
        allow_conflicts: bool = False,
        template: Path | None = None,
    ) -> tuple[InstalledDependency, ...]:
        """Installs packages in a sandbox that reaches the index only, before any code sees them.

        Args:
            into: A directory which is the prefix; holds what was installed earlier.
            index_url: Where from; None is what the place uses by itself.
            timeout: Seconds.
            allow_conflicts: Whether packages may be there afterwards that do not go together.
            template: Packages of the template, which count as installed; None for none.

        Raises:
            InstallError: It did not work; nothing of it is in ``into`` then.
        """
        ...

    def health(self) -> Mapping[str, Json]:
        """What there is to say about it: sandbox tier, walls, sessions, memory."""
        ...
