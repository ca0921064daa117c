"""What a test run is asked to do. Floor: testrun."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ipybox.sandbox.policy import LOWEST
from ipybox.testrun.model import Isolation
from ipybox.testrun.request import Framework

MEMORY = 1024**3
SCRATCH = 512 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How tests are found and run.

    Attributes:
        paths: Files, directories and test ids, as the framework takes them; relative ones are relative to ``cwd``.
            Empty: what the project's own configuration says.
        cwd: Working directory of the run.
        framework: Whose tests they are.
        isolation: What shares a sandbox: nothing (``test``), the tests of a class, or those of a file.
        workers: Most sandboxes at the same time; None is one for each processor.
        timeout: Seconds that a test may take, with its set-up and teardown, and that the import of its file may take.
        memory: Bytes that a sandbox may use.
        processes: Processes and threads that a sandbox may have.
        scratch: Bytes that can be written in ``/tmp``, in the home, and into the project, each.
        network: Hosts that may be reached, as in a sandbox policy; True is any public one, False none.
        readable: More paths of this machine that tests may read.
        env: Environment variables that tests find, besides the few that all find.
        hash_seed: Seed of the hashes of strings, from 0 to 4294967295.
        time_zone: Such as ``UTC`` or ``Europe/Berlin``.
        locale: Such as ``C.UTF-8``.
        preload: Modules that are imported once for all sandboxes. They must not come from code that is not trusted:
            what they do when they are imported, they do where sandboxes are made.
        arguments: More of the framework's command line, for finding and running.
        selection: Its options that say which tests to run, such as ``-k``; for finding only.
        retries: How often a test is run again after an infrastructure error.
        rerun_failures: How often it is run again after any other failure; it is flaky if it then succeeds.
        most_failures: The run is stopped after that many failures; 0 is never.
        only: Ids of the tests to be run, and of files all of whose tests are; None is all.
    """

    paths: tuple[str, ...] = ()
    cwd: str = field(default_factory=os.getcwd)
    framework: Framework = "pytest"
    isolation: Isolation = "test"
    workers: int | None = None
    timeout: float = 60.0
    memory: int = MEMORY
    processes: int = 256
    scratch: int = SCRATCH
    network: bool | tuple[str, ...] = False
    readable: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    hash_seed: int = 0
    time_zone: str = "UTC"
    locale: str = "C.UTF-8"
    preload: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    selection: tuple[str, ...] = ()
    retries: int = 2
    rerun_failures: int = 0
    most_failures: int = 0
    only: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.isolation not in ("test", "class", "file"):
            raise ValueError(f"isolation must be 'test', 'class' or 'file', got {self.isolation!r}")
        if self.framework not in ("pytest", "unittest"):
            raise ValueError(f"framework must be 'pytest' or 'unittest', got {self.framework!r}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, got {self.timeout}")
        if self.memory < LOWEST["memory"]:
            raise ValueError(f"memory must be at least {LOWEST['memory']} bytes, got {self.memory}")
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}")
        if not 0 <= self.hash_seed <= 4294967295:
            raise ValueError(f"hash_seed must be from 0 to 4294967295, got {self.hash_seed}")
        for name in ("retries", "rerun_failures", "most_failures"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    @property
    def parallel(self) -> int:
        """Most sandboxes at the same time."""
        if self.workers is not None:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
