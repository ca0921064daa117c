"""Packages for sessions and templates: installed in a sandbox of their own, all of them or none."""

from __future__ import annotations

import asyncio
import os
import zipfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from ipybox.control.errors import InstallError
from ipybox.control.records import Dependency, InstalledDependency
from ipybox.control.runtime.local import LocalHost
from ipybox.control.states import ExecutionStatus
from tests.control.runtime.boxes import HANG, LIMITS, OUTPUT, Boxes
from tests.processes import below
from tests.sandbox.test_packages import index, wheel

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]

NAME = "ipybox-testing-wheel"
SECOND = "ipybox-testing-second"


@dataclass
class Installing:
    boxes: Boxes
    wheels: Path

    async def install(
        self,
        *wanted: tuple[str, str],
        into: Path,
        index_url: str | None = None,
        timeout: float = HANG,
        allow_conflicts: bool = False,
        template: Path | None = None,
    ) -> Sequence[InstalledDependency]:
        return await self.boxes.host.install(
            [Dependency(name=name, version=version) for name, version in wanted],
            into=into,
            index_url=index_url,
            limits=LIMITS,
            timeout=timeout,
            allow_conflicts=allow_conflicts,
            template=template,
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installing]:
    root, wheels = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("wheels")
    for version in ("1.0", "2.0"):
        wheel(wheels, version=version)
    wheel(wheels, SECOND, "2.5", requires=f"{NAME}<2")
    async with LocalHost(root, max_output_bytes=OUTPUT, default_index=wheels.as_uri()) as host:
        yield Installing(Boxes(host, root), wheels)


def source(directory: Path, name: str, setup: str) -> None:
    """A source distribution, whose ``setup`` is run when it is built."""
    backend = f"def build_wheel(*a, **k):\n{setup}\n    raise SystemExit(1)\n"
    import io
    import tarfile

    with tarfile.open(directory / f"{name.replace('-', '_')}-1.0.tar.gz", "w:gz") as archive:
        files = {
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
            "backend.py": backend,
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        }
        for path, text in files.items():
            facts = tarfile.TarInfo(f"{name.replace('-', '_')}-1.0/{path}")
            facts.size = len(text)
            archive.addfile(facts, io.BytesIO(text.encode()))


async def test_what_is_installed_is_told_and_found_by_a_session_that_runs_already(installing: Installing) -> None:
    box = await installing.boxes.make()
    code = "import ipybox_testing_wheel as w, os\nhandler = lambda e: [w.ANSWER, os.path.exists(w.__cached__)]"
    assert (await box.python(code)).status is ExecutionStatus.FAILED
    (found,) = await installing.install((NAME, "==1.0"), into=box.packages)
    assert (found.name, found.version, found.is_from_template) == (NAME, "1.0", False)
    assert found.install_location.startswith("/run/packages/")
    assert await box.value(code) == [42, True]
    assert "ipybox-testing-wheel-tool" in (await box.shell("ls /run/packages/bin")).text()


async def test_more_can_be_installed_and_another_version_takes_the_place(installing: Installing) -> None:
    box = await installing.boxes.make()
    await installing.install((NAME, "==2.0"), into=box.packages)
    found = await installing.install((SECOND, ""), (NAME, "<2"), into=box.packages)
    assert [(each.name, each.version) for each in found] == [(SECOND, "2.5"), (NAME, "1.0")]
    code = """
import importlib.metadata as m
handler = lambda e: [d.version for d in m.distributions() if 'testing' in d.name]
"""
    assert sorted(await box.value(code)) == ["1.0", "2.5"]


async def test_what_does_not_go_together_is_an_error_unless_it_is_wanted(installing: Installing) -> None:
    into = installing.boxes.directory("packages")
    await installing.install((SECOND, ""), into=into)
    with pytest.raises(InstallError, match=r"do not go together(.|\n)*which is incompatible"):
        await installing.install((NAME, "==2.0"), into=into)
    (found,) = await installing.install((NAME, "==1.0"), into=into)
    assert found.version == "1.0"
    (found,) = await installing.install((NAME, "==2.0"), into=into, allow_conflicts=True)
    assert found.version == "2.0"


async def test_a_failure_names_what_was_asked_for_and_changes_nothing(installing: Installing) -> None:
    into = installing.boxes.directory("packages")
    await installing.install((NAME, "==1.0"), into=into)
    before = sorted(map(str, into.rglob("*")))
    with pytest.raises(InstallError) as caught:
        await installing.install((NAME, "==2.0"), ("no-such-thing", "==9.9"), into=into)
    assert "no-such-thing==9.9" in str(caught.value)
    assert "No matching distribution" in caught.value.reason
    assert caught.value.requirements == (f"{NAME}==2.0", "no-such-thing==9.9")
    assert sorted(map(str, into.rglob("*"))) == before
    assert [name for name in os.listdir(into.parent) if "installing" in name] == []


async def test_packages_of_the_template_count_as_installed(installing: Installing) -> None:
    template, into = installing.boxes.directory("template"), installing.boxes.directory("packages")
    await installing.install((NAME, "==1.0"), into=template)
    found = await installing.install((SECOND, ""), (NAME, ""), into=into, template=template)
    assert [(each.name, each.is_from_template) for each in found] == [(SECOND, False), (NAME, True)]
    assert not list(into.rglob("ipybox_testing_wheel"))
    (found_again,) = await installing.install((NAME, "==2.0"), into=into, template=template, allow_conflicts=True)
    assert (found_again.version, found_again.is_from_template) == ("2.0", False)


async def test_what_takes_too_long_is_ended_and_leaves_nothing(installing: Installing, tmp_path: Path) -> None:
    source(installing.wheels, "ipybox-testing-slow", "    import time; time.sleep(60)")
    into, before = installing.boxes.directory("packages"), below()
    with pytest.raises(InstallError, match="longer than 3 seconds"):
        await installing.install(("ipybox-testing-slow", ""), into=into, timeout=3)
    assert list(into.iterdir()) == []
    assert below() <= before


async def test_code_of_a_package_sees_no_sessions_and_no_network(installing: Installing) -> None:
    setup = """
    import os, socket, sys
    seen = [p for p in ('/run/sessions', '/workspace') for _ in [0] if os.access(p, os.R_OK) and os.listdir(p)]
    try:
        socket.create_connection(('192.0.2.1', 80), 2); seen.append('network')
    except OSError: pass
    try:
        open('/run/earlier/x', 'w'); seen.append('earlier')
    except OSError: pass
    sys.stderr.write(f'SEEN {seen}')"""
    source(installing.wheels, "ipybox-testing-nosy", setup)
    box = await installing.boxes.make()
    (box.workspace / "secret").touch()
    with pytest.raises(InstallError, match=r"SEEN \[\]"):
        await installing.install(("ipybox-testing-nosy", ""), into=box.packages)


async def test_who_is_cancelled_leaves_nothing(installing: Installing) -> None:
    source(installing.wheels, "ipybox-testing-slow", "    import time; time.sleep(60)")
    into, before = installing.boxes.directory("packages"), below()
    task = asyncio.ensure_future(installing.install(("ipybox-testing-slow", ""), into=into))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert below() <= before
    assert [name for name in os.listdir(into.parent) if "installing" in name] == []


async def test_an_index_on_this_machine_is_for_those_who_run_it(tmp_path: Path) -> None:
    """Whoever asks for packages may name any index, but not have us look around in our own network."""
    with index(tmp_path, wheel(tmp_path / "files")) as (port, seen):
        url = f"http://127.0.0.1:{port}/simple"
        root = tmp_path / "state"
        root.mkdir()
        async with LocalHost(root, max_output_bytes=OUTPUT) as host:
            into = Boxes(host, root).directory("packages")
            wanted = [Dependency(name=NAME)]
            for index_url in (url, url.replace("127.0.0.1", "localhost")):
                with pytest.raises(InstallError, match=r"named and not numbered|pip ended"):
                    await host.install(wanted, into=into, index_url=index_url, limits=LIMITS, timeout=HANG)
            assert seen == []
            for index_url in ("file:///etc", "ftp://example.org/", "nonsense"):
                with pytest.raises(InstallError, match="begins with https"):
                    await host.install(wanted, into=into, index_url=index_url, limits=LIMITS, timeout=HANG)
        async with LocalHost(root, max_output_bytes=OUTPUT, default_index=url) as host:
            (found,) = await host.install(wanted, into=into, index_url=None, limits=LIMITS, timeout=HANG)
            assert found.version == "1.0"


async def test_metadata_that_leads_elsewhere_is_not_followed(installing: Installing) -> None:
    name = "ipybox_testing_link"
    path = installing.wheels / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "import os\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    into = installing.boxes.directory("packages")
    await installing.install((name, ""), into=into)
    (metadata,) = into.rglob(f"{info}/METADATA")
    (installing.boxes.root / "outside").write_text("Name: outside\nVersion: 6\n")
    metadata.unlink()
    metadata.symlink_to(installing.boxes.root / "outside")
    from ipybox.control.runtime import installed

    assert installed.packages(into) == {}
