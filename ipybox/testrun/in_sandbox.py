"""What the harnesses of all frameworks need inside a sandbox. Floor: testrun."""

from __future__ import annotations

import builtins
import importlib
import os
import resource
import sys
import traceback
from collections.abc import Iterable
from typing import NoReturn

globals()["__builtins__"] = dict(vars(builtins))  # see ipybox.testrun.channel

LONGEST_TEXT = 60_000
"""Characters that are told of each text."""
OFTEN_NEEDED = (
    "asyncio",
    "concurrent.futures.thread",
    "dataclasses",
    "decimal",
    "difflib",
    "doctest",
    "fractions",
    "http.client",
    "inspect",
    "json",
    "logging.handlers",
    "multiprocessing",
    "pprint",
    "random",
    "sqlite3",
    "statistics",
    "subprocess",
    "timeit",
    "unittest.mock",
    "uuid",
    "xml.etree.ElementTree",
    "zipfile",
)
"""Of the standard library, what tests import."""
_NEAR_THE_LIMIT = 0.7


def load(names: Iterable[str]) -> None:
    """Imports modules, as far as they are there."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue


def cut(text: str) -> str:
    """A text with its middle left out if it is long; a plain string, whatever kind of string it was."""
    text = "".join([text])
    if len(text) <= LONGEST_TEXT:
        return text
    half = LONGEST_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def traceback_of(error: BaseException) -> str:
    """The whole traceback of an exception."""
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # it can be anything
        return type(error).__name__


def is_near(limit: int) -> bool:
    """Whether so much memory is in use that an allocation fails; frames of the test still hold it."""
    if not limit:
        return False
    page = resource.getpagesize()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[5]) * page >= limit * _NEAR_THE_LIMIT


def flush() -> None:
    """Writes what Python has not written yet."""
    for stream in {id(each): each for each in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)}.values():
        try:
            stream.flush()  # type: ignore[union-attr]
        except (AttributeError, OSError, ValueError):
            continue


def leave() -> NoReturn:
    """Ends the process, and waits for nobody."""
    flush()
    os._exit(0)
