"""What a session gets: what it asks for, within what its template allows. No I/O. Floor: control."""

from __future__ import annotations

from ipybox.control.access.scopes import Principal
from ipybox.control.errors import ForbiddenError, RequestRefusedError
from ipybox.control.records import NetworkRules, ResourceLimits, Template
from ipybox.control.service.requests import NewSession
from ipybox.errors import PolicyError
from ipybox.sandbox.addresses import forbidden
from ipybox.sandbox.hosts import HostRules

_LEAST_MEMORY = 64 * 1024 * 1024
_LEAST_DISK = 1024 * 1024


def limits_within(asked: NewSession, template: Template) -> ResourceLimits:
    """Limits of a session. Raises :class:`RequestRefusedError` for what is too little to start with.

    More than the template has is cut down to that, as the model's clients always send the model's defaults; what they
    got is in the answer.
    """
    most = template.limits
    memory = min(asked.memory_bytes or most.memory_bytes, most.memory_bytes)
    disk = min(asked.disk_bytes or most.disk_bytes, most.disk_bytes)
    if memory < _LEAST_MEMORY:
        raise RequestRefusedError(f"must be at least 64Mi, got {memory} bytes", "memory")
    if disk < _LEAST_DISK:
        raise RequestRefusedError(f"must be at least 1Mi, got {disk} bytes", "disk")
    return ResourceLimits(
        cpu_cores=min(asked.cpu_cores or most.cpu_cores, most.cpu_cores),
        memory_bytes=memory,
        disk_bytes=disk,
        max_processes=min(asked.max_processes or most.max_processes, most.max_processes),
    )


def network_within(asked: NetworkRules | None, template: NetworkRules) -> NetworkRules:
    """Network rules of a session. Raises :class:`RequestRefusedError` for a host that its template does not allow."""
    if asked is None:
        return template
    try:
        theirs = HostRules.parse(asked.allowed_domains, asked.denied_domains)
    except PolicyError as error:
        raise RequestRefusedError(str(error), "network") from error
    if beyond := HostRules.parse(template.allowed_domains).beyond(theirs):
        allowed = ", ".join(template.allowed_domains) or "none"
        reason = f"{', '.join(beyond)} is not within what the template allows ({allowed})"
        raise RequestRefusedError(reason, "network.allowed_domains")
    denied = dict.fromkeys((*template.denied_domains, *asked.denied_domains))
    return NetworkRules(allowed_domains=asked.allowed_domains, denied_domains=tuple(denied))


def check_network(principal: Principal, rules: NetworkRules) -> None:
    """Whether a template may have such rules.

    Raises:
        RequestRefusedError: They make no sense, or lead to this machine itself, where there may be a server without
            keys: this one.
        ForbiddenError: They lead into private networks, which is the operator's to decide.
    """
    try:
        parsed = HostRules.parse(rules.allowed_domains, rules.denied_domains)
    except PolicyError as error:
        raise RequestRefusedError(str(error), "network") from error
    for address in parsed.listed:
        kind = forbidden(address)
        if kind == "loopback":
            raise RequestRefusedError(f"{address} is this machine itself, which no session may reach", "network")
        if kind is not None and not principal.sees_all:
            raise ForbiddenError(f"a template that allows {address}, a {kind} address, needs the scope 'admin'")
