"""Every error that ipybox raises, in one tree. Floor: base.

::

    IpyboxError
    ├── CollectionError           a project's tests could not be found
    ├── ExecutionError            the code raised
    ├── ExecutionTimeoutError     the code ran for too long (is a TimeoutError)
    ├── KernelError
    │   ├── KernelStartError      a kernel did not come up
    │   └── KernelDiedError       a kernel is gone, and its variables with it
    ├── GatewayError
    │   ├── GatewayStartError     the gateway process did not come up
    │   │   ├── PortInUseError    somebody else listens there
    │   │   └── PreloadError      a module can't be imported once for all kernels
    │   ├── GatewayConnectionError  nothing usable answers at an address
    │   └── GatewayFullError      a gateway starts no more kernels for the moment
    ├── ConnectionLostError       the connection broke while code was running
    ├── OutputLostError           output can't be delivered any more, and this says so
    │   └── ExecutionNotFoundError  no journal of that execution is kept
    ├── ImageWriteError           an image could not be saved safely
    ├── PolicyError               a sandbox policy that makes no sense (also a ValueError)
    ├── ProgramStartError         a program could not be started in its sandbox
    ├── ReportFormatError         a report of a test framework can't be read (also a ValueError)
    ├── ReplayedError             a recorded command had failed with an error that can't be made again
    ├── ResultsFileError          results of tests can't be kept in a file, or read from it
    │   └── ResultsFileFormatError  it is damaged, not ours, or of a later version
    ├── SandboxEndedError         a sandbox is gone, and its files with it
    │   └── SandboxExpiredError   its time was over
    ├── SandboxFileError          a file operation in a sandbox failed
    ├── SandboxUnavailableError   what was asked for can't be enforced here
    │   └── PolicyNotEnforcedError  a driver of commands can't enforce part of a policy
    ├── UnexpectedCommandError    a fake sandbox has no response for a command (is a RuntimeError)
    ├── UnexpectedExecutionError  a fake kernel has no response for code (is a RuntimeError)
    ├── UnknownLanguageError      a sandbox can't run code in that language (also a ValueError)
    └── UnknownTemplateError      there is no template of that name (also a ValueError)

Facts are attributes; the sentence is made here, so that call sites stay short. All of them survive pickling.
Wrong arguments are plain ``ValueError`` and ``TypeError`` that name the argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ipybox.exit_status import ExitStatus
from ipybox.outputs import ExecutionResult


class IpyboxError(Exception):
    """The root of all errors that ipybox raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions rebuild from `args` by default, which is the finished sentence here; rebuild from the facts.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[IpyboxError], args: tuple[Any, ...], state: dict[str, Any]) -> IpyboxError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class ExecutionError(IpyboxError):
    """Code in the kernel raised. The kernel is fine and its variables are still there.

    Attributes:
        name: Class name of the exception in the kernel, such as ``ZeroDivisionError``.
        value: Its message.
        traceback: The formatted traceback, plain text without colour codes; empty when there is none.
        result: What the execution had produced until then.
    """

    def __init__(self, name: str, value: str, traceback: str = "", result: ExecutionResult | None = None) -> None:
        self.name, self.value, self.traceback, self.result = name, value, traceback, result
        super().__init__(f"{name}: {value}\n{traceback}".rstrip())


class ExecutionTimeoutError(IpyboxError, TimeoutError):
    """Code ran longer than its timeout and was stopped. It is an ``asyncio.TimeoutError``.

    Attributes:
        timeout: The limit in seconds.
        result: What the execution had produced until it was stopped.
        state_preserved: True when an interrupt was enough, so the kernel's variables are still there; False when
            the code did not react and the kernel had to be restarted.
    """

    def __init__(self, timeout: float, result: ExecutionResult | None = None, state_preserved: bool = True) -> None:
        self.timeout, self.result, self.state_preserved = timeout, result, state_preserved
        fate = (
            "it was interrupted; variables are preserved"
            if state_preserved
            else "it ignored the interrupt, so the kernel was restarted; variables are lost"
        )
        super().__init__(f"execution exceeded its timeout of {timeout:g} s: {fate}")


class KernelError(IpyboxError):
    """A kernel did not do its job."""


class KernelStartError(KernelError):
    """A kernel did not come up.

    Attributes:
        reason: What happened.
        log: The last lines the kernel wrote before it could answer.
    """

    def __init__(self, reason: str, log: str = "") -> None:
        self.reason, self.log = reason, log
        super().__init__(f"the kernel did not start: {reason}" + (f"\n{log}" if log else ""))


class KernelDiedError(KernelError):
    """A kernel is gone, and its variables with it. The next call runs on a fresh kernel.

    Attributes:
        exit: How the process ended: exit code, or signal, or the memory limit.
        result: What the execution had produced until then; None when no execution was running.
        state_preserved: Always False; there for symmetry with :class:`ExecutionTimeoutError`.
        during_execution: False when the kernel died between two calls. The call that reports it did not run.
    """

    state_preserved = False

    def __init__(self, exit: ExitStatus, result: ExecutionResult | None = None, during_execution: bool = True) -> None:
        self.exit, self.result, self.during_execution = exit, result, during_execution
        when = "during the execution" if during_execution else "between two calls; this call did not run"
        super().__init__(f"the kernel died {when}: {exit}; variables are lost, the next call gets a fresh kernel")


class GatewayError(IpyboxError):
    """Something is wrong with a gateway."""


class GatewayStartError(GatewayError):
    """The gateway process did not come up.

    Attributes:
        reason: What happened.
        log: The last lines that the process wrote.
    """

    def __init__(self, reason: str, log: str = "") -> None:
        self.reason, self.log = reason, log
        super().__init__(f"the gateway did not start: {reason}" + (f"\n{log}" if log else ""))


class PortInUseError(GatewayStartError):
    """Somebody else listens on the port that was asked for.

    Attributes:
        host: The host that was asked for.
        port: The port that was asked for.
        holder: Who listens there, such as ``"pid 4711 (nginx)"``, where that can be known.
    """

    def __init__(self, host: str, port: int, holder: str | None = None) -> None:
        self.host, self.port, self.holder = host, port, holder
        by = f" by {holder}" if holder else ""
        super().__init__(
            f"port {port} on {host} is already in use{by}; stop that program, or use port=0 for a free port"
        )


class PreloadError(GatewayStartError):
    """A module that was to be imported once, for all kernels of a gateway, can't be.

    Attributes:
        module: Its name.
        reason: What happened.
    """

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(f"preload {module!r}: {reason}; without it in `preload`, kernels import it themselves")
        self.module, self.reason = module, reason


class GatewayConnectionError(GatewayError):
    """Nothing usable answers at an address.

    Attributes:
        address: Where a gateway was expected, such as ``"http://localhost:8888"``.
        reason: Why that did not work.
    """

    def __init__(self, address: str, reason: str) -> None:
        self.address, self.reason = address, reason
        super().__init__(f"can't use the gateway at {address}: {reason}")


class GatewayFullError(GatewayError):
    """A gateway starts no more kernels for the moment.

    Attributes:
        address: The gateway.
        reason: What there is no more of.
        retry_after: Seconds after which to try again.
    """

    def __init__(self, address: str, reason: str, retry_after: float) -> None:
        self.address, self.reason, self.retry_after = address, reason, retry_after
        super().__init__(f"the gateway at {address} is full: {reason}; try again in {retry_after:g} s")


class ConnectionLostError(IpyboxError):
    """The connection to the gateway broke while code was running, and could not be made again.

    Attributes:
        reason: What happened.
        execution_id: The execution that was running. While its gateway lives it goes on, and
            ``KernelClient.attach(execution_id, after=cursor)`` picks up its output.
        cursor: Where to pick it up.
        result: What had arrived until then.
    """

    def __init__(
        self,
        reason: str,
        execution_id: str | None = None,
        cursor: int | None = None,
        result: ExecutionResult | None = None,
    ) -> None:
        self.reason, self.execution_id, self.cursor, self.result = reason, execution_id, cursor, result
        super().__init__(f"lost the connection to the gateway: {reason}")


class OutputLostError(IpyboxError):
    """Some output can't be delivered any more: it left the gateway's bounded journal before it was fetched.

    Attributes:
        execution_id: Whose output it was, where known.
        lost: How many messages are missing.
        result: What did arrive.
    """

    def __init__(
        self,
        reason: str,
        execution_id: str | None = None,
        lost: int = 0,
        result: ExecutionResult | None = None,
    ) -> None:
        self.execution_id, self.lost, self.result = execution_id, lost, result
        super().__init__(reason)


class ExecutionNotFoundError(OutputLostError):
    """The gateway keeps no journal of that execution: it never ran there, or it is too long ago."""

    def __init__(self, execution_id: str, kernel_id: str) -> None:
        self.kernel_id = kernel_id
        super().__init__(f"kernel {kernel_id} keeps no journal of execution {execution_id}", execution_id=execution_id)


class ImageWriteError(IpyboxError):
    """An image could not be saved without risk, so it was not; its bytes are in ``result.outputs``.

    Attributes:
        path: Where the image should have gone.
        reason: Why that was refused or failed.
        result: The complete result of the execution, without that image in ``images``.
    """

    def __init__(self, path: str, reason: str, result: ExecutionResult | None = None) -> None:
        self.path, self.reason, self.result = path, reason, result
        super().__init__(f"can't save an image to {path}: {reason}")


class PolicyError(IpyboxError, ValueError):
    """A sandbox policy that makes no sense. Nothing was started.

    Attributes:
        where: Where it is wrong, such as ``sandbox.json: network.allowedDomains[0]``.
        reason: What is wrong, with the value.
        hint: The way out, such as the nearest valid key; may be empty.
    """

    def __init__(self, where: str, reason: str, hint: str = "") -> None:
        self.where = where
        self.reason = reason
        self.hint = hint
        super().__init__(f"{where}: {reason}{f'; {hint}' if hint else ''}")


class ProgramStartError(IpyboxError):
    """A program could not be started in its sandbox; nothing of it runs.

    Attributes:
        reason: Why.
        errno: The system's error number where the program itself could not be executed; None otherwise.
    """

    def __init__(self, reason: str, errno: int | None = None) -> None:
        self.reason, self.errno = reason, errno
        super().__init__(reason)


class SandboxEndedError(IpyboxError):
    """A sandbox is gone, and its processes and files with it. Create another one.

    Attributes:
        reason: What ended it.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the sandbox has ended: {reason}")


class SandboxExpiredError(SandboxEndedError):
    """The time of a sandbox was over, so it was ended.

    Attributes:
        timeout_seconds: How long it was to live.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        super().__init__(f"it expired, timeout_seconds={timeout_seconds:g} have passed since it was created")


class SandboxFileError(IpyboxError):
    """A file operation in a sandbox failed.

    Attributes:
        path: The file or directory, as it was named.
        reason: What the system said, such as ``No such file or directory``.
        errno: The system's error number, such as ``errno.ENOENT``.
    """

    def __init__(self, path: str, reason: str, errno: int) -> None:
        self.path, self.reason, self.errno = path, reason, errno
        super().__init__(f"{path!r} in the sandbox: {reason}")


class SandboxUnavailableError(IpyboxError):
    """What was asked for can't be enforced here, so nothing was started.

    Attributes:
        reason: What is missing.
        remedies: What would help, in the order to try.
    """

    _beginning = "no sandbox here: "

    def __init__(self, reason: str, remedies: Sequence[str] = ()) -> None:
        self.reason, self.remedies = reason, tuple(remedies)
        help_ = "".join(f"\n  - {remedy}" for remedy in remedies)
        super().__init__(f"{self._beginning}{reason}{help_}")


class PolicyNotEnforcedError(SandboxUnavailableError):
    """A driver of commands can't enforce part of a policy, so it runs nothing.

    Attributes:
        driver: Which.
        fields: What it can't enforce.
    """

    _beginning = ""

    def __init__(self, driver: str, fields: Sequence[str]) -> None:
        self.driver, self.fields = driver, tuple(fields)
        remedies = ["do without it and say so: waive=" + repr(list(fields))]
        if driver != "bubblewrap":
            remedies.insert(0, "use a driver that can, such as 'bubblewrap'")
        super().__init__(f"the driver {driver!r} can't enforce {', '.join(fields)}", remedies)


class UnexpectedCommandError(IpyboxError, RuntimeError):
    """A fake sandbox was given a command that it has no response for.

    Attributes:
        command: The command and its arguments.
        expected: What it does have responses for, as text.
        reason: Why none of these will do, such as that they are used up; may be empty.
        hint: The way out.
    """

    def __init__(
        self,
        command: Sequence[str],
        expected: Sequence[str] = (),
        reason: str = "",
        hint: str = "add one with enqueue(), or give a default_response",
    ) -> None:
        self.command, self.expected, self.reason, self.hint = tuple(command), tuple(expected), reason, hint
        exactly = f" (argv is {list(command)!r})" if any(not each or " " in each for each in command) else ""
        known = f"it has some for {', '.join(expected)}" if expected else "it has none at all"
        joined = " ".join(command)
        super().__init__(f"FakeSandbox has no response for command: {joined!r}{exactly}; {reason or known}; {hint}")


class UnexpectedExecutionError(IpyboxError, RuntimeError):
    """A fake kernel was given code that it has no response for.

    Attributes:
        code: The code.
        expected: What it does have responses for, as text.
        reason: Why none of these will do, such as that they are used up; may be empty.
    """

    def __init__(self, code: str, expected: Sequence[str] = (), reason: str = "") -> None:
        self.code, self.expected, self.reason = code, tuple(expected), reason
        known = f"there are some for {', '.join(map(_excerpt, expected))}" if expected else "there are none at all"
        super().__init__(
            f"no response for the code {_excerpt(repr(code))}: {reason or known}; "
            "add one with enqueue(), or give a default_response"
        )


class UnknownLanguageError(IpyboxError, ValueError):
    """A sandbox can't run code in that language.

    Attributes:
        language: What was asked for.
        languages: What it can run.
    """

    def __init__(self, language: str, languages: Sequence[str]) -> None:
        self.language, self.languages = language, tuple(languages)
        super().__init__(f"no code in {language!r} can be run here; there are {', '.join(languages)}")


class UnknownTemplateError(IpyboxError, ValueError):
    """There is no template of that name to create a sandbox from.

    Attributes:
        template: What was asked for.
        templates: What there is.
    """

    def __init__(self, template: str, templates: Sequence[str]) -> None:
        self.template, self.templates = template, tuple(templates)
        super().__init__(f"there is no template {template!r}; there are {', '.join(templates)}")


def _excerpt(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


class ReplayedError(IpyboxError):
    """A recorded command had failed with an error that can't be made again as what it was.

    Attributes:
        name: The class of that error.
        text: What that error said.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        super().__init__(f"a recorded command had failed with {name}: {text}")


class ResultsFileError(IpyboxError):
    """Results of tests can't be kept in a file, or read from it.

    Attributes:
        path: The file.
        reason: Why not.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"can't keep results of tests in {path}: {reason}")


class ResultsFileFormatError(ResultsFileError):
    """A file is none of ours, damaged, or of a later version, so it is left as it is."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, f"{reason}; move it away, or use another file")
        self.reason = reason


class CollectionError(IpyboxError):
    """The tests of a project could not be found: the framework itself failed, or the code that it imports ended it.

    Attributes:
        reason: Why not.
        output: The last that was written to stdout and stderr; may be long.
        is_infrastructure: Whether that says nothing about the project.
    """

    def __init__(self, reason: str, output: str = "", *, is_infrastructure: bool = False) -> None:
        self.reason, self.output, self.is_infrastructure = reason, output, is_infrastructure
        super().__init__(f"the tests could not be collected: {reason}{output and chr(10)}{output}")


class ReportFormatError(IpyboxError, ValueError):
    """A report of a test framework can't be read, so nothing is known about its tests.

    Attributes:
        format: What it was to be, such as ``JUnit XML``.
        reason: What is wrong with it.
    """

    def __init__(self, format: str, reason: str) -> None:
        self.format, self.reason = format, reason
        super().__init__(f"the report can't be read as {format}: {reason}")
