"""Every command of ours that the documents show is one that there is, with options that it has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ipybox.cli.app import app

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")]
GROUPS = ("session", "template", "keys")


def _commands() -> list[str]:
    found = set()
    for page in [*PAGES, *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```(?:bash|console|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            lines = block.replace("\\\n", " ").splitlines()
            found |= {line for line in lines if line.startswith("ipybox ")}
            found |= set(re.findall(r"\$\((ipybox [^)]*)\)", block))
        found |= {each.replace("\n", " ") for each in re.findall(r"(?<!`)`(ipybox [^`]+)`(?!`)", text)}
    return sorted(found)


@pytest.mark.parametrize("line", _commands(), ids=lambda line: line.partition("#")[0].strip())
def test_a_command_in_the_documents_can_be_typed(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    if words[0].startswith("-"):
        place = 0
    else:
        place = 2 if words[0] in GROUPS and len(words) > 1 else 1
    # Options are read before any help is shown: one that is not there is an error.
    done = CliRunner().invoke(app, [*words[:place], "--help", *words[place:]])
    assert done.exit_code == 0, done.output
