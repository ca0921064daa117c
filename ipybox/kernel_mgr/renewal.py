"""What a fork must not share with others of the same origin. Floor: kernel_mgr.

Looked at one by one, see ``docs/decisions/0016``. Python itself seeds ``random`` anew after each fork, and ``uuid4``,
``secrets`` and ``os.urandom`` ask the system. In their own pid namespaces all kernels have the same pid, so what tells
one process from another by its pid takes all kernels for one; it must not take them for the process that they were
forked from, which therefore has a pid that no kernel has.
"""

from __future__ import annotations

import itertools
import os
import sys
from typing import Any

_ORIGIN = os.getpid()


def renew() -> None:
    """Makes it anew, where it is loaded."""
    for module, make in _RENEWED.items():
        loaded = sys.modules.get(module)
        if loaded is not None:
            make(loaded)


def _tempfile(module: Any) -> None:
    module._name_sequence = None
    module.tempdir = None


def _multiprocessing(module: Any) -> None:
    process = module.current_process()
    # The key with which processes of one program know each other.
    process._config = {**process._config, "authkey": module.AuthenticationString(os.urandom(32))}
    process._config.pop("tempdir", None)
    module._process_counter = itertools.count(1)


def _uuid(module: Any) -> None:
    module._node = None
    module._last_timestamp = None


def _ssl(module: Any) -> None:
    if os.getpid() == _ORIGIN:  # OpenSSL goes by the pid; telling it costs a millisecond
        module.RAND_add(os.urandom(32), 32.0)


def _numpy(module: Any) -> None:
    module.seed()


def _torch(module: Any) -> None:
    module.seed()


_RENEWED = {
    "tempfile": _tempfile,
    "multiprocessing.process": _multiprocessing,
    "uuid": _uuid,
    "_ssl": _ssl,
    "numpy.random": _numpy,
    "torch": _torch,
}
