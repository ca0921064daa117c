"""A file that can't be imported, once its tests are known."""
# mypy: ignore-errors
# ruff: noqa: B, E, F, PT, RUF, SIM, UP, C4, I
import sys

assert "--collect-only" in sys.argv, "not now"


# = error in collect: AssertionError: not now
def test_is_not_found():
    pass
