"""Reports that a hook of the project keeps, and a test changes afterwards."""

# mypy: ignore-errors
# ruff: noqa: PT015
import pytest
from _pytest.reports import TestReport


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


class WhenShown(AssertionError):
    """Is shown while the report is made, and has the next report say something else, once."""

    def __str__(self):
        real = TestReport.__init__

        def init(report, *args, **more):
            TestReport.__init__ = real
            real(report, *args, **more)
            report.outcome = "passed"

        TestReport.__init__ = init
        return "shown"


# = error in call: was reported as passed and was seen as raised
def test_changed_while_it_is_made():
    raise WhenShown
