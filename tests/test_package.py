"""What is shipped agrees with itself."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import ipybox

ROOT = Path(__file__).parent.parent


def test_the_version_is_the_one_that_is_installed() -> None:
    assert ipybox.__version__ == metadata.version("ipybox")


def test_the_version_is_the_one_that_is_built() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert ipybox.__version__ == project["version"]


def test_the_newest_version_in_the_changelog_is_this_one() -> None:
    changelog = ROOT / "CHANGELOG.md"
    headings = re.findall(
        r"^##? .*?\bv?(\d+\.\d+\.\d+\S*?)\]?(?:\s|$)", changelog.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert headings[0] == ipybox.__version__


def test_type_checkers_are_told_that_there_are_types() -> None:
    assert (Path(ipybox.__file__).parent / "py.typed").exists()


def test_the_command_is_installed() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="ipybox")
    assert callable(script.load())


def test_the_provisioner_is_where_its_entry_point_says() -> None:
    (entry,) = metadata.entry_points(group="jupyter_client.kernel_provisioners", name="ipybox-provisioner")
    assert entry.load().__name__ == "IpyboxProvisioner"
