"""The nouns of a testbed, as the user wrote it and as it is placed.

Each stage of the pipeline has types of its own, so no field here means "not known yet":
``Machine`` is what the YAML says, ``Guest`` what it stands for once scaling is written out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.libvirt_uri import LibvirtUri, parse_libvirt_uri

#: The GENEVE header (RFC 8926: 8 bytes, plus UDP, IPv4 and an inner Ethernet header, plus room for
#: options) fits into 1500 bytes with this MTU. All guests have it, wherever their bridges lie, so that
#: moving a bridge to another host changes nothing inside the guests.
GUEST_MTU = 1442

#: Where the project folder is found on every testbed host (a link to it on the main host), so that
#: domain XML needs no path of one machine.
PROJECTS_ROOT = "/var/lib/kvm-compose"


_USUAL_LIBVIRT = str(LibvirtUri())


class Host(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A testbed host of ``kvm-compose-config.json``. ``memory_mb`` is in MiB.

    ``host_key`` is what its SSH server has to show, as the type and the key in OpenSSH's format.
    ``libvirt_uri`` is as the host itself sees it, and as ``LibvirtUri`` writes it.
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
    virt_type: str = "kvm"
    datapath_type: str = "system"
    libvirt_uri: str = "qemu:///system"
    cpus: int | None = None
    memory_mb: int | None = None

    def __post_init__(self) -> None:
        """No host has a libvirt URI that may not be used, wherever it was read. Raises ValueError."""
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


class SshKeys(msgspec.Struct, frozen=True):
    """Where the guests' key pair lies, as the user wrote it (``~`` is not expanded)."""

    ssh_public_key_location: str
    ssh_private_key_location: str


class Attachment(msgspec.Struct, frozen=True):
    """One network interface of a guest, as wished for: ``segment`` is a bridge of the YAML."""

    segment: str
    mac: str | None = None
    ip: str | None = None


class ScaledAttachment(msgspec.Struct, frozen=True):
    """The interface that some of a machine's clones have."""

    attachment: Attachment
    clones: tuple[int, ...]


class Machine(msgspec.Struct, frozen=True):
    """One entry of ``machines``.

    ``kind`` names its module in ``kvmcompose.guests``; ``body`` is that module's own type. ``index`` is
    its place in the list. ``scaled`` are the interfaces of its clones, when it has any.
    """

    name: str
    kind: str
    body: Any
    attachments: tuple[Attachment, ...]
    scaled: tuple[ScaledAttachment, ...]
    index: int


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest of the logical testbed: a machine, or one of the clones it stands for."""

    name: str
    kind: str
    definition: Any
    attachments: tuple[Attachment, ...]
    machine: Machine
    is_golden_image: bool = False
    golden_image: str | None = None
    cpus: int = 0
    memory_mb: int = 0


class Segment(msgspec.Struct, frozen=True):
    """Something guests attach to that lies on exactly one host: a bridge."""

    name: str


class Link(msgspec.Struct, frozen=True, order=True):
    """Two segments joined, in the order the user wrote them."""

    source: str
    target: str


class Topology(msgspec.Struct, frozen=True):
    """What a placement strategy sees of a network: its segments in file order and how they are joined."""

    segments: tuple[Segment, ...]
    links: tuple[Link, ...]
    external: str | None


class Constraints(msgspec.Struct, frozen=True):
    """What placement has to heed, whatever the strategy. A name is that of a guest, machine or bridge."""

    pin: dict[str, str] = {}
    together: tuple[tuple[str, ...], ...] = ()
    apart: tuple[tuple[str, ...], ...] = ()


class LogicalTestbed(msgspec.Struct, frozen=True, kw_only=True):
    """The whole testbed with scaling written out, before anything has a host."""

    project: str
    guests: tuple[Guest, ...]
    dialect: str
    network: Any
    topology: Topology
    hosts: tuple[Host, ...]
    keys: SshKeys
    strategy: str
    constraints: Constraints = Constraints()

    @property
    def main_host(self) -> Host:
        """The host that the testbed is driven from."""
        return next(host for host in self.hosts if host.is_main_host)


class Placement(msgspec.Struct, frozen=True):
    """Which host each segment and guest lies on, and why."""

    segments: dict[str, str]
    guests: dict[str, str]
    reasons: dict[str, str]


class PlacedTestbed(msgspec.Struct, frozen=True):
    """A logical testbed in which everything has a host."""

    logical: LogicalTestbed
    placement: Placement
