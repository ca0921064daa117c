"""A server that all tests here share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.control.served_process import serving


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    with serving(tmp_path_factory.mktemp("served") / "state") as url:
        yield url
