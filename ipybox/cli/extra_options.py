"""Options that several commands share, given to a command that takes ``**options``. Floor: cli."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable

Command = Callable[..., None]


def with_options(command: Command, options: Iterable[inspect.Parameter]) -> Command:
    """Shows typer these options as well; the command gets all of them in ``**options``, None if they are not given."""
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    more = list(options)
    # What typer looks at. The command itself stays as it is.
    command.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in (*own, *more)}
    return command


def option(name: str, annotation: object) -> inspect.Parameter:
    """An option that may be left out."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
