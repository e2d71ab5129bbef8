"""libvirt domain XML (format: libvirt's "Domain XML format" and its RelaxNG schema domain.rng)."""

from __future__ import annotations

import msgspec

from kvmcompose.core.artefact import Artefact, Policy, Rendered
from kvmcompose.core.nic import CONVENTIONAL, VIRTIO, Bandwidth, Trunk, vlan_of
from kvmcompose.core.state import GuestState, Interface, Shared
from kvmcompose.render.disks import BootDisk, BootOrder, DiskDevice, boot_order
from kvmcompose.render.filesystem import Filesystem
from kvmcompose.render.hardware import Hardware, has_root_ports, ports_of
from kvmcompose.render.platform import Firmware, Platform, domain_uuid, platform_of

#: Raised when the XML of every guest changes without a change of the YAML, so that an upgrade can tell what
#: it changed itself: such a change waits for the guest's next start. 1: version 0.1. 2: spare PCI ports, the
#: guest agent's channel.
DOMAIN_FORMAT = 2

#: As many PCIe ports as virt-install gives a guest; QEMU 6.1.0 does not boot one with more than 15
#: (https://gitlab.com/qemu-project/qemu/-/issues/641).
_ROOT_PORTS = 14
#: Where network cards of conventional PCI are on the root bus, if that is of PCI Express. Without an address,
#: libvirt adds a bridge for them, and when it reads the definition again another port.
NIC_SLOTS = tuple(f"0x{number:02x}" for number in range(0x04, 0x10))
#: At least so many of them are free for interfaces that are plugged in while the guest runs.
_FREE_PORTS = 4
#: Devices of every guest that need a port: USB controller and balloon, which libvirt adds, and the RNG.
_USUAL_DEVICES = 3


def console_log(identity: str) -> str:
    """Where what a guest prints on its serial line is kept, in the project folder."""
    return f".kvm-compose/consoles/{identity}.log"


class Nic(msgspec.Struct, frozen=True, omit_defaults=True):
    """One interface; ``attach`` is ``ovs``, ``ovn`` or ``network``. ``interface_id`` is OVN's logical port.

    Without ``checksums`` the guest computes those of its packets itself: what leaves it through a bridge
    in userspace gets none on the way. ``tag`` is the VLAN of frames without a tag; with a ``trunk``, its
    native one. ``slot`` is one of the root bus. Other keys are as in ``Interface``.
    """

    attach: str
    source: str
    target: str
    mac: str
    mtu: int
    checksums: bool
    interface_id: str | None = None
    model: str = VIRTIO
    queues: int = 1
    link: str | None = None
    bandwidth: Bandwidth | None = None
    tag: int | None = None
    trunk: tuple[int, ...] = ()
    slot: str | None = None

    @classmethod
    def of(cls, nic: Interface, *, checksums: bool) -> Nic:
        """Return the values of an interface of the state."""
        trunk = nic.vlan if isinstance(nic.vlan, Trunk) else None
        return cls(
            attach=nic.attach,
            source=nic.source,
            target=nic.target,
            mac=nic.mac,
            mtu=nic.mtu,
            checksums=checksums or nic.model != VIRTIO,  # of others, QEMU computes them
            interface_id=nic.interface_id,
            model=nic.model,
            queues=nic.queues,
            link=nic.link if nic.link != "up" else None,
            bandwidth=nic.bandwidth.enforced if nic.bandwidth is not None else None,
            tag=vlan_of(nic.vlan) or None,
            trunk=trunk.trunk if trunk is not None else (),
        )


class DomainValues(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the template sees. Paths are absolute on the testbed host; memory is in MiB.

    ``guest`` is the guest's identity, so that a new name does not concern a domain that runs.

    ``max_cpus`` and ``max_memory_mb`` are None where they are no more than ``cpus`` and ``memory_mb``.
    ``root_ports`` is the number of PCIe ports, used and free ones; 0 where devices are on a PCI bus.
    ``boot`` is given where further disks have a place in the boot order. ``firmware`` is None for a BIOS.
    ``cdroms`` have what is made for the guest: no medium of theirs is changed while it runs.
    ``uuid`` is given where libvirt keeps something by it: the state of a ``tpm``.
    """

    project: str
    guest: str
    host: str
    name: str
    virt_type: str
    cpus: int
    memory_mb: int
    max_cpus: int | None
    max_memory_mb: int | None
    disk: str | None
    boot_disk: BootDisk
    disk_readonly: bool
    media: str | None
    seed: str | None
    further: tuple[DiskDevice, ...]
    cdroms: tuple[DiskDevice, ...]
    boot: BootOrder | None
    console_log: str
    graphics: bool
    root_ports: int
    nics: tuple[Nic, ...]
    hardware: Hardware
    platform: Platform
    firmware: Firmware | None
    tpm: bool
    uuid: str | None
    filesystems: tuple[Filesystem, ...]


def domain_xml(
    guest: GuestState,
    shared: Shared,
    *,
    cpus: int,
    memory_mb: int,
    max_cpus: int | None = None,
    max_memory_mb: int | None = None,
    disk: str | None,
    boot_disk: BootDisk,
    disk_readonly: bool = False,
    media: str | None = None,
    seed: str | None = None,
    further: tuple[DiskDevice, ...] = (),
    cdroms: tuple[DiskDevice, ...] = (),
    hardware: Hardware,
    arch: str = "x86_64",
    nvram: str | None = None,
    secure_boot: bool = False,
    tpm: bool = False,
    filesystems: tuple[Filesystem, ...] = (),
) -> Artefact:
    """The domain XML of a guest. Paths (``disk``, ``further`` and others) are relative to the project."""

    def on_host(path: str | None) -> str | None:
        return f"{shared.host_config.project_folder}/{path}" if path else None

    conventional = [nic.mac for nic in guest.interfaces if nic.model in CONVENTIONAL]
    slots = dict(zip(conventional, NIC_SLOTS, strict=False)) if has_root_ports(hardware.machine) else {}
    platform = platform_of(arch, guest.virt_type)
    variables = on_host(nvram)
    own_ports = len(guest.interfaces) + (disk is not None) + (seed is not None) + ports_of(hardware)
    # what other guests have on the root bus, these have in a port
    own_ports += media is not None and platform.cdrom == "scsi"
    own_ports += sum(each.bus == "virtio" for each in further)
    own_ports += len(filesystems)
    values = DomainValues(
        project=shared.project_name,
        guest=guest.identity,
        host=guest.testbed_host,
        name=guest.domain,
        virt_type=guest.virt_type,
        cpus=cpus,
        memory_mb=memory_mb,
        max_cpus=_more(max_cpus, cpus),
        max_memory_mb=_more(max_memory_mb, memory_mb),
        disk=on_host(disk),
        boot_disk=boot_disk,
        disk_readonly=disk_readonly,
        media=on_host(media),
        seed=on_host(seed),
        further=tuple(msgspec.structs.replace(each, file=on_host(each.file)) for each in further),
        cdroms=tuple(msgspec.structs.replace(each, file=on_host(each.file)) for each in cdroms),
        boot=boot_order(further),
        console_log=f"{shared.host_config.project_folder}/{console_log(guest.identity)}",
        graphics=hardware.graphics != "none",
        root_ports=_root_ports(own_ports) if has_root_ports(hardware.machine) else 0,
        nics=tuple(
            msgspec.structs.replace(
                Nic.of(nic, checksums=nic.attach == "network" or guest.datapath_type != "netdev"),
                slot=slots.get(nic.mac),
            )
            for nic in guest.interfaces
        ),
        hardware=hardware,
        platform=platform,
        firmware=Firmware(variables, secure_boot) if variables is not None else None,
        tpm=tpm,
        uuid=domain_uuid(shared.project_name, guest.identity) if tpm else None,
        filesystems=filesystems,
    )
    return Artefact(
        task=f"domain-xml:{guest.name}",
        path=f"artefacts/{guest.identity}-domain.xml",
        policy=Policy.TEXT,
        content=Rendered("xml", values, templates=("domain.xml.j2",)),
        summary=f"libvirt domain {guest.domain}",
        guest=guest.name,
    )


def _more(most: int | None, given: int) -> int | None:
    return most if most is not None and most > given else None


def _root_ports(devices: int) -> int:
    """Return how many PCIe ports a guest with so many interfaces and virtio disks gets.

    libvirt puts devices into the first free ports, so that the number does not affect their addresses.
    """
    return max(_ROOT_PORTS, devices + _USUAL_DEVICES + _FREE_PORTS)
