"""By which names a server may be called."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipybox.control.access.hosts import AllowedHosts, HostPort, parse_host
from ipybox.control.errors import ServerSettingsError
from ipybox.control.settings import ServerSettings


def allowed(text: str, host: str = "127.0.0.1", *others: str) -> bool:
    found = parse_host(text)
    return found is not None and found in AllowedHosts(ServerSettings(host=host, allowed_hosts=others))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost", "localhost", None),
        ("LocalHost:8000", "localhost", 8000),
        ("localhost.", "localhost", None),
        ("localhost.:80", "localhost", 80),
        ("localhost:", "localhost", None),
        ("127.0.0.1:8000", "127.0.0.1", 8000),
        ("[::1]", "::1", None),
        ("[0:0:0:0:0:0:0:1]:8000", "::1", 8000),
        ("[::FFFF:127.0.0.1]", "127.0.0.1", None),
        ("a_b.example-1.org", "a_b.example-1.org", None),
    ],
)
def test_names_and_addresses_are_compared_in_one_form(text: str, host: str, port: int | None) -> None:
    assert parse_host(text) == HostPort(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        ":80",
        "localhost..",
        "local host",
        "localhost,evil.example",
        "user@localhost",
        "localhost@evil.example",
        "localhost/",
        "localhost#",
        "localhost\\evil",
        "http://localhost",
        "localhost:80:80",
        "localhost:80a",
        "localhost:-1",
        "localhost:+80",
        "localhost:٣",
        "localhost:65536",
        "localhost:000080",
        "[::1",
        "::1",
        "[::1]80",
        "[::1%25lo]",
        "[fe80::1%eth0]:80",
        "[127.0.0.1]",
        "[localhost]",
        "127.1",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "2130706433",
        "127.0.0.1.0x1",
        "127.0.0.999",
        "loc\x00alhost",
        "loc\nalhost",
        "ⓛocalhost",
        "-a",
        "a" * 300,
    ],
)
def test_what_can_be_no_host_is_none(text: str) -> None:
    assert parse_host(text) is None


@given(st.text())
@example("[]")
def test_no_text_breaks_it_and_what_it_gives_it_reads_again(text: str) -> None:
    found = parse_host(text)
    if found is not None:
        written = f"[{found.host}]" if ":" in found.host else found.host
        again = written if found.port is None else f"{written}:{found.port}"
        assert parse_host(again) == found
        assert found.host == found.host.lower()


@given(st.ip_addresses(), st.none() | st.integers(0, 65535))
def test_every_address_is_read_with_any_port(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int | None
) -> None:
    text = f"[{address}]" if address.version == 6 else str(address)
    found = parse_host(text if port is None else f"{text}:{port}")
    assert found is not None
    assert found.port == port
    assert found.address in (address, getattr(address, "ipv4_mapped", None))


@pytest.mark.parametrize(
    "text", ["localhost", "LOCALHOST.:1", "127.0.0.1", "127.9.8.7:65535", "[::1]:1", "[::ffff:127.0.0.1]"]
)
def test_the_loopback_is_always_ours_with_any_port(text: str) -> None:
    assert allowed(text)
    assert allowed(text, "box.example.org")


@pytest.mark.parametrize(
    "text",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.localhost",
        "192.168.1.5",
        "0.0.0.0",
        "[::]",
        "[fe80::1]",
        "128.0.0.1",
    ],
)
def test_names_of_others_are_not(text: str) -> None:
    assert not allowed(text)


def test_the_name_it_listens_on_and_those_of_the_settings_are_ours() -> None:
    assert allowed("Box.Example.org:443", "box.example.org")
    assert allowed("ide.example.org:1", "127.0.0.1", "IDE.example.org.")
    assert allowed("ide.example.org:8443", "127.0.0.1", "ide.example.org:8443")
    assert not allowed("ide.example.org:8444", "127.0.0.1", "ide.example.org:8443")
    assert allowed("[2001:db8::1]:80", "2001:db8:0::1")
    assert not allowed("a.ide.example.org", "127.0.0.1", "ide.example.org")


def test_a_server_on_all_addresses_may_be_called_by_any_address_but_by_no_name() -> None:
    for everywhere in ("0.0.0.0", "::"):
        assert allowed("192.168.1.5:8000", everywhere)
        assert allowed("[2001:db8::1]", everywhere)
        assert not allowed("evil.example", everywhere)


@pytest.mark.parametrize("wrong", ["*", "*.example.org", "https://example.org", "a b", "a/b"])
def test_settings_that_are_no_hosts_are_refused(wrong: str) -> None:
    with pytest.raises(ServerSettingsError, match="allowed_hosts"):
        AllowedHosts(ServerSettings(allowed_hosts=(wrong,)))
