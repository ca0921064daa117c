"""Keeps every report, where tests find it."""

# mypy: ignore-errors
import pytest


def pytest_configure(config):
    config.kept = []


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    KEPT.append(report)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.report = report
    return report


KEPT = []


@pytest.fixture(autouse=True)
def kept(request):
    request.config.kept = KEPT
