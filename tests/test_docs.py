"""What the documentation shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE), 1):
            found.append((f"{page.name}-{number}", block))
    return found


BLOCKS = _blocks()


@pytest.mark.kernel
@pytest.mark.parametrize("code", [code for _, code in BLOCKS], ids=[name for name, _ in BLOCKS])
def test_python_block_runs(code: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.kernel
def test_tour_runs_and_shows_each_of_its_promises(tmp_path: Path) -> None:
    tour = ROOT / "examples" / "tour.py"
    done = subprocess.run([sys.executable, str(tour)], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  step 2" in done.stdout
    assert "ZeroDivisionError: division by zero" in done.stdout
    assert "variables are preserved" in done.stdout
    assert "[1, 2, 3, 4]" in done.stdout
    assert "killed by SIGSEGV" in done.stdout
    assert [path.suffix for path in (tmp_path / "tour-images").iterdir()] == [".png"]


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_public_name_is_in_the_reference() -> None:
    import ipybox

    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    missing = [name for name in ipybox.__all__ if f"`{name}" not in reference]
    assert missing == []


def test_settings_of_a_server_are_all_in_its_page_as_they_are() -> None:
    from ipybox.control.settings import table

    page = (ROOT / "docs" / "control-plane.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- settings -->\n")[2].partition("<!-- end of settings -->")[0]
    assert shown == table()
