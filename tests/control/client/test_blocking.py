"""The client for code that is not asynchronous: the same methods, and they wait."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Iterator

import pytest

from ipybox.control.client import AsyncControlClient, ControlClient, Event, Session, blocking, files, groups, handles
from ipybox.control.errors import ServerError

TWINS: list[tuple[type, type]] = [
    (groups.AsyncTemplates, blocking.Templates),
    (groups.AsyncSessions, blocking.Sessions),
    (groups.AsyncExecutions, blocking.Executions),
    (groups.AsyncKeys, blocking.Keys),
    (groups.AsyncServer, blocking.Server),
    (files.AsyncFiles, blocking.Files),
    (handles.AsyncSession, blocking.Session),
    (handles.AsyncExecution, blocking.Execution),
    (AsyncControlClient, blocking.ControlClient),
]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[ControlClient]:
    with ControlClient(url) as client:
        yield client


@pytest.fixture(scope="module")
def session(client: ControlClient) -> Iterator[Session]:
    with client.session(mode="stateful") as session:
        yield session


def methods(kind: type) -> dict[str, list[str]]:
    found = inspect.getmembers(kind, inspect.isfunction)
    return {name: list(inspect.signature(value).parameters) for name, value in found if not name.startswith("_")}


@pytest.mark.parametrize(("asynchronous", "twin"), TWINS, ids=lambda kind: kind.__name__)
def test_a_twin_has_all_methods_with_all_arguments(asynchronous: type, twin: type) -> None:
    assert methods(twin) == methods(asynchronous)
    assert all(inspect.getdoc(value) for _, value in inspect.getmembers(twin, inspect.isfunction) if value.__doc__)


@pytest.mark.sandbox
def test_code_runs_and_its_output_is_told_in_the_thread_of_who_asks(session: Session) -> None:
    told: list[tuple[str, threading.Thread]] = []

    def tell(event: Event) -> None:
        told.append((event.text, threading.current_thread()))
        session.info()  # the client can be used meanwhile

    result = session.run("print('a')\nx = 4", on_output=tell)
    assert result.stdout == "a\n"
    assert ("a\n", threading.current_thread()) in told
    assert session.run("x").displays[0].text == "4"
    execution = session.start("x * 2")
    assert execution.wait().displays[0].text == "8"
    assert [event.kind for event in execution.stream()] == ["result", "end"]


@pytest.mark.sandbox
def test_what_is_raised_while_output_is_told_ends_the_code(client: ControlClient, session: Session) -> None:
    def tell(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.run("import time\nprint('begun', flush=True)\ntime.sleep(600)", on_output=tell, timeout=600)
    last = client.executions.list(session.id, limit=1).items[0]
    assert client.execution(last.id).wait().status_reason == "interrupted"


@pytest.mark.sandbox
def test_who_leaves_a_loop_over_a_stream_has_ended_the_code(client: ControlClient, session: Session) -> None:
    for event in session.stream("import time\nprint('begun', flush=True)\ntime.sleep(600)", timeout=600):
        assert event.text == "begun\n"
        break
    last = client.executions.list(session.id, limit=1).items[0]
    assert client.execution(last.id).wait().status_reason == "interrupted"


@pytest.mark.sandbox
def test_nothing_is_left_of_a_session_after_its_block(client: ControlClient) -> None:
    with pytest.raises(ZeroDivisionError), client.session() as session:
        session.upload("a", b"1")
        assert list(client.files.parts(session.id, "a")) == [b"1"]
        raise ZeroDivisionError
    with pytest.raises(ServerError, match="404"):
        session.info()


def test_many_threads_use_one_client(client: ControlClient) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(client.server.health().status)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["healthy"] * 8


def test_a_client_that_is_closed_says_so_and_can_be_opened_again(url: str) -> None:
    client = ControlClient(url)
    for _ in range(2):
        with client:
            assert client.server.health().status == "healthy"
            with pytest.raises(RuntimeError, match="open already"):
                client.__enter__()
        with pytest.raises(RuntimeError, match="with block"):
            client.server.health()
    assert "ipybox-client" not in [thread.name for thread in threading.enumerate() if not thread.daemon]


def test_in_a_fork_it_says_that_it_is_not_open(client: ControlClient) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            client.server.health()
        except RuntimeError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read, "rb") as said:
        assert b"in this process" in said.read()
