"""What every test needs: the `kernel` marker on everything that starts real kernels."""

from pathlib import Path

import psutil
import pytest

from tests.processes import below

INTEGRATION = Path(__file__).parent / "integration"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(INTEGRATION):
            item.add_marker(pytest.mark.kernel)


@pytest.fixture
def others() -> set[psutil.Process]:
    """Processes of this one that were there before the test; those that other tests share."""
    return below()
