"""What a program is told to be travels whole; what it takes to start it loads in no time."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ipybox.process import bootstrap
from ipybox.process.descriptors import memory_file, packet_pair
from ipybox.process.warm import Warmth
from ipybox.sandbox.launcher import Program

TEXT = st.text(max_size=8)
ROOT = Path(__file__).parents[2]
NUMBER = st.none() | st.integers(0, 2**60)


@given(
    st.lists(TEXT, max_size=3),
    st.dictionaries(TEXT, TEXT, max_size=3),
    TEXT,
    st.lists(st.integers(0, 100), max_size=3),
    NUMBER,
    st.booleans(),
)
def test_a_program_travels_whole(
    argv: list[str], env: dict[str, str], cwd: str, fds: list[int], number: int | None, flag: bool
) -> None:
    program = Program(argv=argv, env=env, cwd=cwd, fds=fds, data=number, cpu_time=number, proxy=flag)
    assert Program.from_json(program.to_json()).to_json() == program.to_json()
    empty: dict[str, Any] = dict.fromkeys(
        ("private", "overlays", "binds", "hidden", "pinned_links", "covered", "cpus"), ()
    )
    again = replace(Program.from_json(program.to_json()), **empty)
    assert asdict(again) == asdict(program)


def test_its_environment_is_not_shown() -> None:
    assert "secret" not in repr(Program(argv=["x"], env={"TOKEN": "secret"}, cwd="/"))


def test_the_command_loads_neither_site_packages_nor_asyncio() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import ipybox.sandbox.launcher; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "ipybox.sandbox.seccomp" in loaded
    assert not {"asyncio", "site", "threading", "logging", "subprocess"} & loaded


def test_nothing_is_imported_for_a_supervisor_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "imported.py").write_text("open('trace', 'w').close()\n")
    warmth = Warmth(module="imported", settings="", path=(str(tmp_path),), env={})
    ours, its = packet_pair()
    settings = memory_file(warmth.to_json())
    try:
        os.close(ours)
        command = bootstrap.command(
            sys.executable, "ipybox.sandbox.launcher", "--warm", str(settings), str(its), ignore_environment=False
        )
        done = subprocess.run(command, pass_fds=[settings, its], cwd=tmp_path, capture_output=True, text=True)
    finally:
        os.close(settings)
        os.close(its)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "trace").exists()
