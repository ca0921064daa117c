"""The asynchronous client and a real server: code, files, and what becomes of things that somebody leaves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ipybox.control.client import AsyncControlClient, AsyncSession, Event
from ipybox.control.errors import RequestRefusedError, ServerError, SessionEndedError
from tests.control.serving import ENVIRONMENT

FOREVER = "import time\nprint('begun', flush=True)\ntime.sleep(600)"


@pytest_asyncio.fixture
async def client(url: str) -> AsyncIterator[AsyncControlClient]:
    async with AsyncControlClient(url) as client:
        yield client


@pytest_asyncio.fixture
async def session(client: AsyncControlClient) -> AsyncIterator[AsyncSession]:
    async with client.session(mode="stateful") as session:
        yield session


async def until(is_so: Callable[[], Awaitable[object]]) -> None:
    """Waits for something to become so."""
    async with asyncio.timeout(30):
        while not await is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def has_been_interrupted(client: AsyncControlClient, session_id: str) -> bool:
    (execution,) = (await client.executions.list(session_id)).items
    return execution.status_reason == "interrupted"


# ---- code ---------------------------------------------------------------------------------------------------------


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_code_of_a_stateful_session_finds_what_the_code_before_has_left(session: AsyncSession) -> None:
    first = await session.run("x = 20\nprint('hello')")
    assert (first.status, first.stdout, first.is_success) == ("completed", "hello\n", True)
    second = await session.run("x + 1")
    assert [each.text for each in second.displays] == ["21"]


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_a_handler_gets_an_event_and_its_value_comes_back(session: AsyncSession) -> None:
    code = "def handler(event):\n    print(sorted(event))\n    return {'got': event}"
    event = {"b": [1, None, 2.5], "a": "\u20ac"}
    result = await session.run(code, kind="handler", event=event)
    assert result.has_return_value
    assert result.return_value == {"got": event}
    assert result.stdout == "['a', 'b']\n"


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_output_is_told_as_it_happens_and_in_order(session: AsyncSession) -> None:
    told: list[Event] = []

    async def tell(event: Event) -> None:
        told.append(event)
        if event.kind == "stdout" and "first" in event.text:
            await session.upload("go", b"")

    code = "echo first; until [ -e go ]; do sleep 0.01; done; echo second >&2; exit 3"
    result = await session.run(code, language="shell", on_output=tell, env_vars={"A": "1"})
    assert [each.seq for each in told] == list(range(1, len(told) + 1))
    assert told[-1].kind == "end"
    assert (result.stdout, result.stderr, result.exit_code, result.status) == ("first\n", "second\n", 3, "failed")


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_code_that_raises_is_a_result_and_no_exception(session: AsyncSession) -> None:
    result = await session.run("1 / 0")
    assert (result.status, result.error_name) == ("failed", "ZeroDivisionError")
    assert not result.is_success


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_who_is_cancelled_has_interrupted_the_code(client: AsyncControlClient, session: AsyncSession) -> None:
    begun = asyncio.Event()
    running = asyncio.ensure_future(session.run(FOREVER, on_output=lambda event: begun.set(), timeout=600))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: has_been_interrupted(client, session.id))


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_who_leaves_a_stream_early_has_interrupted_the_code(
    client: AsyncControlClient, session: AsyncSession
) -> None:
    async with aclosing(session.stream(FOREVER, timeout=600)) as events:
        async for event in events:
            assert event.text == "begun\n"
            break
    await until(lambda: has_been_interrupted(client, session.id))


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_code_goes_on_alone_and_is_found_again(client: AsyncControlClient, session: AsyncSession) -> None:
    started = await session.start("print('a')\nopen('b', 'x').close()\nprint('c')")
    async with AsyncControlClient(client.base_url) as other:
        execution = await other.execution(started.id)
        assert execution.session_id == session.id
        result = await execution.wait()
        assert result.stdout == "a\nc\n"
        rest = [event async for event in execution.stream(after=1)]
        assert [event.seq for event in rest] == list(range(2, result.events + 1))
        assert [event async for event in execution.stream(after=result.events)] == []
        assert not await execution.interrupt()
        again = await other.attach(session.id)
        assert [each.path for each in await again.list_files()] == ["b"]


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_all_that_runs_in_a_session_is_interrupted_at_once(session: AsyncSession) -> None:
    started = [await session.start("sleep 600", language="shell", timeout=600) for _ in range(2)]
    assert await session.interrupt() == 2
    for each in started:
        await each.wait()
    assert await session.interrupt() == 0


# ---- sessions -----------------------------------------------------------------------------------------------------


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_nothing_is_left_of_a_session_after_its_block(client: AsyncControlClient) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client.session(tags={"made": "here"}) as session:
            assert [each.id for each in (await client.sessions.list(tags={"made": "here"})).items] == [session.id]
            raise ZeroDivisionError
    with pytest.raises(ServerError) as caught:
        await client.sessions.get(session.id)
    assert caught.value.status == 404
    assert caught.value.request_id


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_a_session_is_kept_or_only_ended_if_that_is_said(client: AsyncControlClient) -> None:
    async with client.session(at_end="keep") as kept:
        pass
    assert (await kept.info()).status == "running"
    renewed = await kept.renew(900)
    assert renewed.expires_at is not None
    assert (
        renewed.expires_at - renewed.last_activity_at if renewed.last_activity_at else renewed.expires_at
    ) is not None
    async with client.session(at_end="terminate") as ended:
        await ended.upload("a", b"1")
    assert (await ended.info()).status == "terminated"
    assert await ended.download("a") == b"1"
    with pytest.raises(SessionEndedError, match="terminated"):
        await client.attach(ended.id)
    await kept.delete()
    await ended.delete()


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_a_session_that_ends_in_its_block_is_no_trouble(client: AsyncControlClient) -> None:
    async with client.session() as session:
        await session.delete()


@pytest.mark.asyncio
async def test_what_a_session_can_not_be_is_said_by_the_server(client: AsyncControlClient) -> None:
    with pytest.raises(ServerError, match="pyhton") as caught:
        async with client.session("pyhton"):
            pass
    assert caught.value.status in (400, 404)
    with pytest.raises(ServerError) as caught:
        await client.sessions.create("python", timeout=10**6)
    assert caught.value.status == 422
    assert "timeout" in caught.value.detail


@pytest.mark.asyncio
async def test_an_option_that_is_misspelt_is_not_lost_without_a_word(client: AsyncControlClient) -> None:
    misspelt: Any = {"memroy": "128Mi"}
    for ask in (client.sessions.create, client.templates.create, client.templates.update):
        with pytest.raises(TypeError, match="no option 'memroy'; there are "):
            await ask("python", **misspelt)
    for run in (client.executions.execute, client.executions.execute_sync):
        with pytest.raises(TypeError, match="'memroy'"):
            await run("sess_1", "1", **misspelt)
    with pytest.raises(ValueError, match="'stateful', got 'statefull'"):
        await client.sessions.create("python", mode="statefull")


# ---- files --------------------------------------------------------------------------------------------------------


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_files_go_there_and_back(session: AsyncSession, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    here = tmp_path / "here"
    here.write_bytes(content)

    async def parts() -> AsyncIterator[bytes]:
        yield content[:10]
        yield content[10:]

    written = await session.upload("a/file with \u20ac?#%.bin", here)
    assert written.size == len(content)
    await session.upload("/workspace/b", parts())
    await session.upload("c", b"")
    assert await session.download("a/file with \u20ac?#%.bin") == content
    assert await session.download_to("b", tmp_path / "there") == len(content)
    assert (tmp_path / "there").read_bytes() == content
    assert await session.download("c") == b""
    assert {each.path for each in await session.list_files(recursive=True) if each.kind == "file"} == {
        "a/file with \u20ac?#%.bin",
        "b",
        "c",
    }
    await session.delete_file("b")
    with pytest.raises(ServerError) as caught:
        await session.download_to("b", tmp_path / "never")
    assert caught.value.status == 404
    assert sorted(each.name for each in tmp_path.iterdir()) == ["here", "there"]


@pytest.mark.sandbox
@pytest.mark.asyncio
async def test_a_path_that_leads_outside_is_refused_before_anything_is_sent(session: AsyncSession) -> None:
    for path in ("../../keys", "/etc/passwd", ".."):
        with pytest.raises(RequestRefusedError):
            await session.download(path)
    with pytest.raises(TypeError, match="encode"):
        await session.upload("a", "text")  # type: ignore[arg-type]


# ---- templates, keys, the server ----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_template_is_made_changed_and_removed(client: AsyncControlClient) -> None:
    made = await client.templates.create("of-client", default_timeout=600, packages=["six==1.17.0"], warm=False)
    assert (made.name, made.default_timeout, made.packages[0].version) == ("of-client", 600, "==1.17.0")
    changed = await client.templates.update("of-client", name="other", network=["example.org"])
    assert (changed.name, changed.default_timeout) == ("other", 600)
    assert changed.network.allowed_domains == ("example.org",)
    assert "of-client" in [each.id for each in await client.templates.list()]
    with pytest.raises(ServerError) as caught:
        await client.templates.create("of-client")
    assert caught.value.status == 409
    await client.templates.delete("of-client")
    with pytest.raises(ServerError):
        await client.templates.get("of-client")


@pytest.mark.asyncio
async def test_a_key_is_made_used_rotated_and_revoked(client: AsyncControlClient) -> None:
    new = await client.keys.create("of-client", "somebody", scopes=["read"])
    assert new.secret not in repr(new)
    async with AsyncControlClient(client.base_url, new.secret) as user:
        assert (await user.keys.me()).owner == "somebody"
        with pytest.raises(ServerError) as caught:
            await user.sessions.create("python")
        assert caught.value.status == 403
        other = await client.keys.rotate(new.key.id)
        await client.keys.revoke(other.key.id)
        with pytest.raises(ServerError) as caught:
            await user.sessions.list()
        assert caught.value.status == 401
        assert new.secret not in str(caught.value)
    assert {new.key.id, other.key.id} <= {each.id for each in await client.keys.list()}
    assert "key.create" in [each.action for each in (await client.server.audit()).items]


@pytest.mark.asyncio
async def test_the_server_says_how_it_is(client: AsyncControlClient) -> None:
    assert (await client.server.health()).status == "healthy"
    assert "database" in (await client.server.health(detailed=True)).dependencies
    assert (await client.server.synchronise()).failed == ()


# ---- what it needs ------------------------------------------------------------------------------------------------


def test_the_client_needs_nothing_that_a_server_does() -> None:
    code = (
        "import sys, ipybox.control.client.blocking\n"
        "print(sorted({'fastapi', 'pydantic', 'sqlalchemy', 'uvicorn', 'structlog', 'tornado'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENVIRONMENT, check=True)
    assert done.stdout == b"[]\n"


def test_who_has_no_httpx_is_told_what_to_install() -> None:
    code = "import sys; sys.modules['httpx'] = None\nfrom ipybox.control.client import ControlClient"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENVIRONMENT, check=False)
    assert b'pip install "ipybox[client]"' in done.stderr


@pytest.mark.asyncio
async def test_a_client_that_is_not_open_says_so(url: str) -> None:
    with pytest.raises(RuntimeError, match="with block"):
        await AsyncControlClient(url).templates.list()
