"""A file whose import never ends, once its tests are known."""

# mypy: ignore-errors
import sys
import threading

if "--collect-only" not in sys.argv:
    threading.Event().wait()


# = timeout in collect: importing its file took longer than
def test_waits():
    pass
