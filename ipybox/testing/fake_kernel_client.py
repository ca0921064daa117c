"""A kernel client for tests: everything of the real one, but its kernel runs nothing. Floor: testing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ipybox import arguments
from ipybox.kernel_mgr.attachment import Attachment
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.execution import Execution, InputCallback
from ipybox.output_limit import OutputLimit
from ipybox.testing.canned import CannedResponses, Key, checked_key, key_text, matches
from ipybox.testing.script import Response
from ipybox.testing.scripted_execution import ScriptedImages, ScriptedState
from ipybox.testing.scripted_kernel import ScriptedAttachment, ScriptedLink
from ipybox.testing.scripted_messages import Call, CallMessage


class FakeKernelClient(KernelClient):
    """A :class:`KernelClient` without a gateway and without a kernel, for tests of code that drives one.

    It is a ``KernelClient`` in every respect: turns, timeouts, cancellation, questions, results, images, limits and
    errors are served by the same code. Only the kernel is made up: it answers each code with a response that was
    given beforehand, and notes what it was asked for.

    A key says which code a response is for: a ``str`` is exactly this code, a compiled pattern must match all of it,
    and a function is asked. The first key that matches decides: exact code comes first, then the others in the order
    in which they were given.

    A response says what the code does:

    * an ``ExecutionResult`` is returned as it is;
    * a ``str`` is written to stdout; ``""`` is code that says nothing;
    * a list of ``StreamOutput``, ``DisplayOutput``, ``ErrorOutput``, ``ClearOutput``, ``InputRequest`` and ``str`` is
      produced in that order, and the result is made from it. Its last item may be an exception;
    * an exception, or a class of exceptions that needs no arguments, is raised. ``ExecutionTimeoutError`` as a class
      has the timeout of the call. Errors of ipybox are raised as copies, so that each can carry the result,
      ``execution_id`` and ``cursor`` of its own execution, unless it has some already;
    * a function gets the code and returns one of these. It may be a coroutine function, and also an async generator,
      which yields events one by one and gets the answer to an ``InputRequest`` in return. Code runs for as long as
      they do; an interrupt, which is also what a timeout is, cancels them.

    Each response is used once, in the order given. A ``DisplayOutput`` with an ``image`` passes through as it is; one
    with image data and no ``image`` is saved in ``images_dir``, which is not made before.

    Args:
        responses: By key, one response or a list of responses. So a single response of several events is a list in a
            list.
        default_response: For code that no key matches, and for keys whose responses are used up. It is never used up
            itself.
        host: This and the rest are the arguments of :class:`KernelClient`, so that the fake can stand in for the
            class.

    Raises:
        ValueError, TypeError: For a key, a response or another argument that makes no sense.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 8888,
        *,
        responses: Mapping[Any, Any] | None = None,
        default_response: Response | None = None,
        images_dir: Path | str | None = None,
        auth_token: str | None = None,
        kernel_id: str | None = None,
        kernel_name: str | None = None,
        keep_kernel: bool = False,
        on_input: InputCallback | None = None,
        output_limit: OutputLimit | None = None,
        connect_timeout: float = 60.0,
        interrupt_grace: float = 5.0,
        ping_interval: float = 20.0,
        reconnect_timeout: float = 1.5,
    ) -> None:
        super().__init__(
            host,
            port,
            images_dir=images_dir,
            auth_token=auth_token,
            kernel_id=kernel_id,
            kernel_name=kernel_name,
            keep_kernel=keep_kernel,
            on_input=on_input,
            output_limit=output_limit,
            connect_timeout=connect_timeout,
            interrupt_grace=interrupt_grace,
            ping_interval=ping_interval,
            reconnect_timeout=reconnect_timeout,
        )
        self._responses = CannedResponses(responses, default_response)
        self._calls: list[Call] = []
        self._kernel: ScriptedLink | None = None
        self._images = ScriptedImages(self.images_dir)

    @classmethod
    def from_responses(cls, responses: Mapping[Any, Any], default_response: Response | None = None) -> Self:
        """A client with these responses; the rest is as it is by default."""
        return cls(responses=responses, default_response=default_response)

    # ---- responses, and what was asked for --------------------------------------------------------------------

    def enqueue(self, key: Key, response: Response, *more: Response) -> None:
        """Adds responses behind those that a key has already."""
        self._responses.add(key, [response, *more])

    @property
    def executed(self) -> list[str]:
        """All code that the kernel was asked to run, in that order; also where there was no response."""
        return [call.code for call in self._calls]

    @property
    def calls(self) -> list[Call]:
        """The same with the other arguments of each call."""
        return list(self._calls)

    @property
    def unused(self) -> dict[Key, int]:
        """How many responses each key has left; with 0 for keys without responses that no code matched."""
        return self._responses.unused

    def assert_all_used(self) -> None:
        """Raises ``AssertionError`` when a response is left."""
        __tracebackhide__ = True
        left = self._responses.unused_text()
        if left:
            raise AssertionError("responses were not used:" + "".join(f"\n  {line}" for line in left))

    def assert_executed(self, code: Key, times: int | None = None) -> None:
        """Raises ``AssertionError`` unless code that a key matches was run so often; None is at least once."""
        __tracebackhide__ = True
        key = checked_key(code)
        if times is not None:
            arguments.count("times", times, 0)
        found = sum(matches(key, each) for each in self.executed)
        if times is None and not found:
            raise AssertionError(f"{key_text(key)} was not executed{self._executed_text()}")
        if times is not None and found != times:
            raise AssertionError(f"{key_text(key)} was executed {found} times, expected {times}{self._executed_text()}")

    def assert_executions(self, codes: Sequence[Key]) -> None:
        """Raises ``AssertionError`` unless exactly this code was run, in this order."""
        __tracebackhide__ = True
        if isinstance(codes, str):
            raise TypeError(f"codes must be a list, also for one code, got {codes!r}")
        keys = [checked_key(code) for code in codes]
        executed = self.executed
        for number, (key, code) in enumerate(zip(keys, executed, strict=False), 1):
            if not matches(key, code):
                raise AssertionError(f"execution {number} was {code!r} and not {key_text(key)}{self._executed_text()}")
        if len(keys) != len(executed):
            rest = ", ".join(map(key_text, keys[len(executed) :]))
            also = f"; {rest} is missing" if rest else ""
            raise AssertionError(
                f"there were {len(executed)} executions and not {len(keys)}{also}{self._executed_text()}"
            )

    # ---- the same with a kernel that is made up ---------------------------------------------------------------

    async def connect(self) -> None:
        """Makes up a kernel."""
        if self._link is not None:
            raise RuntimeError(f"already connected to kernel {self._link.kernel_id}")
        link = ScriptedLink(self._settings, self._on_message, self._on_death, self._on_lost, self._respond)
        await link.open()
        self._images = ScriptedImages(self.images_dir)
        self._link = self._kernel = link

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    def run(
        self,
        code: str,
        timeout: float | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str | None = None,
        file_name: str | None = None,
        argv: list[str] | None = None,
        on_input: InputCallback | None = None,
        output_limit: OutputLimit | None = None,
    ) -> Execution:
        """Runs code under full control, as :meth:`KernelClient.run` does.

        Raises:
            UnexpectedExecutionError: On entering, when there is no response for it.
        """
        real = super().run(
            code,
            timeout,
            env=env,
            cwd=cwd,
            file_name=file_name,
            argv=argv,
            on_input=on_input,
            output_limit=output_limit,
        )
        assert real.message is not None
        call = Call(code, real.timeout, env, cwd, file_name, argv, on_input, output_limit)
        limit = output_limit or self.output_limit
        return Execution(
            self,
            ScriptedState(real.id, limit, *self._spill(limit)),
            self._images,
            code=code,
            timeout=real.timeout,
            on_input=on_input or self.on_input,
            content=CallMessage.of(real.message, call),
        )

    def attach(self, execution_id: str, after: int = 0, *, output_limit: OutputLimit | None = None) -> Attachment:
        """Follows an execution of this client since it connected, as :meth:`KernelClient.attach` does."""
        super().attach(execution_id, after, output_limit=output_limit)
        assert self._kernel is not None
        limit = output_limit or self.output_limit
        state = ScriptedState(execution_id, limit, *self._spill(limit), is_attached=True)
        return ScriptedAttachment(self._kernel, state, self._images, cursor=after)

    def _respond(self, call: Call) -> Response:
        self._calls.append(call)
        return self._responses.take(call.code)

    def _executed_text(self) -> str:
        if not self._calls:
            return "; nothing was executed"
        return "; executed were:" + "".join(f"\n  {code!r}" for code in self.executed)
