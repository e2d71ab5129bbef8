"""The domain XML that is known to be harmless (libvirt, "Domain XML format")."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

import msgspec

from kvmcompose.core.artefact import is_shared_disk
from kvmcompose.core.privilege import Privilege, PrivilegeKind
from kvmcompose.privileges._grammar import Checks, Element, Xml

_GUEST = "{urn:kvmcompose:guest:1}guest"


class Owned(msgspec.Struct, frozen=True, kw_only=True):
    """What the XML of a guest may refer to because the project owns it. ``artefacts`` ends with a slash.

    By the ``uuid``, libvirt finds the state of a guest's TPM. ``shared_disks`` are those that other guests
    have as well.
    """

    project: str
    guest: str
    name: str
    artefacts: str
    logs: frozenset[str]
    bridges: frozenset[str]
    networks: frozenset[str]
    taps: frozenset[str]
    ports: frozenset[str]
    nvram: str | None
    uuid: str
    shares: frozenset[str]
    shared_disks: frozenset[str] = frozenset()


def checks(owned: Owned) -> Checks:
    """Return the checks that the grammar refers to by name."""
    return {
        "project": owned.project.__eq__,
        "guest": owned.guest.__eq__,
        "name": owned.name.__eq__,
        "log": owned.logs.__contains__,
        "bridge": owned.bridges.__contains__,
        "network": owned.networks.__contains__,
        "tap": owned.taps.__contains__,
        "port": owned.ports.__contains__,
        "uuid": owned.uuid.__eq__,
        "share": owned.shares.__contains__,
        "nvram": lambda path: path == owned.nvram,
        "disk": lambda path: _is_below(path, owned.artefacts),
    }


def sources(xml: Xml) -> tuple[str, ...]:
    """Return the files of a domain's disks."""
    return tuple(path for path, _ in disks(xml))


def disks(xml: Xml) -> tuple[tuple[str, str], ...]:
    """Return the files of a domain's disks, each with the format in which QEMU opens it."""
    root = xml.root
    return tuple(
        (path, driver.get("type", "raw") if (driver := disk.find("driver")) is not None else "raw")
        for disk in (root.iterfind("devices/disk") if root is not None else ())
        for source in disk.iterfind("source")
        if (path := source.get("file"))
    )


def raw_disks(xml: Xml, owned: Owned, where: str) -> Iterator[Privilege]:
    """Yield disks that their guest writes as raw, including the header, and those of such files as images.

    A guest that can write every byte of a file can turn it into a qcow2 image that refers to files of the
    host; and another disk, or another guest, may open the same file as qcow2. So disks that guests share,
    which are known by their paths, are raw wherever they are opened.
    """
    root = xml.root
    for disk in root.iterfind("devices/disk") if root is not None else ():
        formats = {driver.get("type") for driver in disk.iterfind("driver")} or {None}
        paths = {source.get("file", "") for source in disk.iterfind("source")}
        if formats == {"raw"}:
            if paths and paths <= owned.shared_disks:
                continue
        else:
            for path in sorted(paths):
                if is_shared_disk(path.replace(owned.artefacts, "artefacts/", 1)):
                    yield Privilege(PrivilegeKind.FILE, f"{path} not as raw, as guests write it", where)
        if formats != {"qcow2"} and disk.get("device") != "cdrom" and disk.find("readonly") is None:
            files = ", ".join(repr(source.get("file")) for source in disk.iterfind("source"))
            yield Privilege(PrivilegeKind.FILE, f"a disk that its guest writes as raw: {files}", where)


def host_devices(xml: Xml, where: str) -> Iterator[Privilege]:
    """Yield the devices of the host that a domain has. The grammar has no more than their names."""
    root = xml.root
    for device in root.iterfind("devices/hostdev") if root is not None else ():
        named = [(each.tag, dict(each.attrib)) for source in device.iterfind("source") for each in source]
        match device.get("type"), named:
            case "pci", [("address", {"domain": domain, "bus": bus, "slot": slot, "function": function})]:
                digits = [each.removeprefix("0x") for each in (domain, bus, slot, function)]
                what = "PCI device {}:{}:{}.{}".format(*digits)
            case "usb", [("vendor", {"id": vendor}), ("product", {"id": product})]:
                what = f"USB device {vendor.removeprefix('0x')}:{product.removeprefix('0x')}"
            case kind, _:
                what = f"{kind!r} device: {named}"
        yield Privilege(PrivilegeKind.HOST_DEVICE, what, where)


def _is_below(path: str, folder: str) -> bool:
    steps = path.removeprefix(folder).split("/")
    return (
        path.startswith(folder)
        and path.isprintable()
        and path == unquote(path)
        and not {"", ".", ".."} & set(steps)
    )


_NUMBER = "[0-9]{1,15}"
_HEX = "0x[0-9a-f]{1,4}"
_BOOL = "yes|no|on|off"
_LOOPBACK = r"127\.0\.0\.1|::1|localhost"
_ADDRESS = Element(
    "type domain bus slot function controller target unit port multifunction base cid iobase irq reg"
)
_ALIAS = Element("name")
_BOOT = Element(f"order={_NUMBER} loadparm")
_DISK_DRIVER = (
    "name=qemu type=qcow2|raw cache io discard detect_zeroes error_policy rerror_policy queues iothread"
    " event_idx copy_on_read ioeventfd packed iommu ats discard_no_unref"
)
_NIC_DRIVER = (
    "name=qemu|vhost|virtio type queues iothread event_idx txmode ioeventfd rx_queue_size tx_queue_size"
    " packed iommu ats max_sectors cmd_per_lun rss rss_hash_report"
)
_GRAPHICS = (
    f"type=vnc|spice port=-1|{_NUMBER} tlsPort=-1|{_NUMBER} autoport={_BOOL} listen={_LOOPBACK} keymap"
    " sharePolicy passwd passwdValidTo"
)
_DRIVER = Element(
    _NIC_DRIVER,
    host=Element("csum gso tso4 tso6 ecn ufo mrg_rxbuf"),
    guest=Element("csum tso4 tso6 ecn ufo"),
)
_PLACED = {"address": _ADDRESS, "alias": _ALIAS}
_WORD = Element(text="@token")

_RATES = (
    "total_bytes_sec",
    "read_bytes_sec",
    "write_bytes_sec",
    "total_iops_sec",
    "read_iops_sec",
    "write_iops_sec",
)
_HYPERV_PARTS = (
    "relaxed vapic spinlocks vpindex runtime synic stimer reset vendor_id frequencies"
    " reenlightenment tlbflush ipi evmcs avic"
)

_DISK = Element(
    "type=file device=disk|cdrom|floppy snapshot model",
    driver=Element(_DISK_DRIVER),
    source=Element("file=@disk startupPolicy index"),
    target=Element("dev bus tray removable rotation_rate"),
    readonly=Element(), shareable=Element(), boot=_BOOT, serial=_WORD, vendor=_WORD, product=_WORD, wwn=_WORD,
    iotune=Element(others=dict.fromkeys(_RATES, Element(text=_NUMBER))),
    blockio=Element("logical_block_size physical_block_size discard_granularity"),
    geometry=Element("cyls heads secs trans"),
    others=_PLACED,
)  # fmt: skip
_BANDWIDTH = Element("average peak burst floor")
_INTERFACE = Element(
    "type=bridge|network",
    source=Element("bridge=@bridge network=@network"),
    virtualport=Element("type=openvswitch", parameters=Element("interfaceid=@port")),
    mac=Element("address type"),
    target=Element("dev=@tap"),
    model=Element("type"), driver=_DRIVER, mtu=Element(f"size={_NUMBER}"), link=Element("state"), boot=_BOOT,
    rom=Element("enabled bar"), bandwidth=Element(inbound=_BANDWIDTH, outbound=_BANDWIDTH),
    vlan=Element("trunk", tag=Element("id nativeMode")),
    others=_PLACED,
)  # fmt: skip
_FILESYSTEM = Element(
    "type=mount accessmode=mapped|squash|passthrough fmode=0?[0-7]{3} dmode=0?[0-7]{3} model",
    driver=Element("type=path|virtiofs queue wrpolicy"),
    source=Element("dir=@share"),
    target=Element("dir"),
    readonly=Element(),
    others=_PLACED,
)
_CHARACTER = Element(
    "type=pty",
    log=Element(f"file=@log append={_BOOL}"),
    target=Element("type name port", model=Element("name"), others=_PLACED),
    others=_PLACED,
)
_LISTEN = Element(f"type=address|none address={_LOOPBACK}")
_DEVICES = Element(
    disk=_DISK,
    filesystem=_FILESYSTEM,
    interface=_INTERFACE,
    serial=_CHARACTER,
    console=_CHARACTER,
    channel=Element("type=unix|spicevmc|pty", target=Element("type=virtio name state"), others=_PLACED),
    graphics=Element(
        _GRAPHICS,
        listen=_LISTEN, image=Element("compression"), clipboard=Element("copypaste"), mouse=Element("mode"),
    ),
    video=Element(
        model=Element(
            "type vram vgamem ram heads primary blob", resolution=Element("x y"),
            acceleration=Element("accel3d accel2d"),
        ),
        driver=Element("vgaconf iommu ats packed"),
        others=_PLACED,
    ),
    input=Element("type=tablet|mouse|keyboard bus model", driver=Element("iommu ats packed"), others=_PLACED),
    rng=Element(
        "model",
        backend=Element("model=random|builtin", text="/dev/u?random"),
        rate=Element("bytes period"), driver=Element("iommu ats packed"), others=_PLACED,
    ),
    controller=Element(
        "type index model ports vectors maxGrantFrames",
        driver=_DRIVER, model=Element("name"), master=Element("startport"),
        target=Element("chassis port chassisNr busNr hotplug index"), others=_PLACED,
    ),
    memballoon=Element(
        "model autodeflate freePageReporting", stats=Element("period"),
        driver=Element("iommu ats packed"), others=_PLACED,
    ),
    watchdog=Element("model action=reset|shutdown|poweroff|pause|none|inject-nmi", others=_PLACED),
    sound=Element("model", codec=Element("type"), audio=Element("id"), others=_PLACED),
    audio=Element("id type=none|spice"),
    hub=Element("type", others=_PLACED),
    panic=Element("model", others=_PLACED),
    # each of them is listed beside what the grammar does not permit: host_devices
    hostdev=Element(
        "mode=subsystem type=pci|usb managed=yes",
        source=Element(
            address=Element(f"domain={_HEX} bus={_HEX} slot={_HEX} function={_HEX}"),
            vendor=Element(f"id={_HEX}"), product=Element(f"id={_HEX}"),
        ),
        others=_PLACED,
    ),
    tpm=Element("model", backend=Element("type=emulator version persistent_state"), others=_PLACED),
    iommu=Element("model", driver=Element("intremap caching_mode eim iotlb aw_bits"), others=_PLACED),
)  # fmt: skip

_ON = Element("state value retries policy mode spinlocks unit", text="@token")
_HYPERV = Element("state mode", others=dict.fromkeys(_HYPERV_PARTS.split(), _ON))
_FEATURES = Element(
    acpi=Element(), apic=Element("eoi"), pae=Element(), hap=Element("state"), viridian=Element(),
    privnet=Element(),
    smm=Element("state", tseg=Element("unit", text=_NUMBER)), ioapic=Element("driver"),
    gic=Element("version"), pmu=Element("state"),
    vmport=Element("state"), vmcoreinfo=Element("state"), hyperv=_HYPERV, hpt=_ON, msrs=Element("unknown"),
    kvm=Element(others=dict.fromkeys(("hidden", "hint-dedicated", "poll-control", "pv-ipi"), _ON)),
)  # fmt: skip
_CPU = Element(
    "mode match check migratable",
    model=Element("fallback vendor_id", text="@token"), vendor=_WORD, feature=Element("policy name"),
    topology=Element("sockets dies clusters cores threads"), cache=Element("level mode"),
    maxphysaddr=Element("mode bits limit"),
    numa=Element(cell=Element("id cpus memory unit discard", distances=Element(sibling=Element("id value")))),
)  # fmt: skip
_CLOCK = Element(
    # QEMU's C library opens the file of a time zone
    r"offset adjustment=-?[0-9]{1,15}|reset basis timezone=[A-Za-z][\w+-]*(/[\w+-]+)* start",
    timer=Element("name tickpolicy present track frequency mode", catchup=Element("threshold slew limit")),
)
_ENDED = Element(text="destroy|restart|preserve|rename-restart")
_SIZE = Element("unit", text=_NUMBER)

GRAMMAR = (
    "domain",
    Element(
        "type=kvm|qemu",
        name=Element(text="@name"), uuid=Element(text="@uuid"), title=_WORD, description=_WORD,
        metadata=Element(others={_GUEST: Element("project=@project name=@guest host")}),
        memory=_SIZE, currentMemory=_SIZE,
        memoryBacking=Element(
            hugepages=Element(page=Element(f"size={_NUMBER} unit=KiB")),
            source=Element("type=anonymous|memfd"), access=Element("mode=private|shared"),
        ),
        vcpu=Element(f"placement=static current={_NUMBER}", text=_NUMBER), iothreads=Element(text=_NUMBER),
        os=Element(
            "firmware=efi|bios",
            firmware=Element(feature=Element("enabled name")), nvram=Element(text="@nvram"),
            type=Element("arch machine", text="hvm"), boot=Element("dev=hd|cdrom|network|fd"),
            bootmenu=Element("enable timeout"), bios=Element("useserial rebootTimeout"),
            smbios=Element("mode=emulate|none"),
        ),
        features=_FEATURES, cpu=_CPU, clock=_CLOCK, on_poweroff=_ENDED, on_reboot=_ENDED, on_crash=_ENDED,
        pm=Element(others=dict.fromkeys(("suspend-to-mem", "suspend-to-disk"), Element("enabled"))),
        devices=_DEVICES,
    ),
)  # fmt: skip
