"""What came to be while code ran, and that other programs trust, is told; and nothing else."""

from __future__ import annotations

from pathlib import Path

from ipybox.sandbox.audit import Audit


def test_only_new_protected_places_are_told_in_order(tmp_path: Path) -> None:
    (tmp_path / "a" / ".vscode").mkdir(parents=True)
    audit = Audit([str(tmp_path)])
    assert audit.new() == []
    for name in ("z", "b"):
        (tmp_path / name / ".vscode").mkdir(parents=True)
    (tmp_path / "data.csv").touch()
    assert audit.new() == [f"{tmp_path}/b/.vscode", f"{tmp_path}/z/.vscode"]


def test_links_count_as_well(tmp_path: Path) -> None:
    audit = Audit([str(tmp_path)])
    (tmp_path / ".vscode").symlink_to("/tmp")
    assert audit.new() == [f"{tmp_path}/.vscode"]


def test_roots_may_be_none_and_may_vanish(tmp_path: Path) -> None:
    assert Audit([]).new() == []
    (tmp_path / "root" / ".vscode").mkdir(parents=True)
    audit = Audit([str(tmp_path / "root"), str(tmp_path / "never")])
    (tmp_path / "root").rename(tmp_path / "moved")
    assert audit.new() == []
