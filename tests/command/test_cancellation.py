"""Cancelling from any thread: everybody who is to hear of it does, once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ipybox.command.cancellation import Cancellation

PATIENCE = 20.0
THREADS = 8


class Listener:
    """Counts its calls, and remembers in which threads they were."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def __call__(self) -> None:
        self.threads.append(threading.current_thread())

    @property
    def calls(self) -> int:
        return len(self.threads)


def at_once(*works: Callable[[], object]) -> None:
    """Does all of it at the same moment, in threads of their own; raises what one of them raises."""
    barrier = threading.Barrier(len(works))
    failures: list[BaseException] = []

    def do(work: Callable[[], object]) -> None:
        try:
            barrier.wait(PATIENCE)
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=do, args=[work], daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "they block each other"
    if failures:
        raise failures[0]


def test_nothing_is_cancelled_unless_somebody_says_so() -> None:
    cancellation, listener = Cancellation(), Listener()
    cancellation.add(listener)
    assert not cancellation.is_cancelled
    assert listener.calls == 0


def test_all_who_were_added_hear_of_it_once() -> None:
    cancellation, listeners = Cancellation(), [Listener() for _ in range(5)]
    for listener in listeners:
        cancellation.add(listener)
    cancellation.cancel()
    cancellation.cancel()
    assert cancellation.is_cancelled
    assert [listener.calls for listener in listeners] == [1] * 5


def test_who_comes_too_late_hears_of_it_at_once() -> None:
    cancellation, listener = Cancellation(), Listener()
    cancellation.cancel()
    cancellation.add(listener)
    assert listener.calls == 1
    cancellation.cancel()
    assert listener.calls == 1


def test_who_was_taken_back_does_not_hear_of_it() -> None:
    cancellation, stays, goes = Cancellation(), Listener(), Listener()
    cancellation.add(stays)
    cancellation.add(goes)
    cancellation.remove(goes)
    cancellation.cancel()
    assert (stays.calls, goes.calls) == (1, 0)


def test_taking_back_what_is_not_there_is_nothing() -> None:
    cancellation, listener = Cancellation(), Listener()
    cancellation.remove(listener)
    cancellation.add(listener)
    cancellation.cancel()
    cancellation.remove(listener)
    assert listener.calls == 1


def test_it_is_cancelled_by_the_time_that_anybody_hears_of_it() -> None:
    cancellation, seen = Cancellation(), list[bool]()
    cancellation.add(lambda: seen.append(cancellation.is_cancelled))
    cancellation.cancel()
    assert seen == [True]


def test_who_hears_of_it_may_use_it() -> None:
    cancellation, later = Cancellation(), Listener()

    def answer() -> None:
        cancellation.remove(answer)
        cancellation.cancel()
        cancellation.add(later)

    cancellation.add(answer)
    at_once(cancellation.cancel)  # in a thread, as a deadlock would never end
    assert later.calls == 1


def test_it_is_heard_of_in_the_thread_that_cancels() -> None:
    cancellation, listener = Cancellation(), Listener()
    cancellation.add(listener)
    thread = threading.Thread(target=cancellation.cancel)
    thread.start()
    thread.join(PATIENCE)
    assert listener.threads == [thread]


@pytest.mark.parametrize("turn", range(20))
def test_many_who_cancel_at_once_are_heard_of_once(turn: int) -> None:
    cancellation, listeners = Cancellation(), [Listener() for _ in range(20)]
    for listener in listeners:
        cancellation.add(listener)
    at_once(*[cancellation.cancel] * THREADS)
    assert [listener.calls for listener in listeners] == [1] * 20


@pytest.mark.parametrize("turn", range(20))
def test_nobody_is_missed_who_is_added_while_it_is_cancelled(turn: int) -> None:
    cancellation, listeners = Cancellation(), [[Listener() for _ in range(20)] for _ in range(THREADS)]

    def add(some: list[Listener]) -> None:
        for listener in some:
            cancellation.add(listener)

    adding = [lambda some=some: add(some) for some in listeners]
    at_once(cancellation.cancel, *adding)
    assert [listener.calls for some in listeners for listener in some] == [1] * (20 * THREADS)
