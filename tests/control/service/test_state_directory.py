"""What a server finds again, and that it is alone with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipybox.control.errors import ServerSettingsError, StateInUseError
from ipybox.control.service.state_directory import StateDirectory


def test_a_server_keeps_its_name_as_long_as_its_directory_and_is_alone_in_it(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with StateDirectory(str(path)) as state:
        name = state.node
        with pytest.raises(StateInUseError), StateDirectory(str(path)):
            pass
    with StateDirectory(str(path)) as state:
        assert state.node == name
    with StateDirectory(str(tmp_path / "other")) as other:
        assert other.node != name


def test_a_server_that_is_given_a_name_has_it(tmp_path: Path) -> None:
    (tmp_path / "node").write_text("sandbox-1\n", encoding="ascii")
    with StateDirectory(str(tmp_path)) as state:
        assert state.node == "sandbox-1"


@pytest.mark.parametrize("name", ["", "\n", "two words", "Ü", "x" * 101])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "node").write_text(name, encoding="utf-8")
    with pytest.raises(ServerSettingsError, match="name of a server"), StateDirectory(str(tmp_path)):
        pass
