"""Domains of projects on one host: which there are, and their life."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

import msgspec

from kvmcompose.core.instance import GONE, Instance, InstanceEvent
from kvmcompose.core.nic import Bandwidth


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


class TpmHolder(msgspec.Struct, frozen=True, kw_only=True):
    """A domain that is not defined, and for which libvirt may keep the state of a TPM by its ``uuid``."""

    name: str
    uuid: str
    project: str
    guest: str
    arch: str


class Domains(Protocol):
    """The domains of one host; their metadata name their project."""

    async def states(self, project: str) -> Mapping[str, DomainState]:
        """Return the project's domains by name, running or not."""

    async def observe(self, project: str) -> Mapping[str, ObservedDomain]:
        """Return the project's domains by name, with what to compare; slower than ``states``."""

    def events(self, project: str) -> AsyncGenerator[DomainEvent]:
        """Yield the state of each of the project's domains, and then each other state that one gets into.

        States that last shorter than a look at the host may be left out. When the host does not answer, this
        waits until it does.
        """

    async def start(self, xml: str, made: str = "") -> None:
        """Define the domain and start it. The name is in the XML; one that runs is left as it is.

        ``made`` is kept in its metadata: text that describes what it is made from.
        """

    async def define(self, xml: str, made: str = "") -> None:
        """Define the domain, and do not start it; one that runs has this definition from its next start."""

    async def stamp(self, name: str, made: str) -> None:
        """Set ``made`` in the metadata, of the running domain and of its definition."""

    async def resume(self, name: str) -> None:
        """Let a domain run on that is paused or sleeps (``pmsuspended``).

        Raises DriverError for one that is off, or pauses again at once.
        """

    async def suspend(self, name: str) -> None:
        """Pause a domain. Raises DriverError for one that is off."""

    async def shut_down(self, name: str, seconds: float) -> bool:
        """Ask the guest to shut down; return whether it was off (or gone) within ``seconds``."""

    async def wait_off(self, name: str) -> None:
        """Return when the domain is off, or gone."""

    async def destroy(self, name: str) -> None:
        """Switch off the domain at once; it stays defined."""

    async def undefine(self, name: str) -> None:
        """Undefine a domain that is off, and the metadata of its snapshots (the data stays).

        The file of its UEFI's variables stays, unless libvirt chose its name, and so does a TPM's state.
        """

    async def forget_tpm(self, holder: TpmHolder) -> None:
        """Remove the state of the TPM of a domain that is off; no error if there is none."""
