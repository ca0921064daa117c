"""What a session gets is within what its template allows, and a template within what its author may allow."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ipybox.control.access.scopes import ALL_SCOPES, Principal, Scope
from ipybox.control.errors import ForbiddenError, RequestRefusedError
from ipybox.control.records import NetworkRules, ResourceLimits, Template
from ipybox.control.service.bounds import check_network, limits_within, network_within
from ipybox.control.service.requests import NewSession

ADMIN = Principal(owner="root", key_id="k1", scopes=ALL_SCOPES)
TENANT = Principal(owner="alice", key_id="k2", scopes=frozenset({Scope.READ, Scope.EXECUTE, Scope.TEMPLATES}))
MIB = 1024**2
TEMPLATE = Template(
    id="t",
    owner="system",
    name="T",
    image_url="ipybox",
    runtime_type="python3.11",
    limits=ResourceLimits(cpu_cores=2, memory_bytes=512 * MIB, disk_bytes=100 * MIB, max_processes=64),
    default_timeout=300,
    network=NetworkRules(allowed_domains=("example.org", "*.example.net:8443")),
    created_at=datetime.now(UTC),
    updated_at=datetime.now(UTC),
)


def rules(*allowed: str, denied: tuple[str, ...] = ()) -> NetworkRules:
    return NetworkRules(allowed_domains=allowed, denied_domains=denied)


def test_what_is_not_asked_for_is_what_the_template_has() -> None:
    assert limits_within(NewSession(template_id="t"), TEMPLATE) == TEMPLATE.limits
    assert network_within(None, TEMPLATE.network) == TEMPLATE.network


def test_less_is_given_and_more_is_cut_down() -> None:
    asked = NewSession(template_id="t", cpu_cores=1, memory_bytes=1024 * MIB, disk_bytes=50 * MIB, max_processes=1000)
    assert limits_within(asked, TEMPLATE) == ResourceLimits(
        cpu_cores=1, memory_bytes=512 * MIB, disk_bytes=50 * MIB, max_processes=64
    )


@pytest.mark.parametrize("field", ["memory_bytes", "disk_bytes"])
def test_what_nothing_can_start_with_is_refused(field: str) -> None:
    with pytest.raises(RequestRefusedError):
        limits_within(replace(NewSession(template_id="t"), **{field: 1000}), TEMPLATE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "allowed", [(), ("example.org",), ("example.org:443",), ("a.example.net:8443",), ("*.b.example.net:8443",)]
)
def test_hosts_within_the_template_are_given(allowed: tuple[str, ...]) -> None:
    assert network_within(rules(*allowed), TEMPLATE.network).allowed_domains == allowed


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "a.example.org",
        "example.org:8080",
        "example.net:8443",
        "a.example.net",
        "*.example.org",
        "10.0.0.1",
    ],
)
def test_a_host_beyond_the_template_is_refused(host: str) -> None:
    with pytest.raises(RequestRefusedError, match="not within"):
        network_within(rules(host), TEMPLATE.network)


def test_what_the_template_denies_stays_denied() -> None:
    template = rules("*.example.org", denied=("bad.example.org",))
    found = network_within(rules("a.example.org", denied=("worse.example.org",)), template)
    assert found.denied_domains == ("bad.example.org", "worse.example.org")


@pytest.mark.parametrize("host", ["*", "http://example.org", "example.org/x", "169.254.169.254"])
def test_rules_that_make_no_sense_are_refused(host: str) -> None:
    with pytest.raises(RequestRefusedError):
        check_network(ADMIN, rules(host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000", "[::ffff:127.0.0.1]"])
def test_nobody_can_let_code_reach_the_machine_of_the_server(host: str) -> None:
    with pytest.raises(RequestRefusedError, match="this machine"):
        check_network(ADMIN, rules(host))


@pytest.mark.parametrize("host", ["10.0.0.1", "192.168.0.1:5432", "[fd00::1]", "100.64.0.1"])
def test_private_networks_are_for_the_operator_to_open(host: str) -> None:
    with pytest.raises(ForbiddenError, match="admin"):
        check_network(TENANT, rules(host))
    check_network(ADMIN, rules(host))


def test_public_hosts_can_be_allowed_by_whoever_may_make_templates() -> None:
    check_network(TENANT, rules("example.org", "*.example.org:8443", "93.184.216.34"))
