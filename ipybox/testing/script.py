"""A response to code as a script: what is produced, in order, and how it ends. Free of I/O. Floor: testing."""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ipybox.errors import (
    ExecutionError,
    ExecutionTimeoutError,
    GatewayError,
    IpyboxError,
    KernelDiedError,
    KernelStartError,
)
from ipybox.exit_status import ExitStatus
from ipybox.outputs import (
    ClearOutput,
    DisplayOutput,
    ErrorOutput,
    Event,
    ExecutionResult,
    InputRequest,
    Output,
    StreamOutput,
)

Step = Event | str | BaseException | type[BaseException]
"""Part of a response: an event, text on stdout, or, as the last part, what is raised."""

PlainResponse = ExecutionResult | str | Sequence[Step] | BaseException | type[BaseException]
"""What code does: it gives a result, writes text to stdout, produces a list of events, or ends with an exception."""

Answer = PlainResponse | Awaitable[PlainResponse] | AsyncIterator[Event | str]
"""What a function may return: a plain response, at once or later, or events one by one, from an async generator."""

Response = PlainResponse | Callable[[str], Answer]
"""A plain response, or a function that gets the code."""

_KINDS = (
    "a response must be an ExecutionResult, text for stdout, a list of events, an exception, or a function of the code"
)


@dataclass(frozen=True, slots=True)
class Script:
    """What a fake kernel does with code.

    Attributes:
        events: What the code produces, in order.
        error: What is raised at its end, if anything.
        result: What is returned in place of the result that is made from the events, if anything.
    """

    events: tuple[Event, ...] = ()
    error: BaseException | None = None
    result: ExecutionResult | None = None

    @property
    def runs(self) -> bool:
        """Whether the code runs at all. The errors for which it does not are raised before anything is sent."""
        return not _comes_before(self.error)

    @property
    def failure(self) -> ErrorOutput | None:
        """The exception that the code itself ends with, if it does."""
        if self.result is not None and self.error is None:
            return None
        for event in reversed(self.events):
            if isinstance(event, ErrorOutput):
                return event
        match self.error:
            case ExecutionError() as error:
                return ErrorOutput(error.name, error.value, error.traceback)
            case ExecutionTimeoutError(state_preserved=True):
                return INTERRUPTED
        return None

    @property
    def ends_kernel(self) -> bool:
        """Whether the next code runs on a fresh kernel."""
        return isinstance(self.error, KernelDiedError) or (
            isinstance(self.error, ExecutionTimeoutError) and not self.error.state_preserved
        )


def told(error: BaseException, **facts: Any) -> BaseException:
    """An error as it is raised: one of ours as a copy, as a script can serve many executions, with what it carries.

    Args:
        error: As the script has it.
        facts: Values for those of its attributes that are None.
    """
    if not isinstance(error, IpyboxError):
        return error
    own = copy.copy(error).with_traceback(error.__traceback__)
    if error.__cause__ is not None:
        own.__cause__ = error.__cause__
    for name, fact in facts.items():
        if name in vars(own) and getattr(own, name) is None:
            setattr(own, name, fact)
    return own


INTERRUPTED = ErrorOutput("KeyboardInterrupt", "", "KeyboardInterrupt: ")
"""How code ends that was interrupted."""


def nobody_to_ask(question: InputRequest) -> Script:
    """What becomes of code that asks a question when nobody answers questions."""
    asking = "getpass" if question.password else "raw_input"
    reason = f"{asking} was called, but this frontend does not support input requests."
    name = "StdinNotImplementedError"
    return Script(error=ExecutionError(name, reason, f"{name}: {reason}"))


def checked_response(name: str, value: Any) -> Response:
    """A response, looked through as far as that can be done before it is used.

    Raises:
        TypeError, ValueError: It makes no sense; the text begins with ``name``.
    """
    if callable(value) and not isinstance(value, type):
        if not takes_code(value):
            raise TypeError(f"{name} must be a function of one argument, the code, got {value!r}")
        function: Callable[[str], Answer] = value
        return function
    script_of(name, value, timeout=1.0)
    response: PlainResponse = value
    return response


def script_of(name: str, response: Any, timeout: float | None) -> Script:
    """The script of a plain response.

    Args:
        name: How errors call the response.
        response: See :data:`PlainResponse`.
        timeout: That of the call, for ``ExecutionTimeoutError`` that was given as a class.

    Raises:
        TypeError, ValueError: It makes no sense; the text begins with ``name``.
    """
    match response:
        case str():
            return Script((event_of(name, response),))
        case ExecutionResult():
            return Script(tuple(events_of(response)), result=response)
        case list() | tuple():
            last = response[-1] if response else None
            if not _is_exception(last):
                return Script(_events(name, response))
            events, error = _events(name, response[:-1]), _raised(name, last, timeout)
            if events and _comes_before(error):
                kind = type(error).__name__
                raise ValueError(f"{name}: this {kind} says that the code did not run, so nothing can come before it")
            return Script(events, error, _result_of(error))
        case _ if _is_exception(response):
            error = _raised(name, response, timeout)
            result = _result_of(error)
            return Script(tuple(events_of(result)) if result is not None else (), error, result)
        case StreamOutput() | DisplayOutput() | ErrorOutput() | ClearOutput() | InputRequest():
            raise TypeError(f"{name}: {_KINDS}; put events into a list, also a single one, got {response!r}")
    raise TypeError(f"{name}: {_KINDS}, got {response!r}")


def events_of(result: ExecutionResult) -> Iterator[Output]:
    """The events that a result may have been made from."""
    if not any(isinstance(output, StreamOutput) for output in result.outputs):
        if result.stdout:
            yield StreamOutput("stdout", result.stdout)
        if result.stderr:
            yield StreamOutput("stderr", result.stderr)
    yield from result.outputs
    if result.text and not (result.stdout or result.stderr or result.outputs):
        yield StreamOutput("stdout", result.text)


def takes_code(function: Callable[..., object]) -> bool:
    """Whether a function can be called with code; True where nobody can tell."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind("")
    except TypeError:
        return False
    return True


def event_of(name: str, step: Any) -> Event:
    """An event that was given as one, or as text on stdout. Raises ``TypeError`` for anything else."""
    match step:
        case str():
            return StreamOutput("stdout", step)
        case StreamOutput() | DisplayOutput() | ErrorOutput() | ClearOutput() | InputRequest():
            return step
    raise TypeError(f"{name}: each part must be an event of ipybox.outputs or a str, got {step!r}")


def _events(name: str, steps: Sequence[Any]) -> tuple[Event, ...]:
    if any(map(_is_exception, steps)):
        raise ValueError(f"{name}: an exception ends the code, so it must be the last of the list, got {steps!r}")
    return tuple(event_of(name, step) for step in steps)


def _is_exception(value: Any) -> bool:
    return isinstance(value, BaseException) or (isinstance(value, type) and issubclass(value, BaseException))


def _raised(name: str, given: Any, timeout: float | None) -> BaseException:
    """What is raised for an exception or a class of exceptions."""
    if isinstance(given, BaseException):
        return given
    if given is KernelDiedError:
        return KernelDiedError(ExitStatus("unknown"))
    if given is ExecutionTimeoutError:
        if timeout is None:
            raise ValueError(
                f"{name}: ExecutionTimeoutError as a class has the timeout of the call, and this call has none; "
                "give an instance, such as ExecutionTimeoutError(5.0)"
            )
        return ExecutionTimeoutError(timeout)
    try:
        made: BaseException = given()
    except Exception as error:
        raise TypeError(f"{name}: {given.__name__} needs arguments, so give an instance: {error}") from None
    return made


def _result_of(error: BaseException) -> ExecutionResult | None:
    """What an error says had been produced until then."""
    result = getattr(error, "result", None)
    return result if isinstance(result, ExecutionResult) else None


def _comes_before(error: BaseException | None) -> bool:
    if isinstance(error, KernelDiedError):
        return not error.during_execution
    return isinstance(error, KernelStartError | GatewayError)
