"""Patterns match what they say, and a search for them is complete or an error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.errors import PolicyError
from ipybox.sandbox.path_patterns import Pattern, Scan, is_below, is_pattern, split_pattern


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("**/.env", ".env", True),
        ("**/.env", "a/b/.env", True),
        ("**/.env", "a/.env.local", False),
        ("*.pem", "x.pem", True),
        ("*.pem", ".pem", True),
        ("*.pem", "a/x.pem", False),
        ("a/**/k", "a/k", True),
        ("a/**/k", "a/b/c/k", True),
        ("a/**/k", "b/k", False),
        ("s*t/*", "secret/x", True),
        ("secret/**", "secret", True),
        ("**", "", True),
        ("[ab]*", "a", False),
        ("[ab]*", "[ab]c", True),
        ("a?*", "ab", False),
    ],
)
def test_a_pattern_matches_what_it_says(pattern: str, path: str, matches: bool) -> None:
    compiled = Pattern(pattern)
    assert compiled.accepts(compiled.walk(path)) is matches


def test_a_pattern_can_not_climb() -> None:
    with pytest.raises(ValueError, match=r"\.\."):
        Pattern("*/../x")


def test_the_plain_part_is_split_off() -> None:
    assert split_pattern("**/.env") == ("", "**/.env")
    assert split_pattern("a/b/*.pem") == ("a/b", "*.pem")
    assert split_pattern("/a/*/b") == ("/a", "*/b")
    assert split_pattern("/*/b") == ("/", "*/b")
    assert is_pattern("a*")
    assert not is_pattern("[a]?")


def test_below_means_whole_components() -> None:
    assert is_below("/a/b", ["/a"])
    assert is_below("/a", ["/a"])
    assert is_below("/a", ["/"])
    assert not is_below("/ab", ["/a"])


SEGMENTS = st.lists(st.sampled_from(["**", "*", "a", "b", "a*", "*b"]), min_size=1, max_size=4)


@settings(max_examples=3000, deadline=None)
@given(SEGMENTS, st.lists(st.sampled_from(["a", "b", "ab", "c"]), min_size=1, max_size=5))
def test_patterns_agree_with_regular_expressions(segments: list[str], path: list[str]) -> None:
    stripped = list(segments)
    while stripped and stripped[-1] == "**":
        stripped.pop()
    text = "".join(r"(?:[^/]+/)*" if part == "**" else part.replace("*", "[^/]*") + "/" for part in stripped)
    expected = re.fullmatch(text, "/".join(path) + "/") is not None
    pattern = Pattern("/".join(segments))
    if stripped:
        assert pattern.accepts(pattern.walk("/".join(path))) is expected


def scan(root: Path, text: str, *, limit: int = 1000, skip: tuple[str, ...] = ()) -> set[str]:
    pattern = Pattern(text)
    scan = Scan(inside=(str(root),), skip=skip, limit=limit)
    return {
        str(Path(path).relative_to(root)) for path in scan.matches(str(root), [(pattern, pattern.start)], "denyRead[0]")
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path.resolve() / "root"
    for name in (".env", "a/.env", "a/b/.env", "a/b/x.pem", "conf.d/x.key", "env/x.pem"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return root


def test_all_matches_in_a_tree_are_found(tree: Path) -> None:
    assert scan(tree, "**/.env") == {".env", "a/.env", "a/b/.env"}
    assert scan(tree, "a/*/*.pem") == {"a/b/x.pem"}
    assert scan(tree, "a/**") == {"a"}
    assert scan(tree, "**/*.pem", skip=(str(tree / "env"),)) == {"a/b/x.pem"}


def test_links_are_followed_where_that_makes_a_difference_but_never_out(tree: Path) -> None:
    (tree / "config").symlink_to("conf.d")
    (tree / "loop").symlink_to(".")
    (tree.parent / "outside").mkdir()
    (tree.parent / "outside/x.key").write_text("")
    (tree / "out").symlink_to("../outside")
    assert scan(tree, "config*/*.key") == {"conf.d/x.key"}
    assert scan(tree, "*onfig/*.key") == {"conf.d/x.key"}
    assert scan(tree, "o*/*.key") == set()
    assert scan(tree, "**/*.key") == {"conf.d/x.key"}


def test_too_large_a_tree_is_an_error_not_half_an_answer(tree: Path) -> None:
    with pytest.raises(PolicyError, match=r"denyRead\[0\].*more than 3 files"):
        scan(tree, "**/.env", limit=3)
