"""The XML of networks, as libvirt takes and returns it."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from functools import lru_cache

import msgspec

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt.definitions import NETWORK_NAMESPACE, name_in, parse


class NetworkRemains(msgspec.Struct, frozen=True, kw_only=True):
    """A network on its host: its Linux bridge, with its MAC address and its IPv4 address with prefix."""

    network: str
    bridge: str
    mac: str
    address: str


@lru_cache(maxsize=2)  # for thousands of entries it takes a quarter of a second
def network_digest(xml: str) -> str:
    """Return a digest of a network's XML, whatever its white space and quotes."""
    return hashlib.sha256(ET.canonicalize(xml, strip_text=True).encode()).hexdigest()


def with_digest(xml: str) -> tuple[str, str]:
    """Return a network's definition with a digest of itself in its metadata, and that digest.

    libvirt extends and reorders a definition, so that the two cannot be compared. It also chooses a random
    MAC address for the bridge; so that the bridge can be recognised, the address is derived from the
    network's name.
    """
    root = parse(xml, "network")
    digest = network_digest(xml)
    mark = root.find(f"metadata/{{{NETWORK_NAMESPACE}}}network")
    if mark is None or not mark.get("project"):
        raise DriverError(
            f"the XML of the network {name_in(root)} does not name its project",
            hint="its <metadata> went missing: kvm-compose generate --overwrite network-xml",
        )
    mark.set("digest", digest)
    if root.find("mac") is None:
        number = hashlib.sha256(name_in(root).encode()).hexdigest()
        address = ":".join(["52", "54", "00", number[:2], number[2:4], number[4:6]])
        ET.SubElement(root, "mac", address=address)
    return ET.tostring(root, encoding="unicode"), digest


def with_definition(xml: str, definition: str) -> str:
    """Return a network's definition with what ``definition_record`` keeps of it in its metadata."""
    root = parse(xml, "network")
    mark = root.find(f"metadata/{{{NETWORK_NAMESPACE}}}network")
    if mark is not None:
        mark.set("definition", definition)
    return ET.tostring(root, encoding="unicode")


def network_address(xml: str) -> str:
    """Return a network's own address with its prefix, as a user would write it."""
    address = parse(xml, "network").find("ip")
    if address is None:
        return ""
    return f"{address.get('address')}/{address.get('prefix') or address.get('netmask')}"


def network_remains(xml: str) -> NetworkRemains | None:
    """Return what identifies a network on its host when libvirt has lost track of it."""
    root = parse(xml, "network")
    bridge, mac = root.find("bridge"), root.find("mac")
    if bridge is None or mac is None:
        return None
    return NetworkRemains(
        network=name_in(root),
        bridge=bridge.get("name", ""),
        mac=mac.get("address", "").lower(),
        address=network_address(xml),
    )
