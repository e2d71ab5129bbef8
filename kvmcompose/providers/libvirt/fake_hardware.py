"""What domains of a simulated libvirt have, by their XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from kvmcompose.hosts.fake_world import FakeHardware, FakeNic
from kvmcompose.providers.libvirt.definitions import cpus, disk_targets, further_disks, nic_vlan, nics

_OPENVSWITCH = "virtualport[@type='openvswitch']"


def hardware(domain: ET.Element) -> FakeHardware:
    """Return what a domain has, by its XML."""
    vcpu, graphics = domain.find("vcpu"), domain.find("devices/graphics")
    most = _mib(domain.find("memory")) or 64
    return FakeHardware(
        memory_mb=_mib(domain.find("currentMemory")) or most,
        most_memory_mb=most,
        cpus=cpus(domain),
        most_cpus=1 if vcpu is None else int(vcpu.text or 1),
        nics=[nic_of(nic) for nic in domain.iterfind("devices/interface")],
        disks=disk_targets(domain),
        further=list(further_disks(domain)),
        screen=graphics.get("type", "") if graphics is not None else "",
    )


def _mib(element: ET.Element | None) -> int:
    if element is None:
        return 0
    number = int(element.text or 0)
    return {"MiB": number, "GiB": number << 10}.get(element.get("unit", "KiB"), number >> 10)


def nic_of(xml: ET.Element) -> FakeNic:
    """Return a NIC by its ``<interface>``."""
    (nic,) = nics(xml)
    parameters = xml.find("virtualport/parameters")
    interface_id = None if parameters is None else parameters.get("interfaceid")
    return FakeNic(
        nic.target,
        nic.source,
        nic.mac,
        network=xml.find(_OPENVSWITCH) is None,
        interface_id=interface_id,
        link=nic.link,
        bandwidth=nic.bandwidth,
        vlan=nic_vlan(xml),
    )
