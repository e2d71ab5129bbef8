"""The network XML that is known to be harmless (libvirt, "Network XML format")."""

from __future__ import annotations

import ipaddress

from kvmcompose.core.deployable import LibvirtNetwork
from kvmcompose.privileges._grammar import Checks, Element, Xml

_MARK = "{urn:kvmcompose:network:1}network"
_NUMBER = "[0-9]{1,6}"


def checks(project: str, network: LibvirtNetwork) -> Checks:
    """Return the checks that the grammar refers to by name."""
    subnet = ipaddress.ip_network(network.subnet)

    def is_inside(text: str) -> bool:
        try:
            return ipaddress.ip_address(text) in subnet
        except ValueError:
            return False

    def is_prefix(text: str) -> bool:
        return text == str(subnet.prefixlen)

    return {
        "project": project.__eq__,
        "name": network.name.__eq__,
        "bridge": network.bridge.__eq__,
        "inside": is_inside,
        "prefix": is_prefix,
    }


def has_subnet(xml: Xml, network: LibvirtNetwork) -> bool:
    """Return whether libvirt gives the network the subnet of the state, in which its guests' addresses are.

    As in libvirt, an ``<ip>`` without prefix and netmask has a netmask by the class of its address.
    """
    tree = xml.root
    if tree is None or tree.tag != "network":
        return False
    subnet = ipaddress.IPv4Network(network.subnet)
    masks = ((str(subnet.prefixlen), None), (None, str(subnet.netmask)))
    for element in tree.findall("ip"):
        try:
            inside = ipaddress.IPv4Address(element.get("address", "")) in subnet
        except ValueError:  # for example an IPv6 address
            continue
        if inside and (element.get("prefix"), element.get("netmask")) in masks:
            return True
    return False


def missing_parts(xml: Xml) -> tuple[str, ...]:
    """Return the parts of the XML that are missing and by which kvmcompose later finds the network."""
    root = xml.root
    if root is None:
        return ()
    mark = root.find(f"metadata/{_MARK}")
    bridge = root.find("bridge")
    named = bridge is not None and bridge.get("name") is not None
    marked = mark is not None and mark.get("project") is not None
    return tuple(path for path, there in (("bridge", named), ("metadata", marked)) if not there)


GRAMMAR = (
    "network",
    Element(
        name=Element(text="@name"),
        metadata=Element(others={_MARK: Element("project=@project")}),
        bridge=Element(f"name=@bridge stp delay={_NUMBER}"),
        mac=Element("address"),
        mtu=Element(f"size={_NUMBER}"),
        forward=Element("mode=nat dev", nat=Element(port=Element("start end"))),
        domain=Element("name localOnly"),
        dns=Element("enable forwardPlainNames", host=Element("ip=@inside", hostname=Element(text="@token"))),
        ip=Element(
            "family=ipv4 address=@inside prefix=@prefix localPtr",
            dhcp=Element(
                range=Element("start=@inside end=@inside"),
                host=Element("mac name ip=@inside"),
            ),
        ),
    ),
)
