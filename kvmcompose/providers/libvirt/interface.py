"""Domains, networks and snapshots of projects on one host.

All drivers are called from one event loop and must not block it. Failures raise DriverError, whose message
names what was attempted. Every call is idempotent: starting what runs, or removing what is gone, is no error.
Names are those on the host, from ``state.json``.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from kvmcompose.core.deployable import HardwareNeed
from kvmcompose.core.instance import GONE, HostMeasures, HostSize, Instance, InstanceEvent
from kvmcompose.core.nic import Bandwidth
from kvmcompose.providers.libvirt.agent import ANSWER_SECONDS, AgentCommand


class DomainState(Instance, frozen=True, kw_only=True, gc=False):
    """A domain of a project. ``state`` is libvirt's term: ``running``, ``shut off``, ``paused``, ``crashed``.

    ``reason`` says why it is paused, off or crashed, where libvirt knows: ``by user``, ``starting up``,
    ``I/O error``, ``I/O error: no space for vda``; ``shutdown``, ``destroyed``, ``crashed``, ``failed``.
    ``used_mb`` is used in the guest, as its balloon driver reports every ten seconds. ``made`` is as given
    when it was defined or stamped: of a running domain, what it was started with.
    """


class DomainNic(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A NIC of a domain: its MAC address in lower case, its tap, and the bridge or network it is in.

    ``interface_id`` is the ID that libvirt gives its port in Open vSwitch (``external_ids:iface-id``).
    ``link`` is ``up`` or ``down``.
    """

    mac: str
    target: str
    source: str
    interface_id: str = ""
    link: str = "up"
    bandwidth: Bandwidth | None = None


class ObservedDomain(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A domain of a project, compared with what it was made from. See ``DomainState``.

    ``made`` is what it runs as; ``defined`` is what its definition was made from, which its next start has.
    ``edited``: the definition was changed since by other means, such as virsh edit. ``nics`` and ``disks``
    (targets, such as vda) are those of the running domain, or of the definition of one that is off.
    ``further`` are the names of those with an alias of ours. ``memory_mb`` (MiB) and ``cpus`` are what it has
    been given. ``agent``: something in the guest is connected to the channel of the guest agent.
    """

    name: str
    uuid: str
    guest: str
    state: str
    reason: str | None
    made: str
    defined: str
    edited: bool
    nics: tuple[DomainNic, ...]
    disks: tuple[str, ...]
    further: tuple[str, ...] = ()
    memory_mb: int
    cpus: int
    agent: bool = False


class DomainEvent(InstanceEvent, frozen=True, kw_only=True, gc=False):
    """The state that a domain has got into, as in ``DomainState``; or ``GONE`` when it is not defined."""


def following(known: dict[str, DomainEvent], name: str, found: DomainEvent | None) -> DomainEvent | None:
    """Return the event for what a domain is found to be, and note it; None when it is known to be so."""
    before = known.get(name)
    if found is None:
        if before is None:
            return None
        del known[name]
        return DomainEvent(name=name, guest=before.guest, state=GONE)
    known[name] = found
    return None if found == before else found


class DomainNeed(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What a domain needs of its host. ``arch``, ``machine`` and ``virt_type`` are in libvirt's words.

    ``virtiofs``: it has shares by it, ``readonly_virtiofs``: some of them read-only.
    """

    arch: str
    machine: str
    virt_type: str
    uefi: bool = False
    secure_boot: bool = False
    tpm: bool = False
    virtiofs: bool = False
    readonly_virtiofs: bool = False
    hardware: HardwareNeed = HardwareNeed()


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a host has of what a domain needs. ``reason`` says why its guest cannot run there at all.

    ``cpu_modes``, ``graphics`` and ``videos`` are empty where an old libvirt does not tell. ``cpu_models``
    are those that it knows, with whether they can be used. ``free_pages`` is the number of huge pages of the
    wanted size that nothing uses, None where the host does not support that size. ``pci``: guests can have
    PCI devices.
    """

    reason: str = ""
    uefi: bool = False
    secure_boot: bool = False
    tpm: bool = False
    cpu_modes: frozenset[str] = frozenset()
    cpu_models: Mapping[str, bool] = {}
    graphics: frozenset[str] = frozenset()
    videos: frozenset[str] = frozenset()
    free_pages: int | None = None
    pci: bool = True
    virtiofs: bool = False
    readonly_virtiofs: bool = False


class TpmHolder(msgspec.Struct, frozen=True, kw_only=True):
    """A domain that is not defined, and for which libvirt may keep the state of a TPM by its ``uuid``."""

    name: str
    uuid: str
    project: str
    guest: str
    arch: str


class SnapshotState(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that libvirt knows. ``created`` in seconds since 1970; ``xml`` redefines it."""

    name: str
    created: float
    state: str
    current: bool
    xml: str


class FoundNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A network of a project. ``xml`` is the live definition if it is active, "" where it is not known.

    ``digest`` is that of the XML that the network has been brought to (``definitions.network_digest``).
    ``edited``: the definition was changed since by other means, such as virsh net-edit.
    """

    name: str
    active: bool
    digest: str | None
    xml: str
    edited: bool = False


class Screen(msgspec.Struct, frozen=True, kw_only=True):
    """The screen of a domain. ``kind`` is libvirt's term: ``vnc``, ``spice``.

    ``port`` is where it is served on its host while the domain runs, at ``address``; 0: nowhere.
    """

    kind: str
    address: str = "127.0.0.1"
    port: int = 0


class HypervisorFacts(HostSize, frozen=True, kw_only=True):
    """A host as libvirt sees it, and libvirt's version."""

    version: str


class Hypervisor(Protocol):
    """libvirt on one host. The metadata of domains and networks name their project."""

    uri: str

    async def facts(self) -> HypervisorFacts:
        """Return facts about the host. Raises DriverError when it does not answer."""

    async def capabilities(self, need: DomainNeed) -> Capabilities:
        """Return what the host has of what a domain needs."""

    async def foreign(self, project: str, domains: Sequence[str], networks: Sequence[str]) -> Sequence[str]:
        """Return which of these names are taken by objects that are not the project's, as ``domain NAME`` and
        ``network NAME``.
        """

    async def domains(self, project: str) -> Mapping[str, DomainState]:
        """Return the project's domains by name, running or not."""

    async def measure(self) -> HostMeasures:
        """Return what the domains of all projects have used."""

    async def observe(self, project: str) -> Mapping[str, ObservedDomain]:
        """Return the project's domains by name, with what to compare; slower than ``domains``."""

    def events(self, project: str) -> AsyncGenerator[DomainEvent]:
        """Yield the state of each of the project's domains, and then each other state that one gets into.

        States that last shorter than a look at the host may be left out. When the host does not answer, this
        waits until it does.
        """

    async def start_domain(self, xml: str, made: str = "") -> None:
        """Define the domain and start it. The name is in the XML; one that runs is left as it is.

        ``made`` is kept in its metadata: text that describes what it is made from.
        """

    async def define_domain(self, xml: str, made: str = "") -> None:
        """Define the domain, and do not start it; one that runs has this definition from its next start."""

    async def stamp_domain(self, name: str, made: str) -> None:
        """Set ``made`` in the metadata, of the running domain and of its definition."""

    async def resume_domain(self, name: str) -> None:
        """Let a domain run on that is paused or sleeps (``pmsuspended``).

        Raises DriverError for one that is off, or pauses again at once.
        """

    async def suspend_domain(self, name: str) -> None:
        """Pause a domain. Raises DriverError for one that is off."""

    async def arp_answering(self, taps: Collection[str]) -> Sequence[str]:
        """Return at which of these taps the host itself answers ARP requests: see ``hosts.arp``."""

    async def leave_arp(self, taps: Sequence[str]) -> None:
        """Have the host answer no ARP request at these taps."""

    async def set_memory(self, name: str, mib: int) -> None:
        """Change the memory of a running domain, up to its maximum. Raises DriverError beyond it."""

    async def set_vcpus(self, name: str, count: int) -> None:
        """Change the processors of a running domain, up to its maximum. Raises DriverError beyond it.

        Only those that were added while it runs can be taken away, and only if the guest lets go.
        """

    async def attach_nic(self, name: str, xml: str) -> None:
        """Plug a NIC (an <interface>) into a running domain. Raises DriverError without a free PCIe port."""

    async def set_nic(self, name: str, xml: str) -> None:
        """Give a NIC of a running domain the link state, VLAN and limits of throughput of an <interface>."""

    async def detach_nic(self, name: str, mac: str, seconds: float) -> bool:
        """Unplug the NIC with this MAC address; return whether the guest let go of it within ``seconds``."""

    async def attach_disk(self, name: str, disk: str, xml: str) -> None:
        """Plug the further disk of the name ``disk`` (a <disk>) into a running domain.

        Raises DriverError without a free PCIe port. Its target is another one where the domain has that.
        """

    async def detach_disk(self, name: str, disk: str, seconds: float) -> bool:
        """Unplug a further disk; return whether the guest let go of it within ``seconds``."""

    async def change_medium(self, name: str, disk: str, xml: str) -> None:
        """Open the tray of a CD-ROM of a running domain, and close it with the medium of ``xml`` (a <disk>).

        Raises DriverError while the guest has locked the tray.
        """

    async def grow_disk(self, name: str, path: str, size: int) -> None:
        """Enlarge the disk with the file ``path`` to ``size`` bytes while its domain runs."""

    async def shut_down_domain(self, name: str, seconds: float) -> bool:
        """Ask the guest to shut down; return whether it was off (or gone) within ``seconds``."""

    async def wait_off(self, name: str) -> None:
        """Return when the domain is off, or gone."""

    async def destroy_domain(self, name: str) -> None:
        """Switch off the domain at once; it stays defined."""

    async def undefine_domain(self, name: str) -> None:
        """Undefine a domain that is off, and the metadata of its snapshots (the data stays).

        The file of its UEFI's variables stays, unless libvirt chose its name, and so does a TPM's state.
        """

    async def forget_tpm(self, holder: TpmHolder) -> None:
        """Remove the state of the TPM of a domain that is off; no error if there is none."""

    async def open_console(self, name: str, *, force: bool) -> socket.socket:
        """Return a socket, which does not block, that is the serial console of a running domain.

        What it prints is always read: of what its user does not read in time, the newest stays. It is closed
        when the domain goes off, or another user takes the console. ``force``: take it from another user.
        Raises ConsoleTakenError, RefusedError for a domain that is off or not there, DriverError.
        """

    async def screen(self, name: str) -> Screen | None:
        """Return the screen of a domain as it runs, or as it will; None: it has none, or is not there."""

    async def open_screen(self, screen: Screen) -> socket.socket:
        """Return a socket, which does not block, that is connected to a screen with a port: RFC 6143 for VNC.

        Raises DriverError.
        """

    async def ask_agent(self, name: str, command: AgentCommand, seconds: int = ANSWER_SECONDS) -> Any:
        """Return what the guest agent of a domain answers to a command: JSON, decoded, of any type.

        Raises DriverError for an agent that is not connected, answers nothing within ``seconds`` (libvirt may
        take five more), refuses the command, or answers nonsense. The calls of one domain wait for each
        other, and no other calls wait for them.
        """

    async def wait_agent(self, name: str, seconds: float) -> None:
        """Return when the guest agent of a domain answers. Raises DriverError after ``seconds``."""

    async def start_network(self, xml: str) -> None:
        """Define the network and start it. Raises DriverError for one that is active with other XML."""

    async def found_networks(self, project: str) -> Mapping[str, FoundNetwork]:
        """Return the project's networks by name. ``network_entries.difference`` compares them with XML."""

    async def update_network(self, xml: str, names: Collection[str] = ()) -> bool:
        """Give a network the DHCP and DNS entries of its XML, while it is active.

        DNS entries of one of ``names`` alone stay: ``put_names`` made them. Return False, having done
        nothing, when anything else differs: then it has to be made again.
        """

    async def put_names(self, network: str, names: Mapping[str, str | None]) -> None:
        """Give names an address in the DNS server of a network while it is active; None: the name goes.

        The definition stays as it is. Raises DriverError for a name that another entry has.
        """

    async def leases(self, network: str) -> Mapping[str, str]:
        """Return the addresses that the network's DHCP server assigned, by MAC address in lower case."""

    async def answers(self, mac: str, address: str) -> bool:
        """Return whether the host finds a machine with this MAC address at this IPv4 address, by ARP."""

    async def remove_network(self, name: str) -> None:
        """Stop and undefine the network."""

    async def snapshots(self, domain: str) -> Sequence[SnapshotState]:
        """Return the domain's snapshots, oldest first."""

    async def create_snapshot(self, domain: str, name: str) -> None:
        """Create a snapshot of the domain's disk, and of its memory when it runs."""

    async def restore_snapshot(self, domain: str, name: str) -> None:
        """Revert the domain to a snapshot: running or off, as it was then."""

    async def delete_snapshot(self, domain: str, name: str) -> None:
        """Delete the snapshot."""

    async def know_snapshot(self, domain: str, xml: str) -> None:
        """Redefine a snapshot whose data is in the disk."""

    async def close(self) -> None:
        """Close the connection."""
