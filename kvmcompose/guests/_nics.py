"""Check the keys of interfaces, as far as the kind of the guest decides about them."""

from __future__ import annotations

from collections.abc import Iterator

from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Machine
from kvmcompose.core.nic import CONVENTIONAL, VIRTIO, NicKeys
from kvmcompose.render.domain import NIC_SLOTS

#: What only the network card of a virtual machine has, and what libvirt carries out.
_OF_DOMAINS = {
    "model": "a container sees the end of a veth pair, which is no network card of a model",
    "queues": "the queues of a container's interface are those of the host",
    "bandwidth": "libvirt carries out limits of throughput, for virtual machines only",
}

_USUAL = NicKeys()


def check_domain(machine: Machine, cpus: int) -> Iterator[Complaint]:
    """Yield queues that no CPU could serve, and queues of a model that has one only. ``cpus``: at most.

    Yield cards of conventional PCI, too, for which the machine has no room.
    """
    conventional = 0
    for at, attachment in machine.interfaces():
        keys = attachment.keys
        if at[0] == machine.interfaces_key:  # others are of different clones
            conventional += keys.model in CONVENTIONAL
        if keys.model in CONVENTIONAL and conventional > len(NIC_SLOTS):
            yield Complaint(
                code="out-of-range",
                path=(*at, "model"),
                message=f"more than {len(NIC_SLOTS)} interfaces of models of conventional PCI",
                found=keys.model,
                wanted="virtio or e1000e",
            )
        if keys.queues > 1 and keys.model != VIRTIO:
            yield Complaint(
                code="bad-value",
                path=(*at, "queues"),
                message=f"an interface of the model {keys.model} has one queue",
                found=str(keys.queues),
                hint=f"remove it, or use the model {VIRTIO}",
            )
        elif keys.queues > cpus:
            yield Complaint(
                code="out-of-range",
                path=(*at, "queues"),
                message="more queues than CPUs: no CPU would serve the others",
                found=str(keys.queues),
                wanted=f"1 to {cpus}",
            )


def check_container(machine: Machine) -> Iterator[Complaint]:
    """Yield the keys that interfaces of containers do not have."""
    for at, attachment in machine.interfaces():
        for key, why in _OF_DOMAINS.items():
            if getattr(attachment.keys, key) != getattr(_USUAL, key):
                yield Complaint(
                    code="bad-value",
                    path=(*at, key),
                    message=f"interfaces of containers have no {key}: {why}",
                    hint="remove it",
                    at_key=True,
                )
