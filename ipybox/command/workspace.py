"""The private directory in which a command works, and which is gone with it. Floor: command."""

from __future__ import annotations

import logging
import os
import secrets

from ipybox.errors import ProgramStartError
from ipybox.process.warden import remove_tree

log = logging.getLogger("ipybox.command")


def new_workspace(base_dir: str) -> str:
    """Where a work directory is to be made: nobody can guess it, and there is nothing yet."""
    return os.path.join(base_dir, f"sandbox-{secrets.token_hex(12)}")


def make_workspace(path: str) -> None:
    """Makes an empty directory of our own, for nobody else.

    Raises:
        ProgramStartError: There can be none; names ``base_dir`` and says why.
    """
    try:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)  # whatever the umask is
    except OSError as error:
        raise ProgramStartError(
            f"no work directory can be made in base_dir {os.path.dirname(path)}: {error.strerror}; "
            "it must be an existing directory that can be written"
        ) from None


def remove_workspace(path: str) -> None:
    """Removes a work directory. Nobody may be working in it any more. What can't be removed, such as files of another
    user, is logged."""
    try:
        remove_tree(path)
    except FileNotFoundError:
        pass  # its warden has removed it
    except OSError as error:
        log.warning("the work directory %s could not be removed: %s", path, error)
