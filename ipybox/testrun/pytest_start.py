"""What pytest does at each start and that needs no project, done once for all sandboxes. Floor: testrun.

A start of pytest takes 30 ms of processor time: it looks for plugins among what is installed, registers some 40 of its
own, and looks for fixtures in each. None of that depends on the project, so it is done before the fork, as far as this
pytest is one that we know: every step falls back to what pytest does itself.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import _pytest.config
import _pytest.fixtures
import _pytest.main

_LISTED = ("_pytest.", "pluggy.")


class Installed:
    """What pytest asks of a distribution, with the answers kept."""

    def __init__(self, distribution: importlib.metadata.Distribution) -> None:
        self._distribution = distribution

    def __getattr__(self, name: str) -> Any:
        return getattr(self._distribution, name)

    @cached_property
    def entry_points(self) -> Any:
        """As of a distribution."""
        return self._distribution.entry_points

    @cached_property
    def files(self) -> Any:
        """As of a distribution."""
        return self._distribution.files

    @cached_property
    def metadata(self) -> Any:
        """As of a distribution."""
        return self._distribution.metadata

    @cached_property
    def version(self) -> str:
        """As of a distribution."""
        return self._distribution.version

    @property
    def plugin_points(self) -> list[importlib.metadata.EntryPoint]:
        """The plugins for pytest that it has."""
        return [point for point in self.entry_points if point.group == "pytest11"]


class Start:
    """Prepares starts of pytest in forks.

    Making one imports the plugins that are installed, as pytest does, in a place where there is no project.
    """

    def __init__(self) -> None:
        known = [Installed(distribution) for distribution in importlib.metadata.distributions()]
        self._plugins = [each for each in known if each.plugin_points]
        for each in self._plugins:
            each.files  # noqa: B018  # read here, once
        self._distributions = importlib.metadata.distributions
        self._directories = frozenset(sys.path)
        self._without_fixtures: frozenset[int] = frozenset()
        self._types_without_fixtures: frozenset[type] = frozenset()
        self._base: Any = None
        self._kept: list[object] = []
        self._rehearse()

    @property
    def packages(self) -> set[str]:
        """The packages of installed plugins, but pytest's own."""
        points = [point for each in self._plugins for point in each.plugin_points]
        found = {point.value.partition(":")[0].partition(".")[0] for point in points}
        return found - {"_pytest", "pluggy"}

    def _rehearse(self) -> None:
        home, meta_path = os.getcwd(), list(sys.meta_path)
        with tempfile.TemporaryDirectory() as nowhere:
            os.chdir(nowhere)
            importlib.metadata.distributions = lambda **_: iter(self._plugins)  # type: ignore[assignment]
            try:
                config = _pytest.config._prepareconfig([nowhere, "-p", "no:cacheprovider", "-qqq"])
                try:
                    self._look_for_fixtures(config)
                finally:
                    config._ensure_unconfigure()
                self._base = _pytest.config.get_config([], None)
            except BaseException as error:  # each fork will meet it again, and tell
                sys.stderr.write(f"pytest starts anew in each sandbox: {type(error).__name__}: {error}\n")
            finally:
                importlib.metadata.distributions = self._distributions
                os.chdir(home)
                sys.meta_path[:] = meta_path

    def _look_for_fixtures(self, config: Any) -> None:
        """Notes in which of the plugins there are none: to find that out is a good part of a start."""
        found: list[tuple[object, bool]] = []
        registered = 0
        fixtures: Any = _pytest.fixtures.FixtureManager
        original, register = fixtures.parsefactories, fixtures._register_fixture

        def parsefactories(manager: Any, *arguments: Any, **named: Any) -> None:
            before = registered
            original(manager, *arguments, **named)
            found.append((_holder(arguments, named), registered > before))

        def register_fixture(manager: Any, *arguments: Any, **named: Any) -> Any:
            nonlocal registered
            registered += 1
            return register(manager, *arguments, **named)

        fixtures.parsefactories, fixtures._register_fixture = parsefactories, register_fixture
        try:
            config._do_configure()
            session = _pytest.main.Session.from_config(config)
            config.hook.pytest_sessionstart(session=session)
        finally:
            fixtures.parsefactories, fixtures._register_fixture = original, register
        none = [holder for holder, has_some in found if not has_some]
        some = {type(holder) for holder, has_some in found if has_some}
        modules = [holder for holder in none if isinstance(holder, ModuleType)]
        self._kept = list(modules)  # so that their identities stay theirs
        self._without_fixtures = frozenset(map(id, modules))
        self._types_without_fixtures = (
            frozenset(
                type(holder)
                for holder in none
                if not isinstance(holder, ModuleType) and type(holder).__module__.startswith(_LISTED)
            )
            - some
        )

    def install(self) -> Callable[[], None]:
        """Has the next start of pytest use all of it; returns what ends that."""
        importlib.metadata.distributions = self._found
        config: Any = _pytest.config
        fixtures: Any = _pytest.fixtures.FixtureManager
        get_config, parsefactories = config.get_config, fixtures.parsefactories
        base, modules, types = self._base, self._without_fixtures, self._types_without_fixtures

        def prepared(args: Any = None, plugins: Any = None, **more: Any) -> Any:
            config.get_config = get_config
            if base is None or any(str(each).startswith("-p") for each in args or ()):
                return get_config(args, plugins, **more)
            base.invocation_params = config.Config.InvocationParams(args=args or (), plugins=plugins, dir=Path.cwd())
            return base

        def parse_where_there_are_some(manager: Any, *arguments: Any, **named: Any) -> None:
            holder = _holder(arguments, named)
            if id(holder) not in modules and type(holder) not in types:
                parsefactories(manager, *arguments, **named)

        config.get_config = prepared
        fixtures.parsefactories = parse_where_there_are_some

        def undo() -> None:
            importlib.metadata.distributions = self._distributions
            config.get_config = get_config
            fixtures.parsefactories = parsefactories

        return undo

    def _found(self, **wanted: Any) -> Iterator[Any]:
        """Those with plugins that were found before, and all from directories that have come since."""
        if wanted:
            return iter(self._distributions(**wanted))
        more = [entry for entry in sys.path if entry not in self._directories]
        return iter([*self._plugins, *(self._distributions(path=more) if more else ())])


def _holder(arguments: tuple[Any, ...], named: dict[str, Any]) -> object:
    return named.get("holder", arguments[0] if arguments else named.get("node_or_obj"))
