"""Fixtures for pytest, which loads this with every run: so nothing else is imported before it is used. Floor: testing.

Pytest finds it by itself where ipybox is installed; ``-p no:ipybox`` leaves it out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ipybox.testing.fake_kernel_client import FakeKernelClient
    from ipybox.testing.fake_sandbox import FakeSandbox


@pytest.fixture
def fake_sandbox() -> FakeSandbox:
    """An ``ipybox.testing.FakeSandbox`` without responses, to which ``enqueue`` adds them. It starts nothing."""
    from ipybox.testing.fake_sandbox import FakeSandbox

    return FakeSandbox.from_responses({})


@pytest.fixture
def fake_kernel_client(tmp_path: Path) -> FakeKernelClient:
    """An ``ipybox.testing.FakeKernelClient`` without responses, to which ``enqueue`` adds them. It is not connected
    yet; images that responses show are saved in ``tmp_path / "images"``."""
    from ipybox.testing.fake_kernel_client import FakeKernelClient

    return FakeKernelClient(images_dir=tmp_path / "images")
