"""Handlers and interpreters that can't be forked from what is imported already. Floor: control.

``handler`` or ``interpreter LIMIT``, after the facts of this Python: run in a Python of its own, which heeds variables
that a fork can't heed any more, and imports the session's own versions of what was imported for all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import NoReturn

from ipybox.control.inside import handler, interpreter, python_process, results
from ipybox.control.inside.places import FIRST, SECOND
from ipybox.process.late_site import PythonFacts


def main(arguments: Sequence[str]) -> NoReturn:
    """Becomes one of the two."""
    facts, what, *rest = arguments
    for fd in (FIRST, SECOND):
        os.set_inheritable(fd, False)
    python = PythonFacts(**json.loads(facts))
    if what == "interpreter":
        main_module = python_process.become_python(dict(os.environ), python, "ipybox-python")
        interpreter.serve(main_module, FIRST, SECOND, int(rest[0]))
    with os.fdopen(FIRST, "rb") as file:
        request = json.loads(file.read())
    main_module = python_process.become_python(dict(os.environ), python, "ipybox-handler")
    line = results.ResultLine(SECOND, request["limit"])
    handler.run(main_module, request["code"], json.dumps(request["event"]), line)
