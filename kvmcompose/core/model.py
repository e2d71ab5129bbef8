"""The types of a testbed, as the user wrote it and as it is placed.

Each stage of the pipeline has types of its own, so no field here means "not known yet":
A ``Machine`` is an entry of the YAML; scaling expands it into one or more ``Guest``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from kvmcompose.core.chassis import ChassisConfig, Remotes
from kvmcompose.core.document import Path
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.expectation import Expectation
from kvmcompose.core.libvirt_uri import LibvirtUri, parse_libvirt_uri
from kvmcompose.core.nic import NicKeys
from kvmcompose.core.order import Condition, Healthcheck

#: The GENEVE header (RFC 8926: 8 bytes, plus UDP, IPv4 and an inner Ethernet header, plus room for
#: options) fits into 1500 bytes with this MTU. All guests have it, on whichever hosts their bridges are, so
#: that moving a bridge to another host changes nothing inside the guests.
GUEST_MTU = 1442
#: The same over IPv6, whose header has 40 bytes instead of 20.
GUEST_MTU_OVER_IPV6 = GUEST_MTU - 20

#: The folder of all projects on every testbed host (on the main host it holds links to the project folders).
#: As it is the same everywhere, domain XML contains no path that is specific to one machine.
PROJECTS_ROOT = "/var/lib/kvm-compose"


_USUAL_LIBVIRT = str(LibvirtUri())


class Host(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A testbed host of ``kvm-compose-config.json``. ``memory_mb`` is in MiB.

    ``host_key`` is the key that its SSH server must have: type and key, in OpenSSH's format.
    ``libvirt_uri`` is a URI on the host itself, in the form that ``LibvirtUri`` writes.
    ``container_engine`` is ``docker``, ``podman`` or the path of a socket; None for the first that answers.
    ``arch`` is the architecture of its processors, in libvirt's words.
    """

    name: str
    ip: str
    user: str | None = None
    identity_file: str | None = None
    ssh_port: int | None = None
    host_key: str | None = None
    testbed_nic: str | None = None
    is_main_host: bool = False
    main_interface: str | None = None
    arch: str = "x86_64"
    virt_type: str = "kvm"
    datapath_type: str = "system"
    libvirt_uri: str = "qemu:///system"
    cpus: int | None = None
    memory_mb: int | None = None
    ovn: ChassisConfig | None = None
    container_engine: str | None = None

    def virt_type_of(self, arch: str | None) -> str:
        """Return how it runs a guest of an architecture: it emulates those of another than its own."""
        return self.virt_type if arch in (None, self.arch) else "qemu"

    def __post_init__(self) -> None:
        """Normalise ``libvirt_uri``, so that no host has one that is not permitted. Raises ValueError."""
        if self.libvirt_uri != _USUAL_LIBVIRT:
            try:
                written = str(parse_libvirt_uri(self.libvirt_uri))
            except KvmComposeError as error:
                raise ValueError(error.message) from error  # which msgspec turns into one of its own
            msgspec.structs.force_setattr(self, "libvirt_uri", written)

    @property
    def libvirt(self) -> LibvirtUri:
        """``libvirt_uri``, parsed."""
        return parse_libvirt_uri(self.libvirt_uri)

    @property
    def chassis(self) -> ChassisConfig:
        """Its part in OVN, with the defaults filled in that follow from the host."""
        given = self.ovn or ChassisConfig()
        return msgspec.structs.replace(
            given, chassis_name=given.chassis_name or self.name, encap_ip=given.encap_ip or self.ip
        )

    @property
    def chassis_name(self) -> str:
        """Its name in OVN: the ``system-id`` of its Open vSwitch."""
        return self.chassis.chassis_name or self.name


class SshKeys(msgspec.Struct, frozen=True):
    """The paths of the guests' SSH key pair, as the user wrote them (``~`` is not expanded)."""

    ssh_public_key_location: str
    ssh_private_key_location: str


class Attachment(msgspec.Struct, frozen=True):
    """A network interface of a guest, as written: ``segment`` is a bridge or a logical switch of the YAML.

    ``own`` is what only the network dialect knows of it, in its own type. ``at`` is its place in the machine;
    for clones, below the key of the machine's type.
    """

    segment: str
    mac: str | None = None
    ip: str | None = None
    own: Any = None
    keys: NicKeys = NicKeys()
    at: Path = ()


class ScaledAttachment(msgspec.Struct, frozen=True):
    """An interface of some of a machine's clones, which are counted from 0.

    ``key`` is its place in ``scaling.interfaces``. ``each`` are the interfaces one by one, in the order of
    ``clones``, where they differ; there may be fewer of them than clones if the YAML has a problem.
    """

    attachment: Attachment
    clones: tuple[int, ...]
    key: str | int = 0
    each: tuple[Attachment, ...] = ()

    def of(self, position: int) -> Attachment:
        """Return the interface of the clone at a position of ``clones``."""
        return self.each[position] if position < len(self.each) else self.attachment


class Machine(msgspec.Struct, frozen=True):
    """One entry of ``machines``.

    ``kind`` names its module in ``kvmcompose.guests``; ``body`` is that module's own type. ``index`` is
    its place in the list. ``scaled`` are the interfaces of its clones, when it has any. ``labels`` are those
    of all its guests. ``id`` is the name that it keeps its data under; None for its own.
    ``interfaces_key`` is the key of its interfaces in the YAML. ``depends_on`` are names of machines and
    guests, as written: as the keys of a mapping if ``depends_on_is_map``, otherwise in a list.
    """

    name: str
    kind: str
    body: Any
    attachments: tuple[Attachment, ...]
    scaled: tuple[ScaledAttachment, ...]
    index: int
    labels: dict[str, str] = {}
    id: str | None = None
    interfaces_key: str = "interfaces"
    depends_on: dict[str, Condition] = {}
    depends_on_is_map: bool = False
    healthcheck: Healthcheck | None = None

    def interfaces(self) -> Iterator[tuple[Path, Attachment]]:
        """Yield the interfaces as written, those of clones included, each with its place in the machine."""
        for attachment in self.attachments:
            yield attachment.at, attachment
        for scaled in self.scaled:
            yield (self.kind, *scaled.attachment.at), scaled.attachment


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest of the logical testbed: a machine, its golden image, or one of its clones.

    ``golden_image`` is set for a clone, and names its golden image. ``memory_mb`` is in MiB. ``id`` is the
    machine's, with the number of the clone. ``arch`` is the architecture of a virtual machine, in libvirt's
    words; None for a guest that runs on any. ``shared_disks`` are the names of the disks that it has in
    common with other guests, for which it is on their host.
    """

    name: str
    kind: str
    definition: Any
    attachments: tuple[Attachment, ...]
    machine: Machine
    is_golden_image: bool = False
    golden_image: str | None = None
    cpus: int = 0
    memory_mb: int = 0
    id: str | None = None
    arch: str | None = None
    shared_disks: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """The name that its disk, addresses and names on hosts derive from."""
        return self.id or self.name

    @property
    def interfaces_path(self) -> Path:
        """The place of its interfaces in the YAML; for a clone, that of all clones' interfaces."""
        at: Path = ("machines", self.machine.index)
        if self.name == self.machine.name:
            return (*at, self.machine.interfaces_key)
        return (*at, self.kind, "scaling", "interfaces")


class Segment(msgspec.Struct, frozen=True):
    """A part of the network that guests attach to: a bridge, on exactly one host, or a logical switch."""

    name: str


class Link(msgspec.Struct, frozen=True, order=True):
    """A connection of two segments, in the order that the user wrote them in."""

    source: str
    target: str


class Topology(msgspec.Struct, frozen=True):
    """What a placement strategy sees of a network: its segments, in file order, and the links between them.

    ``external`` is the segment through which guests reach the network of the main host. Segments that are
    ``everywhere`` have no host, and the guests on them are placed one by one. ``noun`` is the word for a
    segment; ``stands_for`` are names for several segments.
    """

    segments: tuple[Segment, ...]
    links: tuple[Link, ...]
    external: str | None
    everywhere: bool = False
    noun: str = "bridge"
    stands_for: dict[str, tuple[str, ...]] = {}


class Constraints(msgspec.Struct, frozen=True):
    """What the user requires of a placement, whatever the strategy. Names are of guests, machines or bridges.

    ``pin`` maps names to hosts; the names of a ``together`` group share a host; no two of an ``apart`` group
    do.
    """

    pin: dict[str, str] = {}
    together: tuple[tuple[str, ...], ...] = ()
    apart: tuple[tuple[str, ...], ...] = ()


class Management(msgspec.Struct, frozen=True):
    """Makes the server reach isolated guests through management ports, except those in ``excluded``."""

    excluded: frozenset[str] = frozenset()


class LogicalTestbed(msgspec.Struct, frozen=True, kw_only=True):
    """The whole testbed with scaling expanded, before placement. Without ``management``, the server does not
    reach isolated guests. ``avoids_emulation``: guests are placed on hosts of their architecture only, where
    there are any.
    """

    project: str
    guests: tuple[Guest, ...]
    dialect: str
    network: Any
    topology: Topology
    hosts: tuple[Host, ...]
    keys: SshKeys
    strategy: str
    constraints: Constraints = Constraints()
    ovn: Remotes | None = None
    expectations: tuple[Expectation, ...] = ()
    management: Management | None = None
    avoids_emulation: bool = False

    @property
    def main_host(self) -> Host:
        """The host where the user builds and runs ``up``."""
        return next(host for host in self.hosts if host.is_main_host)


class Placement(msgspec.Struct, frozen=True):
    """The host of each segment and guest, and the reasons. Segments that are on all hosts are left out."""

    segments: dict[str, str]
    guests: dict[str, str]
    reasons: dict[str, str]


class PlacedTestbed(msgspec.Struct, frozen=True):
    """A logical testbed with a host for each segment and guest."""

    logical: LogicalTestbed
    placement: Placement
