"""Linked clones of a golden image. ``scaling`` makes them; the YAML has no section for them."""

from __future__ import annotations

from collections.abc import Iterator

from kvmcompose.core.artefact import Artefact, Overlay, Policy
from kvmcompose.core.deployable import DomainGuest
from kvmcompose.core.errors import Complaint, KvmComposeError
from kvmcompose.core.model import Guest, Machine
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import GuestState, Shared
from kvmcompose.guests._disks import disk_path
from kvmcompose.guests._domains import (
    DomainSection,
    can_be_entered,
    check_interfaces,
    privileges,
    runs,
    says_when_ready,
    with_disk,
)

# those of every libvirt guest
__all__ = ["can_be_entered", "check_interfaces", "privileges", "says_when_ready"]

SECTION = "libvirt"
Definition = DomainSection


def expand(machine: Machine) -> Iterator[Guest]:
    """Raise KvmComposeError: the YAML cannot define a clone."""
    raise KvmComposeError(f"{machine.name}: a clone cannot be written in the YAML")


def check(_machine: Machine, _files: ProjectFiles) -> Iterator[Complaint]:
    """Yield nothing: the problems of a clone are reported for its machine."""
    yield from ()


def artefacts(guest: GuestState, shared: Shared) -> Iterator[Artefact]:
    """Yield an overlay on the golden image, and the artefacts of every libvirt guest."""
    golden = disk_path(guest.extra_info.golden_identity or "")
    disk = f"artefacts/{guest.identity}-linked-clone.qcow2"
    yield Artefact(
        task=f"clone:{guest.name}",
        path=disk,
        policy=Policy.MUTABLE,
        content=Overlay(on=golden),
        summary=f"linked clone of {guest.extra_info.reference_image}",
        guest=guest.name,
        after=(golden,),
        mode=0o600,
    )
    yield from with_disk(guest, shared, disk)


def deployable(guest: GuestState, shared: Shared) -> DomainGuest:
    """Return how libvirt runs the guest."""
    return runs(guest, shared, artefacts)
