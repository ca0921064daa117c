"""A module of a hostile name, planted in a working directory: notes under which rules it was run."""

import os

with open("/proc/self/status") as _status, open(f"{__file__}.{os.getpid()}.note", "w") as _note:
    _note.write(_status.read())
