"""A file whose import writes to the line, once its tests are known."""

# mypy: ignore-errors
import os
import sys

if "--collect-only" not in sys.argv:
    os.write(1000, b"1 passed\n" * 100)


# = error in call: it wrote to the line
def test_passes():
    pass
