"""Virtual machines run by libvirt: from cloud images, existing disks or installation media."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from kvmcompose.core.artefact import Artefact, Policy
from kvmcompose.core.deployable import DomainGuest
from kvmcompose.core.environment import LARGEST_FILE, file_digest
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Guest, Machine
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import GuestState, Shared
from kvmcompose.guests import _disks, _files, _nics, _ready, _scaling
from kvmcompose.guests._cloud_init import CloudInit, stored, with_digests
from kvmcompose.guests._cloud_init_check import check_cloud_init
from kvmcompose.guests._disks import CloudImage, LibvirtType
from kvmcompose.guests._domains import (
    DomainKeys,
    DomainSection,
    can_be_entered,
    check_interfaces,
    privileges,
    runs,
    says_when_ready,
    with_disk,
)
from kvmcompose.guests._firmware import USUAL_ARCH, check_image_arch
from kvmcompose.guests._further_disks import check_boot_disk, check_further_disks
from kvmcompose.guests._installation import check_installation, installation_media
from kvmcompose.guests._machine import hardware
from kvmcompose.guests._machine_checks import check_boot, check_machine
from kvmcompose.guests._shared_disks import check_shared_disks, shared_names
from kvmcompose.guests._shares import check_shares
from kvmcompose.render.platform import cdrom_bus

# those of every guest that libvirt runs
__all__ = ["can_be_entered", "check_interfaces", "privileges", "says_when_ready"]


class LibvirtSection(DomainKeys, frozen=True, kw_only=True):
    """The ``libvirt`` section of a machine."""

    username: str = "nocloud"
    scaling: _scaling.Scaling | None = None
    cloud_init: CloudInit | None = None


Definition = LibvirtSection


def expand(machine: Machine) -> Iterator[Guest]:
    """Yield the machine's guest, or its golden image followed by its clones."""
    body: LibvirtSection = machine.body
    cloud = body.libvirt_type.cloud_image or CloudImage()
    alone = DomainSection(
        **{key: getattr(body, key) for key in DomainKeys.__struct_fields__},
        setup_scripts=(cloud.setup_script,) if cloud.setup_script else (),
        run_scripts=(cloud.run_script,) if cloud.run_script else (),
        cloud_init=stored(body.cloud_init),
    )
    guest = Guest(
        name=machine.name,
        kind=machine.kind,
        definition=alone,
        attachments=machine.attachments,
        machine=machine,
        cpus=body.cpus,
        memory_mb=body.memory_mb,
        arch=body.arch or USUAL_ARCH,
        shared_disks=shared_names(body.disks),
    )
    if body.scaling is None:
        yield guest
        return
    shared = (body.scaling.shared_setup,) if body.scaling.shared_setup else ()
    yield msgspec.structs.replace(
        guest,
        definition=msgspec.structs.replace(alone, setup_scripts=shared, run_scripts=()),
        is_golden_image=True,
        shared_disks=(),
    )
    for number, attachments in enumerate(_scaling.attachments_of(machine)):
        setup = alone.setup_scripts + _scaling.scripts_for(body.scaling.clone_setup, number)
        run = alone.run_scripts + _scaling.scripts_for(body.scaling.clone_run, number)
        yield msgspec.structs.replace(
            guest,
            name=_scaling.clone_name(machine, number),
            kind="clone",
            definition=msgspec.structs.replace(alone, setup_scripts=setup, run_scripts=run),
            attachments=tuple(attachments),
            golden_image=machine.name,
        )


def complete(guest: Guest, files: ProjectFiles) -> Guest:
    """Return the guest with the digests of its environment file and cloud-init's files in its definition."""
    definition: DomainSection = guest.definition
    if definition.cloud_init is not None and definition.cloud_init.paths:
        own = with_digests(definition.cloud_init, files)
        definition = msgspec.structs.replace(definition, cloud_init=own)
        guest = msgspec.structs.replace(guest, definition=definition)
    cloud = definition.libvirt_type.cloud_image
    data = files.content(cloud.environment_file, LARGEST_FILE) if cloud and cloud.environment_file else None
    if cloud is None or data is None:
        return guest
    digest = file_digest(data, str(cloud.environment_file))
    image = msgspec.structs.replace(cloud, environment_digest=digest)
    completed = msgspec.structs.replace(definition, libvirt_type=LibvirtType(cloud_image=image))
    return msgspec.structs.replace(guest, definition=completed)


def check(machine: Machine, files: ProjectFiles) -> Iterator[Complaint]:
    """Yield the problems of files that are missing or not allowed, and of invalid combinations."""
    body: LibvirtSection = machine.body
    yield from _check_most(machine.kind, "max_cpus", body.max_cpus, "cpus", body.cpus)
    yield from _check_most(machine.kind, "max_memory_mb", body.max_memory_mb, "memory_mb", body.memory_mb)
    cloud = body.libvirt_type.cloud_image
    if cloud is not None and cloud.name is not None:
        name_at = (machine.kind, "libvirt_type", "cloud_image", "name")
        yield from check_image_arch(files, name_at, cloud.name, body.arch)
    yield from check_machine(
        body,
        machine.kind,
        cpus=max(body.cpus, body.max_cpus or 0),
        memory_mb=max(body.memory_mb, body.max_memory_mb or 0),
        scaled=body.scaling is not None,
    )
    yield from check_boot(
        body,
        machine.kind,
        disk=_disks.disk_content(body.libvirt_type) is not None
        or any(each.device == "disk" for each in body.disks),
        network=bool(machine.attachments) or body.scaling is not None,
        cdrom=_disks.media_path(body.libvirt_type) is not None
        or any(each.device == "cdrom" for each in body.disks),
    )
    yield from _nics.check_domain(machine, body.max_cpus or body.cpus)
    at = (machine.kind, "libvirt_type")
    yield from _disks.check(body.libvirt_type, at, files, scaled=body.scaling is not None)
    yield from _ready.check(body.ready, _scripts(machine))
    has = hardware(body, has_screen=False, from_network=body.libvirt_type.network_guest is not None)
    if body.boot_disk is not None:
        existing = body.libvirt_type.existing_disk
        yield from check_boot_disk(
            body.boot_disk,
            machine.kind,
            has,
            is_there=_disks.disk_content(body.libvirt_type) is not None,
            readonly=existing is not None and existing.readonly,
        )
    yield from check_further_disks(
        body.disks,
        machine.kind,
        files,
        boot=body.boot_disk,
        media=(_disks.media_path(body.libvirt_type), *installation_media("", body.libvirt_type)),
        cdrom=cdrom_bus(body.arch or USUAL_ARCH),
        hardware=has,
        scaled=body.scaling is not None,
    )
    if body.libvirt_type.iso_guest is not None:
        yield from check_installation(body.libvirt_type.iso_guest, (*at, "iso_guest"), files)
    if body.cloud_init is not None:
        yield from check_cloud_init(body.cloud_init, machine, files)
    yield from check_shares(machine.kind, body.shares, files)
    if body.scaling is not None:
        yield from _check_scaling(machine, body.scaling, files)


def check_together(machines: Sequence[Machine]) -> Iterator[Complaint]:
    """Yield the problems of disks that machines share."""
    yield from check_shared_disks(
        (("machines", each.index, each.kind), each.name, each.body.disks) for each in machines
    )


def _scripts(machine: Machine) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths of all scripts of a machine."""
    body: LibvirtSection = machine.body
    cloud = body.libvirt_type.cloud_image
    for key in ("setup_script", "run_script"):
        if cloud is not None and getattr(cloud, key) is not None:
            yield machine.kind, "libvirt_type", "cloud_image", key
    if body.scaling is not None:
        for path, _ in _scripts_of_clones(body.scaling):
            yield (machine.kind, "scaling", *path)


def _scripts_of_clones(scaling: _scaling.Scaling) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the paths of the scripts in a section ``scaling``, with the scripts."""
    if scaling.shared_setup is not None:
        yield ("shared_setup",), scaling.shared_setup
    for key in ("clone_setup", "clone_run"):
        for number, each in enumerate(getattr(scaling, key)):
            yield (key, number, "script"), each.script


def _check_most(section: str, key: str, most: int | None, given_key: str, given: int) -> Iterator[Complaint]:
    if most is not None and most < given:
        yield Complaint(
            code="out-of-range",
            path=(section, key),
            message=f"less than {given_key}",
            found=str(most),
            wanted=f"at least {given}",
        )


def _check_scaling(machine: Machine, scaling: _scaling.Scaling, files: ProjectFiles) -> Iterator[Complaint]:
    at = (machine.kind, "scaling")
    yield from _scaling.check(machine, scaling)
    for path, script in _scripts_of_clones(scaling):
        yield from _files.script(files, (*at, *path), script)
        if machine.body.libvirt_type.cloud_image is None:
            yield Complaint(
                code="needs-cloud-init",
                path=(*at, *path),
                message="scripts need cloud-init: only a cloud_image can have them",
            )


def artefacts(guest: GuestState, shared: Shared) -> Iterator[Artefact]:
    """Yield domain XML, the disk, and a seed for guests with cloud-init or a link to installation media."""
    definition: DomainSection = guest.definition
    kind = definition.libvirt_type
    content = _disks.disk_content(kind)
    disk = _disks.disk_path(guest.identity) if content is not None else None
    if disk is not None and content is not None:
        yield Artefact(
            task=f"disk:{guest.name}",
            path=disk,
            policy=Policy.MUTABLE,
            content=content,
            summary=f"disk of {guest.name}",
            guest=guest.name,
            # the guest's secrets are on it; libvirt gives the file to QEMU's user while the guest runs
            mode=0o600,
        )
    yield from with_disk(guest, shared, disk)


def deployable(guest: GuestState, shared: Shared) -> DomainGuest:
    """Return how libvirt runs the guest."""
    return runs(guest, shared, artefacts)
