"""Reports that a hook of the project keeps, and a test changes afterwards."""
# mypy: ignore-errors
# ruff: noqa: B, E, F, PT, RUF, SIM, UP, C4, I
import pytest


@pytest.fixture
def changes(request):
    yield
    for report in request.config.kept:
        report.outcome = "passed"
        report.wasxfail = "as expected"
        report.when = "setup"
        report.longrepr = None
        report.sections.clear()


# = failed in call: assert 0
def test_changed_afterwards(changes):
    assert 0


@pytest.fixture
def fails_before():
    assert 0, "no set-up"


# = error in setup: no set-up
def test_changed_after_set_up(request, changes, fails_before):
    pass
