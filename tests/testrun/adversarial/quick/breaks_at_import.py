"""A file that can't be imported, once its tests are known."""

# mypy: ignore-errors
import sys

assert "--collect-only" in sys.argv, "not now"


# = error in collect: AssertionError: not now
def test_is_not_found():
    pass
