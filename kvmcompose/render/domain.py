"""libvirt domain XML (format: libvirt's "Domain XML format" and its RelaxNG schema domain.rng)."""

from __future__ import annotations

import msgspec

from kvmcompose.core.artefact import Artefact, Policy, Rendered
from kvmcompose.core.state import GuestState, Shared


def console_log(guest: str) -> str:
    """Where what a guest prints on its serial line is kept, in the project folder."""
    return f".kvm-compose/consoles/{guest}.log"


class Nic(msgspec.Struct, frozen=True):
    """One interface; ``attach`` is ``ovs`` or ``network``.

    Without ``checksums`` the guest computes those of its packets itself: what leaves it through a bridge
    in userspace gets none on the way.
    """

    attach: str
    source: str
    target: str
    mac: str
    mtu: int
    checksums: bool


class DomainValues(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the template sees. Paths are absolute on the testbed host; ``memory_mb`` is in MiB."""

    project: str
    guest: str
    host: str
    name: str
    virt_type: str
    cpus: int
    memory_mb: int
    disk: str | None
    disk_readonly: bool
    media: str | None
    seed: str | None
    console_log: str
    graphics: bool
    nics: tuple[Nic, ...]


def domain_xml(
    guest: GuestState,
    shared: Shared,
    *,
    cpus: int,
    memory_mb: int,
    disk: str | None,
    disk_readonly: bool = False,
    media: str | None = None,
    seed: str | None = None,
    graphics: bool = False,
) -> Artefact:
    """The domain XML of a guest. ``disk``, ``media`` and ``seed`` are artefacts' paths in the project."""

    def on_host(path: str | None) -> str | None:
        return f"{shared.host_config.project_folder}/{path}" if path else None

    values = DomainValues(
        project=shared.project_name,
        guest=guest.name,
        host=guest.testbed_host,
        name=guest.hostname,
        virt_type=guest.virt_type,
        cpus=cpus,
        memory_mb=memory_mb,
        disk=on_host(disk),
        disk_readonly=disk_readonly,
        media=on_host(media),
        seed=on_host(seed),
        console_log=f"{shared.host_config.project_folder}/{console_log(guest.name)}",
        graphics=graphics,
        nics=tuple(
            Nic(
                nic.attach,
                nic.source,
                nic.target,
                nic.mac,
                nic.mtu,
                checksums=nic.attach != "ovs" or guest.datapath_type != "netdev",
            )
            for nic in guest.interfaces
        ),
    )
    return Artefact(
        task=f"domain-xml:{guest.name}",
        path=f"artefacts/{guest.name}-domain.xml",
        policy=Policy.TEXT,
        content=Rendered("xml", values, templates=("domain.xml.j2",)),
        summary=f"libvirt domain {guest.hostname}",
        guest=guest.name,
    )
