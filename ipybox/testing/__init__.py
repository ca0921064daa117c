"""Doubles for tests of code that runs commands or Python in a sandbox: nothing is started. Floor: testing.

Names are resolved on first use, so a test that fakes commands imports nothing of kernels.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "FakeKernelClient": "ipybox.testing.fake_kernel_client",
    "FakeSandbox": "ipybox.testing.fake_sandbox",
    "RecordingSandbox": "ipybox.testing.recording",
    "Transcript": "ipybox.testing.transcript",
}

__all__ = [*_HOMES]

if TYPE_CHECKING:
    from ipybox.testing.fake_kernel_client import FakeKernelClient as FakeKernelClient
    from ipybox.testing.fake_sandbox import FakeSandbox as FakeSandbox
    from ipybox.testing.recording import RecordingSandbox as RecordingSandbox
    from ipybox.testing.transcript import Transcript as Transcript


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ipybox.testing' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
