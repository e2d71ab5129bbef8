"""Changes of domains while they run. Runs in the threads of a libvirt connection.

Each is made in the running domain and in its definition, as far as the two have it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import libvirt

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import definition_record
from kvmcompose.providers.libvirt import definitions as xmls
from kvmcompose.providers.libvirt.connection import unless_so_already, words

LIVE, CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG
INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE
_KIB_PER_MIB = 1024
#: What changes of a NIC while its domain runs.
_ALIVE = ("link", "vlan", "bandwidth")
_NO_LIMITS = {"inbound.average": 0, "outbound.average": 0}
NO_PORT = "No more available PCI slots"


def set_memory(domain: Any, *, mib: int) -> None:
    """Give memory to a domain, or take it, up to its maximum."""
    refuse_off(domain, "change the memory of")
    largest = domain.maxMemory() // _KIB_PER_MIB
    if mib > largest:
        raise DriverError(
            f"cannot give {mib} MiB to the domain {domain.name()}: it was started with at most {largest} MiB"
        )
    with definition_record.own_change(domain):
        domain.setMemoryFlags(mib * _KIB_PER_MIB, LIVE)
        if domain.isPersistent() and domain.maxMemory() >= mib * _KIB_PER_MIB:
            domain.setMemoryFlags(mib * _KIB_PER_MIB, CONFIG)


def set_vcpus(domain: Any, *, count: int) -> None:
    """Give processors to a domain, or take them."""
    refuse_off(domain, "change the processors of")
    largest = domain.vcpusFlags(LIVE | libvirt.VIR_DOMAIN_VCPU_MAXIMUM)
    if count > largest:
        raise DriverError(
            f"cannot give {count} CPUs to the domain {domain.name()}: it was started with at most {largest}"
        )
    with definition_record.own_change(domain):
        _set_live_vcpus(domain, count)
        if domain.isPersistent() and domain.vcpusFlags(CONFIG | libvirt.VIR_DOMAIN_VCPU_MAXIMUM) >= count:
            domain.setVcpusFlags(count, CONFIG)


def _set_live_vcpus(domain: Any, count: int) -> None:
    before = domain.vcpusFlags(LIVE)
    if before == count:
        return
    try:
        domain.setVcpusFlags(count, LIVE)
    except libvirt.libvirtError as error:
        # libvirt waits five seconds for the guest; asked again meanwhile, it names no cause
        if count > before or domain.vcpusFlags(LIVE) == count:
            raise
        raise DriverError(
            f"cannot take CPUs from the domain {domain.name()}: its guest does not let go of them",
            hint="it has fewer when it restarts",
        ) from error


def attach_nic(domain: Any, *, xml: str) -> None:
    """Plug in a NIC, unless one with its MAC address is there."""
    refuse_off(domain, "attach a NIC to")
    mac = xmls.nic_mac(xml)
    try:
        if _nic(domain, mac, 0) is None:
            domain.attachDeviceFlags(xml, LIVE)
    except libvirt.libvirtError as error:
        if NO_PORT in words(error):
            raise DriverError(
                f"cannot attach the NIC {mac} to the domain {domain.name()}: it has no free PCIe port",
                hint="it gets the NIC when it restarts",
            ) from None
        raise
    with definition_record.own_change(domain):
        if domain.isPersistent() and _nic(domain, mac, INACTIVE) is None:
            domain.attachDeviceFlags(xml, CONFIG)


def set_nic(domain: Any, *, xml: str) -> None:
    """Set the link state, VLAN and limits of throughput of a NIC of a running domain.

    The definition is set by others. Limits are removed and set even where libvirt has them already: it does
    not see what a port in Open vSwitch has lost, and (9.0) gives it no queues that are there without it.
    """
    refuse_off(domain, "change a NIC of")
    wanted = xmls.parse(xml, "interface")
    there = _nic(domain, xmls.nic_mac(xml), 0)
    if there is None:
        raise DriverError(f"the domain {domain.name()} has no NIC {xmls.nic_mac(xml)}")
    nic = xmls.parse(there, "interface")
    before = {tag: nic.find(tag) for tag in _ALIVE}
    for tag, known in before.items():
        if known is not None:
            nic.remove(known)
        given = wanted.find(tag)
        if given is not None:
            nic.append(given)
    domain.updateDeviceFlags(ET.tostring(nic, encoding="unicode"), LIVE)
    limits = xmls.limits(wanted)
    if limits or before["bandwidth"] is not None:
        target = nic.find("target")
        tap = "" if target is None else target.get("dev", "")
        domain.setInterfaceParameters(tap, _NO_LIMITS, LIVE)
        if limits:
            domain.setInterfaceParameters(tap, limits, LIVE)


def ask_to_detach_nic(domain: Any, *, mac: str) -> bool:
    """Ask the guest to let go of a NIC; return whether it is gone.

    libvirt waits five seconds for the guest, and refuses to ask again while the guest has not answered.
    """
    if domain.isActive() and (nic := _nic(domain, mac, 0)) is not None:
        with unless_so_already(libvirt.VIR_ERR_DEVICE_MISSING, libvirt.VIR_ERR_OPERATION_FAILED):
            domain.detachDeviceFlags(nic, LIVE)
        if has_nic(domain, mac=mac):
            return False
    with definition_record.own_change(domain):
        if domain.isPersistent() and (nic := _nic(domain, mac, INACTIVE)) is not None:
            domain.detachDeviceFlags(nic, CONFIG)
    return True


def has_nic(domain: Any, *, mac: str) -> bool:
    return bool(domain.isActive()) and _nic(domain, mac, 0) is not None


def taps(domain: Any) -> list[str]:
    """Return the taps of a running domain that Open vSwitch bridges have."""
    return xmls.switch_taps(domain.XMLDesc()) if domain.isActive() else []


def _nic(domain: Any, mac: str, flags: int) -> str | None:
    root = xmls.parse(domain.XMLDesc(flags), "domain")
    for nic in root.iterfind("devices/interface"):
        address = nic.find("mac")
        if address is not None and address.get("address", "").lower() == mac.lower():
            return ET.tostring(nic, encoding="unicode")
    return None


def refuse_off(domain: Any, verb: str) -> None:
    if not domain.isActive():
        raise DriverError(f"cannot {verb} the domain {domain.name()}: it is off")
