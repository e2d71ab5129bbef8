"""The hardware of a domain other than its disks and interfaces, as the template of the domain XML sees it."""

from __future__ import annotations

import msgspec


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What a domain has besides disks and interfaces, in libvirt's terms. The defaults are every guest's.

    ``machine`` is the machine type, ``rng`` the model of the random number generator.
    """

    machine: str = "q35"
    rng: str = "virtio"


def has_root_ports(machine: str) -> bool:
    """Return whether devices of this machine type are in PCIe ports: a ``pc`` has a PCI bus without any."""
    return not (machine == "pc" or machine.startswith("pc-i440fx-"))
