"""Which addresses sandboxed code may be taken to: public ones, and those that the user wrote down. Floor: sandbox.

Pure. The tables are IANA's registries of special addresses, kept here because ``ipaddress.is_global`` has changed
its mind between Python releases.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address

_NEVER4 = (
    # Credentials for whoever asks: AWS, GCP, Azure, ... ; ECS tasks; EKS pods; Alibaba; Azure's wire server; Oracle.
    ("metadata", "169.254.169.254/32 169.254.170.2/32 169.254.170.23/32 100.100.100.200/32 168.63.129.16/32"),
    ("metadata", "192.0.0.192/32"),
    ("unspecified", "0.0.0.0/32"),
    ("multicast", "224.0.0.0/4"),
    ("broadcast", "255.255.255.255/32"),
)
_KINDS4 = (
    ("loopback", "127.0.0.0/8"),
    ("link-local", "169.254.0.0/16"),
    ("private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16"),
    ("carrier-grade NAT", "100.64.0.0/10"),
    ("reserved", "0.0.0.0/8 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24"),
    ("reserved", "240.0.0.0/4"),
)
_NEVER6 = (
    ("metadata", "fd00:ec2::/32 fd20:ce::254/128 fe80::a9fe:a9fe/128"),  # AWS, GCP, OpenStack
    ("unspecified", "::/128"),
    ("multicast", "ff00::/8"),
)
_KINDS6 = (
    ("loopback", "::1/128"),
    ("link-local", "fe80::/10"),
    ("private", "fc00::/7 fec0::/10 64:ff9b:1::/48"),
    ("reserved", "2001::/23 2001:db8::/32 3fff::/20"),
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")


def _table4(rows: tuple[tuple[str, str], ...]) -> tuple[tuple[IPv4Network, str], ...]:
    return tuple((IPv4Network(net), kind) for kind, nets in rows for net in nets.split())


def _table6(rows: tuple[tuple[str, str], ...]) -> tuple[tuple[IPv6Network, str], ...]:
    return tuple((IPv6Network(net), kind) for kind, nets in rows for net in nets.split())


_NEVER = (_table4(_NEVER4), _table6(_NEVER6))
_KINDS = (_table4(_KINDS4), _table6(_KINDS6))


def never_reachable(address: IPAddress) -> str | None:
    """The class of an address that no rule can allow (metadata, unspecified, multicast, broadcast), or None."""
    for each in _layers(address):
        if kind := _look_up(each, _NEVER):
            return kind
    return None


def forbidden(address: IPAddress, *, own: Container[IPAddress] = (), listed: Container[IPAddress] = ()) -> str | None:
    """The class of refusal for an address that must not be dialled, or None for one that may.

    IPv4 addresses that are embedded in IPv6 ones (v4-mapped, NAT64, 6to4, Teredo) are looked at as well.

    Args:
        address: What would be dialled.
        own: Addresses of this host's interfaces.
        listed: Addresses that the user wrote down. They may be of any class but those of :func:`never_reachable`.

    Returns:
        ``"loopback"``, ``"link-local"``, ``"private"``, ``"carrier-grade NAT"``, ``"reserved"``, ``"metadata"``,
        ``"unspecified"``, ``"multicast"``, ``"broadcast"`` or ``"own interface"``.
    """
    if kind := never_reachable(address):
        return kind
    if fold(address) in listed:
        return None
    layers = tuple(_layers(address))
    for each in layers:
        if kind := _look_up(each, _KINDS):
            return kind
    # NAT64 is how an IPv6-only host reaches public IPv4: what counts there is the embedded address.
    outer = fold(address)
    if outer.version == 6 and outer not in _GLOBAL_UNICAST and outer not in _NAT64:
        return "reserved"
    return "own interface" if any(each in own for each in layers) else None


def fold(address: IPAddress) -> IPAddress:
    """The address itself; for a v4-mapped IPv6 address, the IPv4 address that it stands for."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            address = IPv6Address(int(address))  # a zone does not make it another address
        return address.ipv4_mapped or address
    return address


def _layers(address: IPAddress) -> Iterator[IPAddress]:
    """What is embedded in an address, which tells more, and then the address."""
    address = fold(address)
    if isinstance(address, IPv6Address):
        if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
            yield IPv4Address(int(address) & 0xFFFFFFFF)
        elif address.sixtofour is not None:
            yield address.sixtofour
        elif address.teredo is not None:
            yield from address.teredo
    yield address


def _look_up(
    address: IPAddress, tables: tuple[tuple[tuple[IPv4Network, str], ...], tuple[tuple[IPv6Network, str], ...]]
) -> str | None:
    table = tables[0] if address.version == 4 else tables[1]
    for network, kind in table:
        if address in network:
            return kind
    return None
