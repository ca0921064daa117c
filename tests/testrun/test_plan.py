"""Tests are put together as was asked for, none is lost, and the longest go first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.testrun.model import Isolation
from ipybox.testrun.plan import Item, Unit, longest_first, units

ISOLATIONS: tuple[Isolation, ...] = ("test", "class", "file")


def _items(*names: str) -> list[Item]:
    return [Item(name, f"/p/{name.partition('::')[0]}") for name in names]


def _grouped(names: list[str], isolation: Isolation) -> list[list[str]]:
    return [list(unit.ids) for unit in units(_items(*names), isolation)]


NAMES = ["a.py::A::x", "a.py::f", "a.py::A::y[1]", "b.py::A::x", "a.py::A::B::z", "a.py::g[A::x]", "a.py::A::w[p::q]"]


def test_each_test_alone() -> None:
    assert _grouped(NAMES, "test") == [[name] for name in NAMES]


def test_the_tests_of_a_class_together_and_the_functions_of_a_file() -> None:
    assert _grouped(NAMES, "class") == [
        ["a.py::A::x", "a.py::A::y[1]", "a.py::A::w[p::q]"],
        ["a.py::f", "a.py::g[A::x]"],
        ["b.py::A::x"],
        ["a.py::A::B::z"],
    ]


def test_the_tests_of_a_file_together() -> None:
    assert _grouped(NAMES, "file") == [[name for name in NAMES if name[0] == file] for file in "ab"]


@pytest.mark.parametrize(
    ("isolation", "name", "target"),
    [
        ("test", "a.py::A::x[1]", "/p/a.py::A::x[1]"),
        ("class", "a.py::A::B::x[1]", "/p/a.py::A::B"),
        ("class", "a.py::x[1]", "/p/a.py"),
        ("class", "a.py::x[A::b]", "/p/a.py"),
        ("file", "a.py::A::x", "/p/a.py"),
        ("test", "a b.txt::a b.txt", "/p/a b.txt::a b.txt"),
    ],
)
def test_the_framework_is_told_to_look_where_they_are(isolation: Isolation, name: str, target: str) -> None:
    (unit,) = units(_items(name), isolation)
    assert unit.target == target
    assert unit.of_whole_file() == Unit(unit.items, unit.items[0].path)


def test_files_of_the_same_name_in_the_id_are_kept_apart_by_their_paths() -> None:
    items = [Item("a.py::x", "/one/a.py"), Item("a.py::x", "/two/a.py")]
    assert [unit.target for unit in units(items, "file")] == ["/one/a.py", "/two/a.py"]


@given(
    st.lists(st.text("aA:[]./ é", min_size=1, max_size=12), unique=True, max_size=12),
    st.sampled_from(ISOLATIONS),
)
def test_every_test_is_in_exactly_one_unit_and_keeps_its_place(names: list[str], isolation: Isolation) -> None:
    found = units(_items(*names), isolation)
    assert sorted(name for unit in found for name in unit.ids) == sorted(names)
    places = [[names.index(name) for name in unit.ids] for unit in found]
    assert all(place == sorted(place) for place in places)
    assert [place[0] for place in places] == sorted(place[0] for place in places)


def test_what_is_done_is_taken_out() -> None:
    (unit,) = units(_items("a.py::x", "a.py::y"), "file")
    rest = unit.without(["a.py::x", "of another one"])
    assert rest is not None
    assert (rest.ids, rest.target) == (("a.py::y",), unit.target)
    assert rest.without(["a.py::y"]) is None


def test_the_longest_go_first() -> None:
    found = units(_items("a.py::x", "b.py::x", "c.py::x"), "test")
    ordered = longest_first(found, {"a.py::x": 1.0, "b.py::x": 3.0, "c.py::x": 2.0})
    assert [unit.ids[0][0] for unit in ordered] == ["b", "c", "a"]


def test_a_unit_takes_as_long_as_all_of_its_tests() -> None:
    found = units(_items("a.py::x", "b.py::x", "b.py::y"), "file")
    ordered = longest_first(found, {"a.py::x": 3.0, "b.py::x": 2.0, "b.py::y": 2.0})
    assert [unit.target for unit in ordered] == ["/p/b.py", "/p/a.py"]


def test_what_nothing_is_known_about_counts_as_usual() -> None:
    found = units(_items("short.py::x", "new.py::x", "long.py::x"), "test")
    ordered = longest_first(found, {"short.py::x": 1.0, "long.py::x": 5.0})
    assert [unit.ids[0].partition(".")[0] for unit in ordered] == ["long", "new", "short"]


@given(st.permutations(["a.py::x", "b.py::x", "c.py::x"]))
def test_without_durations_the_order_is_that_of_the_collection(names: list[str]) -> None:
    found = units(_items(*names), "test")
    assert longest_first(found, {}) == found


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/p/a b/a.py", "/p/a b/a.py::x[1]"),
        ("/p/a [1]/a.py", "."),
        ("/p/deep/a [1]/b/a.py", "deep"),
        ("/p/deep/a[1].py", "deep"),
        ("/p/cwd[1]/a.py", "."),
    ],
)
def test_a_path_with_brackets_is_no_argument_of_pytest(path: str, target: str) -> None:
    (unit,) = units([Item("a.py::x[1]", path)], "test")
    assert unit.target_for_pytest("/p") == target


def test_brackets_above_the_working_directory_do_not_matter() -> None:
    (unit,) = units([Item("a.py::x[1]", "/p[1]/a.py")], "test")
    assert unit.target_for_pytest("/p[1]") == "a.py::x[1]"
