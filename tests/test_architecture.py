"""The house stays as it is drawn: floors, doors, sizes and names. Reads the source, runs almost none of it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import ipybox

PACKAGE = Path(ipybox.__file__).parent
PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
FLOORS = ("base", "process", "sandbox", "command", "kernel_mgr", "session", "testing", "testrun", "control", "cli")
"""From the ground up: a module imports from its own floor and from those below."""

LARGEST = 600
LARGER_WITH_A_REASON: dict[str, str] = {}
"""Modules with more lines than :data:`LARGEST`, and why each of them is better not split."""

GATEWAY_ONLY = {
    "IPython",
    "ipykernel",
    "jupyter_client",
    "jupyter_server",
    "kernel_gateway",
    "psutil",
    "tornado",
    "traitlets",
    "zmq",
}
"""What only gateways and kernels need, so that a client must do without it."""


@dataclass(frozen=True)
class Import:
    """One imported module, and the names that were taken out of it."""

    module: str
    names: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    tree: ast.Module

    @property
    def floor(self) -> str:
        parts = self.name.split(".")
        if len(parts) == 1 or not (PACKAGE / parts[1]).is_dir():
            return "cli" if parts[-1] == "__main__" else "base"
        return parts[1]

    @property
    def lines(self) -> int:
        return len(self.path.read_text(encoding="utf-8").splitlines())

    def imports(self) -> Iterator[Import]:
        """Every import, also in functions and for type checkers."""
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, (), node.lineno)
            elif isinstance(node, ast.ImportFrom):
                origin = node.module or ""
                if node.level:
                    base = package.split(".")[: len(package.split(".")) - node.level + 1]
                    origin = ".".join([*base, *([origin] if origin else [])])
                yield Import(origin, tuple(alias.name for alias in node.names), node.lineno)


def _modules() -> dict[str, Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return found


MODULES = _modules()


def _ours(imported: Import) -> set[str]:
    """The modules of ours that an import names."""
    if imported.module.partition(".")[0] != "ipybox":
        return set()
    targets = {f"{imported.module}.{name}" for name in imported.names}
    modules = targets & set(MODULES)
    if modules != targets or not targets:
        modules.add(imported.module)
    return modules


def _graph() -> dict[str, set[str]]:
    """Which module imports which. The package itself only hands names on, lazily, so it imports nothing."""
    graph = {}
    for name, module in MODULES.items():
        edges = {target for each in module.imports() for target in _ours(each)}
        graph[name] = set() if name == "ipybox" else edges - {name, "ipybox"}
    return graph


GRAPH = _graph()


def _reachable(start: str) -> set[str]:
    seen: set[str] = set()
    queue = [start]
    while queue:
        for target in GRAPH[queue.pop()] - seen:
            seen.add(target)
            queue.append(target)
    return seen


def _third_parties(module: Module) -> set[str]:
    tops = {each.module.partition(".")[0] for each in module.imports()}
    return tops - set(sys.stdlib_module_names) - {"ipybox"}


def _loaded_after(statement: str) -> set[str]:
    """Top-level modules that a statement loads into a fresh interpreter."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


# ---- floors -----------------------------------------------------------------------------------------------------


def test_every_folder_is_a_floor_of_the_plan() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(FLOORS)


def test_every_import_of_ours_is_a_module_that_exists() -> None:
    assert {target for edges in GRAPH.values() for target in edges} <= set(MODULES)


def test_imports_point_down() -> None:
    upwards = [
        f"{name} ({MODULES[name].floor}) imports {target} ({MODULES[target].floor})"
        for name, edges in GRAPH.items()
        for target in edges
        if FLOORS.index(MODULES[target].floor) > FLOORS.index(MODULES[name].floor)
    ]
    assert upwards == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert [name for name in MODULES if name in _reachable(name)] == []


def test_every_module_says_on_which_floor_it_is() -> None:
    wrong = [
        name
        for name, module in MODULES.items()
        if name != "ipybox" and f"Floor: {module.floor}." not in (ast.get_docstring(module.tree) or "")
    ]
    assert wrong == []


# ---- client and server ------------------------------------------------------------------------------------------


def test_client_and_server_never_meet_but_over_http() -> None:
    client, server = "ipybox.kernel_mgr.client", "ipybox.kernel_mgr.server"
    assert server not in _reachable(client)
    assert client not in _reachable(server)


def test_the_client_needs_nothing_that_only_gateways_need() -> None:
    client = "ipybox.kernel_mgr.client"
    used = {party for name in [client, *_reachable(client)] for party in _third_parties(MODULES[name])}
    assert used & GATEWAY_ONLY == set()
    assert _loaded_after(f"import {client}; from ipybox import KernelClient, OutputLimit") & GATEWAY_ONLY == set()


def test_the_package_alone_loads_no_third_party() -> None:
    assert _loaded_after("import ipybox") <= {*sys.stdlib_module_names, "ipybox"}


def test_the_kernel_gateway_is_touched_by_one_module() -> None:
    users = {name for name, module in MODULES.items() if "kernel_gateway" in _third_parties(module)}
    assert users == {"ipybox.kernel_mgr.gateway"}


# ---- dependencies -----------------------------------------------------------------------------------------------


def test_every_third_party_that_is_imported_is_declared() -> None:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = (lines for extra, lines in project["optional-dependencies"].items() if extra != "dev")
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    declared = {plain(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in lines}
    distributions = packages_distributions()
    undeclared = {
        f"{name} imports {party}"
        for name, module in MODULES.items()
        for party in _third_parties(module)
        if not declared & {plain(each) for each in distributions.get(party, [])}
    }
    assert undeclared == set()


# ---- names and sizes --------------------------------------------------------------------------------------------


def test_every_module_is_named_for_its_subject() -> None:
    empty = {"utils", "util", "helpers", "helper", "common", "core", "misc", "manager", "managers"}
    names = {part for name in MODULES for part in name.split(".")}
    assert names & empty == set()
    assert {name for name in names if set(name.split("_")) & {"utils", "helpers", "common", "manager"}} == set()


def test_no_module_is_too_large_without_a_reason() -> None:
    large = {name: module.lines for name, module in MODULES.items() if module.lines > LARGEST}
    assert {name: lines for name, lines in large.items() if name not in LARGER_WITH_A_REASON} == {}
    assert set(LARGER_WITH_A_REASON) <= set(large)  # what became small needs no reason any more
    assert all(LARGER_WITH_A_REASON.values())


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def test_nobody_reaches_for_a_private_name_of_another_module() -> None:
    found = []
    for name, module in MODULES.items():
        for each in filter(_ours, module.imports()):
            parts = [*each.module.split("."), *each.names]
            found += [f"{name}:{each.line} imports {part}" for part in parts if _is_private(part)]
        known = _names_of_our_modules(module)
        found += [
            f"{name}:{node.lineno} uses {node.value.id}.{node.attr}"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in known
            and _is_private(node.attr)
        ]
    assert found == []


def _names_of_our_modules(module: Module) -> set[str]:
    """Names under which a module knows other modules of ours."""
    known = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name for alias in node.names if f"{node.module}.{alias.name}" in MODULES}
        elif isinstance(node, ast.Import):
            known |= {alias.asname for alias in node.names if alias.asname and alias.name in MODULES}
    return known


# ---- exported names ---------------------------------------------------------------------------------------------


def test_every_exported_name_resolves_to_the_thing_of_that_name() -> None:
    assert ipybox.__all__[0] == "__version__"
    for name in ipybox.__all__[1:]:
        value = getattr(ipybox, name)
        assert value.__name__ == name
        assert value is getattr(import_module(value.__module__), name)
        assert value.__module__.startswith("ipybox.")


def test_type_checkers_see_exactly_the_exported_names() -> None:
    (block,) = [
        node
        for node in MODULES["ipybox"].tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    seen = {
        (statement.module, alias.name, alias.asname)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    expected = {(getattr(ipybox, name).__module__, name, name) for name in ipybox.__all__ if name != "__version__"}
    assert seen == expected


def test_exported_names_are_listed_and_others_are_an_attribute_error() -> None:
    assert set(ipybox.__all__) == set(dir(ipybox))
    assert len(set(ipybox.__all__)) == len(ipybox.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        ipybox.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("ipybox.kernel_mgr.client", {"KernelClient", "ExecutionResult", "ExecutionError"}),
        ("ipybox.kernel_mgr.server", {"KernelGateway"}),
    ],
)
def test_the_names_that_the_product_promises_are_where_it_promises_them(module: str, names: set[str]) -> None:
    for name in names:
        assert getattr(import_module(module), name) is getattr(ipybox, name)


def test_every_name_in_all_exists() -> None:
    listing = []
    for name, module in MODULES.items():
        assigned = [node for node in module.tree.body if isinstance(node, ast.Assign)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for node in assigned for target in node.targets):
            listing.append(name)
            loaded = import_module(name)
            assert [each for each in loaded.__all__ if not hasattr(loaded, each)] == []
    assert "ipybox.kernel_mgr.client" in listing
