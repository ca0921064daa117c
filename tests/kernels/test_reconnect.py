"""Connections break, clients die, journals overflow: nothing is lost or doubled in silence."""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from ipybox.errors import (
    ExecutionError,
    ExecutionNotFoundError,
    ExecutionTimeoutError,
    IpyboxError,
    OutputLostError,
)
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from ipybox.outputs import ExecutionResult, StreamOutput
from tests.kernels.helpers import HANG, MARGIN, channel_of, eventually, running, still_works

pytestmark = pytest.mark.kernel


@pytest_asyncio.fixture(scope="module")
async def small_journal() -> AsyncIterator[KernelGateway]:
    """A gateway that keeps as little as possible."""
    async with KernelGateway(port=0, journal_bytes=1024 * 1024) as running:
        yield running


# ---- dropped connections --------------------------------------------------------------------------------------


@pytest.mark.parametrize("drops", [1, 10])
@pytest.mark.asyncio
async def test_a_flood_survives_dropped_connections(client: KernelClient, drops: int) -> None:
    lines = 200_000
    call = asyncio.create_task(client.execute(f"for i in range({lines}): print(i)"))
    rng = random.Random(drops)
    for _ in range(drops):
        await asyncio.wait([call], timeout=rng.uniform(0.0, 0.15))
        await channel_of(client).drop()
    async with asyncio.timeout(2 * HANG):
        result = await call
    assert result.stdout == "".join(f"{i}\n" for i in range(lines))
    await still_works(client)


@pytest.mark.asyncio
async def test_large_messages_survive_dropped_connections(client: KernelClient) -> None:
    call = asyncio.create_task(client.execute("for i in range(8): print(str(i) * 4_000_000, flush=True)"))
    for _ in range(5):
        await asyncio.wait([call], timeout=0.05)
        await channel_of(client).drop()
    async with asyncio.timeout(2 * HANG):
        assert (await call).stdout == "".join(str(i) * 4_000_000 + "\n" for i in range(8))


@pytest.mark.asyncio
async def test_a_connection_dropped_at_any_moment_loses_and_doubles_nothing(client: KernelClient) -> None:
    rng = random.Random(7)
    await client.execute("ran = []")
    for i in range(60):
        call = asyncio.create_task(client.execute(f"ran.append({i}); print('line', {i}); {i} * 2"))
        for _ in range(rng.randrange(8)):
            await asyncio.sleep(0)
        if rng.random() < 0.5:
            await asyncio.wait([call], timeout=rng.uniform(0, 0.01))
        await channel_of(client).drop()
        async with asyncio.timeout(HANG):
            assert (await call).text == f"line {i}\n{i * 2}"
    assert (await client.execute("ran == list(range(60))")).text == "True"


@pytest.mark.asyncio
async def test_a_request_sent_right_when_the_connection_breaks_runs_once(client: KernelClient) -> None:
    await client.execute("ran = 0")
    for i in range(30):
        await channel_of(client).drop()
        async with asyncio.timeout(HANG):
            assert (await client.execute("ran += 1\nran")).text == str(i + 1)


@pytest.mark.asyncio
async def test_a_request_whose_only_trace_is_the_broken_connection_runs_once(client: KernelClient) -> None:
    """Sent and dropped in the same turn of the loop: nobody knows whether it arrived."""
    await client.execute("ran = []")
    for i in range(20):
        call = asyncio.create_task(client.execute(f"ran.append({i})"))
        async with asyncio.timeout(HANG):
            for _ in range(10_000):
                if channel_of(client)._outstanding or call.done():
                    break
                await asyncio.sleep(0)
            await channel_of(client).drop()
            await call
    assert (await client.execute("ran == list(range(20))")).text == "True"


@pytest.mark.asyncio
async def test_idle_drops_are_not_noticed(client: KernelClient) -> None:
    await client.execute("x = 1")
    for _ in range(5):
        await channel_of(client).drop()
        await asyncio.sleep(0)
        await channel_of(client).drop()
    async with asyncio.timeout(HANG):
        assert (await client.execute("x")).text == "1"


@pytest.mark.asyncio
async def test_late_output_written_while_the_connection_was_broken_is_reachable(client: KernelClient) -> None:
    first = await client.execute(
        "import threading, time\n"
        "def chat():\n    for i in range(50):\n        print(i)\n        time.sleep(0.005)\n"
        "thread = threading.Thread(target=chat); thread.start()"
    )
    for _ in range(4):
        await channel_of(client).drop()
        await asyncio.sleep(0.03)
    async with asyncio.timeout(HANG):
        await client.execute("thread.join()")
    written = first.stdout + client.late_output(first.execution_id)
    assert written == "".join(f"{i}\n" for i in range(50))


@pytest.mark.asyncio
async def test_an_answer_to_a_question_survives_a_dropped_connection(client: KernelClient) -> None:
    async def answer(prompt: str, password: bool) -> str:
        await channel_of(client).drop()
        return f"to {prompt}"

    async with asyncio.timeout(HANG):
        result = await client.execute("print([input(str(i)) for i in range(5)])", on_input=answer)
    assert result.stdout == f"{[f'to {i}' for i in range(5)]}\n"


@pytest.mark.asyncio
async def test_timeouts_and_errors_work_over_a_dropped_connection(client: KernelClient) -> None:
    async def drop_soon() -> None:
        await asyncio.sleep(0.1)
        await channel_of(client).drop()

    dropping = asyncio.create_task(drop_soon())
    with pytest.raises(ExecutionTimeoutError) as caught:
        async with asyncio.timeout(HANG):
            await client.execute("x = 1\nimport time; time.sleep(60)", timeout=0.5)
    await dropping
    assert caught.value.state_preserved
    dropping = asyncio.create_task(drop_soon())
    with pytest.raises(ExecutionError, match="ZeroDivisionError"):
        async with asyncio.timeout(HANG):
            await client.execute("import time; time.sleep(0.2); x / 0")
    await dropping


# ---- attaching ------------------------------------------------------------------------------------------------


def transcript(result: ExecutionResult) -> tuple[object, ...]:
    """What two views of one execution must agree on."""
    return result.text, result.stdout, result.stderr, result.outputs, result.execution_count, result.execution_id


CODE = """
import sys, time
from IPython.display import display, HTML
for i in range(200):
    print(i)
    print("err", i, file=sys.stderr)
display(HTML("<b>x</b>"))
5
"""


@pytest.mark.asyncio
async def test_an_execution_can_be_read_again_afterwards(gateway: KernelGateway, client: KernelClient) -> None:
    expected = await client.execute(CODE)
    for _ in range(3):
        await client.execute("print('something else')")
    async with KernelClient(gateway.host, gateway.port, kernel_id=client.kernel_id) as other:
        for reader in (client, other):
            async with asyncio.timeout(HANG), reader.attach(expected.execution_id) as execution:
                assert transcript(await execution.result()) == transcript(expected)


@pytest.mark.asyncio
async def test_the_errors_of_an_execution_can_be_read_again(client: KernelClient) -> None:
    with pytest.raises(ExecutionError) as first:
        await client.execute("print('before')\n1 / 0")
    assert first.value.result is not None
    with pytest.raises(ExecutionError) as second:
        async with asyncio.timeout(HANG), client.attach(first.value.result.execution_id) as execution:
            await execution.result()
    assert str(second.value) == str(first.value)


@pytest.mark.asyncio
async def test_a_running_execution_can_be_followed_live_and_left_alone(
    gateway: KernelGateway, client: KernelClient
) -> None:
    async with KernelClient(gateway.host, gateway.port, kernel_id=client.kernel_id) as other:
        code = "import time\nfor i in range(30):\n    print(i, flush=True)\n    time.sleep(0.01)"
        async with asyncio.timeout(HANG), client.run(code) as execution:
            first = await anext(execution)
            assert isinstance(first, StreamOutput)
            async with other.attach(execution.id) as watched:
                await anext(watched)  # and leaves
            async with other.attach(execution.id) as watched:
                seen = await watched.result()
            mine = await execution.result()
    assert seen.stdout == mine.stdout == "".join(f"{i}\n" for i in range(30))


@pytest.mark.asyncio
async def test_reading_goes_on_at_the_cursor(client: KernelClient) -> None:
    pieces: list[str] = []
    code = "import time\nfor i in range(20):\n    print(i, flush=True)\n    time.sleep(0.01)"
    cursors: list[tuple[int, str]] = []
    async with asyncio.timeout(HANG), client.run(code) as execution:
        async for event in execution:
            assert isinstance(event, StreamOutput)
            pieces.append(event.text)
            if execution._inbox.empty() and not execution._events:
                assert execution.cursor is not None
                cursors.append((execution.cursor, "".join(pieces)))
    whole = "".join(pieces)
    assert cursors
    for cursor, seen in cursors[:: max(1, len(cursors) // 4)]:
        async with asyncio.timeout(HANG), client.attach(execution.id, after=cursor) as rest:
            assert seen + (await rest.result()).stdout == whole


@pytest.mark.asyncio
async def test_attaching_with_a_cursor_behind_the_end_ends(client: KernelClient) -> None:
    result = await client.execute("print('all of it')")
    assert client.cursor is not None
    try:
        async with asyncio.timeout(HANG / 3), client.attach(result.execution_id, after=client.cursor) as execution:
            assert (await execution.result()).stdout == ""
    except IpyboxError:
        pass  # saying that there is nothing more is fine as well; waiting for it is not


@pytest.mark.asyncio
async def test_an_unknown_execution_is_an_error(client: KernelClient) -> None:
    for execution_id in ("unknown", "", "a" * 32, "../../x?after=1&b"):
        with pytest.raises((ExecutionNotFoundError, ValueError)):
            async with asyncio.timeout(HANG), client.attach(execution_id) as execution:
                await execution.result()


@pytest.mark.asyncio
async def test_an_attached_execution_survives_dropped_connections(client: KernelClient) -> None:
    async with asyncio.timeout(2 * HANG):
        call = asyncio.create_task(client.execute("for i in range(100_000): print(i)"))
        assert await eventually(lambda: any(e.partial().stdout for e in running(client)))
        (execution_id,) = (execution.id for execution in running(client))
        attachment = client.attach(execution_id)
        async with attachment as watched:
            reading = asyncio.create_task(watched.result())
            for _ in range(5):
                await asyncio.wait([reading], timeout=0.05)
                await attachment._channel.drop()
            seen = await reading
        assert seen.stdout == (await call).stdout == "".join(f"{i}\n" for i in range(100_000))


@pytest.mark.asyncio
async def test_a_kernel_that_dies_is_told_to_whoever_is_attached(gateway: KernelGateway, client: KernelClient) -> None:
    async with KernelClient(gateway.host, gateway.port, kernel_id=client.kernel_id) as other:
        code = "import os, time\nprint('on', flush=True)\ntime.sleep(0.3)\nos._exit(4)"
        async with asyncio.timeout(HANG), client.run(code) as execution:
            await anext(execution)
            async with other.attach(execution.id) as watched:
                with pytest.raises(IpyboxError, match="exit code 4"):
                    await watched.result()
            with pytest.raises(IpyboxError, match="exit code 4"):
                await execution.result()
        async with asyncio.timeout(HANG), other.attach(execution.id) as watched:
            with pytest.raises(IpyboxError, match="exit code 4") as caught:
                await watched.result()
        assert caught.value.result.stdout == "on\n"  # type: ignore[attr-defined]


OWNER = """
import asyncio, json, sys
from ipybox.kernel_mgr.client import KernelClient

async def main():
    client = KernelClient(sys.argv[1], int(sys.argv[2]))
    await client.connect()
    async with client.run(sys.argv[3]) as execution:
        async for event in execution:
            seen = execution.partial().stdout
            print(json.dumps([client.kernel_id, execution.id, execution.cursor, seen]), flush=True)

asyncio.run(main())
"""


@pytest.mark.asyncio
async def test_another_client_takes_over_when_the_first_ones_process_was_killed(
    gateway: KernelGateway, tmp_path: Path
) -> None:
    code = "import time\nfor i in range(2_000):\n    print(i)\n    time.sleep(0.0005)\n'done'"
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, gateway.host, str(gateway.port), code, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    async with asyncio.timeout(HANG):
        kernel_id, execution_id, cursor, seen = json.loads(await owner.stdout.readline())
        os.kill(owner.pid, signal.SIGKILL)
        await owner.wait()
        await owner.stdout.read()
        async with KernelClient(gateway.host, gateway.port, kernel_id=kernel_id) as heir:
            async with heir.attach(execution_id) as execution:
                whole = await execution.result()
            assert whole.text == "".join(f"{i}\n" for i in range(2000)) + "'done'"
            async with heir.attach(execution_id, after=cursor) as execution:
                rest = await execution.result()
            assert seen + rest.stdout in (whole.stdout, whole.stdout[: len(seen)] + rest.stdout)
            assert whole.stdout.endswith(rest.stdout)
            assert len(seen) + len(rest.stdout) <= len(whole.stdout) + len(seen)


# ---- overflow -------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_output_that_left_the_journal_is_told(small_journal: KernelGateway) -> None:
    async with KernelClient(small_journal.host, small_journal.port) as client:
        live = await client.execute("for i in range(50): print(str(i) * 100_000, flush=True)")
        assert len(live.stdout) > 5_000_000
        with pytest.raises(OutputLostError) as caught:
            async with asyncio.timeout(HANG), client.attach(live.execution_id) as execution:
                await execution.result()
        assert caught.value.lost > 0
        assert caught.value.execution_id == live.execution_id
        assert caught.value.result is not None
        assert live.stdout.endswith(caught.value.result.stdout)


@pytest.mark.asyncio
async def test_an_execution_of_which_nothing_is_left_is_told(small_journal: KernelGateway) -> None:
    """Its end is gone from the journal as well, so nothing would ever say that it is over."""
    async with KernelClient(small_journal.host, small_journal.port) as client:
        first = await client.execute("print('first')")
        await client.execute("for i in range(50): print(str(i) * 100_000, flush=True)")
        with pytest.raises(OutputLostError):
            async with asyncio.timeout(HANG / 3), client.attach(first.execution_id) as execution:
                await execution.result()


@pytest.mark.asyncio
async def test_an_execution_of_which_only_the_end_is_lost_is_told(small_journal: KernelGateway) -> None:
    """Threads of an ended execution push its end out of the journal."""
    async with KernelClient(small_journal.host, small_journal.port) as client:
        first = await client.execute(
            "import threading\ngo = threading.Event()\n"
            "def flood():\n    go.wait()\n    for i in range(50): print(str(i) * 100_000, flush=True)\n"
            "thread = threading.Thread(target=flood); thread.start()"
        )
        await client.execute("go.set(); thread.join()")
        with pytest.raises(OutputLostError):
            async with asyncio.timeout(HANG / 3), client.attach(first.execution_id) as execution:
                await execution.result()


@pytest.mark.asyncio
async def test_a_slow_reader_slows_the_kernel_down_and_loses_nothing(small_journal: KernelGateway) -> None:
    async with KernelClient(small_journal.host, small_journal.port) as client:
        read: list[str] = []
        async with asyncio.timeout(2 * HANG), client.run("for i in range(300): print(str(i) * 30_000)") as execution:
            async for event in execution:
                if isinstance(event, StreamOutput):
                    read.append(event.text)
                    if len(read) % 5 == 0:
                        await asyncio.sleep(0.01)
        assert "".join(read) == "".join(str(i) * 30_000 + "\n" for i in range(300))


@pytest.mark.asyncio
async def test_an_overflow_during_a_broken_connection_is_told_or_nothing_is_lost(small_journal: KernelGateway) -> None:
    expected = "".join(str(i) * 100_000 + "\n" for i in range(60))
    async with KernelClient(small_journal.host, small_journal.port) as client:
        for _ in range(3):
            call = asyncio.create_task(client.execute("for i in range(60): print(str(i) * 100_000, flush=True)"))
            while not call.done():
                await asyncio.wait([call], timeout=0.02)
                await channel_of(client).drop()
            async with asyncio.timeout(HANG):
                try:
                    result = await call
                except OutputLostError as error:
                    honest = error.lost > 0
                else:
                    honest = result.stdout == expected
                assert honest
            await still_works(client)


@pytest.mark.asyncio
async def test_the_end_of_an_execution_lost_in_a_broken_connection_hangs_nobody(small_journal: KernelGateway) -> None:
    """While the client is away the execution ends, and a thread of it floods its end out of the journal."""
    async with KernelClient(small_journal.host, small_journal.port, reconnect_timeout=HANG) as client:
        code = (
            "import threading, time\nprint('on', flush=True)\n"
            "def flood():\n    time.sleep(0.5)\n    for i in range(60): print(str(i) * 100_000, flush=True)\n"
            "threading.Thread(target=flood).start()\ntime.sleep(0.2)"
        )
        link = channel_of(client)
        handshake = link._handshake
        away = asyncio.Event()

        async def late_handshake() -> object:
            await away.wait()
            return await handshake()

        async with asyncio.timeout(HANG / 2), client.run(code) as execution:
            await anext(execution)
            link._handshake = late_handshake  # type: ignore[method-assign,assignment]
            await link.drop()
            await asyncio.sleep(2.0 * MARGIN)
            away.set()
            with pytest.raises(OutputLostError):
                await execution.result()
        await still_works(client)


@pytest.mark.asyncio
async def test_large_displays_are_not_pushed_out_by_the_next_ones(small_journal: KernelGateway) -> None:
    async with KernelClient(small_journal.host, small_journal.port) as client:
        code = "for i in range(8): display({'text/plain': str(i) * 900_000}, raw=True)"
        async with asyncio.timeout(HANG):
            result = await client.execute(code)
    assert result.text == "".join(str(i) * 900_000 for i in range(8))
