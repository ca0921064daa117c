"""A Python that has done its imports, for programs that are forked from it instead of executed. Floor: process.

A *warm module* has two functions. ``prepare(settings, path, tell)`` runs once, before anything is forked: it must leave
no thread and no descriptor behind. ``run(env)`` runs in a forked process, whose descriptors, limits and working
directory are those of the program already, and never returns; ``env`` is the program's environment.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import NoReturn

Run = Callable[[Mapping[str, str]], NoReturn]


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmth:
    """What a fork-server has ready.

    Attributes:
        module: The warm module.
        settings: For its ``prepare``.
        path: Directories with packages that the warm module and its imports come from.
        more_path: Directories that only what is named in the settings may come from.
        env: Environment to start the fork-server's Python in.
    """

    module: str
    settings: str = ""
    path: tuple[str, ...] = ()
    more_path: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    def to_json(self) -> str:
        """The form in which it travels."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Warmth:
        """Reads what :meth:`to_json` wrote."""
        data = json.loads(text)
        data["path"], data["more_path"] = tuple(data["path"]), tuple(data["more_path"])
        return cls(**data)


def prepare(warmth: Warmth, tell: Callable[[str], None]) -> Run:
    """Makes this process warm; returns what a forked process is to call.

    Args:
        warmth: See there.
        tell: Called with the name of what is imported next by somebody's wish; an import may end the process.

    Raises:
        PreloadError: A module that was to be imported beforehand can't be.
    """
    warm = import_module(warmth.module)
    warm.prepare(warmth.settings, warmth.more_path, tell)
    # Collections in a forked process would write to all that it shares with the others.
    gc.collect()
    gc.freeze()
    run: Run = warm.run
    return run
