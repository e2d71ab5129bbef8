"""Reads and writes libvirt's XML: whose it is, and that of domains. Pure.

``network_definitions`` and ``snapshot_definitions`` have what is only for those.

The XML is ours, perhaps edited by the user, or libvirt's; it has no other source.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import PurePosixPath

import msgspec

from kvmcompose.core.nic import Bandwidth, Rate, Trunk, Vlan
from kvmcompose.core.xml_parts import parse_xml
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt.interface import Capabilities
from kvmcompose.providers.libvirt.interface.domains import DomainNic, TpmHolder
from kvmcompose.render.disks import ALIAS_PREFIX

GUEST_NAMESPACE = "urn:kvmcompose:guest:1"
NETWORK_NAMESPACE = "urn:kvmcompose:network:1"

#: The prefix that our metadata has in definitions.
GUEST_PREFIX = "kc"
ET.register_namespace(GUEST_PREFIX, GUEST_NAMESPACE)
ET.register_namespace("kcn", NETWORK_NAMESPACE)


#: What an <interface> is plugged into, by its type.
_SOURCES = ("bridge", "network", "dev")


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """The name of a domain or network, and whose it is. ``project`` is None without our metadata.

    ``made`` describes what a domain was made from, in the words of its definer, ``definition`` is what
    ``definition_record`` keeps of it; ``digest`` is a network's.
    """

    name: str
    project: str | None
    guest: str = ""
    digest: str | None = None
    made: str = ""
    definition: str = ""


class Disk(msgspec.Struct, frozen=True):
    """A disk of a domain; ``format`` is QEMU's term, ``path`` that of its file, if it is a file."""

    target: str
    format: str
    writable: bool
    path: str = ""


def parse(xml: str, wanted: str) -> ET.Element:
    """Parse XML whose root must be ``wanted``. Raises DriverError."""
    try:
        root = parse_xml(xml)
    except ET.ParseError as error:
        raise DriverError(f"cannot parse the XML of a {wanted}: {error}") from error
    if root.tag != wanted:
        raise DriverError(f"expected the XML of a <{wanted}>, found a <{root.tag}>")
    return root


def domain_identity(xml: str) -> Ownership:
    """Return whose a domain is. Raises DriverError when it has no name."""
    return owner_of_domain(parse(xml, "domain"))


def owner_of_domain(root: ET.Element) -> Ownership:
    """Return whose a parsed domain is. Raises DriverError when it has no name."""
    mark = root.find(f"metadata/{{{GUEST_NAMESPACE}}}guest")
    if mark is None:
        return Ownership(name=name_in(root), project=None)
    return _guest_of(name_in(root), mark)


def network_identity(xml: str) -> Ownership:
    """Return whose a network is. Raises DriverError when it has no name."""
    root = parse(xml, "network")
    mark = root.find(f"metadata/{{{NETWORK_NAMESPACE}}}network")
    if mark is None:
        return Ownership(name=name_in(root), project=None)
    return Ownership(
        name=name_in(root),
        project=mark.get("project"),
        digest=mark.get("digest"),
        definition=mark.get("definition", ""),
    )


def mark_identity(name: str, element: str) -> Ownership:
    """Return whose a domain is, from the metadata element that libvirt has of it."""
    return _guest_of(name, ET.fromstring(element))  # noqa: S314 - as above


def _guest_of(name: str, mark: ET.Element) -> Ownership:
    return Ownership(
        name=name,
        project=mark.get("project"),
        guest=mark.get("name", ""),
        made=mark.get("made", ""),
        definition=mark.get("definition", ""),
    )


def marked(element: str, **attributes: str) -> str:
    """Return the metadata element of a domain with other attributes."""
    mark = ET.fromstring(element)  # noqa: S314 - see above; expat itself bounds how entities grow
    mark.attrib.update(attributes)
    return ET.tostring(mark, encoding="unicode")


def with_made(xml: str, made: str) -> str:
    """Return a domain's definition whose metadata says what it was made from."""
    root = parse(xml, "domain")
    mark = root.find(f"metadata/{{{GUEST_NAMESPACE}}}guest")
    if mark is None or not mark.get("project"):
        raise DriverError(
            f"the XML of the domain {name_in(root)} does not name its project",
            hint="its <metadata> went missing; put it back, or kvm-compose generate --overwrite",
        )
    if not made:
        return xml
    mark.set("made", made)
    return ET.tostring(root, encoding="unicode")


def refuse_foreign(kind: str, wanted: Ownership, owner: str | None) -> None:
    """Raise DriverError unless the object of that name belongs to the same project."""
    if owner == wanted.project:
        return
    whose = f"of the project {owner}" if owner else "that kvm-compose did not create"
    prefix = "" if kind == "domain" else "net-"
    raise DriverError(
        f"there already is a {kind} {wanted.name} {whose}",
        hint=f"inspect it: virsh {prefix}dumpxml {wanted.name}; rename it, or this project",
    )


def capabilities(xml: str) -> Capabilities:
    """Parse what libvirt says of an emulator (libvirt, "Domain capabilities XML format")."""
    root = parse(xml, "domainCapabilities")

    def values(path: str, name: str) -> frozenset[str]:
        return frozenset(each.text or "" for each in root.iterfind(f"{path}/enum[@name='{name}']/value"))

    backends = root.find("devices/hostdev/enum[@name='pciBackend']")
    return Capabilities(
        uefi="efi" in values("os", "firmware"),
        secure_boot="yes" in values("os/loader", "secure"),
        tpm="emulator" in values("devices/tpm", "backendModel"),
        cpu_modes=frozenset(each.get("name", "") for each in root.iterfind("cpu/mode[@supported='yes']")),
        cpu_models={
            each.text or "": each.get("usable") != "no"
            for each in root.iterfind("cpu/mode[@name='custom']/model")
        },
        graphics=values("devices/graphics", "type"),
        videos=values("devices/video", "modelType"),
        pci=backends is None or len(backends) > 0,
        virtiofs="virtiofs" in values("devices/filesystem", "driverType"),
    )


def has_own_nvram(xml: str) -> bool:
    """Return whether a domain has the variables of its UEFI in a file that libvirt did not name itself."""
    path = parse(xml, "domain").findtext("os/nvram")
    return bool(path) and PurePosixPath(path or "").parent.name != "nvram"


def uuid_of(xml: str) -> str | None:
    """Return the UUID that a definition asks for; None for one that has any."""
    return parse(xml, "domain").findtext("uuid")


def tpm_xml(holder: TpmHolder) -> str:
    """Return a definition with nothing but the TPM, which is for libvirt to find its state by."""
    root = ET.Element("domain", type="qemu")
    ET.SubElement(root, "name").text = holder.name
    ET.SubElement(root, "uuid").text = holder.uuid
    mark = {"project": holder.project, "name": holder.guest}
    ET.SubElement(ET.SubElement(root, "metadata"), f"{{{GUEST_NAMESPACE}}}guest", mark)
    ET.SubElement(root, "memory", unit="MiB").text = "64"
    ET.SubElement(ET.SubElement(root, "os"), "type", arch=holder.arch).text = "hvm"
    tpm = ET.SubElement(ET.SubElement(root, "devices"), "tpm")
    ET.SubElement(tpm, "backend", type="emulator", version="2.0", persistent_state="yes")
    return ET.tostring(root, encoding="unicode")


def with_uuid(xml: str, uuid: str) -> str:
    """Return a definition with a UUID: libvirt redefines an object only under its own UUID."""
    root = ET.fromstring(xml)  # noqa: S314 - as above
    set_uuid(root, uuid)
    return ET.tostring(root, encoding="unicode")


def nics(root: ET.Element) -> Iterator[DomainNic]:
    """Return the NICs of a domain, or of an <interface>."""
    for nic in root.iter("interface"):
        mac, target, source = (nic.find(tag) for tag in ("mac", "target", "source"))
        port = nic.find("virtualport[@type='openvswitch']/parameters")
        yield DomainNic(
            mac="" if mac is None else mac.get("address", "").lower(),
            target="" if target is None else target.get("dev", ""),
            source=""
            if source is None
            else next((source.get(key, "") for key in _SOURCES if key in source.attrib), ""),
            interface_id="" if port is None else port.get("interfaceid", ""),
            link="down" if nic.find("link[@state='down']") is not None else "up",
            bandwidth=_bandwidth(nic),
        )


def nic_vlan(nic: ET.Element) -> Vlan:
    """Return the VLAN of an <interface>."""
    tags = [(int(tag.get("id", 0)), tag.get("nativeMode")) for tag in nic.iterfind("vlan/tag")]
    if nic.find("vlan[@trunk='yes']") is None:
        return tags[0][0] if tags else None
    native = next((number for number, mode in tags if mode is not None), None)
    return Trunk(tuple(number for number, _ in tags if number != native), native)


def _bandwidth(nic: ET.Element) -> Bandwidth | None:
    ways = {way: nic.find(f"bandwidth/{way}") for way in Bandwidth.__struct_fields__}
    rates = {way: rate for way, each in ways.items() if each is not None and (rate := _rate(each))}
    return Bandwidth(**rates) if rates else None


def _rate(element: ET.Element) -> Rate | None:
    """Return a limit; None for one with nothing but a guaranteed ``floor``. A 0 is no limit."""
    average, peak, burst = (int(element.get(key) or 0) for key in ("average", "peak", "burst"))
    return Rate(average, peak or None, burst or None) if average else None


def limits(nic: ET.Element) -> dict[str, int]:
    """Return the limits of throughput of an <interface> by the names that libvirt gives them in parameters.

    With any limit, what is not limited is 0.
    """
    bandwidth = _bandwidth(nic)
    if bandwidth is None:
        return {}
    found: dict[str, int] = {}
    for way in Bandwidth.__struct_fields__:
        rate = getattr(bandwidth, way)
        keys = Rate.__struct_fields__ if rate is not None else ("average",)
        found |= {f"{way}.{key}": getattr(rate, key, None) or 0 for key in keys}
    return found


def nic_mac(xml: str) -> str:
    """Return the MAC address of an <interface>. Raises DriverError without one."""
    mac = parse(xml, "interface").find("mac")
    if mac is None or not mac.get("address"):
        raise DriverError("the XML of an <interface> has no MAC address")
    return mac.get("address", "").lower()


def switch_taps(xml: str) -> list[str]:
    """Return the taps of a domain, or of one <interface>, that are ports of Open vSwitch bridges."""
    root = ET.fromstring(xml)  # noqa: S314 - as above
    found = []
    for nic in root.iter("interface"):
        target = nic.find("target")
        if target is not None and nic.find("virtualport[@type='openvswitch']") is not None:
            found.append(target.get("dev", ""))
    return [tap for tap in found if tap]


def cpus(domain: ET.Element) -> int:
    """Return the number of processors that a domain has, of those that it may have."""
    vcpu = domain.find("vcpu")
    return 1 if vcpu is None else int(vcpu.get("current") or vcpu.text or 1)


def has_agent(domain: ET.Element) -> bool:
    """Return whether something in a running domain is connected to the channel of the guest agent."""
    channels = domain.iterfind("devices/channel/target[@name='org.qemu.guest_agent.0']")
    return any(target.get("state") == "connected" for target in channels)


def disk_targets(domain: ET.Element) -> list[str]:
    return [target.get("dev", "") for target in domain.iterfind("devices/disk/target")]


def further_disks(domain: ET.Element) -> dict[str, ET.Element]:
    """Return the disks with aliases of ours, by their names."""
    found = {}
    for disk in domain.iterfind("devices/disk"):
        alias = disk.find("alias")
        name = alias.get("name", "") if alias is not None else ""
        if name.startswith(ALIAS_PREFIX):
            found[name.removeprefix(ALIAS_PREFIX)] = disk
    return found


def disks(xml: str) -> Iterator[Disk]:
    return disks_in(parse(xml, "domain"))


def disks_in(domain: ET.Element) -> Iterator[Disk]:
    """Yield the disks of a domain, CD-ROMs included."""
    for disk in domain.iterfind("devices/disk"):
        driver, target, source = disk.find("driver"), disk.find("target"), disk.find("source")
        if target is None:
            continue
        yield Disk(
            target=target.get("dev", ""),
            format=(driver.get("type") if driver is not None else None) or "raw",
            writable=disk.find("readonly") is None and disk.get("device", "disk") == "disk",
            path=(source.get("file") if source is not None else None) or "",
        )


def set_uuid(root: ET.Element, uuid: str) -> None:
    """Give a definition a UUID."""
    element = root.find("uuid")
    if element is None:
        element = ET.Element("uuid")
        root.insert(1 if root.find("name") is not None else 0, element)
    element.text = uuid


def name_in(root: ET.Element) -> str:
    """Return the name of a domain, network or snapshot. Raises DriverError."""
    name = root.findtext("name")
    if not name:
        raise DriverError(f"the XML of a {root.tag} has no name")
    return name
