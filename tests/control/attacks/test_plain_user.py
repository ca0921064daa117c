"""A server of a user who is not root, which may do less than root against what code does."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.control.attacks.hostile import BACKEND, FILL, pack
from tests.control.serving import Server

pytestmark = [pytest.mark.sandbox]


@contextmanager
def plain_server(**settings: Any) -> Iterator[Server]:
    """A server of a user who is not root."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        through = (sys.executable, "-m", "tests.plain_user")
        with Server(Path(folder, "state"), through=through, console=False, **settings) as server:
            yield server


def test_files_of_a_process_that_nobody_may_look_into_count() -> None:
    """A server that is not root can't see what such a process has open, and must not take that for nothing."""
    quiet = f"{FILL}\ndef handler(e):\n    libc.prctl(4, 0, 0, 0, 0)\n    time.sleep(2)\n    return 1"
    with plain_server() as server:
        api = server.api()
        session_id = api.new_session(disk="64Mi")
        ran = api.run(session_id, f"{FILL}\ndef handler(e):\n    libc.prctl(4, 0, 0, 0, 0)\n    fill()", timeout=30)
        assert (ran["status"], ran["status_reason"]) == ("failed", "disk_full"), ran
        assert "hides" in ran["error_message"]
        assert api.run(session_id, quiet)["return_value"] == 1


def test_a_build_that_hides_its_directory_is_ended() -> None:
    """Root looks into it all the same."""
    backend = BACKEND.format(before="os.mkdir('in'); os.chdir('in'); os.chmod('/run/packages', 0)", after="")
    with tempfile.TemporaryDirectory() as sources:
        pack(Path(sources), "ipybox-testing-closed", backend)
        os.chmod(sources, 0o755)
        with plain_server(package_index=Path(sources).as_uri()) as server:
            api = server.api()
            session_id = api.new_session(disk="64Mi", dependencies=[{"name": "ipybox-testing-closed"}])
            failed = api.session_when(session_id, "failed", "running")
    assert failed["status"] == "failed"
    assert "can't be measured" in failed["dependency_install_error"]
