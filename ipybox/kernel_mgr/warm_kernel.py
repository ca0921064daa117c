"""Kernels that are forked from a Python that has imported everything. A warm module. Floor: kernel_mgr.

See ``process.warm`` for who calls what. In a sandbox this Python has not run ``site``: path configuration files and
``sitecustomize`` may come from where sandboxed code writes, so they run in the fork, behind its walls.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, NoReturn

from ipybox.kernel_mgr import preload, renewal
from ipybox.kernel_mgr.import_guard import guarded
from ipybox.process import late_site
from ipybox.process.late_site import PythonFacts

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
        late_site.adopt(python)
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
        late_site.come_up(env, _settings.python, _settings.argv)
        renewal.renew()
        from ipybox.kernel_mgr import kernel_app

        kernel_app.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        late_site.leave(code)
