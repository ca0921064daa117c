"""What the client can do is on its page."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from ipybox.control.client import files, groups, handles
from ipybox.control.client.client import AsyncControlClient
from ipybox.control.client.options import CodeOptions, SessionOptions

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "control-plane.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## The client\n")[2].partition("\n## ")[0]
NAMES = set(re.findall(r"[a-z_]+", SECTION))
KINDS = [
    AsyncControlClient,
    handles.AsyncSession,
    handles.AsyncExecution,
    files.AsyncFiles,
    groups.AsyncTemplates,
    groups.AsyncSessions,
    groups.AsyncExecutions,
    groups.AsyncKeys,
    groups.AsyncServer,
]


@pytest.mark.parametrize("kind", KINDS)
def test_each_method_is_named(kind: type) -> None:
    methods = {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}
    assert methods - NAMES == set()


def test_each_option_of_code_is_named_and_each_that_is_named_of_a_session_is_there() -> None:
    assert set(CodeOptions.__annotations__) - NAMES == set()
    said = SECTION.partition("of a session `")[2].partition(" and so on")[0]
    assert set(re.findall(r"`([a-z_]+)`", f"`{said}")) - set(SessionOptions.__annotations__) == set()
