"""What the server drives, as interfaces: each has one module for the real thing, ``fake`` has them all.

Everything here is called from one event loop and must not block it. What fails raises DriverError, whose
message names what was tried. Every call is idempotent: to start what runs or remove what is gone is no
error. Names are those on the host, from ``state.json``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Protocol

import msgspec

from kvmcompose.core.deployable import NicPort, SwitchBridge, TunnelPort, VethPair
from kvmcompose.core.deployment import Capture
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.model import Host
from kvmcompose.effects.owner_files import OwnerFiles


class DriverError(KvmComposeError):
    """Something on a host or in a guest did not work."""


class DomainState(msgspec.Struct, frozen=True, kw_only=True):
    """A domain of ours. ``state`` is libvirt's word (``running``, ``shut off``, ``paused``, ``crashed``).

    ``uptime`` in seconds, ``cpu_seconds`` used since the start, ``memory_mb`` resident, in MiB.
    """

    name: str
    guest: str
    state: str
    uptime: float | None = None
    cpu_seconds: float | None = None
    memory_mb: int | None = None


class SnapshotState(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that libvirt knows. ``created`` in seconds since 1970; ``xml`` to make it known again."""

    name: str
    created: float
    state: str
    current: bool
    xml: str


class HypervisorFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A host as libvirt sees it. ``memory_mb`` is what is there in all, in MiB; ``kvm`` whether it works."""

    cpus: int
    memory_mb: int
    version: str


class Hypervisor(Protocol):
    """libvirt on one host. Domains and networks of a project carry its name in their metadata."""

    uri: str

    async def facts(self) -> HypervisorFacts:
        """Reach the host. Raises DriverError when it does not answer."""

    async def foreign(self, project: str, domains: Sequence[str], networks: Sequence[str]) -> Sequence[str]:
        """Which of these are there and belong to somebody else, as ``domain NAME`` and ``network NAME``."""

    async def domains(self, project: str) -> Mapping[str, DomainState]:
        """The project's domains by name, running or not."""

    async def start_domain(self, xml: str) -> None:
        """Define the domain (anew, if it is off) and start it. The name is in the XML."""

    async def shut_down_domain(self, name: str, seconds: float) -> bool:
        """Ask the guest to shut down; True when it was off (or gone) within ``seconds``."""

    async def wait_off(self, name: str) -> None:
        """Return when the domain does not run (any more), or is gone."""

    async def destroy_domain(self, name: str) -> None:
        """Switch the domain off at once; it stays defined."""

    async def undefine_domain(self, name: str) -> None:
        """Forget a domain that is off, with what libvirt knows of its snapshots (the data stays)."""

    async def networks(self, project: str) -> Mapping[str, bool]:
        """The project's networks by name, and whether each is active."""

    async def start_network(self, xml: str) -> None:
        """Define the network and start it. One that is active with other XML is left: DriverError."""

    async def leases(self, network: str) -> Mapping[str, str]:
        """The addresses that the network's DHCP server has handed out, by MAC address in lower case."""

    async def remove_network(self, name: str) -> None:
        """Stop the network and forget it."""

    async def snapshots(self, domain: str) -> Sequence[SnapshotState]:
        """The domain's snapshots, the oldest first."""

    async def create_snapshot(self, domain: str, name: str) -> None:
        """Keep the domain's disk, and its memory when it runs."""

    async def restore_snapshot(self, domain: str, name: str) -> None:
        """Put the domain back to where it was: running or off, as it was then."""

    async def delete_snapshot(self, domain: str, name: str) -> None:
        """Give the snapshot up."""

    async def know_snapshot(self, domain: str, xml: str) -> None:
        """Tell libvirt again of a snapshot whose data is in the disk."""

    async def close(self) -> None:
        """Let go of the connection."""


class SwitchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Open vSwitch on one host as it should be. ``datapath_type`` is ``system`` or ``netdev``."""

    project: str
    datapath_type: str
    bridges: tuple[SwitchBridge, ...] = ()
    veths: tuple[VethPair, ...] = ()
    tunnels: tuple[TunnelPort, ...] = ()
    nics: tuple[NicPort, ...] = ()


class Switches(Protocol):
    """Open vSwitch on one host. Bridges carry ``external_ids:kvm-compose-project``."""

    async def check(self) -> None:
        """Raises DriverError when ovs-vswitchd does not answer or may not be talked to."""

    async def foreign(self, plan: SwitchPlan) -> Sequence[str]:
        """Names of the plan's bridges that are there and belong to somebody else."""

    async def bridges(self, project: str) -> Mapping[str, Sequence[str]]:
        """The project's bridges and the ports of each."""

    async def elsewhere(self, project: str, ports: Sequence[str]) -> Sequence[str]:
        """Which of these interfaces are ports of bridges that are not the project's."""

    async def apply(self, plan: SwitchPlan) -> None:
        """All bridges and ports in one transaction; what is there already stays.

        The interfaces that become ports must be there: make the veth pairs first, and only then set
        up the bridges' own interfaces, which come to be here.
        """

    async def remove(self, names: Sequence[str]) -> None:
        """The bridges and all their ports go, in one transaction."""


class Attached(msgspec.Struct, frozen=True):
    """A subnet that a host is in itself, or a gateway that it sends to, and through which interface."""

    subnet: IPv4Network
    interface: str


class Links(Protocol):
    """Network interfaces of one host (ip-link)."""

    async def attached(self) -> Sequence[Attached]:
        """The IPv4 subnets and gateways of its interfaces."""

    async def present(self, names: Sequence[str]) -> frozenset[str]:
        """Which of these interfaces are there."""

    async def apply(self, veths: Sequence[VethPair], *, up: Sequence[str], mtu: int) -> None:
        """Make the pairs, join their Linux ends to their bridges, set everything up; in one batch.

        ``up``: other interfaces (bridges, NICs) to set up as well.
        """

    async def remove(self, names: Sequence[str]) -> None:
        """Remove interfaces; with one end of a pair goes the other."""


class Disks(Protocol):
    """Files of projects on one host, and what is in disk images. Paths are absolute, as on that host."""

    async def link_project(self, project: str, folder: Path, before: Path | None = None) -> None:
        """Make ``/var/lib/kvm-compose/<project>`` lead to the folder, and a folder for consoles in it.

        ``before`` is a folder of the same project that it may lead to until now.
        Raises DriverError when another project's folder is known under this name.
        """

    async def unlink_project(self, project: str, folder: Path) -> None:
        """Remove that link if it leads to the folder."""

    async def pristine(self, path: Path) -> bool:
        """Whether an overlay holds nothing yet of its own: its guest has never written."""

    async def reset_overlay(self, path: Path) -> None:
        """Put an empty overlay of the same size and backing file in its place: all data is lost."""

    async def set_frozen(self, path: Path, frozen: bool) -> None:
        """Take away (or give) everybody's right to write to a disk."""

    async def signature(self, path: Path) -> str:
        """Something that changes when the file does: for a frozen disk. Raises DriverError if missing."""

    async def remove(self, path: Path) -> None:
        """Remove a file; no error if it is gone."""

    async def read_tail(self, path: Path, lines: int) -> str:
        """The last lines of a text file that may be root's; empty when it is not there."""


#: Where a project lies on a host that is not the main host; below it, mirrored, what its guests need.
HOSTED = Path("/var/lib/kvm-compose/.hosted")


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """What a host has: contents by their SHA-256, and files of a project that were delivered and are there,
    with the digest of what was delivered (empty when nobody knows). ``parts`` are contents that are on
    their way, with the space they take; ``room`` is free space. In bytes.
    """

    stored: frozenset[str] = frozenset()
    parts: Mapping[str, int] = {}
    delivered: Mapping[str, str] = {}
    room: int = 0


class Content(msgspec.Struct, frozen=True):
    """A file here, and the SHA-256 of what is in it."""

    digest: str
    source: Path


class Depot(Protocol):
    """What a host that is not the main host has been sent: contents by their SHA-256, and projects' files.

    Contents are sent once, whatever the number of guests and projects that need them. ``home`` tells whose
    project it is: two main hosts may know different projects by one name. Paths in a project are relative.
    """

    async def look(self, project: str, home: str) -> Holdings:
        """What is there. Raises DriverError when the host cannot be reached, lacks a program or rights, or
        keeps the project of another main host under this name.
        """

    async def open(self, project: str, home: str) -> None:
        """Make the project's folder (in HOSTED), unless it is there."""

    async def store(self, digest: str, source: Path, told: Callable[[int], None]) -> None:
        """Send a content. It goes on where an attempt before was cut off, and waits for a host that is lost
        on the way to come back, for a while; it is there, whole and checked, or not at all.

        ``told`` is told the number of bytes of each piece that was sent.
        """

    async def link(self, project: str, links: Mapping[str, str]) -> None:
        """Have paths of the project lead to stored contents: path -> digest."""

    async def put(self, project: str, files: Mapping[str, Content], told: Callable[[int], None]) -> None:
        """Send files that are the project's own, by path, each in the place of any that is there."""

    async def check_images(self, project: str, paths: Collection[str]) -> None:
        """Raises DriverError when one of these files is an image that names a file that is none of them."""

    async def clear(self, project: str) -> None:
        """Remove the project's folder, and stored contents that were made for it and no other needs."""


class Secret:
    """Bytes that are shown nowhere."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.content == other.content

    def __hash__(self) -> int:
        return hash(self.content)

    def __repr__(self) -> str:
        return "Secret()"


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """How to get into a guest. ``alias`` is what its host key is noted under.

    ``identity`` is the private key where the server must not read ``identity_file`` by itself.

    ``life`` is another one when the guest is set up anew by another seed, and makes itself other host keys.
    """

    guest: str
    alias: str
    address: str
    user: str
    identity_file: Path
    known_hosts: Path
    identity: Secret | None = None
    life: str = ""
    port: int = 22


#: Told each line that a command prints.
OnLine = Callable[[str], None]


class Shell(Protocol):
    """Guests, from inside, by SSH. A host key is noted at first contact and must stay the same then."""

    async def wait_ready(self, login: Login, seconds: float) -> None:
        """Wait until the guest lets us in and its first-boot set-up (``/etc/nocloud/ready``) has ended.

        Raises DriverError after ``seconds``, saying how far it came, and at once when the guest's
        host key is not the one noted, or it refuses our key for good.
        """

    async def run(
        self, login: Login, argv: Sequence[str], on_line: OnLine, *, seconds: float | None = None
    ) -> int:
        """Run a command; its exit status. Cancelling ends the command in the guest, too.

        Raises DriverError when the guest cannot be reached or ``seconds`` have passed.
        """

    async def forget(self, login: Login) -> None:
        """Forget the guest's host key: its disk is a new one."""


class Captures(Protocol):
    """Packets on one host, in the format of pcap (IETF draft-ietf-opsawg-pcap).

    The first chunk comes when the capture has begun. It ends with ``count`` packets, or when what is captured
    goes; to end it before that, close the generator.
    """

    async def check_filter(self, expression: str) -> str | None:
        """What is wrong with an expression of pcap-filter(7); None when nothing is."""

    def interface(self, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """Packets on one network interface, in both directions."""

    def bridge(self, project: str, name: str, wanted: Capture) -> AsyncGenerator[bytes]:
        """Packets that come into a bridge of Open vSwitch, whatever port they come by."""


class HostDrivers(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be driven on one host.

    The main host has no ``depot``, as all files are its own, unless they are a member's (``Drivers.host``).
    """

    name: str
    hypervisor: Hypervisor
    switches: Switches
    links: Links
    disks: Disks
    captures: Captures
    depot: Depot | None = None


class Drivers(Protocol):
    """Makes the drivers of a deployment's hosts."""

    #: What ``Health.drivers`` says: ``real`` or ``fake``.
    name: str

    def host(self, host: Host, member: OwnerFiles | None = None) -> HostDrivers:
        """The drivers of one host; the same ones each time.

        With ``member``, root works for a user who is no administrator: the main host is sent what it needs as
        any other, and other hosts are reached with nothing but that user's keys.
        """

    def shell(self) -> Shell:
        """The way into guests."""

    async def close(self) -> None:
        """Let go of everything."""
