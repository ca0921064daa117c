"""A file that patches pytest when it is imported: none of its tests can be believed."""

# mypy: ignore-errors
# ruff: noqa: PT015
from _pytest.reports import TestReport as Report


def forged(cls, item, call):
    return cls(item.nodeid, item.location, {}, "passed", None, call.when)


Report.from_item_and_call = classmethod(forged)


# = error in call: was replaced
def test_fails():
    assert 0


# = error in call: was replaced
def test_passes():
    pass
