"""What people do in notebooks works in a sandbox as it does without one."""

import asyncio
import getpass
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ipybox.errors import ExecutionError
from ipybox.kernel_mgr.client import KernelClient
from ipybox.kernel_mgr.server import KernelGateway
from ipybox.outputs import DisplayOutput, ErrorOutput, ExecutionResult, StreamOutput
from tests.kernels.helpers import HANG, channel_of
from tests.sandboxed.servers import text_of, write_policy

pytestmark = [pytest.mark.sandbox, pytest.mark.kernel]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("works")


@pytest_asyncio.fixture(scope="module")
async def gateway(workspace: Path) -> AsyncIterator[KernelGateway]:
    async with KernelGateway(port=0, sandbox=True, working_dir=workspace, env={"GIVEN": "value"}) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: KernelGateway) -> AsyncIterator[KernelClient]:
    async with KernelClient(gateway.host, gateway.port) as connected:
        yield connected


@pytest_asyncio.fixture(scope="module")
async def kernel_id(gateway: KernelGateway) -> str:
    """A kernel that small cases share; it ends with the gateway."""
    async with KernelClient(gateway.host, gateway.port, keep_kernel=True) as first:
        return first.kernel_id


FORK_SERVER = (
    "import multiprocessing as m\nwith m.get_context('forkserver').Pool(2) as pool: print(pool.map(abs, [-1]))"
)
"""Needs Unix sockets. It is the default from Python 3.14 on; a sandbox without them takes the one before."""

WORKS = {
    # ---- processes
    "subprocess": (
        "import subprocess\nsubprocess.run(['echo', 'x'], capture_output=True, text=True).stdout.strip()",
        "'x'",
    ),
    "a shell pipeline": ('import os\nos.popen(\'printf "b\\na\\n" | sort | tr -d "\\n"\').read()', "'ab'"),
    "os.system": ("import os\nos.system('echo out; echo err >&2')", None),
    "!": ("!echo out of the shell", "out of the shell"),
    "! in a variable": ("lines = !printf 'a\\nb\\n'\nlines == ['a', 'b']", "True"),
    "%%bash": ("%%bash\nfor i in 1 2; do echo $i; done", "1\n2"),
    "%%sh with an error": ("%%sh\necho fine; true", "fine"),
    "asynchronous subprocess": (
        "import asyncio\np = await asyncio.create_subprocess_exec('cat', stdin=-1, stdout=-1)\n"
        "(await p.communicate(b'x'))[0], p.returncode",
        "(b'x', 0)",
    ),
    "exit codes and signals of children": (
        "import subprocess\n[subprocess.run(['sh', '-c', c]).returncode for c in ('exit 3', 'kill -9 $$')]",
        "[3, -9]",
    ),
    "terminate": (
        "import subprocess\np = subprocess.Popen(['sleep', '60'])\np.terminate()\np.wait()",
        "-15",
    ),
    "fork and wait": (
        "import os\npid = os.fork()\nif pid == 0: os._exit(5)\nos.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])",
        "5",
    ),
    "a new session": ("import subprocess\nsubprocess.run(['setsid', '-w', 'true']).returncode", "0"),
    "process groups": ("import subprocess\nsubprocess.run(['true'], process_group=0).returncode", "0"),
    "ps of psutil": ("import psutil, os\nos.getpid() in psutil.pids() and psutil.Process().name() != ''", "True"),
    "nice": ("import os\nos.nice(1) >= 1", "True"),
    "sched_getaffinity": ("import os\nlen(os.sched_getaffinity(0)) >= 1", "True"),
    # ---- concurrency
    "threads": (
        "import threading\nseen = []\nts = [threading.Thread(target=seen.append, args=(i,)) for i in range(50)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]\nsorted(seen) == list(range(50))",
        "True",
    ),
    "multiprocessing, forked pool": (
        "import multiprocessing as m\nwith m.get_context('fork').Pool(3) as pool: print(pool.map(abs, [-1, -2]))",
        "[1, 2]",
    ),
    "multiprocessing, spawned pool": (
        "import multiprocessing as m\nwith m.get_context('spawn').Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
        "[1, 2]",
    ),
    "multiprocessing, default pool": (
        "import multiprocessing as m\nwith m.Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
        "[1, 2]",
    ),
    "multiprocessing, the default on every Python": (
        "import multiprocessing as m\nprint(m.get_start_method() != 'forkserver')",
        "True",
    ),
    "multiprocessing, manager": (
        "import multiprocessing as m\nwith m.Manager() as manager: print(list(manager.list([1])))",
        "[1]",
    ),
    "multiprocessing, lock and value": (
        "import multiprocessing as m\nc = m.get_context('fork')\nvalue = c.Value('i', 0)\n"
        "def add():\n    for _ in range(100):\n        with value.get_lock(): value.value += 1\n"
        "ps = [c.Process(target=add) for _ in range(3)]\n[p.start() for p in ps]; [p.join() for p in ps]\nvalue.value",
        "300",
    ),
    "multiprocessing, queue": (
        "import multiprocessing as m\nc = m.get_context('fork')\nq = c.Queue()\n"
        "p = c.Process(target=q.put, args=([1],))\n"
        "p.start(); got = q.get(timeout=20); p.join()\ngot",
        "[1]",
    ),
    "multiprocessing, pipe": (
        "import multiprocessing as m\na, b = m.Pipe()\na.send({'x': 1})\nb.recv()",
        "{'x': 1}",
    ),
    "multiprocessing, event and barrier": (
        "import multiprocessing as m\nc = m.get_context('fork')\ne = c.Event()\n"
        "p = c.Process(target=e.set)\np.start()\n"
        "r = e.wait(20); p.join()\nr",
        "True",
    ),
    "shared memory": (
        "from multiprocessing import shared_memory as s\na = s.SharedMemory(create=True, size=100)\na.buf[0] = 7\n"
        "b = s.SharedMemory(a.name)\nr = b.buf[0]\nb.close(); a.close(); a.unlink()\nr",
        "7",
    ),
    "process pool executor": (
        "from concurrent.futures import ProcessPoolExecutor as P\nwith P(2) as p: print(list(p.map(abs, [-1, -2])))",
        "[1, 2]",
    ),
    "thread pool executor": (
        "from concurrent.futures import ThreadPoolExecutor as P\nwith P(4) as p: print(list(p.map(abs, [-1, -2])))",
        "[1, 2]",
    ),
    "await at the top": (
        "import asyncio\nawait asyncio.sleep(0)\nawait asyncio.gather(*(asyncio.sleep(0, i) for i in (1, 2)))",
        "[1, 2]",
    ),
    "to_thread": ("import asyncio\nawait asyncio.to_thread(sum, [1, 2])", "3"),
    # ---- terminals
    "pty.openpty": (
        "import os, pty\na, b = pty.openpty()\nos.write(b, b'x\\n')\nr = os.read(a, 10)\nos.close(a); os.close(b)\nr",
        "b'x\\r\\n'",
    ),
    "pty.spawn": (
        "import os, pty, sys\npid, fd = pty.fork()\n"
        "if pid == 0: os.execvp('sh', ['sh', '-c', 'test -t 1 && echo tty'])\n"
        "r = os.read(fd, 100); os.waitpid(pid, 0); os.close(fd)\nr",
        "b'tty\\r\\n'",
    ),
    # ---- network of its own
    "TCP inside": (
        "import socket, threading\ns = socket.create_server(('127.0.0.1', 0))\n"
        "def serve():\n    c, _ = s.accept()\n    with c: c.sendall(c.recv(10).upper())\n"
        "t = threading.Thread(target=serve); t.start()\n"
        "with socket.create_connection(s.getsockname()) as c: c.sendall(b'x'); print(c.recv(10))\nt.join(); s.close()",
        "b'X'",
    ),
    "an HTTP server inside": (
        "import http.server, threading, urllib.request\n"
        "s = http.server.HTTPServer(('', 8000), http.server.SimpleHTTPRequestHandler)\n"
        "s.RequestHandlerClass.log_message = lambda *a: None\nt = threading.Thread(target=s.serve_forever); t.start()\n"
        "print(urllib.request.urlopen('http://localhost:8000/').status)\ns.shutdown(); s.server_close(); t.join()",
        "200",
    ),
    "an asynchronous server inside": (
        "import asyncio\nasync def serve(r, w):\n    w.write(await r.read(1)); w.close()\n"
        "s = await asyncio.start_server(serve, '::1', 0)\n"
        "r, w = await asyncio.open_connection(*s.sockets[0].getsockname()[:2])\n"
        "w.write(b'y'); print(await r.read()); w.close(); s.close()",
        "b'y'",
    ),
    "UDP inside": (
        "import socket\na = socket.socket(type=socket.SOCK_DGRAM); a.bind(('127.0.0.1', 0))\n"
        "b = socket.socket(type=socket.SOCK_DGRAM); b.sendto(b'z', a.getsockname())\n"
        "r = a.recv(10); a.close(); b.close()\nr",
        "b'z'",
    ),
    "socketpair": (
        "import socket\na, b = socket.socketpair(); a.send(b'x'); r = b.recv(1); a.close(); b.close()\nr",
        "b'x'",
    ),
    "localhost": ("import socket\nsocket.gethostbyname('localhost')", "'127.0.0.1'"),
    # ---- files
    "sqlite": (
        "import sqlite3\nc = sqlite3.connect('data.db'); c.execute('pragma journal_mode=wal').fetchall()\n"
        "c.execute('create table if not exists t(x)'); c.execute('insert into t values (1)'); c.commit()\n"
        "r = c.execute('select max(x) from t').fetchone(); c.close()\nr",
        "(1,)",
    ),
    "tempfile": (
        "import tempfile, os\nwith tempfile.NamedTemporaryFile() as f: f.write(b'x'); print(os.path.dirname(f.name))\n"
        "with tempfile.TemporaryDirectory() as d: print(os.path.isdir(d))",
        "/tmp\nTrue",
    ),
    "home": (
        "import os\np = os.path.expanduser('~/.config/new'); os.makedirs(p); open(p + '/f', 'w').write('x')",
        "1",
    ),
    "file locks": (
        "import fcntl\nwith open('lock', 'w') as f: fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_EX)\n1",
        "1",
    ),
    "mmap": (
        "import mmap\nwith open('map', 'w+b') as f:\n    f.truncate(10)\n"
        "    with mmap.mmap(f.fileno(), 10) as m: m[0] = 1\nopen('map', 'rb').read(1)",
        "b'\\x01'",
    ),
    "links and permissions": (
        "import os\nopen('f', 'w').close(); os.chmod('f', 0o640)\n"
        "for n in ('l', 'h'):\n    if os.path.lexists(n): os.unlink(n)\n"
        "os.symlink('f', 'l'); os.link('f', 'h'); os.rename('h', 'g')\noct(os.stat('l').st_mode & 0o777)",
        "'0o640'",
    ),
    "named pipes": ("import os\nif os.path.exists('p'): os.unlink('p')\nos.mkfifo('p'); os.unlink('p'); 1", "1"),
    "%cd and %%writefile": ("import os\nos.makedirs('/tmp/d', exist_ok=True)\n%cd -q /tmp/d\nos.getcwd()", "'/tmp/d'"),
    "imports from the working directory": (
        "import sys\nopen('my_module.py', 'w').write('x = 5')\nsys.path.insert(0, '')\nimport my_module\nmy_module.x",
        "5",
    ),
    # ---- facts
    "getpass.getuser": ("import getpass\ngetpass.getuser()", "'sandbox'"),
    "pwd": (
        "import os, pwd\nme = pwd.getpwuid(os.getuid())\nme.pw_name, me.pw_dir == os.path.expanduser('~')",
        "('sandbox', True)",
    ),
    "grp": ("import os, grp\ngrp.getgrgid(os.getgid()).gr_name", "'sandbox'"),
    "hostname": ("import platform\nplatform.node() != '' and platform.platform() != ''", "True"),
    "locale": ("import locale\nlocale.setlocale(locale.LC_ALL, ''); locale.getpreferredencoding()", "'UTF-8'"),
    "file system encoding": ("import sys, os\nopen('ä€😀', 'w').close(); 'ä€😀' in os.listdir('.')", "True"),
    "zoneinfo": (
        "import zoneinfo, datetime\n"
        "datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin')).utcoffset().seconds",
        "7200",
    ),
    "uuid": ("import uuid\nlen(str(uuid.uuid4())), len(str(uuid.uuid1()))", "(36, 36)"),
    "random": (
        "import os, secrets\nlen(os.urandom(8)), len(open('/dev/urandom', 'rb').read(8)), len(secrets.token_bytes(4))",
        "(8, 8, 4)",
    ),
    "ssl": ("import ssl\nssl.create_default_context().verify_mode.name", "'CERT_REQUIRED'"),
    "ctypes": ("import ctypes\nctypes.CDLL(None).abs(-3)", "3"),
    "ctypes callbacks": ("import ctypes\nctypes.CFUNCTYPE(ctypes.c_int)(lambda: 4)()", "4"),
    "pip": (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'pip', '--version'], capture_output=True, text=True).stdout[:4]",
        "'pip '",
    ),
    "installed packages": ("import importlib.metadata as m\nm.version('ipython') != ''", "True"),
    "the environment that was given": ("import os\nos.environ['GIVEN']", "'value'"),
    "cpu count": ("import os\nos.cpu_count() >= 1", "True"),
    "warnings": ("import warnings\nwarnings.warn('careful')\nprint('on')", None),
    "logging": (
        "import logging, sys\n"
        "logging.basicConfig(stream=sys.stdout, format='%(message)s', force=True)\nlogging.warning('logged')",
        "logged",
    ),
    "timers and signals": (
        "import signal, time\nfired = []\nsignal.signal(signal.SIGALRM, lambda *a: fired.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01)\nwhile not fired: time.sleep(0.001)\nfired",
        "[1]",
    ),
    "resource usage": ("import resource\nresource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0", "True"),
    "%timeit": ("%timeit -n1 -r1 1", None),
    "tqdm of rich": ("from rich.progress import track\nsum(track(range(3), disable=True))", "3"),
    # ---- science
    "numpy": ("import numpy as np\nfloat(np.linalg.norm(np.ones((300, 300)) @ np.ones(300)) > 0)", "1.0"),
    "pandas": (
        "import pandas as pd\nd = pd.DataFrame({'a': [1, 2]})\n"
        "d.to_csv('d.csv', index=False); int(pd.read_csv('d.csv').a.sum())",
        "3",
    ),
    "pandas and sqlite": (
        "import pandas as pd, sqlite3\nc = sqlite3.connect(':memory:'); pd.DataFrame({'a': [1]}).to_sql('t', c)\n"
        "r = int(pd.read_sql('select a from t', c).a[0]); c.close()\nr",
        "1",
    ),
    "matplotlib into a file": (
        "import matplotlib\nmatplotlib.use('Agg')\nimport matplotlib.pyplot as plt\n"
        "plt.plot([1]); plt.savefig('plot.pdf'); plt.close()\n"
        "open('plot.pdf', 'rb').read(4)",
        "b'%PDF'",
    ),
}
"""Code, and what it shows; None is anything but an error."""


@pytest.mark.parametrize("what", WORKS)
@pytest.mark.asyncio
async def test_it_works(gateway: KernelGateway, kernel_id: str, workspace: Path, what: str) -> None:
    code, expected = WORKS[what]
    async with KernelClient(gateway.host, gateway.port, kernel_id=kernel_id) as client:
        got = await text_of(client, code, cwd=workspace)
    if expected is not None:
        assert got.splitlines()[-len(expected.splitlines()) :] == expected.splitlines(), got


@pytest.mark.asyncio
async def test_files_belong_to_the_user_and_are_there_afterwards(client: KernelClient, workspace: Path) -> None:
    await client.execute("import os\nos.makedirs('made/deep', exist_ok=True)\nopen('made/deep/file', 'w').write('x')")
    made = workspace / "made" / "deep" / "file"
    assert made.read_text() == "x"
    assert made.stat().st_uid == workspace.stat().st_uid == os.getuid()
    made.write_text("from the host")
    assert await text_of(client, "print(open('made/deep/file').read())") == "from the host"
    made.unlink()
    assert await text_of(client, "os.path.exists('made/deep/file')") == "False"


@pytest.mark.asyncio
async def test_the_user_is_not_told(client: KernelClient) -> None:
    seen = await text_of(client, "import os, getpass\nprint(getpass.getuser(), os.path.expanduser('~'))")
    assert os.path.expanduser("~") not in seen.split()
    assert getpass.getuser() not in seen.split()


# ---- output ---------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_large_output_is_complete(client: KernelClient) -> None:
    assert await text_of(client, "print('x' * 5_000_000)") == "x" * 5_000_000
    async with asyncio.timeout(4 * HANG):
        result = await client.execute("for i in range(1_000_000): print(i)")
    assert result.stdout == "".join(f"{i}\n" for i in range(1_000_000))


@pytest.mark.asyncio
async def test_output_of_children_is_complete_and_in_its_place(client: KernelClient) -> None:
    code = """
import os, subprocess, sys
print('before')
subprocess.run(['seq', '100000'])
print('between')
pid = os.fork()
if pid == 0:
    print('from the fork', flush=True)
    os._exit(0)
os.waitpid(pid, 0)
subprocess.run(['sh', '-c', 'echo error >&2'])
print('after')
"""
    async with asyncio.timeout(HANG):
        result = await client.execute(code)
    numbers = "".join(f"{i}\n" for i in range(1, 100_001))
    assert result.stdout == f"before\n{numbers}between\nfrom the fork\nafter\n"
    assert result.stderr == "error\n"


@pytest.mark.asyncio
async def test_warnings_go_to_stderr(client: KernelClient) -> None:
    async with asyncio.timeout(HANG):
        result = await client.execute("import warnings\nwarnings.warn('careful')")
    assert "UserWarning: careful" in result.stderr


PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3]); plt.show()\nplt.plot([3, 2, 1]); plt.show()"


@pytest.mark.asyncio
async def test_plots_are_saved_by_the_client(gateway: KernelGateway, tmp_path: Path) -> None:
    async with KernelClient(gateway.host, gateway.port, images_dir=tmp_path / "pictures") as client:
        async with asyncio.timeout(HANG):
            result = await client.execute(PLOT)
        assert len(result.images) == 2
        for image in result.images:
            assert image.parent == tmp_path / "pictures"
            assert image.read_bytes().startswith(b"\x89PNG")
            assert image.stat().st_uid == os.getuid()


@pytest.mark.asyncio
async def test_images_may_be_saved_in_the_working_directory(gateway: KernelGateway, workspace: Path) -> None:
    async with KernelClient(gateway.host, gateway.port, images_dir=workspace / "images") as client:
        async with asyncio.timeout(HANG):
            result = await client.execute(PLOT)
        assert [image.parent for image in result.images] == [workspace / "images"] * 2
        assert await text_of(client, f"import os; len(os.listdir({str(workspace / 'images')!r}))") == "2"


@pytest.mark.asyncio
async def test_rich_displays_arrive(client: KernelClient) -> None:
    code = """
from IPython.display import display, HTML, JSON
handle = display(HTML('<b>x</b>'), display_id=True)
handle.update(HTML('<i>y</i>'))
display(JSON({'a': 1}))
6 * 7
"""
    async with asyncio.timeout(HANG):
        result = await client.execute(code)
    displays = [output for output in result.outputs if isinstance(output, DisplayOutput)]
    assert displays[0].data["text/html"] == "<i>y</i>"
    assert displays[1].data["application/json"] == {"a": 1}
    assert displays[-1].text == "42"


@pytest.mark.asyncio
async def test_output_is_streamed(client: KernelClient) -> None:
    async with asyncio.timeout(HANG), client.run("print('first')\nx = input()\nprint(x)", on_input=answer) as execution:
        events = [event async for event in execution]
    assert [event.text for event in events if isinstance(event, StreamOutput)] == ["first\n", "an answer\n"]


async def answer(prompt: str, password: bool) -> str:
    return "an answer"


@pytest.mark.asyncio
async def test_questions_are_answered(client: KernelClient) -> None:
    code = "import getpass\nprint(input('name? '), getpass.getpass('word? '))"
    assert await text_of(client, code, on_input=answer) == "an answer an answer"
    with pytest.raises(ExecutionError, match="StdinNotImplementedError"):
        await client.execute("input()")


@pytest.mark.asyncio
async def test_tracebacks_name_files_and_lines(client: KernelClient, workspace: Path) -> None:
    (workspace / "broken.py").write_text("def fail():\n    return 1 / 0\n")
    name = "my_cell.py"
    with pytest.raises(ExecutionError) as caught:
        await client.execute("x = 1\nimport sys; sys.path.insert(0, '')\nimport broken\nbroken.fail()", file_name=name)
    assert caught.value.name == "ZeroDivisionError"
    assert "my_cell.py" in caught.value.traceback
    assert str(workspace / "broken.py") in caught.value.traceback
    assert "return 1 / 0" in caught.value.traceback
    assert caught.value.result is not None
    assert any(isinstance(output, ErrorOutput) for output in caught.value.result.outputs)
    assert await text_of(client, "x") == "1"


# ---- options and connections ----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_options_of_one_execution(client: KernelClient, workspace: Path) -> None:
    (workspace / "sub").mkdir(exist_ok=True)
    code = "import os, sys\nprint(os.environ.get('OPTION'), os.path.basename(os.getcwd()), sys.argv)"
    options: dict[str, Any] = {"env": {"OPTION": "x"}, "cwd": workspace / "sub", "argv": ["program", "-v"]}
    assert await text_of(client, code, **options) == "x sub ['program', '-v']"
    assert await text_of(client, "print(os.environ.get('OPTION'), os.getcwd())") == f"None {workspace}"


@pytest.mark.asyncio
async def test_a_broken_connection_loses_nothing(client: KernelClient) -> None:
    call = asyncio.create_task(client.execute("for i in range(200_000): print(i)"))
    for _ in range(3):
        await asyncio.wait([call], timeout=0.05)
        await channel_of(client).drop()
    async with asyncio.timeout(2 * HANG):
        assert (await call).stdout == "".join(f"{i}\n" for i in range(200_000))


@pytest.mark.asyncio
async def test_executions_can_be_attached_to(gateway: KernelGateway, client: KernelClient) -> None:
    async with asyncio.timeout(HANG):
        first = await client.execute("for i in range(100): print(i)\n'value'")
        async with KernelClient(gateway.host, gateway.port, kernel_id=client.kernel_id) as other:
            async with other.attach(first.execution_id) as execution:
                again = await execution.result()
            assert (again.text, again.stdout) == (first.text, first.stdout)
            call: asyncio.Task[ExecutionResult] = asyncio.create_task(
                client.execute("import asyncio\nprint('go')\nawait asyncio.sleep(0.2)\nprint('end')")
            )
            assert (await call).stdout == "go\nend\n"


@pytest.mark.asyncio
async def test_late_output_is_kept(client: KernelClient) -> None:
    async with asyncio.timeout(HANG):
        first = await client.execute(
            "import threading\nevent = threading.Event()\n"
            "thread = threading.Thread(target=lambda: (event.wait(), print('late')))\nthread.start()"
        )
        await client.execute("event.set(); thread.join()")
    assert client.late_output(first.execution_id) == "late\n"


@pytest.mark.asyncio
async def test_calls_at_the_same_time_run_in_order(client: KernelClient) -> None:
    await client.execute("ran = []")
    async with asyncio.timeout(HANG):
        await asyncio.gather(*(client.execute(f"ran.append({i})") for i in range(20)))
    assert await text_of(client, "ran == list(range(20))") == "True"


@pytest.mark.asyncio
async def test_unix_sockets_inside_when_they_are_allowed(tmp_path: Path) -> None:
    config = write_policy(tmp_path, network={"allowAllUnixSockets": True})
    async with KernelGateway(port=0, sandbox=True, sandbox_config=config, working_dir=tmp_path) as gateway:
        async with KernelClient(gateway.host, gateway.port) as client:
            code = (
                "import socket\nwith socket.socket(socket.AF_UNIX) as s, socket.socket(socket.AF_UNIX) as c:\n"
                "    s.bind('/tmp/s'); s.listen(); c.connect('/tmp/s'); print('connected')"
            )
            assert await text_of(client, code) == "connected"
            assert await text_of(client, FORK_SERVER) == "[1]"
            assert await text_of(client, WORKS["multiprocessing, manager"][0]) == "[1]"
