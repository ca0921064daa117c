"""Modules that are imported once for all forks: those that do not survive one are named. Each in its own Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process.witness import needs_linux

pytestmark = needs_linux

LOAD = """
import json, random, sys
sys.path.insert(0, sys.argv[1])
from ipybox.errors import PreloadError
from ipybox.kernel_mgr import preload

told = []
try:
    preload.load(sys.argv[2:], told.append)
except PreloadError as error:
    answer = {"module": error.module, "reason": error.reason, "told": told}
else:
    answer = {"loaded": [name for name in sys.argv[2:] if name in sys.modules], "random": random.random(), "told": told}
print("\\n" + json.dumps(answer))
"""


def load(directory: Path, *modules: str) -> dict[str, Any]:
    """What became of a preload."""
    command = [sys.executable, "-c", LOAD, str(directory), *modules]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def refused(directory: Path, source: str) -> str:
    """The reason why a module with this source is refused."""
    (directory / "culprit.py").write_text(source)
    (directory / "innocent.py").write_text("")
    answer = load(directory, "innocent", "culprit")
    assert answer.get("module") == "culprit", answer
    reason: str = answer["reason"]
    return reason


RAISES = {
    "missing import": ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
    "raises": ("1 / 0", "ZeroDivisionError: division by zero"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "no Python": ("def", "SyntaxError"),
}


@pytest.mark.parametrize("what", RAISES)
def test_a_module_that_can_not_be_imported_is_named_with_its_error(what: str, tmp_path: Path) -> None:
    source, reason = RAISES[what]
    assert reason in refused(tmp_path, source)


def test_a_module_that_does_not_exist_is_named(tmp_path: Path) -> None:
    answer = load(tmp_path, "json", "no_such_module_at_all")
    assert answer["module"] == "no_such_module_at_all"
    assert "ModuleNotFoundError" in answer["reason"]


def test_a_long_error_is_cut(tmp_path: Path) -> None:
    reason = refused(tmp_path, "raise ValueError('x' * 100_000)")
    assert "ValueError: xxx" in reason
    assert len(reason) <= 2000


OPENS = {
    "a socket": "import socket; kept = socket.socket()",
    "a file": "kept = open(__file__)",
    "a pipe": "import os; kept = os.pipe()",
    "a directory": "import os; kept = os.open('/', os.O_RDONLY)",
    "a device": "kept = open('/dev/null')",
    "a descriptor (anon_inode:[eventpoll])": "import select; kept = select.epoll()",
}


@pytest.mark.parametrize("kind", OPENS)
def test_a_module_that_leaves_something_open_is_named_with_its_kind(kind: str, tmp_path: Path) -> None:
    reason = refused(tmp_path, OPENS[kind])
    assert "opens " in reason
    assert kind in reason


def test_of_a_file_its_path_is_told(tmp_path: Path) -> None:
    assert str(tmp_path / "culprit.py") in refused(tmp_path, OPENS["a file"])


THREADS = {
    "threading": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
    "_thread": "import _thread, time\n_thread.start_new_thread(time.sleep, (600,))",
    "pool": "from concurrent.futures import ThreadPoolExecutor as P\nimport time\np = P()\np.submit(time.sleep, 1)",
}


@pytest.mark.parametrize("how", THREADS)
def test_a_module_that_starts_a_thread_is_named(how: str, tmp_path: Path) -> None:
    assert "starts threads" in refused(tmp_path, THREADS[how])


def test_what_a_module_closes_and_ends_again_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "tidy.py").write_text(
        "import socket, threading\nsocket.socket().close()\nopen(__file__).close()\n"
        "thread = threading.Thread(target=lambda: None)\nthread.start()\nthread.join()\n"
    )
    assert load(tmp_path, "tidy")["loaded"] == ["tidy"]


def test_each_name_is_told_before_it_is_imported(tmp_path: Path) -> None:
    """So that it is known which import ended the process, should one do that."""
    assert load(tmp_path, "json", "wave", "no_such_module_at_all", "ssl")["told"] == [
        "json",
        "wave",
        "no_such_module_at_all",
    ]


@pytest.mark.parametrize("modules", [["numpy"], ["pandas"], ["matplotlib.pyplot"], ["json.tool", "sqlite3", "ssl"]])
def test_ordinary_libraries_pass(modules: list[str], tmp_path: Path) -> None:
    assert load(tmp_path, *modules)["loaded"] == modules


def test_numpy_that_was_used_at_import_passes(tmp_path: Path) -> None:
    """OpenBLAS starts threads when it multiplies, and ends them before a fork."""
    (tmp_path / "uses.py").write_text("import numpy\nnumpy.ones((500, 500)) @ numpy.ones((500, 500))\n")
    assert load(tmp_path, "uses")["loaded"] == ["uses"]


def test_a_module_that_seeds_random_numbers_does_not_do_so_for_all_kernels(tmp_path: Path) -> None:
    (tmp_path / "seeds.py").write_text("import random\nrandom.seed(1)\n")
    assert load(tmp_path, "seeds")["random"] != load(tmp_path, "seeds")["random"]
