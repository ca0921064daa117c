from collections.abc import Iterator

import pytest

from tests.process.witness import Witness


@pytest.fixture
def witness() -> Iterator[Witness]:
    """A pipe that tells when a family of processes is gone."""
    pipe = Witness()
    yield pipe
    pipe.close()
