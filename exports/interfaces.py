"""An address of this host to reach a daemon at that listens at an interface or in a network."""

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

_SIOCGIFADDR = 0x8915
_IFREQ = struct.Struct("16s4x4s16x")
"""`struct ifreq` with an address of IPv4: interface; family and port; address."""
_IF_INET6 = Path("/proc/net/if_inet6")
_LINK_LOCAL = "20"
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def reachable(listen: Sequence[str]) -> str | None:
    """An address that leads to what listens at these (as in `names.listening`); None while no
    interface that is meant has one."""
    for place in listen:
        try:
            wanted = ipaddress.ip_interface(place)
        except ValueError:
            found = [address for name, address in _own() if name == place]
        else:
            if "/" not in place or wanted.ip != wanted.network.network_address:
                return str(wanted.ip)
            found = [address for _, address in _own() if address in wanted.network]
        if found:
            return str(found[0])
    return None


def _own() -> Iterator[tuple[str, _Address]]:
    """Interface and address; of IPv4 the first address of each interface, of IPv6 none of the link alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(asking, _SIOCGIFADDR, _IFREQ.pack(name.encode(), b""))
            except OSError:
                continue
            yield name, ipaddress.IPv4Address(_IFREQ.unpack(reply)[1])
    if _IF_INET6.exists():
        for line in _IF_INET6.read_text().splitlines():
            digits, _, _, scope, _, name = line.split()
            if scope != _LINK_LOCAL:
                yield name, ipaddress.IPv6Address(bytes.fromhex(digits))
