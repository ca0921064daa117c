"""Kernels that are forked from a Python that has imported everything. A warm module. Floor: kernel_mgr.

See ``process.warm`` for who calls what. In a sandbox this Python has not run ``site``: path configuration files and
``sitecustomize`` may come from where sandboxed code writes, so they run in the fork, behind its walls.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import re
import site
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, NoReturn

from ipybox.kernel_mgr import preload, renewal
from ipybox.kernel_mgr.import_guard import guarded
from ipybox.process import child_setup

MODULE = __name__
_MACHINERY = (
    "IPython.core.application",
    "IPython.core.completer",
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.history",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "IPython.utils.wildcard",
    "concurrent.futures.thread",
    "ipykernel.comm",
    "ipykernel.datapub",
    "ipykernel.debugger",
    "ipykernel.ipkernel",
    "ipykernel.subshell_manager",
    "ipykernel.zmqshell",
    "jupyter_client.jsonutil",
    "pdb",
    "psutil",
    "sqlite3",
    "tornado.platform.asyncio",
    "unicodedata",
)
"""What a kernel imports until its first result, besides ``kernel_app``. Some come and go with versions of IPython."""
_HARMLESS = re.compile(
    "LANG|LANGUAGE|LC_[A-Z]+|TZ|TERM|NO_COLOR|[A-Z]+_NUM_THREADS|MPLBACKEND|PYTHON(HASHSEED|UTF8|IOENCODING|UNBUFFERED"
    "|OPTIMIZE|WARNINGS|SAFEPATH|NOUSERSITE|DONTWRITEBYTECODE|DEVMODE|MALLOC|NODEBUGRANGES|INTMAXSTRDIGITS|TRACEMALLOC|FAULTHANDLER|ASYNCIODEBUG)"
)
_LATER = re.compile("PYTHON(PATH|STARTUP|BREAKPOINT)|PYTHON_[A-Z]+")
_AT_START = re.compile("LD_|PYTHON|OPENSSL_|GCONV_|GLIBC_|MALLOC_|OMP_|GOMP_|KMP_|MKL_|OPENBLAS_|NUMBA_|NUMEXPR_|MPL")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmSettings:
    """What a warm Python is told.

    Attributes:
        modules: To be imported beforehand, by the owner's wish.
        python: The Python of kernels, where this one has not run ``site``; None where it has.
        argv: The command that a kernel would otherwise be started with.
    """

    modules: tuple[str, ...] = ()
    python: PythonFacts | None = None
    argv: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The form in which it travels."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WarmSettings:
        """Reads what :meth:`to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        python = data["python"]
        return cls(
            modules=tuple(data["modules"]),
            python=PythonFacts(**python) if python is not None else None,
            argv=tuple(data["argv"]),
        )


def launcher_environment(env: Mapping[str, str]) -> dict[str, str]:
    """What of a sandboxed kernel's environment the Python gets that it is forked from, and that confines it.

    Variables name files with code for all sorts of libraries, and such a file may be where sandboxed code writes. So
    this is a list of what is known to be harmless; the fork gets the rest when it is behind its walls.
    """
    return {name: value for name, value in env.items() if _is_harmless(name, value)}


def obstacle(env: Mapping[str, str]) -> str | None:
    """Why sandboxed kernels with this environment can't be forked; None if they can.

    A variable that a library heeds when it is loaded, and that the launcher can't be given, would do nothing.
    """
    found = sorted(
        name
        for name, value in env.items()
        if _AT_START.match(name) and not _LATER.fullmatch(name) and not _is_harmless(name, value)
    )
    if not found:
        return None
    return f"the environment of kernels has {', '.join(found)}, which only a Python that starts heeds"


def _is_harmless(name: str, value: str) -> bool:
    return _HARMLESS.fullmatch(name) is not None and "/" not in value


_settings = WarmSettings()


def prepare(text: str, path: Sequence[str], tell: Callable[[str], None]) -> None:
    """Imports what kernels need.

    Args:
        text: :class:`WarmSettings` as JSON.
        path: Directories that only modules of the owner's wish may come from.
        tell: Called with the name of each of these modules before it is imported.

    Raises:
        PreloadError: A module of the owner's wish can't be imported, or can't be shared by forks.
    """
    global _settings
    _settings = WarmSettings.from_json(text)
    python = _settings.python
    if python is not None:
        sys.prefix, sys.exec_prefix = python.prefix, python.exec_prefix
        site.PREFIXES[:], site.ENABLE_USER_SITE = python.site_prefixes, python.user_site
    with nullcontext() if python is None else guarded():
        _import(path, tell)


def _import(path: Sequence[str], tell: Callable[[str], None]) -> None:
    sys.modules["debugpy"] = None  # type: ignore[assignment]  # see kernel_app.main
    kernel_app = import_module("ipybox.kernel_mgr.kernel_app")
    for name in _MACHINERY:
        try:
            import_module(name)
        except ImportError:
            continue
    del sys.modules["debugpy"]
    kernel_app.prepare()
    if _settings.modules:
        sys.path.extend(entry for entry in path if entry not in sys.path)
        preload.load(_settings.modules, tell)


def run(env: Mapping[str, str]) -> NoReturn:
    """Becomes a kernel."""
    code = 1
    try:
        child_setup.python_signals()
        os.environ.clear()
        os.environ.update(env)
        time.tzset()
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
        _become_ordinary()
        renewal.renew()
        from ipybox.kernel_mgr import kernel_app

        kernel_app.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _leave(code)


def _become_ordinary() -> None:
    """Makes this Python look like one that was started for a kernel, and lets it run what ``site`` runs."""
    if _settings.argv:
        sys.orig_argv[:] = _settings.argv
    python = _settings.python
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


def _leave(code: int) -> NoReturn:
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
