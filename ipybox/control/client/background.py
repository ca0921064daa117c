"""An event loop in a thread, for calls that wait, and methods made of asynchronous ones. Floor: control."""

from __future__ import annotations

import asyncio
import functools
import os
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

A = TypeVar("A")
E = TypeVar("E")
P = ParamSpec("P")
T = TypeVar("T")


class Background:
    """The thread, from :meth:`start` to :meth:`stop`."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._process = 0

    @property
    def is_open(self) -> bool:
        """Whether something can be done there."""
        return self._loop is not None and self._process == os.getpid()

    def start(self) -> None:
        """Starts it."""
        if self._thread is not None:
            raise RuntimeError("this client is open already")
        ready = threading.Event()
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="ipybox-client", daemon=True)
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """Ends it; what goes on in it is cancelled."""
        thread, loop, over = self._thread, self._loop, self._over
        self._thread = self._loop = self._over = None
        # In a fork there is no thread, and the loop is the parent's.
        if thread is not None and loop is not None and over is not None and self._process == os.getpid():
            loop.call_soon_threadsafe(over.set)
            thread.join()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Does work there and waits for it. Work whose caller is interrupted is cancelled, and has ended then."""
        call = self._call(work)
        try:
            return call.future.result()
        except BaseException:
            call.end()
            raise

    def run_telling(
        self, work: Callable[[Callable[[E], None]], Coroutine[Any, Any, T]], tell: Callable[[E], object]
    ) -> T:
        """Likewise, with work that tells something meanwhile, which is told in the thread of the caller."""
        told: queue.SimpleQueue[tuple[E] | None] = queue.SimpleQueue()
        call = self._call(work(lambda each: told.put((each,))))
        call.future.add_done_callback(lambda _: told.put(None))
        try:
            while (each := told.get()) is not None:
                tell(*each)
            return call.future.result()
        except BaseException:
            call.end()
            raise

    def _call(self, work: Coroutine[Any, Any, T]) -> _Call[T]:
        loop = self._loop if self._process == os.getpid() else None
        if loop is None or threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "this client is not open in this process: use it in a with block"
                if loop is None
                else "this client can't be used by what runs in its own event loop"
            )
        return _Call(loop, work)

    def _serve(self, ready: threading.Event) -> None:
        async def live() -> None:
            self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
            over = self._over
            ready.set()
            await over.wait()

        with asyncio.Runner() as runner:  # cancels what is left, and waits for that
            runner.run(live())


class _Call(Generic[T]):
    """Work in the loop, seen from another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> None:
        self._loop, self._work = loop, work
        self._task: asyncio.Task[T] | None = None
        self.future: Future[T] = Future()
        loop.call_soon_threadsafe(self._begin)

    def end(self) -> None:
        """Cancels it if it goes on, and waits until it has ended."""
        if not self.future.done():
            self._loop.call_soon_threadsafe(self._cancel)
            try:
                self.future.exception()
            except CancelledError:
                pass

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(self._settle)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.future.cancel()
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())


class Twin(Generic[A]):
    """Something asynchronous for code that is not: the same methods, which wait.

    Args:
        inner: The asynchronous thing.
        background: Where it lives.
    """

    def __init__(self, inner: A, background: Background) -> None:
        self._inner, self._background = inner, background


def waiting(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Twin[A], P], T]:
    """A method of a twin that does what that of the asynchronous thing does, and waits for it."""

    def call(twin: Twin[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return twin._background.run(method(twin._inner, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


def iterating(
    method: Callable[Concatenate[A, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Twin[A], P], Iterator[T]]:
    """Likewise, for one that gives one thing after the other. Who leaves the loop early has ended it."""

    def call(twin: Twin[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        background, given = twin._background, method(twin._inner, *args, **kwargs)
        try:
            while (each := background.run(_next(given))) is not None:
                yield each[0]
        finally:
            if background.is_open:  # otherwise it has ended with the client
                background.run(_close(given))

    functools.update_wrapper(call, method)
    return call


async def _next(given: AsyncGenerator[T, None]) -> tuple[T] | None:
    async for each in given:
        return (each,)
    return None


async def _close(given: AsyncGenerator[Any, None]) -> None:
    await given.aclose()
