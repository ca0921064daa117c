"""What was learned is a policy that another run can do with, as it stands."""

from __future__ import annotations

import json

import pytest

from ipybox.cli.sandbox import learned_text, minimal_policy
from ipybox.outputs import NetworkAccess
from ipybox.sandbox.hosts import HostRules, parse_host
from ipybox.sandbox.policy_file import parse_policy


def access(host: str, port: int = 443, allowed: bool = True) -> NetworkAccess:
    return NetworkAccess(host, port, allowed, "why")


def test_nothing_asked_for_is_nothing_allowed() -> None:
    assert minimal_policy([]) == {"network": {"allowedDomains": []}}


def test_web_ports_need_no_port_and_others_do() -> None:
    accesses = [access("b.example"), access("b.example", 80), access("a.example", 8443), access("a.example", 8443)]
    assert minimal_policy(accesses) == {"network": {"allowedDomains": ["a.example:8443", "b.example"]}}


def test_what_was_refused_is_no_part_of_it_but_is_told() -> None:
    text = learned_text([access("a.example"), access("10.0.0.1", 22, allowed=False)])
    policy, _, rest = text.rpartition("\n")
    assert json.loads(policy) == {"network": {"allowedDomains": ["a.example"]}}
    assert rest == "not learned: 10.0.0.1:22 denied: why"


@pytest.mark.parametrize("host", ["example.org", "xn--bcher-kva.example", "192.0.2.7", "2001:db8::1"])
@pytest.mark.parametrize("port", [80, 443, 8443])
def test_a_policy_file_takes_it_and_allows_what_was_needed(host: str, port: int) -> None:
    policy = parse_policy(minimal_policy([access(host, port)]), "learned").policy
    assert HostRules.parse(policy.network.allowed_domains).decide(parse_host(host), port).allowed
