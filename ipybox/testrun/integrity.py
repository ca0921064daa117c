"""Notices that a test has changed what decides about it. Floor: testrun.

A test runs in the framework's own process, so it can put something else in the place of the framework's functions, of
their code, of its classes' members, or of a few builtins that all of these use. What they were is noted before any of
the project's code was loaded.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, call, eq, is_
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

globals()["__builtins__"] = dict(vars(builtins))  # see ipybox.testrun.channel

Check = Callable[[], str | None]

PYTEST = (
    "_pytest.fixtures",
    "_pytest.main",
    "_pytest.nodes",
    "_pytest.outcomes",
    "_pytest.python",
    "_pytest.raises",
    "_pytest.reports",
    "_pytest.runner",
    "_pytest.skipping",
    "_pytest.subtests",
    "_pytest.unittest",
    "_pytest._code.code",
    "pluggy._caller",
    "pluggy._callers",
    "pluggy._execution",
    "pluggy._hooks",
    "pluggy._impl",
    "pluggy._manager",
    "pluggy._result",
    "unittest.case",
    "unittest.result",
)
UNITTEST = ("unittest.case", "unittest.loader", "unittest.result", "unittest.suite")
_BUILTINS = (
    "AssertionError",
    "AttributeError",
    "BaseException",
    "Exception",
    "KeyError",
    "KeyboardInterrupt",
    "MemoryError",
    "StopIteration",
    "SystemExit",
    "TypeError",
    "ValueError",
    "all",
    "any",
    "bool",
    "callable",
    "dict",
    "enumerate",
    "float",
    "frozenset",
    "getattr",
    "id",
    "int",
    "isinstance",
    "issubclass",
    "iter",
    "len",
    "list",
    "max",
    "min",
    "next",
    "object",
    "property",
    "range",
    "repr",
    "reversed",
    "set",
    "setattr",
    "sorted",
    "str",
    "sum",
    "super",
    "tuple",
    "type",
    "vars",
    "zip",
)
_IGNORED = frozenset(("__doc__", "__abstractmethods__", "__annotations__", "__static_attributes__", "__firstlineno__"))
_EXPECTED = "wasxfail"
"""What reports of expected failures have, and others do not."""
_SPECIAL = frozenset(("__init__", "__call__", "__getattr__", "__getattribute__", "__setattr__", "__new__", "__eq__"))
_NOTED = (FunctionType, BuiltinFunctionType, type, ModuleType, property, classmethod, staticmethod)
_PARTS = (attrgetter("__code__"), attrgetter("__defaults__"), attrgetter("__kwdefaults__"))
_mro_of = type.__dict__["__mro__"].__get__
_members_of = type.__dict__["__dict__"].__get__


@dataclass
class _Notes:
    """What there was.

    Attributes:
        values: Where something is, the namespace, its name there, and what it is.
        functions: Functions with their code, the defaults of their parameters, and attributes of theirs.
        classes: Classes with the classes that they are made of, their members' names, and whether it is the framework
            itself that they are a part of.
        modules: Modules with the names in them that hide no builtins.
    """

    values: list[tuple[str, Mapping[str, Any], str, object]] = field(default_factory=list)
    functions: list[tuple[str, FunctionType, tuple[object, ...]]] = field(default_factory=list)
    attributes: list[tuple[str, dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    classes: list[tuple[str, type, object, frozenset[str], bool]] = field(default_factory=list)
    modules: list[tuple[str, ModuleType, frozenset[str]]] = field(default_factory=list)


def watch(modules: Sequence[str], plugins: Iterable[str] = (), ordinary: Iterable[str] = ()) -> Check:
    """Notes what these modules are now; those that are not loaded are left out.

    Args:
        modules: Whose functions and classes must stay what they are.
        plugins: Packages that are installed, and whose functions may take their place.
        ordinary: Names, as the result has them, of what any run changes.

    Returns a function that names what is not as it was, or None.
    """
    notes = _Notes()
    for name in modules:
        module = sys.modules.get(name)
        if isinstance(module, ModuleType):
            _note_module(name, module, notes)
    _leave_out(frozenset(ordinary), notes)
    values, functions, attributes = notes.values, notes.functions, notes.attributes
    classes, noted_modules = notes.classes, notes.modules
    builtin = [(name, getattr(builtins, name)) for name in _BUILTINS]
    scope, loaded, names_of, missing = vars(builtins), sys.modules, frozenset, object()
    all_builtins = names_of(scope)
    mro_of, members_of, attributes_of, ignored = _mro_of, _members_of, _attributes_of, _IGNORED
    acts, kind_of, expected = hasattr, type, _EXPECTED
    known = {base: names_of(members_of(base)) for _, owner, *_ in classes for base in mro_of(owner)}
    installed = _functions_of(plugins)
    own = {**installed, **_functions_of({name.partition(".")[0] for name in modules})}

    def is_installed(found: Any, among: dict[int, Any] = installed) -> bool:
        code = getattr(getattr(found, "__func__", found), "__code__", None)
        return code is not None and among.get(id(code)) is code

    def is_own(found: Any) -> bool:
        """What pytest adds to its own classes when it is configured."""
        return is_installed(getattr(found, "fget", found), own)

    def added(where: str, owner: type, names: frozenset[str], is_framework: bool) -> str | None:
        members: Mapping[str, Any] = members_of(owner)
        for name in names_of(members) - names - ignored:
            value = members[name]
            if any(name in known.get(base, ()) for base in mro_of(owner)[1:]) or name == expected:
                return where + "." + name
            if is_framework and acts(kind_of(value), "__get__") and not is_own(value):
                return where + "." + name
        return None

    def find() -> str | None:
        for name, value in builtin:
            if scope.get(name) is not value:
                return "builtins." + name
        for where, module, names in noted_modules:
            if loaded.get(where, module) is not module:  # this package's own are not there any more
                return where
            namespace = module.__dict__
            for name in names_of(namespace) - names:
                if name in all_builtins:
                    return where + "." + name
        for where, members, name, value in values:
            found = members.get(name, missing)
            if found is not value and not is_installed(found):
                return where + "." + name
        for where, function, known in functions:
            for now, before in zip(attributes_of(function), known, strict=True):
                if now is not before:
                    return where
        for where, now_there, before_there in attributes:
            if len(now_there) != len(before_there):
                return where
            for name, value in before_there.items():
                if now_there.get(name, missing) is not value:
                    return where + "." + name
        for where, owner, bases, names, is_framework in classes:
            if mro_of(owner) is not bases:
                return where + ".__bases__"
            found_name = added(where, owner, names, is_framework)
            if found_name is not None:
                return found_name
        return None

    # Nearly always nothing has changed: that is found out by what is written in C, with a few calls.
    every, same, equal, each, ask, names_in, code, defaults, more = all, is_, eq, map, call, list, *_PARTS
    owners = [owner for _, owner, *_ in classes]
    all_bases = [bases for _, _, bases, *_ in classes]
    scopes = [module.__dict__ for _, module, _ in noted_modules] + [now_there for _, now_there, _ in attributes]
    all_functions = [function for _, function, _ in functions]
    parts = [[known_parts[number] for _, _, known_parts in functions] for number in range(3)]
    places: list[tuple[Mapping[str, Any], dict[str, Any]]] = [(scope, dict(builtin))]
    places += [(now_there, before_there) for _, now_there, before_there in attributes]
    for space in {id(space): space for _, space, *_ in values}.values():
        places.append((space, {name: value for _, there, name, value in values if there is space}))
    # One list of each, so that all of it is one loop in C.
    gets = [place.get for place, there in places for _ in there]
    keys = [key for _, there in places for key in there]
    known_values = [value for _, there in places for value in there.values()]
    passed: list[list[list[str]]] = [[], []]
    moving: list[tuple[Callable[[str], object], str, object]] = []  # what installed plugins replace now and then

    def excuse() -> None:
        for number in [number for number, get in enumerate(gets) if get(keys[number]) is not known_values[number]][
            ::-1
        ]:
            moving.append((gets.pop(number), keys.pop(number), known_values.pop(number)))

    def check() -> str | None:
        names = [list(each(names_in, each(members_of, owners))), list(each(names_in, scopes))]
        if (
            every(each(same, each(ask, gets, keys), known_values))
            and every(each(same, each(code, all_functions), parts[0]))
            and every(each(same, each(defaults, all_functions), parts[1]))
            and every(each(same, each(more, all_functions), parts[2]))
            and every(each(same, each(mro_of, owners), all_bases))
            and every(each(equal, names, passed))
        ):
            for where, module, _ in noted_modules:
                if loaded.get(where, module) is not module:
                    return where
            if every([value is get(key) or is_installed(get(key)) for get, key, value in moving]):
                return None
        found = find()
        if found is None:
            passed[:] = names
            excuse()
        return found

    return check


def _leave_out(names: frozenset[str], notes: _Notes) -> None:
    """Takes out of the notes what has one of these names."""
    if not names:
        return
    places = {name.rpartition(".")[0] for name in names}
    notes.values = [each for each in notes.values if f"{each[0]}.{each[2]}" not in names]
    notes.functions = [each for each in notes.functions if each[0] not in names]
    notes.attributes = [each for each in notes.attributes if each[0] not in names and each[0] not in places]
    notes.classes = [
        (
            where,
            owner,
            bases,
            members | {name[len(where) + 1 :] for name in names if name.startswith(f"{where}.")},
            framework,
        )
        for where, owner, bases, members, framework in notes.classes
    ]


def _note_module(where: str, module: ModuleType, notes: _Notes) -> None:
    namespace = vars(module)
    notes.modules.append((where, module, frozenset(namespace)))
    for name, value in list(namespace.items()):
        if name.startswith("__"):
            continue
        if isinstance(value, _NOTED):
            _note(where, namespace, name, value, notes)
            if isinstance(value, type) and getattr(value, "__module__", None) == where:
                _note_class(f"{where}.{name}", value, notes, is_framework=not where.startswith("unittest."))
        elif type(value).__module__.partition(".")[0] in ("_pytest", "pluggy") and hasattr(value, "__dict__"):
            notes.values.append((where, namespace, name, value))  # such as `skip`, which can be called
            notes.attributes.append((f"{where}.{name}", vars(value), dict(vars(value))))


def _note_class(where: str, owner: type, notes: _Notes, *, is_framework: bool) -> None:
    members = _members_of(owner)
    notes.classes.append((where, owner, _mro_of(owner), frozenset(members), is_framework))
    for name, value in list(members.items()):
        if name not in _IGNORED and (not name.startswith("__") or name in _SPECIAL) and isinstance(value, _NOTED):
            _note(where, members, name, value, notes)


def _note(where: str, namespace: Mapping[str, Any], name: str, value: object, notes: _Notes) -> None:
    notes.values.append((where, namespace, name, value))
    parts = [value.fget, value.fset] if isinstance(value, property) else [getattr(value, "__func__", value)]
    for function in parts:
        if isinstance(function, FunctionType):
            notes.functions.append((f"{where}.{name}", function, _attributes_of(function)))
            if function.__dict__:
                notes.attributes.append((f"{where}.{name}", function.__dict__, dict(function.__dict__)))


def _attributes_of(function: FunctionType) -> tuple[object, ...]:
    return tuple(part(function) for part in _PARTS)


def _functions_of(packages: Iterable[str]) -> dict[int, Any]:
    """The code of all functions of these packages that are loaded, by its identity."""
    found: dict[int, Any] = {}
    roots = set(packages)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in roots or not isinstance(module, ModuleType):
            continue
        for value in list(vars(module).values()):
            members = list(vars(value).values()) if isinstance(value, type) else [value]
            for member in members:
                function = getattr(member, "__func__", member)
                if isinstance(function, FunctionType):
                    found[id(function.__code__)] = function.__code__
    return found
