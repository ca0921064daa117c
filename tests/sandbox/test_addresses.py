"""Which addresses are refused, and as what."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

import pytest

from ipybox.sandbox.addresses import fold, forbidden, never_reachable

REFUSED = {
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "link-local": ["169.254.1.1", "fe80::1", "fe80::1%2"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1"],
    "unspecified": ["0.0.0.0", "::"],
    "broadcast": ["255.255.255.255"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1", "fec0::1", "64:ff9b:1::a00:1"],
    "carrier-grade NAT": ["100.64.0.1", "100.127.255.255"],
    "reserved": ["0.1.2.3", "192.0.2.1", "198.18.0.1", "240.0.0.1", "2001:db8::1", "3fff::1", "100::1", "4000::1"],
    "metadata": [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
    ],
}
EMBEDDED = {
    "v4-mapped": "::ffff:{}",
    "NAT64": "64:ff9b::{}",
    "v4-compatible": "::{}",
    "6to4": "2002:{hex}::1",
    "Teredo server": "2001:0:{hex}:0:0:f7f7:f7f7",
    "Teredo client": "2001:0:808:808:0:0:{inverted}",
}


def embed(form: str, inner: str) -> IPv6Address:
    number = int(ip_address(inner))
    words = f"{number >> 16:x}:{number & 0xFFFF:x}"
    inverted = f"{(number >> 16) ^ 0xFFFF:x}:{(number & 0xFFFF) ^ 0xFFFF:x}"
    return IPv6Address(EMBEDDED[form].format(inner, hex=words, inverted=inverted))


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in REFUSED.items() for text in texts])
def test_special_addresses_are_refused_by_class(kind: str, text: str) -> None:
    assert forbidden(ip_address(text)) == kind


@pytest.mark.parametrize("text", ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00::1"])
def test_public_addresses_pass(text: str) -> None:
    assert forbidden(ip_address(text)) is None


@pytest.mark.parametrize("form", EMBEDDED)
@pytest.mark.parametrize(
    ("inner", "kind"),
    [("127.0.0.1", "loopback"), ("10.99.0.2", "private"), ("169.254.169.254", "metadata"), ("0.0.0.0", "unspecified")],
)
def test_an_embedded_address_counts(form: str, inner: str, kind: str) -> None:
    assert forbidden(embed(form, inner)) == kind


@pytest.mark.parametrize("form", ["v4-mapped", "NAT64", "6to4"])
def test_an_embedded_public_address_passes(form: str) -> None:
    assert forbidden(embed(form, "8.8.8.8")) is None


@pytest.mark.parametrize("form", ["Teredo server", "Teredo client", "v4-compatible"])
def test_dead_transition_mechanisms_are_refused_whatever_they_embed(form: str) -> None:
    assert forbidden(embed(form, "8.8.8.8")) == "reserved"


@pytest.mark.parametrize("text", ["10.0.0.1", "127.0.0.1", "169.254.1.1", "100.64.0.1", "192.0.2.1", "fd00::1", "::1"])
def test_a_listed_address_passes(text: str) -> None:
    assert forbidden(ip_address(text), listed=[ip_address(text)], own=[ip_address(text)]) is None


@pytest.mark.parametrize("text", [*REFUSED["metadata"], *REFUSED["unspecified"], *REFUSED["multicast"]])
def test_no_list_makes_credentials_or_nonsense_reachable(text: str) -> None:
    address = ip_address(text)
    assert forbidden(address, listed=[address]) == never_reachable(address) is not None


def test_a_listed_address_does_not_list_its_neighbour() -> None:
    assert forbidden(ip_address("10.0.0.2"), listed=[ip_address("10.0.0.1")]) == "private"


def test_a_public_address_of_this_host_is_refused() -> None:
    own = [ip_address("8.8.4.4"), ip_address("2a00::7")]
    for text in ("8.8.4.4", "::ffff:8.8.4.4", "64:ff9b::808:404", "2a00::7"):
        assert forbidden(ip_address(text), own=own) == "own interface"


def test_mapped_and_scoped_addresses_are_folded() -> None:
    assert fold(ip_address("::ffff:1.2.3.4")) == ip_address("1.2.3.4")
    assert fold(ip_address("fe80::1%3")) == ip_address("fe80::1")
