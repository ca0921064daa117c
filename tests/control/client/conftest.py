"""A server that all tests here share."""

from __future__ import annotations

import pytest

from tests.control.serving import Server
from tests.control.serving import server as server


@pytest.fixture(scope="session")
def url(server: Server) -> str:
    """Its address."""
    return server.url
