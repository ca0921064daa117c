"""Whether a process is alive is told from its first moment of ending on. Real processes."""

from __future__ import annotations

import os
import subprocess

from ipybox.process import liveness
from tests.process.witness import Witness, needs_linux

pytestmark = needs_linux


def test_a_process_is_alive_until_it_has_ended_also_when_nobody_collects_it(witness: Witness) -> None:
    with subprocess.Popen(witness.program("forever()"), pass_fds=[witness.fd]) as process:
        pidfd = os.pidfd_open(process.pid)
        assert liveness.pid_of(pidfd) == process.pid
        assert liveness.is_alive(process.pid, pidfd)
        assert not liveness.is_ending(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        assert liveness.is_ending(process.pid)
        assert not liveness.is_alive(process.pid, pidfd)
    assert liveness.pid_of(pidfd) is None
    assert not liveness.is_alive(process.pid, pidfd)
    os.close(pidfd)


def test_a_process_that_has_let_go_of_its_descriptors_is_not_alive() -> None:
    """Which happens before it counts as ended."""
    for _ in range(20):
        witness = Witness()
        with subprocess.Popen(witness.program("here(); forever()"), pass_fds=[witness.fd]) as process:
            witness.left_to_them()
            witness.pids(1)
            pidfd = os.pidfd_open(process.pid)
            process.kill()
            assert witness.all_gone()
            assert not liveness.is_alive(process.pid, pidfd)
        os.close(pidfd)
        witness.close()
