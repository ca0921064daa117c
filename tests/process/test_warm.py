"""What a fork-server has ready survives its way, and getting warm leaves neither threads nor descriptors."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.kernel_mgr import warm_kernel
from ipybox.kernel_mgr.warm_kernel import WarmSettings
from ipybox.process.late_site import PythonFacts
from ipybox.process.warm import Warmth
from tests.process.witness import needs_linux

TEXTS = st.text(max_size=20)
WARMTHS = st.builds(
    Warmth,
    module=TEXTS,
    settings=TEXTS,
    path=st.lists(TEXTS).map(tuple),
    more_path=st.lists(TEXTS).map(tuple),
    env=st.dictionaries(TEXTS, TEXTS),
)


@given(warmth=WARMTHS)
def test_it_survives_its_way(warmth: Warmth) -> None:
    assert Warmth.from_json(warmth.to_json()) == warmth


def test_defaults_survive_their_way() -> None:
    assert Warmth.from_json(Warmth(module="m").to_json()) == Warmth(module="m")


def test_bytes_that_are_no_text_survive_their_way() -> None:
    warmth = Warmth(module="m", path=("/home/\udcfc",), more_path=("/\udcff",), env={"A": "\udc80"})
    assert Warmth.from_json(warmth.to_json()) == warmth


def test_every_field_travels() -> None:
    assert set(json.loads(Warmth(module="m").to_json())) == {field.name for field in fields(Warmth)}


def test_it_keeps_the_environment_to_itself() -> None:
    assert "hunter2" not in repr(Warmth(module="m", env={"PASSWORD": "hunter2"}))


@given(
    settings=st.builds(
        WarmSettings,
        modules=st.lists(TEXTS).map(tuple),
        python=st.none()
        | st.builds(
            PythonFacts,
            prefix=TEXTS,
            exec_prefix=TEXTS,
            sites=st.lists(TEXTS),
            site_prefixes=st.lists(TEXTS),
            user_site=st.none() | st.booleans(),
        ),
        argv=st.lists(TEXTS).map(tuple),
    )
)
def test_settings_of_kernels_survive_their_way(settings: WarmSettings) -> None:
    assert WarmSettings.from_json(settings.to_json()) == settings


WARM = """
import json, os, sys
from ipybox.process import warm

def run(env):
    pass

def prepare(settings, path, tell):
    print(json.dumps([settings, list(path)]), flush=True)
"""
PREPARE = """
import gc, json, os, sys
from ipybox.errors import PreloadError
from ipybox.process import warm

def open_files():
    def is_open(fd):
        try:
            os.fstat(fd)
        except OSError:
            return False
        return True
    return [fd for fd in range(1000) if is_open(fd)]

before = open_files()
told = []
try:
    run = warm.prepare(warm.Warmth.from_json(sys.argv[1]), told.append)
except PreloadError as error:
    print(json.dumps({"preload": [error.module, error.reason]}))
else:
    print(json.dumps({
        "run": f"{run.__module__}.{run.__name__}",
        "frozen": gc.get_freeze_count() > 0,
        "threads": len(os.listdir("/proc/self/task")),
        "opened": [os.readlink(f"/proc/self/fd/{fd}") for fd in open_files() if fd not in before],
    }))
"""


def prepared(warmth: Warmth, cwd: Path) -> list[str]:
    """What a Python says that gets warm."""
    command = [sys.executable, "-c", PREPARE, warmth.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_module_is_told_its_settings_and_its_run_is_what_forks_call(tmp_path: Path) -> None:
    (tmp_path / "warm_thing.py").write_text(WARM)
    lines = prepared(Warmth(module="warm_thing", settings="ä", more_path=("/a", "/b")), tmp_path)
    assert json.loads(lines[0]) == ["ä", ["/a", "/b"]]
    assert json.loads(lines[1]) | {"frozen": True} == {
        "run": "warm_thing.run",
        "frozen": True,
        "threads": 1,
        "opened": [],
    }


@needs_linux
def test_a_warm_kernel_leaves_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    (line,) = prepared(Warmth(module=warm_kernel.MODULE, settings=WarmSettings().to_json()), tmp_path)
    assert json.loads(line) == {"run": f"{warm_kernel.MODULE}.run", "frozen": True, "threads": 1, "opened": []}


@needs_linux
def test_a_module_that_can_not_be_imported_beforehand_is_told(tmp_path: Path) -> None:
    settings = WarmSettings(modules=("json", "no_such_module"))
    (line,) = prepared(Warmth(module=warm_kernel.MODULE, settings=settings.to_json()), tmp_path)
    module, reason = json.loads(line)["preload"]
    assert module == "no_such_module"
    assert "ModuleNotFoundError" in reason


def test_modules_of_the_owners_wish_come_from_more_path_too(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own_module.py").write_text("")
    settings = WarmSettings(modules=("own_module",))
    more = (str(tmp_path / "own"),)
    (line,) = prepared(Warmth(module=warm_kernel.MODULE, settings=settings.to_json(), more_path=more), tmp_path)
    assert "run" in json.loads(line)


# ---- who can be forked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPLATLIBDIR", "PYTHONINSPECT"])
def test_an_environment_that_only_a_start_heeds_is_an_obstacle_and_is_named(name: str) -> None:
    found = warm_kernel.obstacle({"A": "b", name: ""})
    assert found is not None
    assert name in found


@pytest.mark.parametrize(
    "name", ["PYTHONHASHSEED", "PYTHONPATH", "PYTHONUTF8", "PYTHONWARNINGS", "OLD_", "MY_LD_X", "KERNEL_X"]
)
def test_any_other_environment_is_none(name: str) -> None:
    assert warm_kernel.obstacle({name: "1"}) is None
