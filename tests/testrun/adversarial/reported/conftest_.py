"""Keeps every report, where tests find it."""
# mypy: ignore-errors
# ruff: noqa: B, E, F, PT, RUF, SIM, UP, C4, I
import pytest


def pytest_configure(config):
    config.kept = []


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    KEPT.append(report)


KEPT = []


@pytest.fixture(autouse=True)
def kept(request):
    request.config.kept = KEPT
