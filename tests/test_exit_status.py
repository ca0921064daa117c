"""How a process ended, as a value, as JSON and as a sentence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.exit_status import ExitStatus, of_system_exit

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (ExitStatus("exited", code=0), "exit code 0"),
        (ExitStatus("exited", code=3), "exit code 3"),
        (ExitStatus("signalled", signal=signal.SIGKILL), "killed by SIGKILL"),
        (ExitStatus("signalled", signal=200), "killed by signal 200"),
        (ExitStatus("memory", signal=9), "killed for its memory use"),
        (ExitStatus("memory", signal=9, detail="limit 1 MB"), "killed for its memory use (limit 1 MB)"),
        (ExitStatus("restarted"), "restarted"),
        (ExitStatus("unknown"), "gone for an unknown reason"),
        (
            ExitStatus("unknown", detail="its gateway was replaced"),
            "gone for an unknown reason (its gateway was replaced)",
        ),
    ],
)
def test_it_prints_as_a_sentence(status: ExitStatus, sentence: str) -> None:
    assert str(status) == sentence


@pytest.mark.parametrize(
    ("returncode", "status"),
    [
        (0, ExitStatus("exited", code=0)),
        (255, ExitStatus("exited", code=255)),
        (-signal.SIGTERM, ExitStatus("signalled", signal=signal.SIGTERM)),
    ],
)
def test_it_reads_return_codes_of_subprocess(returncode: int, status: ExitStatus) -> None:
    assert ExitStatus.from_returncode(returncode) == status


def test_without_a_signal_there_is_no_name_of_one() -> None:
    assert ExitStatus("exited", code=1).signal_name is None


@settings(deadline=None)
@given(
    st.builds(ExitStatus, st.just("exited"), code=st.integers(0, 255), detail=st.text())
    | st.builds(ExitStatus, st.sampled_from(["signalled", "memory"]), signal=st.integers(1, 64), detail=st.text())
    | st.builds(ExitStatus, st.sampled_from(["restarted", "unknown"]), detail=st.text())
)
def test_it_survives_the_way_from_gateway_to_client(status: ExitStatus) -> None:
    assert ExitStatus.from_dict(json.loads(json.dumps(status.to_dict()))) == status


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "reason": st.sampled_from(["exited", "signalled", "memory", "restarted", "unknown"]) | JSON,
            "code": JSON,
            "signal": JSON,
            "detail": JSON,
            "more": JSON,
        },
    )
)
def test_anything_unreadable_is_unknown_and_still_prints(data: dict[str, Any]) -> None:
    status = ExitStatus.from_dict(data)
    assert str(status)
    assert status.code is None or type(status.code) is int
    assert status.signal is None or type(status.signal) is int
    if status.reason == "exited":
        assert status.code is not None
    if status.reason == "signalled":
        assert status.signal is not None


@pytest.mark.parametrize("code", ["None", "0", "7", "-1", "256", "True", "2**31", "10**300", "'text'", "1.5", "[]"])
def test_an_exit_code_is_what_python_makes_of_it(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"raise SystemExit({code})"], capture_output=True, check=False)
    assert of_system_exit(eval(code)) == done.returncode
