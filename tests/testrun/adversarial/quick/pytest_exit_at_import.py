"""A file whose import ends the session, once its tests are known."""

# mypy: ignore-errors
import sys

import pytest

if "--collect-only" not in sys.argv:
    pytest.exit("ok", 0)


# = error in collect
def test_is_not_run():
    pass
