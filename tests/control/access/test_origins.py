"""Which web pages may use a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipybox.control.access.hosts import parse_host
from ipybox.control.access.origins import Origin, Origins, parse_origin
from ipybox.control.errors import ServerSettingsError

NAMED = "https://ide.example.org"


def may(origin: str | None = None, site: str | None = None, host: str = "localhost:8000", scheme: str = "http") -> bool:
    at = parse_host(host)
    assert at is not None
    return Origins([NAMED]).may_change(origin=origin, fetch_site=site, host=at, scheme=scheme)


def test_origins_are_compared_with_their_ports() -> None:
    assert parse_origin("HTTP://LocalHost") == Origin("http", "localhost", 80)
    assert parse_origin("https://[::1]:8443") == Origin("https", "::1", 8443)


@pytest.mark.parametrize(
    "text",
    ["null", "", "*", "localhost", "http://", "file://", "http://a/", "http://a?", "http://u@a", "http://a b", "//a",
     "chrome-extension://abc", "data:text/html,x", "http://a, http://b", "http://a\\b", "http://[::1%25lo]"],
)  # fmt: skip
def test_what_is_no_origin_is_none(text: str) -> None:
    assert parse_origin(text) is None


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    parse_origin(text)
    parse_origin(f"http://{text}")


def test_what_is_no_browser_may() -> None:
    assert may()


@pytest.mark.parametrize("site", ["same-origin", "none", "Same-Origin", " none "])
def test_a_page_of_its_own_may(site: str) -> None:
    assert may(site=site)
    assert may("http://localhost:8000", site)
    assert may("HTTP://LOCALHOST:8000", site)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "same-origin, cross-site", "nonsense"])
def test_a_page_of_another_site_may_not(site: str) -> None:
    assert not may(site=site)
    assert not may("http://localhost:8000", site)
    assert not may("http://evil.example", site)


@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://evil.example", "http://localhost:8001", "http://localhost", "http://127.0.0.1:8000",
     "http://localhost.evil.example:8000", "http://evil.example:8000", "file://", "ftp://localhost:8000",
     "http://localhost:8000/", "http://localhost:8000@evil.example", "https://ide.example.org.evil.example"],
)  # fmt: skip
def test_a_page_of_another_origin_may_not_whatever_else_it_says(origin: str) -> None:
    for site in (None, "none", "same-origin"):
        assert not may(origin, site)


def test_a_page_of_a_named_origin_may() -> None:
    for site in (None, "cross-site", "same-site"):
        assert may(NAMED, site)
        assert may("https://IDE.example.org:443", site)
    assert not may("http://ide.example.org")


def test_behind_tls_the_page_is_the_servers_own() -> None:
    assert may("https://box.example.org", host="box.example.org")
    assert may("https://box.example.org", host="box.example.org", scheme="https")
    assert may("http://box.example.org", host="box.example.org")
    assert not may("http://box.example.org", host="box.example.org", scheme="https")


def test_only_named_origins_are_told_that_they_may() -> None:
    origins = Origins([NAMED + "/"])
    leave = origins.preflight(NAMED, private_network=False)
    assert leave is not None
    assert leave["Access-Control-Allow-Origin"] == NAMED
    assert "Access-Control-Allow-Private-Network" not in leave
    assert "Access-Control-Allow-Credentials" not in leave
    assert "*" not in str(leave)
    for origin in ("null", "http://localhost:8000", "https://evil.example", "*"):
        assert origins.preflight(origin, private_network=True) is None
        assert not origins.may_read(origin)


@pytest.mark.parametrize("wrong", ["ide.example.org", "https://a/b", "null", "https://*.example.org", "https://u:p@a"])
def test_settings_that_are_no_origins_are_refused(wrong: str) -> None:
    with pytest.raises(ServerSettingsError, match="cors_origins"):
        Origins([wrong])
