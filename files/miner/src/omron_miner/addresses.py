"""Internet addresses: with a port, resolved, local, of a caller, and whether one is public."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

Resolve = Callable[..., Any]
"""As `socket.getaddrinfo`."""

_NAT64 = IPv6Network("64:ff9b::/96")
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_IPV6_SUBSCRIBER_BITS = 64
"""A subscriber is given a /64 at least (RFC 6177) and may use any address in it."""


def host_and_port(host: str, port: int) -> str:
    """As in a URL: an IPv6 address is in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def local_target(bound: str) -> str:
    """The address at which this host reaches its own port bound to `bound`: loopback for a wildcard address."""
    try:
        return _EVERY_ADDRESS.get(str(ip_address(bound)), bound)
    except ValueError:  # a name
        return bound


def is_address(host: str) -> bool:
    """Whether `host` is an IP address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether `host`, an address or a name, can only be this host. Names are not resolved: only localhost is one."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def peer_of(address: str) -> str:
    """The key that represents one caller: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped:  # an IPv4 caller of a socket that serves both
        return str(parsed.ipv4_mapped)
    return str(IPv6Address(int(parsed) >> _IPV6_SUBSCRIBER_BITS << _IPV6_SUBSCRIBER_BITS))


def addresses_of(host: str, port: int, resolve: Resolve = socket.getaddrinfo) -> list[str]:
    """The addresses of `host`, each once, in the resolver's order. Raises OSError when there are none."""
    try:
        found = resolve(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or too long
        raise OSError(f"{host!r} is not a host name: {error}") from error
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def literal_address(host: str) -> str | None:
    """The address that `host` itself is, also as ``127.1`` or ``0x7f000001``; loopback for localhost, else None."""
    if host.rstrip(".").lower().rpartition(".")[2] == "localhost":
        return "127.0.0.1"
    try:
        return str(socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)[0][4][0])
    except (OSError, UnicodeError):
        return None


def is_public(address: str) -> bool:
    """Whether an address is on the public internet: not private, loopback, link-local, shared, multicast or reserved.

    An IPv6 address that embeds an IPv4 address (mapped, 6to4, NAT64) is classified by that.
    """
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        if within := found.ipv4_mapped or found.sixtofour:
            return is_public(str(within))
        if found in _NAT64:
            return is_public(str(IPv4Address(int(found) & 0xFFFFFFFF)))
        if found.is_site_local:
            return False
    return found.is_global and not found.is_multicast
