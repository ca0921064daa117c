"""What a Python does that was started without ``site``, once a fork of it is behind its walls. Floor: process.

Path configuration files and ``sitecustomize`` may come from where sandboxed code writes, so a Python that programs are
forked from (see :mod:`ipybox.process.warm`) must not run them: each fork does, for itself.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import site
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from ipybox.process import child_setup


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFacts:
    """What ``site`` had found out about a Python when it ran.

    Attributes:
        prefix: ``sys.prefix``.
        exec_prefix: ``sys.exec_prefix``.
        sites: Directories with installed packages.
        site_prefixes: ``site.PREFIXES``.
        user_site: ``site.ENABLE_USER_SITE``.
    """

    prefix: str
    exec_prefix: str
    sites: Sequence[str]
    site_prefixes: Sequence[str]
    user_site: bool | None

    @classmethod
    def of_this_one(cls, sites: Sequence[str]) -> PythonFacts:
        """Those of the running Python."""
        return cls(
            prefix=sys.prefix,
            exec_prefix=sys.exec_prefix,
            sites=sites,
            site_prefixes=site.PREFIXES,
            user_site=site.ENABLE_USER_SITE,
        )


def adopt(python: PythonFacts) -> None:
    """Tells this Python, which has not run ``site``, what ``site`` had found out."""
    sys.prefix, sys.exec_prefix = python.prefix, python.exec_prefix
    site.PREFIXES[:], site.ENABLE_USER_SITE = python.site_prefixes, python.user_site


def come_up(env: Mapping[str, str], python: PythonFacts | None, argv: Sequence[str] = ()) -> None:
    """Makes a fork look like a Python that was started, and lets it run what ``site`` runs.

    Args:
        env: Its environment.
        python: Its facts, where this Python has not run ``site``; None where it has.
        argv: The command that it would have been started with.
    """
    child_setup.python_signals()
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
    if argv:
        sys.orig_argv[:] = argv
    if python is None:
        return
    index = type(sys.flags).__match_args__.index("no_site")
    # `multiprocessing` hands flags on to the Pythons that it starts, and those want `site`.
    ctypes.pythonapi.PyStructSequence_SetItem(
        ctypes.py_object(sys.flags), ctypes.c_ssize_t(index), ctypes.py_object(_immortal(0))
    )
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:0] = [os.path.abspath(entry) for entry in entries]
    _run_site(python)


def _run_site(python: PythonFacts) -> None:
    """What ``site.main`` does, but for finding out what is known already."""
    known = site.removeduppaths()
    if site.ENABLE_USER_SITE:
        known = site.addusersitepackages(known)
    for directory in python.sites:
        site.addsitedir(directory, known)
    for step in (site.setquit, site.setcopyright, site.sethelper, site.enablerlcompleter, site.execsitecustomize):
        step()
    if site.ENABLE_USER_SITE:
        site.execusercustomize()


def _immortal(value: int) -> int:
    """A reference for somebody who takes one without asking."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
    return value


def leave(code: int) -> NoReturn:
    """Ends as Python does, but for taking itself apart: the process is gone anyway."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        gc.disable()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code & 0xFF)
