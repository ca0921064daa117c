"""Every character that code writes arrives once, in order, and with the execution that wrote it."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipybox.errors import ExecutionError
from ipybox.kernel_mgr.client import ExecutionResult, KernelClient
from tests.kernels.helpers import HANG, eventually, joined, runs

pytestmark = pytest.mark.kernel

# One kernel serves all examples of a test; what one leaves behind must not matter to the next.
few = settings(
    max_examples=12, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MEGABYTE = 1024 * 1024

STREAMS = st.sampled_from(["stdout", "stderr"])
ODD = st.sampled_from(
    [
        "\U0001f9d1\u200d\U0001f680",  # astral, joined
        "e\u0301\u0323",  # combining
        "\udc80",  # what undecodable bytes become in file names
        "\ud800 ",  # a lone high surrogate
        "\x00\x07\x08",
        "\r\n",
        "\r",
        "\x1b[31mred\x1b[0m",
        "\u2028\u2029\x85",
        "\ufeff\uffff",
        '"\\"',
        "<IDS|MSG>",
        "\u0645\u0631",  # right to left
    ]
)
TEXTS = st.lists(st.one_of(st.text(max_size=20), ODD), max_size=6).map("".join)
WRITES = st.lists(st.tuples(STREAMS, TEXTS, st.booleans()), max_size=25)


def printing(writes: list[tuple[str, str, bool]]) -> str:
    """Code that makes these writes. ``ascii`` keeps lone surrogates apart, which JSON would not."""
    return f"""
import sys
for name, text, flush in {writes!a}:
    print(text, end="", file=getattr(sys, name), flush=flush)
"""


def assert_streams(result: ExecutionResult, pieces: list[tuple[str, str]]) -> None:
    """The result has exactly these pieces, per stream and in their order over both streams."""
    assert result.stdout == "".join(text for name, text in pieces if name == "stdout")
    assert result.stderr == "".join(text for name, text in pieces if name == "stderr")
    assert runs(result.outputs) == joined(pieces)
    assert result.text == ("".join(text for _, text in pieces).strip() or None)


# ---- properties -----------------------------------------------------------------------------------------------


@few
@given(writes=WRITES)
@pytest.mark.asyncio
async def test_any_text_arrives_in_the_order_of_both_streams(
    client: KernelClient, writes: list[tuple[str, str, bool]]
) -> None:
    result = await client.execute(printing(writes))
    assert_streams(result, [(name, text) for name, text, _ in writes])


@few
@given(writes=WRITES)
@pytest.mark.asyncio
async def test_streamed_chunks_add_up_to_what_was_written(
    client: KernelClient, writes: list[tuple[str, str, bool]]
) -> None:
    chunks: list[str] = []
    async for item in client.stream(printing(writes)):
        if isinstance(item, str):
            chunks.append(item)
        else:
            assert_streams(item, [(name, text) for name, text, _ in writes])
    assert "".join(chunks) == "".join(text for _, text, _ in writes)


@settings(few, max_examples=10)
@given(
    blocks=st.lists(st.tuples(STREAMS, st.integers(0, 4 * MEGABYTE), st.booleans()), max_size=8),
    pattern=st.sampled_from(["x", "ab\n", "é", "日本語\n", "\U0001f600", "0123456789" * 7 + "\n", "\udc80"]),
)
@pytest.mark.asyncio
async def test_blocks_of_any_size_arrive_whole(
    client: KernelClient, blocks: list[tuple[str, int, bool]], pattern: str
) -> None:
    code = f"""
import sys
pattern = {pattern!a}
for name, size, flush in {blocks}:
    stream = getattr(sys, name)
    stream.write((pattern * (size // len(pattern) + 1))[:size])
    if flush:
        stream.flush()
"""
    result = await client.execute(code)
    assert_streams(result, [(name, (pattern * (size // len(pattern) + 1))[:size]) for name, size, _ in blocks])


@few
@given(text=st.text(st.sampled_from("aé日\U0001f600\n"), max_size=200), cuts=st.lists(st.integers(0, 800)))
@pytest.mark.parametrize("fd", [1, 2])
@pytest.mark.asyncio
async def test_characters_split_across_writes_to_a_descriptor_are_put_together(
    client: KernelClient, fd: int, text: str, cuts: list[int]
) -> None:
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]
    result = await client.execute(f"import os\nfor piece in {pieces!r}:\n    os.write({fd}, piece)")
    assert_streams(result, [("stdout" if fd == 1 else "stderr", text)])


@few
@given(
    writes=st.lists(
        st.tuples(st.sampled_from([1, 2]), st.text(max_size=30), STREAMS, st.text(min_size=1, max_size=30)), max_size=12
    )
)
@pytest.mark.asyncio
async def test_prints_and_writes_to_descriptors_keep_their_order(
    client: KernelClient, writes: list[tuple[int, str, str, str]]
) -> None:
    code = f"""
import os, sys
for fd, raw, name, text in {writes!a}:
    os.write(fd, raw.encode())
    print(text, end="", file=getattr(sys, name))
"""
    result = await client.execute(code)
    pieces = []
    for fd, raw, name, text in writes:
        pieces += [("stdout" if fd == 1 else "stderr", raw), (name, text)]
    assert_streams(result, pieces)


@few
@given(data=st.binary(max_size=5000), fd=st.sampled_from([1, 2]))
@pytest.mark.asyncio
async def test_bytes_that_are_no_text_arrive_as_escapes(client: KernelClient, data: bytes, fd: int) -> None:
    result = await client.execute(f"import os\nos.write({fd}, {data!r})\nNone")
    assert_streams(result, [("stdout" if fd == 1 else "stderr", data.decode("utf-8", "backslashreplace"))])


# ---- volume ---------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_100_megabytes_in_one_print(client: KernelClient) -> None:
    size = 100 * MEGABYTE
    result = await client.execute(f"print('0123456789abcde\\n' * {size // 16}, end='')")
    assert len(result.stdout) == size
    assert result.stdout == "0123456789abcde\n" * (size // 16)


@pytest.mark.asyncio
async def test_a_million_short_lines(client: KernelClient) -> None:
    result = await client.execute("for i in range(1_000_000):\n    print(i)")
    assert result.stdout == "".join(f"{i}\n" for i in range(1_000_000))


@pytest.mark.asyncio
async def test_20000_flushed_lines(client: KernelClient) -> None:
    result = await client.execute("for i in range(20_000):\n    print(i, flush=True)")
    assert result.stdout == "".join(f"{i}\n" for i in range(20_000))


@pytest.mark.asyncio
async def test_1000_executions_with_one_line_each(client: KernelClient) -> None:
    for i in range(1000):
        result = await client.execute(f"print({i})")
        assert result.stdout == f"{i}\n"


@pytest.mark.asyncio
async def test_300_executions_that_print_and_fail(client: KernelClient) -> None:
    for i in range(300):
        with pytest.raises(ExecutionError) as caught:
            await client.execute(f"print({i}); 1 / 0")
        assert caught.value.result is not None
        assert caught.value.result.stdout == f"{i}\n"


@pytest.mark.asyncio
async def test_a_line_of_500000_characters(client: KernelClient) -> None:
    assert (await client.execute("print('é' * 500_000)")).stdout == "é" * 500_000 + "\n"


@pytest.mark.asyncio
async def test_an_input_of_10000_statements(client: KernelClient) -> None:
    code = "total = 0\n" + "".join(f"total += {i}\n" for i in range(10_000)) + "total"
    assert (await client.execute(code)).text == str(sum(range(10_000)))


@pytest.mark.asyncio
async def test_an_input_of_50_megabytes(client: KernelClient) -> None:
    code = f"x = {'y' * (50 * MEGABYTE)!r}\nlen(x)"
    assert (await client.execute(code)).text == str(50 * MEGABYTE)


@pytest.mark.asyncio
async def test_megabytes_of_binary_garbage_on_both_descriptors(client: KernelClient) -> None:
    code = """
import os, random
garbage = random.Random(7).randbytes(3_000_000)
for fd in (1, 2):
    view = memoryview(garbage)
    while view:
        view = view[os.write(fd, view[:70_001]):]
"""
    result = await client.execute(code)
    result_expected = (await client.execute("print(garbage.hex(), end='')")).stdout
    expected = bytes.fromhex(result_expected).decode("utf-8", "backslashreplace")
    assert result.stdout == expected
    assert result.stderr == expected


@pytest.mark.asyncio
async def test_a_child_process_that_writes_20_megabytes(client: KernelClient) -> None:
    code = """
import subprocess, sys
print("before")
subprocess.run([sys.executable, "-c", "import sys\\nfor i in range(2_500_000): sys.stdout.write('%07d\\\\n' % i)"],
               check=True)
print("after")
"""
    result = await client.execute(code)
    assert result.stdout == "before\n" + "".join(f"{i:07d}\n" for i in range(2_500_000)) + "after\n"


@pytest.mark.asyncio
async def test_a_value_of_10_megabytes_is_shown_whole(client: KernelClient) -> None:
    code = "from IPython.display import display\ndisplay({'text/plain': 'd' * 10_000_000}, raw=True)"
    assert (await client.execute(code)).text == "d" * 10_000_000


# ---- ways to write --------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_both_halves_of_a_surrogate_pair_stay_two_characters(client: KernelClient) -> None:
    result = await client.execute(r"print('\ud83d' + '\ude00', end='')")
    assert result.stdout == "\ud83d\ude00"


@pytest.mark.asyncio
async def test_halves_of_a_surrogate_pair_in_two_writes_stay_two_characters(client: KernelClient) -> None:
    result = await client.execute(r"print('\ud83d', end=''); print('\ude00', end='')")
    assert result.stdout == "\ud83d\ude00"


@pytest.mark.asyncio
async def test_a_character_that_is_never_finished_arrives_as_escape_with_its_own_execution(
    client: KernelClient,
) -> None:
    first = await client.execute("import os\nos.write(1, 'é'.encode()[:1])\nNone")
    second = await client.execute("os.write(1, 'é'.encode()[1:])\nNone")
    assert (first.stdout, second.stdout) == ("\\xc3", "\\xa9")


SUBPROCESS = "[sys.executable, '-c', 'print(\"child\")']"


@pytest.mark.parametrize(
    "call",
    [
        f"subprocess.run({SUBPROCESS}, check=True)",
        f"subprocess.run({SUBPROCESS}, check=True, stdout=sys.stdout)",
        f"subprocess.run({SUBPROCESS}, check=True, stdout=sys.stdout, stderr=sys.stderr)",
        f"subprocess.run({SUBPROCESS}, check=True, stdout=sys.stdout.fileno())",
        "os.system('echo child')",
        "multiprocessing.get_context('fork').Process(target=print, args=('child',)).start(); "
        "[p.join() for p in multiprocessing.active_children()]",
        "multiprocessing.get_context('fork').Pool(1).apply(print, ('child',))",
        "t = threading.Thread(target=print, args=('child',)); t.start(); t.join()",
        "ThreadPoolExecutor(1).submit(print, 'child').result()",
        "_thread.start_new_thread(lambda: (print('child'), gone.set()), ()); gone.wait()",
        "await asyncio.to_thread(print, 'child')",
        "await asyncio.create_task(say('child'))",
        "await (await asyncio.create_subprocess_exec('echo', 'child')).wait()",
        "pid = os.fork()\nif not pid:\n    print('child')\n    os._exit(0)\nos.waitpid(pid, 0)",
        "print('child', file=sys.__stdout__, flush=True)",
    ],
)
@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.asyncio
async def test_output_of_others_stands_between_the_prints_around_it(
    client: KernelClient, call: str, flush: bool
) -> None:
    code = f"""
import _thread, asyncio, multiprocessing, os, subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor
gone = threading.Event()
async def say(text):
    print(text)
print("before", flush={flush})
{call}
print("after", flush={flush})
"""
    async with asyncio.timeout(HANG):
        result = await client.execute(code)
    assert result.stdout == "before\nchild\nafter\n"
    assert result.stderr == ""


@pytest.mark.asyncio
async def test_a_shell_escape_stands_between_the_prints_around_it(client: KernelClient) -> None:
    """IPython gives the command a terminal, which ends lines with CR LF."""
    result = await client.execute("print('before')\n!echo child\nprint('after')")
    assert result.stdout.replace("\r\n", "\n") == "before\nchild\nafter\n"


@pytest.mark.asyncio
async def test_both_streams_of_a_child_arrive_each_in_its_place(client: KernelClient) -> None:
    code = """
import subprocess, sys
print("a")
subprocess.run("echo b >&2", shell=True)
print("c")
subprocess.run("echo d >&2", shell=True, stderr=sys.stderr)
print("e", file=sys.stderr)
subprocess.run("echo f", shell=True, stdout=sys.stdout)
"""
    result = await client.execute(code)
    expected = [("stdout", "a\n"), ("stderr", "b\n"), ("stdout", "c\n"), ("stderr", "d\ne\n"), ("stdout", "f\n")]
    assert runs(result.outputs) == expected


@pytest.mark.asyncio
async def test_what_waits_in_the_buffer_of_the_real_stdout_arrives_with_its_cell(client: KernelClient) -> None:
    result = await client.execute("import sys\nprint('buffered', file=sys.__stdout__)")
    after = await client.execute("None")
    assert (result.stdout, after.stdout, client.late_output()) == ("buffered\n", "", "")


@pytest.mark.asyncio
async def test_what_waits_in_the_buffer_of_the_c_library_arrives_with_its_cell(client: KernelClient) -> None:
    result = await client.execute("import ctypes\nctypes.CDLL(None).puts(b'from C')\nNone")
    after = await client.execute("None")
    assert (result.stdout, after.stdout, client.late_output()) == ("from C\n", "", "")


@pytest.mark.asyncio
async def test_threads_at_once_lose_and_break_no_line(client: KernelClient) -> None:
    code = """
import threading
def write(name):
    for i in range(3000):
        print(f"{name}:{i}\\n", end="")
threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    lines = (await client.execute(code)).stdout.splitlines()
    assert len(lines) == 24_000
    for name in range(8):
        assert [line for line in lines if line.startswith(f"{name}:")] == [f"{name}:{i}" for i in range(3000)]


@pytest.mark.asyncio
async def test_tasks_at_once_lose_nothing(client: KernelClient) -> None:
    code = """
import asyncio
async def write(name):
    for i in range(200):
        print(f"{name}:{i}")
        await asyncio.sleep(0)
await asyncio.gather(*(write(n) for n in range(10)))
"""
    lines = (await client.execute(code)).stdout.splitlines()
    assert sorted(lines) == sorted(f"{n}:{i}" for n in range(10) for i in range(200))


@pytest.mark.asyncio
async def test_forked_children_at_once_lose_nothing(client: KernelClient) -> None:
    code = """
import multiprocessing
def write(name):
    for i in range(500):
        print(f"{name}:{i}")
fork = multiprocessing.get_context("fork")
print("waiting in the parent when it forks", end=" ")
children = [fork.Process(target=write, args=(n,)) for n in range(4)]
[c.start() for c in children]
[c.join() for c in children]
print([c.exitcode for c in children])
"""
    result = await client.execute(code)
    first, _, rest = result.stdout.partition(" when it forks ")
    assert first == "waiting in the parent"
    *lines, last = rest.splitlines()
    assert last == "[0, 0, 0, 0]"
    assert sorted(lines) == sorted(f"{n}:{i}" for n in range(4) for i in range(500))


@pytest.mark.asyncio
async def test_a_forked_child_that_falls_out_of_the_cell_does_not_double_its_answer(client: KernelClient) -> None:
    async with asyncio.timeout(HANG):
        result = await client.execute("import os\nprint('once')\npid = os.fork()\nprint('twice')")
        assert result.stdout.count("once") == 1
        assert (await client.execute("print('next')")).stdout == "next\n"
        assert (await client.execute("pid > 0")).text == "True"


@pytest.mark.asyncio
async def test_redirected_output_stays_redirected_and_the_rest_arrives(client: KernelClient) -> None:
    code = """
import contextlib, io
buffer = io.StringIO()
with contextlib.redirect_stdout(buffer):
    print("inside")
print("outside", buffer.getvalue(), end="")
"""
    assert (await client.execute(code)).stdout == "outside inside\n"


# ---- late output ----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_late_output_of_a_thread_belongs_to_the_execution_that_started_it(client: KernelClient) -> None:
    first = await client.execute(
        "import threading\ngo = threading.Event()\n"
        "thread = threading.Thread(target=lambda: (go.wait(), print('late')))\nthread.start()"
    )
    second = await client.execute("go.set(); thread.join(); print('mine')")
    assert (first.stdout, second.stdout) == ("", "mine\n")
    assert client.late_output(first.execution_id) == "late\n"
    assert client.late_output(second.execution_id) == ""
    assert client.late_output() == "late\n"


@pytest.mark.asyncio
async def test_late_output_of_a_thread_started_by_a_thread_belongs_to_the_same_execution(
    client: KernelClient,
) -> None:
    first = await client.execute("""
import threading
go = threading.Event()
inner = threading.Thread(target=lambda: print("late"))
outer = threading.Thread(target=lambda: (go.wait(), inner.start()))
outer.start()
""")
    second = await client.execute("go.set(); outer.join(); inner.join(); print('mine')")
    assert second.stdout == "mine\n"
    assert client.late_output(first.execution_id) == "late\n"


@pytest.mark.asyncio
async def test_late_output_of_a_task_belongs_to_the_execution_that_created_it(client: KernelClient) -> None:
    first = await client.execute("""
import asyncio
go = asyncio.Event()
async def later():
    await go.wait()
    print("late")
task = asyncio.create_task(later())
""")
    second = await client.execute("go.set(); await task; print('mine')")
    assert (first.stdout, second.stdout) == ("", "mine\n")
    assert client.late_output(first.execution_id) == "late\n"


@pytest.mark.asyncio
async def test_late_output_of_a_pool_belongs_to_the_execution_that_submitted_the_work(client: KernelClient) -> None:
    await client.execute(
        "import threading\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "go = threading.Event()\npool = ThreadPoolExecutor(1)\npool.submit(int).result()"
    )
    second = await client.execute("work = pool.submit(lambda: (go.wait(), print('late')))")
    third = await client.execute("go.set(); work.result(); print('mine')")
    assert third.stdout == "mine\n"
    assert client.late_output(second.execution_id) == "late\n"


@pytest.mark.asyncio
async def test_late_output_of_a_child_process_is_reachable(client: KernelClient) -> None:
    first = await client.execute(
        "import subprocess\nchild = subprocess.Popen('read line; echo late', shell=True, stdin=subprocess.PIPE)"
    )
    assert first.stdout == ""
    second = await client.execute("child.communicate(b'\\n')\nprint('mine')")
    assert "late\n" in second.stdout + client.late_output()
    await client.execute("child = subprocess.Popen('sleep 0.3; echo much later', shell=True)")
    assert await eventually(lambda: "much later\n" in client.late_output())


@pytest.mark.asyncio
async def test_a_chatty_thread_of_an_earlier_cell_takes_no_output_of_later_ones(client: KernelClient) -> None:
    first = await client.execute("""
import os, subprocess, threading, time
stop = threading.Event()
def chat():
    while not stop.wait(0.0005):
        print("chat")
threading.Thread(target=chat).start()
""")
    second = await client.execute("""
for i in range(200):
    os.write(1, b"raw %d\\n" % i)
    time.sleep(0.001)
subprocess.run("for i in 1 2 3 4 5 6 7 8 9; do echo child $i; sleep 0.02; done", shell=True)
stop.set()
""")
    lines = [line for line in second.stdout.splitlines() if line != "chat"]
    assert lines == [*(f"raw {i}" for i in range(200)), *(f"child {i}" for i in range(1, 10))]
    assert set((first.stdout + client.late_output(first.execution_id)).splitlines()) == {"chat"}


@pytest.mark.asyncio
async def test_text_written_just_before_the_kernel_ends_is_in_the_partial_result(client: KernelClient) -> None:
    for write in ("print('last words', flush=True)", "os.write(1, b'last words\\n')", "print('last words')"):
        for _ in range(3):
            with pytest.raises(Exception, match="exit code 3") as caught:
                await client.execute(f"import os\n{write}\nos._exit(3)")
            assert getattr(caught.value, "result", None) is not None
            assert caught.value.result.stdout == "last words\n", write  # type: ignore[attr-defined]
