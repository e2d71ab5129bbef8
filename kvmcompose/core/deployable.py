"""What the server must know about a testbed to bring it up, whatever its guest types and network dialects.

Guest types (``deployable``) and network dialects (``network_plan``) convert their parts of the state into
these types, and the server sees only these.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TypeVar

import msgspec

from kvmcompose.core.chassis import Remotes
from kvmcompose.core.image_build import ImageBuild, build_key
from kvmcompose.core.image_source import ImageFile
from kvmcompose.core.ready import Ready
from kvmcompose.core.resource import Resource

_T = TypeVar("_T")

#: Of the ID of an image, so many digits are shown, as Docker and Podman do.
_DIGITS = 12

#: The repository of the images that are snapshots of containers.
SNAPSHOT_REPOSITORY = "kvm-compose-snapshots"


class Mount(msgspec.Struct, frozen=True, gc=False):
    """A file or folder of the project that a guest sees at ``target``.

    ``source`` is a path as in the state: relative to the project folder, or absolute where the user allowed
    that. ``virtiofs``: a domain sees it by that, and not by 9p.
    """

    source: str
    target: str
    read_only: bool = False
    virtiofs: bool = False


class DeployableGuest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A guest that runs. Paths are relative to the project folder.

    ``runtime`` names what runs it: a module of ``server.orchestrator.runtimes``. ``files`` are all artefacts
    that it needs to start. ``disks`` are those that it writes to, the boot disk first; those in
    ``raw_disks`` are not qcow2 images: their guest decides about each of their bytes. ``boot_disk`` is the
    disk whose life is that of the guest, None for a guest without one of its own.
    ``username`` is the user that enters it. ``setup_scripts`` and ``run_scripts`` are paths inside the guest,
    in order. ``ready_timeout`` is how long its start may take, in seconds; None: the default of its host.
    ``memory_mb`` is its memory in MiB and ``cpus`` the number of its CPUs, 0 if unknown. ``mounts`` are the
    files and folders that its host needs, because the guest sees them there.
    """

    runtime: str
    files: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    raw_disks: frozenset[str] = frozenset()
    boot_disk: str | None = None
    username: str | None = None
    setup_scripts: tuple[str, ...] = ()
    run_scripts: tuple[str, ...] = ()
    ready_timeout: float | None = None
    memory_mb: int = 0
    cpus: int = 0
    mounts: tuple[Mount, ...] = ()

    @property
    def image_disks(self) -> tuple[str, ...]:
        """The disks that are qcow2 images. Those that are not have no header, whatever they begin with."""
        return tuple(path for path in self.disks if path not in self.raw_disks)

    @property
    def read_here(self) -> str | None:
        """The artefact that the server reads and passes on, so that no host needs the file itself."""
        return None

    @property
    def seed(self) -> str | None:
        """The artefact that it is set up with; None without."""
        return None

    @property
    def main_host_files(self) -> tuple[str, ...]:
        """The artefacts that the main host alone needs, as it makes something of them for its guest."""
        return ()


class HardwareNeed(msgspec.Struct, frozen=True, kw_only=True, order=True, gc=False):
    """What of a guest's hardware not every host has, in libvirt's words; nothing of what was not chosen.

    ``hugepages_kib`` is the size of the pages in KiB, 0 without. ``pci``: it is to have PCI devices of its
    host.
    """

    machine: str = ""
    cpu_mode: str = ""
    cpu_model: str = ""
    graphics: str = ""
    video: str = ""
    hugepages_kib: int = 0
    pci: bool = False


class SharedDisk(msgspec.Struct, frozen=True, gc=False):
    """A disk that several guests have: its size in GiB, and whether this one only reads it."""

    gigabytes: int
    readonly: bool = False


class DomainGuest(DeployableGuest, frozen=True, kw_only=True, gc=False):
    """A guest that libvirt runs.

    ``up`` waits for what ``ready`` says; where that is None, until a guest with ``cloud_init`` is set up.
    Only a guest with ``cloud_init`` can run scripts. ``shared_disks`` are those of its disks that other
    guests have as well, by path: raw, and empty files until a guest with them starts. ``nvram`` is that of
    its disks in which its UEFI keeps its variables, None with a BIOS; libvirt fills it. ``secure_boot``:
    that UEFI starts only what is signed. ``tpm``: libvirt keeps the state of a TPM for it. ``arch`` is its
    architecture, in libvirt's words. ``most_memory_mb`` is the most that it can have (MiB).
    """

    runtime: str = "libvirt"
    domain_xml: str
    cloud_init: bool
    shared_disks: Mapping[str, SharedDisk] = {}
    nvram: str | None = None
    secure_boot: bool = False
    tpm: bool = False
    arch: str = "x86_64"
    hardware: HardwareNeed = HardwareNeed()
    most_memory_mb: int = 0
    ready: Ready | None = None

    @property
    def read_here(self) -> str | None:
        """The domain XML."""
        return self.domain_xml

    @property
    def seed(self) -> str | None:
        """The seed of cloud-init, or of cloudbase-init."""
        return next((path for path in self.files if path.endswith("-cloud-init.iso")), None)


class ContainerBuild(msgspec.Struct, frozen=True, gc=False):
    """How the image of a container is built, from an artefact that is its context with this digest."""

    how: ImageBuild
    digest: str

    @property
    def key(self) -> str:
        """What stands for the image."""
        return build_key(self.how, self.digest)


class ContainerGuest(DeployableGuest, frozen=True, kw_only=True, gc=False):
    """A guest that a container engine runs. Its name on its host is ``GuestState.domain``.

    ``request`` is the artefact with the request that creates it: the body of ``POST /containers/create`` in
    the Docker Engine API, without the labels. ``image`` is the image as the YAML names it, or by its digest
    where the project pins it, or by its ID where it is in a file, ``image_file``; ``build`` is how the main
    host builds it, None where it does not. ``resolv_conf`` is
    the artefact that is its ``/etc/resolv.conf``, and ``archive`` the one with its scripts and context, a tar
    archive of what is below ``/etc/nocloud``. Both are in ``files``.
    """

    runtime: str = "containers"
    request: str
    image: str
    build: ContainerBuild | None = None
    image_file: ImageFile | None = None
    resolv_conf: str | None = None
    archive: str | None = None

    @property
    def read_here(self) -> str | None:
        """The request."""
        return self.request

    @property
    def seed(self) -> str | None:
        """The archive."""
        return self.archive

    @property
    def main_host_files(self) -> tuple[str, ...]:
        """The context of its image, where that is built."""
        return (self.build.how.archive,) if self.build is not None else ()

    @property
    def image_name(self) -> str:
        """What its image is called in plans. It is another name for other content in a file."""
        if self.build is not None:
            return f"{self.build.how.context} ({self.build.key[:_DIGITS]})"
        if self.image_file is None:
            return self.image
        return f"{self.image_file} ({self.image.partition(':')[2][:_DIGITS]})"


class SwitchBridge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An Open vSwitch bridge. ``protocol`` and ``controller`` are in the syntax of ovs-vsctl(8).

    ``segment`` is its name in the YAML.
    """

    name: str
    host: str
    protocol: str | None = None
    controller: str | None = None
    segment: str = ""


class VethPair(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A pair of virtual Ethernet devices that connects two bridges of a host.

    Each end is a port of an Open vSwitch bridge; with ``right_is_linux`` the right end is a port of a Linux
    bridge.
    """

    host: str
    left: str
    left_bridge: str
    right: str
    right_bridge: str
    right_is_linux: bool = False


class VethSpec(msgspec.Struct, frozen=True, gc=False):
    """A pair, and the MTU of its ends in bytes."""

    pair: VethPair
    mtu: int


class LinkPort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An end of a veth pair that is a port of an Open vSwitch bridge.

    ``external`` is the name of that bridge in the YAML, where the pair connects it to the NAT network.
    """

    host: str
    bridge: str
    name: str
    external: str = ""


class TunnelPort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One end of a GENEVE tunnel (RFC 8926). ``key`` is the virtual network identifier.

    ``remote`` is the host at the other end.
    """

    host: str
    bridge: str
    name: str
    remote_ip: str
    key: int
    remote: str = ""


class NicPort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A network interface of the host that becomes a port of a bridge."""

    host: str
    bridge: str
    nic: str


class ManagementPort(msgspec.Struct, frozen=True, kw_only=True):
    """A port of a bridge through which the server, and nothing else of the host, reaches guests.

    It is a veth pair: one end, ``name``, is a port of the bridge ``bridge`` of Open vSwitch. The other one is
    in ``namespace``, a network namespace of its own (ip-netns(8)), with the MAC address ``mac`` and
    ``address``, an IPv4 address with the length of its prefix. ``mtu`` is in bytes. ``userspace`` is whether
    the bridge is one of Open vSwitch's userspace datapath.
    """

    host: str
    namespace: str
    bridge: str
    name: str
    mac: str
    address: str
    mtu: int
    userspace: bool = False


class ManagementAccess(msgspec.Struct, frozen=True, gc=False):
    """The address of a guest, and the port through which it is reached."""

    address: str
    port: ManagementPort


class LibvirtNetwork(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The NAT network.

    ``xml`` is the path of its definition, ``bridge`` the Linux bridge that libvirt creates for it, ``subnet``
    its IPv4 subnet in CIDR notation. ``subnet_is_derived`` is whether that comes from the project's name, and
    not from a guest's ``ip``.
    """

    host: str
    name: str
    bridge: str
    xml: str
    subnet: str
    subnet_is_derived: bool


class Tap(msgspec.Struct, frozen=True, gc=False):
    """An interface on a host, on ``bridge``: the logical port ``port`` of a guest or of the host."""

    host: str
    name: str
    bridge: str
    port: str
    guest: str | None = None


class LogicalTarget(msgspec.Struct, frozen=True, gc=False):
    """What a name of a logical switch or port means: ``taps`` are the interfaces on hosts that belong to it.

    ``port`` is None for the switch itself. Ports of routers and provider networks have no interface.
    """

    switch: str
    port: str | None
    taps: tuple[Tap, ...]


class NetworkPlan(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What a testbed's network needs on its hosts.

    ``network`` is the NAT network, where there is one; everything else is in ``resources``. The main host can
    reach the guests on the bridges and networks in ``reachable``. ``mtu`` is in bytes. ``databases`` are
    those of OVN, where the network is one. ``management`` is how the main host reaches other guests, by name,
    ``direct`` the addresses of those that it has an interface beside.
    """

    network: LibvirtNetwork | None
    resources: tuple[Resource, ...]
    reachable: frozenset[str]
    mtu: int
    databases: Remotes | None = None
    management: Mapping[str, ManagementAccess] = {}
    direct: Mapping[str, str] = {}

    @cached_property
    def bridges(self) -> tuple[SwitchBridge, ...]:
        """The Open vSwitch bridges."""
        return self._specs(SwitchBridge)

    @cached_property
    def veths(self) -> tuple[VethPair, ...]:
        """The pairs that connect bridges."""
        return tuple(each.pair for each in self._specs(VethSpec))

    @cached_property
    def nics(self) -> tuple[NicPort, ...]:
        """The network interfaces of hosts that are ports of bridges."""
        return self._specs(NicPort)

    @cached_property
    def management_ports(self) -> tuple[ManagementPort, ...]:
        """The ports through which the server reaches isolated guests."""
        return self._specs(ManagementPort)

    def _specs(self, kind: type[_T]) -> tuple[_T, ...]:
        return tuple(each.spec for each in self.resources if isinstance(each.spec, kind))
