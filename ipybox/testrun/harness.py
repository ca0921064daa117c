"""What runs in each sandbox of a test run. A warm module, see ``process.warm``. Floor: testrun.

The Python that sandboxes are forked from has imported the framework and what the user wants to have imported; nothing
of the project is loaded there unless the user asked for it. A fork reads its request, becomes an ordinary Python, and
hands over to the framework's own harness. There is no way back from there: a sandbox is thrown away, so nobody waits
for threads or cleans up once all is told.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from types import CodeType
from typing import NoReturn

from ipybox.kernel_mgr import import_guard, preload, renewal
from ipybox.process import late_site
from ipybox.process.late_site import PythonFacts
from ipybox.testrun import channel, code_archive
from ipybox.testrun.request import ARCHIVE_FD, REPORT_FD, REQUEST_FD, Framework, Request

MODULE = __name__


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessSettings:
    """What the warm Python is told.

    Attributes:
        framework: Whose tests are run.
        preload: Modules that the user wants to have imported once for all sandboxes.
        python: The facts of this Python, see there.
    """

    framework: Framework = "pytest"
    preload: tuple[str, ...] = ()
    python: PythonFacts | None = None

    def to_json(self) -> str:
        """The form in which it travels."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> HarnessSettings:
        """Reads what :meth:`to_json` wrote."""
        data = json.loads(text)
        python = data["python"]
        return cls(
            framework=data["framework"],
            preload=tuple(data["preload"]),
            python=PythonFacts(**python) if python is not None else None,
        )


@dataclass(frozen=True, slots=True)
class FrameworkHarness:
    """What a framework's own harness does.

    Attributes:
        run: Does what a request says, and tells. The last argument is to be called before the first test runs.
        rewrite: Compiles a file that the framework compiles in its own way, given its name and its text.
    """

    run: Callable[[Request, channel.Write, Callable[[], None]], None]
    rewrite: Callable[[str, bytes], CodeType]


_settings = HarnessSettings()
_framework: FrameworkHarness | None = None


def prepare(text: str, path: Sequence[str], tell: Callable[[str], None]) -> None:
    """Imports the framework, then what the user wants.

    Args:
        text: :class:`HarnessSettings` as JSON.
        path: Directories that only modules of the user's wish may come from.
        tell: Called with the name of each of these modules before it is imported.

    Raises:
        PreloadError: A module of the user's wish can't be imported, or can't be shared by forks.
    """
    global _settings, _framework
    _settings = HarnessSettings.from_json(text)
    if _settings.python is not None:
        late_site.adopt(_settings.python)
    with nullcontext() if _settings.python is None else import_guard.guarded():
        harness = importlib.import_module(f"ipybox.testrun.{_settings.framework}_harness")
        _framework = FrameworkHarness(*harness.prepare())
        if _settings.preload:
            sys.path.extend(entry for entry in path if entry not in sys.path)
            preload.load(_settings.preload, tell)


def run(env: Mapping[str, str]) -> NoReturn:
    """Does what the request says, and ends."""
    try:
        late_site.come_up(env, _settings.python)
        renewal.renew()
        with os.fdopen(REQUEST_FD, encoding="utf-8") as file:
            request = Request.from_json(file.read())
        os.set_inheritable(REPORT_FD, False)
        tell = channel.writer(REPORT_FD, bytes.fromhex(request.key))
        framework = _framework
        assert framework is not None
        begun = _use_archive(request)
        _forget_this_package()
        if request.mode == "compile":
            code_archive.write(ARCHIVE_FD, request.plain, request.rewritten, framework.rewrite)
            tell({"kind": "end", "code": 0})
        else:
            framework.run(request, tell, begun)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(0)


def _use_archive(request: Request) -> Callable[[], None]:
    """Has imports look into the archive, if there is one; returns what ends that."""
    if not request.has_archive or request.mode == "compile":
        return lambda: None
    return code_archive.Archive(ARCHIVE_FD).install()


def _forget_this_package() -> None:
    """The project may be ipybox, in another version; and nobody is to find by its name what reports."""
    package = __name__.partition(".")[0]
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


def main(arguments: Sequence[str]) -> NoReturn:
    """``SETTINGS``: does all of it in a Python that is executed, where none can be forked."""
    prepare(arguments[0], (), lambda name: None)
    run(dict(os.environ))
