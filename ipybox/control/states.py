"""The states of sessions, executions and installations, and which may follow which. Floor: control."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class SessionStatus(StrEnum):
    """What a session is."""

    CREATING = "creating"
    RUNNING = "running"
    COMPLETED = "completed"
    """A state of the model, in which no session of this server ends."""
    FAILED = "failed"
    TIMEOUT = "timeout"
    """Nobody used it for as long as it was to be kept, or its lifetime was over."""
    TERMINATED = "terminated"
    """Somebody asked for its end."""

    @property
    def is_final(self) -> bool:
        """Whether nothing follows."""
        return not SESSION_STEPS[self]


class ExecutionStatus(StrEnum):
    """What an execution is."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    """The code raised, exited with another code than 0, was interrupted, or returned what is no JSON."""
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    """It ended without the code having a say: killed, out of memory, the session or the server gone."""

    @property
    def is_final(self) -> bool:
        """Whether nothing follows."""
        return not EXECUTION_STEPS[self]


class InstallStatus(StrEnum):
    """What became of a session's dependencies."""

    PENDING = "pending"
    INSTALLING = "installing"
    COMPLETED = "completed"
    FAILED = "failed"


class SessionMode(StrEnum):
    """Whether code of one execution finds the variables of the one before."""

    STATELESS = "stateless"
    STATEFUL = "stateful"


class ExecutionKind(StrEnum):
    """What code is, and so what runs it."""

    HANDLER = "handler"
    """Python that defines ``handler(event)``; a process of its own."""
    CELL = "cell"
    """Python as one types it, in the IPython of a stateful session."""
    SHELL = "shell"
    JAVASCRIPT = "javascript"


class Reason(StrEnum):
    """Why a session or an execution ended as it did; ``detail`` beside it says more."""

    IDLE = "idle"
    LIFETIME = "lifetime"
    REQUESTED = "requested"
    START_FAILED = "start_failed"
    DEPENDENCIES = "dependencies"
    SANDBOX_ENDED = "sandbox_ended"
    SERVER_RESTARTED = "server_restarted"
    SERVER_STOPPED = "server_stopped"
    SESSION_ENDED = "session_ended"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    STORAGE_FAILED = "storage_failed"
    SIGNALLED = "signalled"
    INTERRUPTED = "interrupted"
    RAISED = "raised"
    EXIT_CODE = "exit_code"
    BAD_RESULT = "bad_result"
    TIMED_OUT = "timed_out"
    INTERPRETER_ENDED = "interpreter_ended"


SESSION_STEPS: Mapping[SessionStatus, frozenset[SessionStatus]] = {
    SessionStatus.CREATING: frozenset(
        {SessionStatus.RUNNING, SessionStatus.FAILED, SessionStatus.TIMEOUT, SessionStatus.TERMINATED}
    ),
    SessionStatus.RUNNING: frozenset(
        {
            SessionStatus.CREATING,  # its sandbox is gone, and it is given another one
            SessionStatus.COMPLETED,
            SessionStatus.FAILED,
            SessionStatus.TIMEOUT,
            SessionStatus.TERMINATED,
        }
    ),
    SessionStatus.COMPLETED: frozenset(),
    SessionStatus.FAILED: frozenset(),
    SessionStatus.TIMEOUT: frozenset(),
    SessionStatus.TERMINATED: frozenset(),
}
EXECUTION_STEPS: Mapping[ExecutionStatus, frozenset[ExecutionStatus]] = {
    ExecutionStatus.PENDING: frozenset(
        {ExecutionStatus.RUNNING, ExecutionStatus.FAILED, ExecutionStatus.TIMEOUT, ExecutionStatus.CRASHED}
    ),
    ExecutionStatus.RUNNING: frozenset(
        {ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.TIMEOUT, ExecutionStatus.CRASHED}
    ),
    ExecutionStatus.COMPLETED: frozenset(),
    ExecutionStatus.FAILED: frozenset(),
    ExecutionStatus.TIMEOUT: frozenset(),
    ExecutionStatus.CRASHED: frozenset(),
}
