"""Virtual machines run by libvirt: cloud images, disks that exist already, installation media."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from kvmcompose.core.artefact import Artefact, BaseImage, Blank, Content, DeepCopy, LinkTo, Overlay, Policy
from kvmcompose.core.deployable import DomainGuest
from kvmcompose.core.environment import LARGEST_FILE, file_digest
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Guest, Machine
from kvmcompose.core.privilege import Privilege, PrivilegeKind
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import GuestState, Shared
from kvmcompose.guests import _files, _scaling
from kvmcompose.render.domain import domain_xml
from kvmcompose.render.seed import script_paths, seed_iso


class CloudImage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cloud image with cloud-init in it: from the catalogue by name, or a file. Sizes in GiB.

    ``environment_digest`` is no key of the YAML: it stands for the content of ``environment_file``.
    """

    name: str | None = None
    path: str | None = None
    expand_gigabytes: int = 0
    context: str | None = None
    environment: dict[str, str] = {}
    environment_file: str | None = None
    environment_digest: str | None = None
    setup_script: str | None = None
    run_script: str | None = None

    def __post_init__(self) -> None:
        """The order of keys in the YAML means nothing, so it must not show in an artefact."""
        msgspec.structs.force_setattr(self, "environment", dict(sorted(self.environment.items())))


class ExistingDisk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A disk image that somebody else prepared."""

    path: str
    driver_type: Literal["raw", "qcow2"] | None = None
    device_type: Literal["disk", "cdrom"] = "disk"
    readonly: bool = False
    create_deep_copy: bool = False


class IsoGuest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Installation media, and an empty disk of ``expand_gigabytes`` GiB when that is given."""

    path: str
    expand_gigabytes: int = 0


class LibvirtType(msgspec.Struct, frozen=True, omit_defaults=True):
    """Exactly one of these is given."""

    cloud_image: CloudImage | None = None
    existing_disk: ExistingDisk | None = None
    iso_guest: IsoGuest | None = None


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """The ``libvirt`` section of a machine. ``memory_mb`` is in MiB."""

    cpus: int
    memory_mb: int
    username: str = "nocloud"
    libvirt_type: LibvirtType
    ready_timeout_seconds: int | msgspec.UnsetType = msgspec.UNSET
    scaling: _scaling.Scaling | None = None


class GuestDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """The ``libvirt`` section of the state: which scripts run is written out per guest, in order."""

    cpus: int
    memory_mb: int
    username: str
    libvirt_type: LibvirtType
    ready_timeout_seconds: int | msgspec.UnsetType = msgspec.UNSET
    setup_scripts: tuple[str, ...] = ()
    run_scripts: tuple[str, ...] = ()


def expand(machine: Machine) -> Iterator[Guest]:
    """The machine itself, or its golden image followed by its clones."""
    body: Definition = machine.body
    cloud = body.libvirt_type.cloud_image or CloudImage()
    alone = GuestDefinition(
        cpus=body.cpus,
        memory_mb=body.memory_mb,
        username=body.username,
        libvirt_type=body.libvirt_type,
        ready_timeout_seconds=body.ready_timeout_seconds,
        setup_scripts=(cloud.setup_script,) if cloud.setup_script else (),
        run_scripts=(cloud.run_script,) if cloud.run_script else (),
    )
    guest = Guest(
        name=machine.name,
        kind=machine.kind,
        definition=alone,
        attachments=machine.attachments,
        machine=machine,
        cpus=body.cpus,
        memory_mb=body.memory_mb,
    )
    if body.scaling is None:
        yield guest
        return
    shared = (body.scaling.shared_setup,) if body.scaling.shared_setup else ()
    yield msgspec.structs.replace(
        guest,
        definition=msgspec.structs.replace(alone, setup_scripts=shared, run_scripts=()),
        is_golden_image=True,
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
    """A guest whose definition says which content its environment file has."""
    definition: GuestDefinition = guest.definition
    cloud = definition.libvirt_type.cloud_image
    data = files.content(cloud.environment_file, LARGEST_FILE) if cloud and cloud.environment_file else None
    if cloud is None or data is None:
        return guest
    digest = file_digest(data, str(cloud.environment_file))
    image = msgspec.structs.replace(cloud, environment_digest=digest)
    completed = msgspec.structs.replace(definition, libvirt_type=LibvirtType(cloud_image=image))
    return msgspec.structs.replace(guest, definition=completed)


def check(machine: Machine, files: ProjectFiles) -> Iterator[Complaint]:
    """Files that are not there or not allowed, and combinations that cannot be."""
    body: Definition = machine.body
    at: tuple[str | int, ...] = (machine.kind, "libvirt_type")
    kind = body.libvirt_type
    if kind.cloud_image is not None:
        at = (*at, "cloud_image")
        if kind.cloud_image.path is not None:
            yield from _files.image(files, (*at, "path"), kind.cloud_image.path, None)
        if kind.cloud_image.name is not None:
            yield from _files.catalogue_image(files, (*at, "name"), kind.cloud_image.name)
        for key in ("setup_script", "run_script", "context"):
            yield from _files.carried(
                files, (*at, key), getattr(kind.cloud_image, key), folder=key == "context"
            )
        yield from _files.environment_file(
            files, (*at, "environment_file"), kind.cloud_image.environment_file, kind.cloud_image.environment
        )
    elif kind.existing_disk is not None:
        yield from _check_existing(
            kind.existing_disk, (*at, "existing_disk"), files, scaled=bool(body.scaling)
        )
    elif kind.iso_guest is not None:
        yield from _files.image(files, (*at, "iso_guest", "path"), kind.iso_guest.path, "raw")
        if body.scaling is not None:
            yield Complaint(
                code="cannot-scale",
                path=(machine.kind, "scaling"),
                message="an iso_guest cannot be cloned",
                hint="scaling works with cloud_image and existing_disk",
                at_key=True,
            )
    if body.scaling is not None:
        yield from _check_scaling(machine, body.scaling, files)


def _check_existing(
    disk: ExistingDisk, at: tuple[str | int, ...], files: ProjectFiles, *, scaled: bool
) -> Iterator[Complaint]:
    cdrom = disk.device_type == "cdrom"
    yield from _files.image(files, (*at, "path"), disk.path, "raw" if cdrom else disk.driver_type)
    if scaled and (cdrom or disk.readonly):
        yield Complaint(
            code="cannot-scale",
            path=(*at, "device_type" if cdrom else "readonly"),
            message="a guest with a read-only disk cannot be cloned: its clones could not write either",
        )


def _check_scaling(machine: Machine, scaling: _scaling.Scaling, files: ProjectFiles) -> Iterator[Complaint]:
    at = (machine.kind, "scaling")
    yield from _scaling.check(machine, scaling)
    scripts: dict[tuple[str | int, ...], str | None] = {
        ("shared_setup",): scaling.shared_setup,
        **{("clone_setup", i, "script"): each.script for i, each in enumerate(scaling.clone_setup)},
        **{("clone_run", i, "script"): each.script for i, each in enumerate(scaling.clone_run)},
    }
    for path, script in scripts.items():
        yield from _files.carried(files, (*at, *path), script)
        if script is not None and machine.body.libvirt_type.cloud_image is None:
            yield Complaint(
                code="needs-cloud-init",
                path=(*at, *path),
                message="scripts need cloud-init: only a cloud_image can have them",
            )


def disk_path(name: str) -> str:
    """The disk of a guest that is no clone."""
    return f"artefacts/{name}-cloud-init.img"


def _disk_content(kind: LibvirtType) -> Content | None:
    if kind.cloud_image is not None:
        cloud = kind.cloud_image
        return Overlay(
            image=BaseImage(name=cloud.name, path=cloud.path), expand_gigabytes=cloud.expand_gigabytes
        )
    if kind.existing_disk is not None:
        disk = kind.existing_disk
        if disk.device_type == "cdrom":
            return None
        image = BaseImage(path=disk.path, format=disk.driver_type)
        return DeepCopy(image) if disk.create_deep_copy else Overlay(image=image)
    return (
        Blank(kind.iso_guest.expand_gigabytes) if kind.iso_guest and kind.iso_guest.expand_gigabytes else None
    )


def media_path(kind: LibvirtType) -> str | None:
    """The CD-ROM image of a guest, as written in the YAML, if it has one."""
    if kind.iso_guest is not None:
        return kind.iso_guest.path
    disk = kind.existing_disk
    return disk.path if disk is not None and disk.device_type == "cdrom" else None


def artefacts(guest: GuestState, shared: Shared) -> Iterator[Artefact]:
    """Domain XML, disk, and a seed for guests with cloud-init or a link to installation media."""
    definition: GuestDefinition = guest.definition
    kind = definition.libvirt_type
    content = _disk_content(kind)
    disk = disk_path(guest.name) if content is not None else None
    if disk is not None and content is not None:
        yield Artefact(
            task=f"disk:{guest.name}",
            path=disk,
            policy=Policy.MUTABLE,
            content=content,
            summary=f"disk of {guest.name}",
            guest=guest.name,
            # a guest writes its secrets there; libvirt gives the file to QEMU's user while it needs it
            mode=0o600,
        )
    yield from with_disk(guest, shared, disk)


def with_disk(guest: GuestState, shared: Shared, disk: str | None) -> Iterator[Artefact]:
    """What a guest needs beside its disk: used for clones as well."""
    definition: GuestDefinition = guest.definition
    kind = definition.libvirt_type
    media = media_path(kind)
    media_link = f"artefacts/{guest.name}-media.iso" if media is not None else None
    if media is not None and media_link is not None:
        yield Artefact(
            task=f"media:{guest.name}",
            path=media_link,
            policy=Policy.LINK,
            content=LinkTo(BaseImage(path=media, format="raw")),
            summary=f"CD-ROM of {guest.name}",
            guest=guest.name,
        )
    seed = None
    if kind.cloud_image is not None:
        cloud = kind.cloud_image
        artefact = seed_iso(
            guest,
            shared,
            username=definition.username,
            environment=cloud.environment,
            environment_file=cloud.environment_file,
            context=cloud.context,
            setup_scripts=definition.setup_scripts,
            run_scripts=definition.run_scripts,
        )
        seed = artefact.path
        yield artefact
    yield domain_xml(
        guest,
        shared,
        cpus=definition.cpus,
        memory_mb=definition.memory_mb,
        disk=disk,
        disk_readonly=kind.existing_disk is not None and kind.existing_disk.readonly,
        media=media_link,
        seed=seed,
        # somebody has to see the screen of a guest that nobody set up to use its serial line
        graphics=kind.cloud_image is None,
    )


def deployable(guest: GuestState, shared: Shared) -> DomainGuest:
    """How libvirt runs it. What it is made of is asked of ``artefacts``, so that the two agree."""
    return runs(guest, shared, artefacts)


def runs(
    guest: GuestState, shared: Shared, artefacts_of: Callable[[GuestState, Shared], Iterator[Artefact]]
) -> DomainGuest:
    """See ``deployable``: used for clones as well."""
    definition = msgspec.convert(guest.definition, GuestDefinition)
    guest = msgspec.structs.replace(guest, definition=definition)
    files = tuple(artefacts_of(guest, shared))
    limit = definition.ready_timeout_seconds
    return DomainGuest(
        domain_xml=next(each.path for each in files if each.task.startswith("domain-xml:")),
        files=tuple(each.path for each in files),
        disk=next((each.path for each in files if each.policy is Policy.MUTABLE), None),
        cloud_init=definition.libvirt_type.cloud_image is not None,
        username=definition.username,
        setup_scripts=script_paths("setup", definition.setup_scripts),
        run_scripts=script_paths("run", definition.run_scripts),
        ready_timeout=None if limit is msgspec.UNSET else limit,
    )


def privileges(guest: GuestState, shared: Shared) -> Iterator[Privilege]:  # noqa: ARG001 (as other kinds)
    """Files outside the project that are carried into the guest. Images are looked at where they are."""
    definition = msgspec.convert(guest.definition, GuestDefinition)
    cloud = definition.libvirt_type.cloud_image
    paths = [
        *definition.setup_scripts,
        *definition.run_scripts,
        *([cloud.context] if cloud and cloud.context else []),
    ]
    for path in dict.fromkeys(paths):
        steps = posixpath.normpath(path).split("/")
        if path.startswith(("/", "~")) or steps[0] == "..":
            yield Privilege(PrivilegeKind.FILE, repr(path), f"guest {guest.name}")
