"""One normaliser for rules and requests, and what the rules decide."""

from __future__ import annotations

import string
from ipaddress import ip_address
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipybox.errors import PolicyError
from ipybox.sandbox.hosts import Host, HostError, HostRules, NarrowedRules, Pin, parse_host, parse_pins

RULES = HostRules.parse(
    [
        "allowed.test",
        "*.wild.test",
        "portonly.test:8080",
        "both.test",
        "both.test:8443",
        "10.1.2.3",
        "[2001:db8::1]:8443",
    ],
    ["bad.wild.test", "*.worse.wild.test", "both.test:443"],
)


def decide(host: str, port: int = 443) -> tuple[bool, str]:
    decision = RULES.decide(parse_host(host), port)
    return decision.allowed, decision.reason


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.org", "example.org"),
        ("EXAMPLE.Org.", "example.org"),
        (b"xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("_dmarc.a-b.test", "_dmarc.a-b.test"),
        ("localhost", "localhost"),
        ("1.2.3.4", "1.2.3.4"),
        ("[::1]", "::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
        ("3com.test", "3com.test"),
        ("a" * 63 + ".test", "a" * 63 + ".test"),
    ],
)
def test_hosts_have_one_form(text: bytes | str, name: str) -> None:
    assert parse_host(text).name == name


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", "empty host"),
        (".", "malformed host name"),
        ("a..b", "malformed host name"),
        ("a.test..", "malformed host name"),
        (".a.test", "malformed host name"),
        ("-a.test", "malformed host name"),
        ("a-.test", "malformed host name"),
        ("a" * 64 + ".test", "malformed host name"),
        ("a." * 127 + "test", "host name too long"),
        ("a" * 100_000, "host name too long"),
        ("a#b", "malformed host name"),
        ("a?b", "malformed host name"),
        ("*.a.test", "malformed host name"),
        ("[a.test]", "malformed IPv6 address"),
        ("[127.0.0.1]", "malformed IPv6 address"),
        ("[::1", "malformed IPv6 address"),
        ("a.test:80", "malformed IPv6 address"),
        ("user@a.test", "userinfo in the host"),
        ("a.test\0.b.test", "control character in the host"),
        ("a.test\r\nx", "control character in the host"),
        ("a.test\n", "control character in the host"),
        ("a test", "space in the host"),
        ("a.test/", "slash in the host"),
        ("a.test\\b", "backslash in the host"),
        ("a%2etest", "percent sign in the host"),
        ("fe80::1%eth0", "zone id in the address"),
        ("[::ffff:10.99.0.2%x.wild.test]", "zone id in the address"),
        ("\uff41llowed.test", "non-ASCII host"),
        ("bücher.test", "non-ASCII host"),
        (b"\xff.test", "non-ASCII host"),
        *((text, "non-canonical IPv4 address") for text in ("174260226", "0x0a630002", "012.0143.0.02", "127.1", "0")),
        *((text, "non-canonical IPv4 address") for text in ("1.2.3.4.", "1.2.3.256", "01.2.3.4", "1.2.3", "a.0x7f")),
        *((text, "non-canonical IPv4 address") for text in ("1.2.3.4.5", "0x", "a.1", "127.0.0.0x1")),
    ],
)
def test_what_is_not_canonical_is_refused_by_class(text: bytes | str, refusal: str) -> None:
    with pytest.raises(HostError) as error:
        parse_host(text)
    assert str(error.value) == refusal


@pytest.mark.parametrize(
    ("host", "port", "allowed", "reason"),
    [
        ("allowed.test", 443, True, "in allowedDomains (rule 'allowed.test')"),
        ("allowed.test", 80, True, "in allowedDomains (rule 'allowed.test')"),
        ("AlLoWeD.TeSt.", 443, True, "in allowedDomains (rule 'allowed.test')"),
        ("allowed.test", 22, False, "port 22 is not allowed for allowed.test (rules: allowed.test)"),
        ("sub.allowed.test", 443, False, "not in allowedDomains"),
        ("sub.wild.test", 443, True, "in allowedDomains (rule '*.wild.test')"),
        ("a.b.wild.test", 443, True, "in allowedDomains (rule '*.wild.test')"),
        ("wild.test", 443, False, "not in allowedDomains"),
        ("evilwild.test", 443, False, "not in allowedDomains"),
        ("wild.test.evil.test", 443, False, "not in allowedDomains"),
        ("bad.wild.test", 443, False, "in deniedDomains (rule 'bad.wild.test')"),
        ("BAD.wild.test.", 9999, False, "in deniedDomains (rule 'bad.wild.test')"),
        ("x.worse.wild.test", 443, False, "in deniedDomains (rule '*.worse.wild.test')"),
        ("worse.wild.test", 443, True, "in allowedDomains (rule '*.wild.test')"),
        ("portonly.test", 443, False, "port 443 is not allowed for portonly.test (rules: portonly.test:8080)"),
        ("portonly.test", 8080, True, "in allowedDomains (rule 'portonly.test:8080')"),
        ("both.test", 443, False, "in deniedDomains (rule 'both.test:443')"),
        ("both.test", 8443, True, "in allowedDomains (rule 'both.test:8443')"),
        ("both.test", 1, False, "port 1 is not allowed for both.test (rules: both.test, both.test:8443)"),
        ("10.1.2.3", 80, True, "in allowedDomains (rule '10.1.2.3')"),
        ("::ffff:10.1.2.3", 80, True, "in allowedDomains (rule '10.1.2.3')"),
        ("10.1.2.4", 80, False, "not in allowedDomains"),
        ("2001:db8::1", 8443, True, "in allowedDomains (rule '[2001:db8::1]:8443')"),
        ("2001:db8::1", 443, False, "port 443 is not allowed for [2001:db8::1] (rules: [2001:db8::1]:8443)"),
        ("allowed.test", 0, False, "0 is not a port"),
        ("allowed.test", 65536, False, "65536 is not a port"),
    ],
)
def test_decisions(host: str, port: int, allowed: bool, reason: str) -> None:
    assert decide(host, port) == (allowed, reason)


def test_nothing_is_allowed_without_rules() -> None:
    assert not HostRules.parse([], []).decide(parse_host("example.org"), 443).allowed


@pytest.mark.parametrize(
    ("rule", "reason", "hint"),
    [
        ("", "is empty", "example.org"),
        ("*", "every host", "name the hosts"),
        ("*.", "every host", ""),
        ("*.com", "top-level", "*.example.com"),
        ("*.*", "every host", ""),
        ("*.*.com", "wildcard inside", "leading"),
        ("a.*.com", "wildcard inside", "leading"),
        ("*a.com", "wildcard inside", "leading"),
        ("*.10.0.0.1", "wildcard for an address", ""),
        ("http://x", "URL", "'x'"),
        ("https://example.org:8443/p?q", "URL", "'example.org:8443'"),
        ("example.org/path", "path", ""),
        ("a:99999", "port '99999'", "1 to 65535"),
        ("a:0", "port '0'", ""),
        ("a:", "port ''", ""),
        ("a:080", "port '080'", ""),
        ("a:8x", "port '8x'", ""),
        ("2001:db8::1", "without brackets", "[2001:db8::1]:443"),
        ("[::1]x", "after the bracket", ""),
        ("[::1", "malformed IPv6", ""),
        ("user@example.org", "userinfo", ""),
        ("a b", "space", ""),
        ("127.1", "non-canonical IPv4", ""),
        ("bücher.test", "non-ASCII", "'xn--bcher-kva.test'"),
        ("*.bücher.test:8443", "non-ASCII", "'*.xn--bcher-kva.test:8443'"),
        ("169.254.169.254", "metadata", ""),
        ("0.0.0.0", "unspecified", ""),
    ],
)
def test_impossible_rules_are_refused_with_their_place(rule: str, reason: str, hint: str) -> None:
    with pytest.raises(PolicyError) as error:
        HostRules.parse(["example.org", rule])
    assert error.value.where == "network.allowedDomains[1]"
    assert reason in error.value.reason
    assert hint in error.value.hint


def test_denied_rules_are_checked_too() -> None:
    with pytest.raises(PolicyError, match=r"network\.deniedDomains\[0\]"):
        HostRules.parse([], ["http://x"])


def test_whole_top_level_domains_and_metadata_can_be_denied() -> None:
    rules = HostRules.parse(["*.evil.zip"], ["*.zip", "169.254.169.254"])
    assert not rules.decide(parse_host("a.evil.zip"), 443).allowed


def test_addresses_are_listed_with_their_port_only() -> None:
    assert RULES.lists(ip_address("10.1.2.3"), 443)
    assert not RULES.lists(ip_address("10.1.2.3"), 22)
    assert HostRules.parse([], ["10.0.0.1"]).denies(ip_address("::ffff:10.0.0.1"), 22)


def test_pins_are_addresses_with_or_without_a_port() -> None:
    pairs = [("A.test", "10.0.0.7"), ("b.test", "127.0.0.1:8080"), ("c.test", "fd00::1"), ("d.test", "[fd00::1]:81")]
    assert parse_pins(pairs) == {
        Host("a.test"): Pin(ip_address("10.0.0.7"), None),
        Host("b.test"): Pin(ip_address("127.0.0.1"), 8080),
        Host("c.test"): Pin(ip_address("fd00::1"), None),
        Host("d.test"): Pin(ip_address("fd00::1"), 81),
    }


@pytest.mark.parametrize(
    "pairs",
    [
        [("a.test", "b.test")],
        [("a.test", "127.1")],
        [("a.test", "10.0.0.1:0")],
        [("a.test", "169.254.169.254")],
        [("a.test", "")],
        [("10.0.0.1", "10.0.0.2")],
        [("*.a.test", "10.0.0.2")],
        [("a.test", "10.0.0.2"), ("A.test.", "10.0.0.3")],
    ],
)
def test_impossible_pins_are_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(PolicyError, match=r"network\.hosts\["):
        parse_pins(pairs)


# ---- properties -------------------------------------------------------------------------------------------------

many = settings(max_examples=2600, deadline=None, database=None)
LABELS = ["a", "b", "wild", "test", "evil", "xn--a", "0", "1", "127", "0x7f", "-", "A", "*", ""]
labels = st.sampled_from(LABELS)
pieces = st.sampled_from([*LABELS, ".", ":", "[", "]", "%", "@", "/", "\\", "\0", " ", "\uff41", "::1", "::ffff:"])
almost_hosts = st.one_of(st.lists(labels, max_size=5).map(".".join), st.lists(pieces, max_size=8).map("".join))
any_text = st.one_of(almost_hosts, st.text(max_size=12), st.ip_addresses().map(str))
GOOD_LABELS = ["a", "b", "wild", "evilwild", "test", "x-y", "_z"]
good_names = st.sampled_from([".".join(name) for size in (2, 3, 4) for name in product(GOOD_LABELS, repeat=size)])


def parsed(text: str) -> Host | None:
    try:
        return parse_host(text)
    except HostError:
        return None


@many
@given(any_text)
def test_what_is_accepted_parses_to_itself_again(text: str) -> None:
    host = parsed(text)
    if host is not None:
        assert parse_host(str(host)) == parse_host(host.name) == parse_host(host.name.encode()) == host


@many
@given(any_text)
def test_what_is_accepted_holds_no_foreign_character(text: str) -> None:
    host = parsed(text)
    if host is not None:
        assert set(host.name) <= set(string.ascii_lowercase + string.digits + "-_." + (":" if host.address else ""))
        assert len(host.name) <= 253
        if host.address is None:
            assert not host.name.rpartition(".")[2].isdigit()
        else:
            assert ip_address(host.name) == host.address


@many
@given(good_names, st.sampled_from([str.upper, str.title, str.lower]), st.booleans(), st.integers(1, 65535))
def test_case_and_trailing_dot_change_no_decision(name: str, recase: object, dot: bool, port: int) -> None:
    assert callable(recase)
    rules = HostRules.parse(["*.wild.test", "a.test:8080", "a.b"], ["*.a.wild.test"])
    twisted = recase(name) + ("." if dot else "")
    assert rules.decide(parse_host(twisted), port) == rules.decide(parse_host(name), port)


hosts_around = st.sampled_from(
    ["BASE", "a.BASE", "b.a.BASE", "evilBASE", "evil-BASE", "BASE.evil", "a.evil.test", "a.test", "test", "wild.test"]
)


def oracle(rule: str, host: str, port: int) -> bool:
    """Written apart from the code: label by label, from the right."""
    name, _, rule_port = rule.partition(":")
    if port not in ([int(rule_port)] if rule_port else [80, 443]):
        return False
    ours, theirs = name.split(".")[::-1], host.split(".")[::-1]
    if ours[-1] == "*":
        return len(theirs) >= len(ours) and theirs[: len(ours) - 1] == ours[:-1]
    return ours == theirs


@many
@given(good_names, st.booleans(), st.sampled_from(["", ":80", ":8080"]), hosts_around, st.sampled_from([80, 443, 8080]))
def test_a_rule_allows_its_name_or_what_is_below_it(
    base: str, wildcard: bool, rule_port: str, shape: str, port: int
) -> None:
    rule = ("*." if wildcard else "") + base + rule_port
    host = shape.replace("BASE", base)
    expected = oracle(rule, host, port)
    assert HostRules.parse([rule]).decide(parse_host(host), port).allowed == expected
    assert not HostRules.parse([rule], [rule]).decide(parse_host(host), port).allowed


def test_narrowed_rules_allow_what_both_allow_and_deny_what_one_denies() -> None:
    wide = HostRules.parse(["*.a.test", "b.test", "10.0.0.1"], ["no.a.test", "192.0.2.1"])
    own = HostRules.parse(["x.a.test", "no.a.test", "c.test", "10.0.0.1:81"], ["192.0.2.2"])
    both = NarrowedRules(wide, own)
    allowed = [
        name
        for name in ("x.a.test", "y.a.test", "no.a.test", "b.test", "c.test", "d.test")
        if both.decide(parse_host(name), 443).allowed
    ]
    assert allowed == ["x.a.test"]
    assert "not in allowedDomains" in both.decide(parse_host("b.test"), 443).reason
    one, two, listed = (ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "10.0.0.1"))
    assert both.denies(one, 80)
    assert both.denies(two, 80)
    assert not both.denies(listed, 80)
    assert not both.lists(listed, 80)
    assert not both.lists(listed, 81)
    assert both.beyond(HostRules.parse(["x.a.test", "b.test", "z.test"])) == ["z.test", "b.test"]
