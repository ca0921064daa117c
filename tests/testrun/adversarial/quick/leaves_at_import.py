"""A file whose import ends the process, once its tests are known."""

# mypy: ignore-errors
import os
import sys

if "--collect-only" not in sys.argv:
    os._exit(0)


# = crashed in collect: exited with 0 [exit 0]
def test_leaves():
    pass
