"""How sessions and their host begin and end, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ipybox.control.runtime.local import LocalHost
from ipybox.control.states import ExecutionStatus, Reason
from ipybox.errors import PolicyError, PreloadError, ProgramStartError
from ipybox.sandbox.wall import NestedWall
from tests.control.runtime.boxes import HANG, LIMITS, MIB, OUTPUT, Boxes, eventually
from tests.processes import below

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


async def test_a_session_that_is_closed_leaves_nothing(boxes: Boxes) -> None:
    box = await boxes.make(stateful=True)
    await box.cell("import subprocess; p = subprocess.Popen(['sleep', '1000'], start_new_session=True)")
    running = asyncio.ensure_future(box.shell("sleep 1000"))
    started = asyncio.ensure_future(box.python("import time\ndef handler(e): time.sleep(1000)"))
    await eventually(lambda: box.session.running == 2)
    init = psutil.Process(box.session.processes[0])
    family = [init, *init.children(recursive=True)]
    assert len(family) >= 4
    await box.session.close()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    for ran in (await running, await started):
        assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.REQUESTED)
    assert (await box.session.ended()).reason is Reason.REQUESTED
    await box.session.close()


async def test_names_are_never_used_twice(boxes: Boxes) -> None:
    made = [await boxes.make() for _ in range(5)]
    names = {box.session.container_id for box in made}
    assert len(names) == 5
    assert all(name.startswith("box-") and len(name) == 20 for name in names)


async def test_many_start_at_once(boxes: Boxes) -> None:
    made = await asyncio.gather(*(boxes.make() for _ in range(40)))
    ran = await asyncio.gather(*(box.python("handler = lambda e: e", event=n) for n, box in enumerate(made)))
    assert [each.outcome.return_value for each in ran] == list(range(40))
    assert boxes.host.health()["sessions"] == 40


async def test_a_host_that_is_left_leaves_nothing(tmp_path: Path) -> None:
    before = below()
    async with LocalHost(tmp_path, max_output_bytes=OUTPUT) as host:
        boxes = Boxes(host, tmp_path)
        box = await boxes.make(stateful=True)
        running = asyncio.ensure_future(box.python("import time\ndef handler(e): time.sleep(1000)"))
        await eventually(lambda: box.session.running)
    ran = await running
    assert (ran.status, ran.outcome.reason) == (ExecutionStatus.CRASHED, Reason.SERVER_STOPPED)
    assert (await box.session.ended()).reason is Reason.SERVER_STOPPED
    assert below() <= before


async def test_a_host_whose_process_is_killed_leaves_nothing(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from ipybox.control.runtime.local import LocalHost
from tests.control.runtime.boxes import Boxes
async def main():
    async with LocalHost(Path(sys.argv[1]), max_output_bytes=1000) as host:
        box = await Boxes(host, Path(sys.argv[1])).make(stateful=True)
        await box.cell("import subprocess; p = subprocess.Popen(['sleep', '1000'], start_new_session=True)")
        print("up", flush=True)
        await box.shell("sleep 1000")
asyncio.run(main())
"""
    argv = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    owner = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, env=environment)
    assert owner.stdout is not None
    async with asyncio.timeout(HANG):
        assert await owner.stdout.readline() == b"up\n"
    family = psutil.Process(owner.pid).children(recursive=True)
    assert len(family) > 5
    owner.send_signal(signal.SIGKILL)
    await owner.wait()
    await eventually(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family))


async def test_a_wall_that_falls_takes_its_sessions_and_is_built_again(tmp_path: Path) -> None:
    async with LocalHost(tmp_path, max_output_bytes=OUTPUT) as host:
        boxes = Boxes(host, tmp_path)
        await host.warm(boxes.warm_spec())
        box = await boxes.make()
        init = psutil.Process(box.session.processes[0])
        launcher = init.parent()
        assert launcher is not None
        launcher.kill()
        async with asyncio.timeout(HANG):
            assert (await box.session.ended()).reason is Reason.SANDBOX_ENDED
        again = await boxes.make()
        assert await again.value("handler = lambda e: 1") == 1


async def test_where_only_bubblewrap_makes_namespaces_sessions_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(wall: NestedWall) -> None:
        raise ProgramStartError("not for plain programs")

    monkeypatch.setattr(NestedWall, "open", refuse)
    async with LocalHost(tmp_path, max_output_bytes=OUTPUT) as host:
        boxes = Boxes(host, tmp_path)
        one = await boxes.make(stateful=True, limits=replace(LIMITS, disk_bytes=4 * MIB))
        two = await boxes.make()
        assert host.health()["sandbox"] == "one bubblewrap per kernel"
        (two.workspace / "secret").touch()
        ran = await one.cell("x = 1\n!ls /run/sessions 2>&1; touch /run/packages/x 2>&1; touch mine; stat -fc %b /tmp")
        assert "Permission denied" in ran.text()
        assert "Read-only file system" in ran.text()
        assert "secret" not in ran.text()
        assert ran.text().splitlines()[-1] == "1024"
        assert (one.workspace / "mine").exists()
        assert (await one.cell("x")).shown("result")
        assert await two.value("handler = lambda e: 2") == 2


async def test_walls_that_are_asked_for_at_once_are_built_once(tmp_path: Path) -> None:
    async with LocalHost(tmp_path, max_output_bytes=OUTPUT) as host:
        boxes = Boxes(host, tmp_path)
        await asyncio.gather(*(host.warm(boxes.warm_spec()) for _ in range(5)))
        made = await asyncio.gather(*(boxes.make() for _ in range(5)))
        assert len(host.health()["walls"]) == 1
        await host.cool(boxes.warm_spec())
        assert len(host.health()["walls"]) == 1  # as it is used
        for box in made:
            await box.session.close()
        await host.warm(boxes.warm_spec())
        await host.cool(boxes.warm_spec())
        assert host.health()["walls"] == []


async def test_a_module_that_can_not_be_preloaded_is_an_error_and_can_be_tried_again(boxes: Boxes) -> None:
    for _ in range(2):
        with pytest.raises(PreloadError, match="no_such_module_at_all"):
            await boxes.host.warm(boxes.warm_spec(preload=("no_such_module_at_all",)))


async def test_a_workspace_is_no_place_to_preload_from(boxes: Boxes) -> None:
    packages = boxes.directory("template")
    (boxes.root / "outsider.py").write_text("x = 1")
    with pytest.raises(PreloadError):
        await boxes.host.warm(boxes.warm_spec(preload=("outsider",), packages_dir=packages))


async def test_a_root_that_every_sandbox_sees_is_refused() -> None:
    async with LocalHost(Path(__file__).parents[3] / "ipybox", max_output_bytes=OUTPUT) as host:
        with pytest.raises(PolicyError, match="every sandbox sees"):
            await host.warm(Boxes(host, Path()).warm_spec())


async def test_who_gives_up_on_a_start_leaves_nothing(tmp_path: Path) -> None:
    before = below()
    async with LocalHost(tmp_path, max_output_bytes=OUTPUT) as host:
        boxes = Boxes(host, tmp_path)
        await host.warm(boxes.warm_spec())
        for delay in (0, 0.001, 0.004, 0.008, 0.012):
            start = asyncio.ensure_future(boxes.make(stateful=True))
            await asyncio.sleep(delay)
            start.cancel()
            await asyncio.wait([start])
            if not start.cancelled():
                await start.result().session.close()
        assert await eventually(lambda: host.health()["sessions"] == 0)
    assert below() <= before
