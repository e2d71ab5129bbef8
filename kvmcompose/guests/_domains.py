"""Guests that libvirt runs as domains: their artefacts except the disk, and how to run them."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence

import msgspec

from kvmcompose.core.artefact import IMAGES, Artefact, BaseImage, LinkTo, Literal, Policy
from kvmcompose.core.deployable import DomainGuest
from kvmcompose.core.errors import Complaint
from kvmcompose.core.model import Guest
from kvmcompose.core.privilege import Privilege, PrivilegeKind
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import GuestState, Interface, Shared
from kvmcompose.guests._cloud_init import StoredCloudInit
from kvmcompose.guests._disks import LibvirtType, media_path
from kvmcompose.guests._firmware import USUAL_ARCH, nvram_path
from kvmcompose.guests._further_disks import (
    BootDiskKeys,
    FurtherDisk,
    disk_devices,
    further_artefacts,
    own_cdroms,
    shared_disks,
)
from kvmcompose.guests._installation import answer_files, installation_artefacts, installation_media
from kvmcompose.guests._machine import MachineKeys, hardware, hardware_need
from kvmcompose.guests._network_config import check_addresses
from kvmcompose.guests._ready import ReadyKey, ready
from kvmcompose.guests._shares import Share, filesystems, mount_commands, mounts
from kvmcompose.render.cloud_init import NETWORK_CONFIG
from kvmcompose.render.domain import domain_xml
from kvmcompose.render.platform import cdrom_bus
from kvmcompose.render.seed import script_paths, seed_iso


class DomainKeys(MachineKeys, frozen=True, kw_only=True, omit_defaults=True):
    """The keys of the ``libvirt`` section that a guest has as its machine has them, clones included.

    ``memory_mb`` and ``max_memory_mb`` are in MiB. Keys that are not given are not in the state.
    """

    cpus: int
    memory_mb: int
    max_cpus: int | None = None
    max_memory_mb: int | None = None
    username: str
    libvirt_type: LibvirtType
    ready: ReadyKey | None = None
    boot_disk: BootDiskKeys | None = None
    disks: tuple[FurtherDisk, ...] = ()
    ready_timeout_seconds: int | None = None
    shares: tuple[Share, ...] = ()


class DomainSection(DomainKeys, frozen=True, kw_only=True):
    """The ``libvirt`` section of a guest in the state, with the guest's own scripts, in order."""

    setup_scripts: tuple[str, ...]
    run_scripts: tuple[str, ...]
    cloud_init: StoredCloudInit | None = None


def with_disk(guest: GuestState, shared: Shared, disk: str | None) -> Iterator[Artefact]:
    """Yield a guest's artefacts except its ``disk``: domain XML, and a seed or a link to an ISO image."""
    definition: DomainSection = guest.definition
    kind = definition.libvirt_type
    media = media_path(kind)
    media_link = f"artefacts/{guest.identity}-media.iso" if media is not None else None
    if media is not None and media_link is not None:
        yield Artefact(
            task=f"media:{guest.name}",
            path=media_link,
            policy=Policy.LINK,
            content=LinkTo(BaseImage(path=media, format="raw")),
            summary=f"CD-ROM of {guest.name}",
            guest=guest.name,
        )
    nvram = nvram_path(guest.identity, definition.firmware, definition.arch)
    if nvram is not None:
        yield Artefact(
            task=f"nvram:{guest.name}",
            path=nvram,
            policy=Policy.MUTABLE,
            # empty: what is in it, and how large it is, depends on the firmware that the guest's host has
            content=Literal(b""),
            summary=f"UEFI variables of {guest.name}",
            guest=guest.name,
            mode=0o600,
        )
    yield from further_artefacts(guest, definition.disks)
    yield from installation_artefacts(guest, kind)
    seed, cdroms = None, installation_media(guest.identity, kind)
    if kind.cloud_image is not None:
        cloud = kind.cloud_image
        own = definition.cloud_init
        artefact = seed_iso(
            guest,
            shared,
            username=definition.username,
            environment=cloud.environment,
            environment_file=cloud.environment_file,
            context=cloud.context_path,
            context_modes=cloud.context_modes,
            setup_scripts=definition.setup_scripts,
            run_scripts=definition.run_scripts,
            cloud_init=own.for_seed() if own is not None else None,
            cloud_init_files=own.paths if own is not None else {},
            windows=own.windows if own is not None else None,
            mounts=mount_commands(definition.shares),
        )
        # Windows sees a disk of virtio only with drivers, a CD-ROM always
        seed, cdroms = (None, (artefact.path,)) if is_windows(definition) else (artefact.path, ())
        yield artefact
    cdrom = cdrom_bus(definition.arch or USUAL_ARCH)
    boot_disk = (definition.boot_disk or BootDiskKeys()).device(has_media=media is not None)
    xml = domain_xml(
        guest,
        shared,
        cpus=definition.cpus,
        memory_mb=definition.memory_mb,
        max_cpus=definition.max_cpus,
        max_memory_mb=definition.max_memory_mb,
        disk=disk,
        disk_readonly=kind.existing_disk is not None and kind.existing_disk.readonly,
        media=media_link,
        seed=seed,
        boot_disk=boot_disk,
        further=disk_devices(guest, definition.disks, cdrom, boot_disk),
        cdroms=own_cdroms(cdroms, definition.disks, cdrom, boot_disk),
        # a guest without cloud-init may not use its serial line, so its screen must be visible
        hardware=hardware(
            definition,
            has_screen=kind.cloud_image is None or is_windows(definition),
            from_network=kind.network_guest is not None,
        ),
        arch=definition.arch or USUAL_ARCH,
        nvram=nvram,
        secure_boot=definition.firmware == "uefi-secure",
        tpm=definition.tpm,
        filesystems=filesystems(definition.shares, shared.host_config.project_folder),
    )
    # they belong to no guest: whoever builds one guest needs them, too
    yield msgspec.structs.replace(xml, after=tuple(shared_disks(guest, definition.disks)))


def is_windows(definition: DomainSection) -> bool:
    """Return whether cloudbase-init reads the guest's seed, and not cloud-init."""
    return definition.cloud_init is not None and definition.cloud_init.windows is not None


def _has_cloud_init(definition: DomainSection) -> bool:
    return definition.libvirt_type.cloud_image is not None and not is_windows(definition)


def can_be_entered(guest: Guest) -> bool:
    """Return whether the guest has cloud-init, which lets our key in, or is entered by its agent."""
    definition: DomainSection = guest.definition
    wanted = ready(definition.ready)
    return _has_cloud_init(definition) or (wanted is not None and wanted.agent)


def check_interfaces(
    guest: Guest, interfaces: Sequence[Interface], files: ProjectFiles
) -> Iterator[Complaint]:
    """Yield warnings where a network configuration of the user's has other addresses than the testbed."""
    at = ("machines", guest.machine.index, guest.machine.kind, "cloud_init", NETWORK_CONFIG)
    yield from check_addresses(guest.definition.cloud_init, guest.name, interfaces, at, files)


def says_when_ready(guest: Guest) -> bool:
    """Return whether ``up`` waits for the guest."""
    definition: DomainSection = guest.definition
    wanted = ready(definition.ready)
    return can_be_entered(guest) if wanted is None else wanted.is_anything


def runs(
    guest: GuestState, shared: Shared, artefacts_of: Callable[[GuestState, Shared], Iterator[Artefact]]
) -> DomainGuest:
    """Return how libvirt runs a guest, from its ``artefacts_of``, so that the two always agree."""
    definition = msgspec.convert(guest.definition, DomainSection)
    guest = msgspec.structs.replace(guest, definition=definition)
    files = tuple(artefacts_of(guest, shared))
    written = [each for each in files if each.policy is Policy.MUTABLE]
    boot = next(
        (each.path for each in written if each.task in (f"disk:{guest.name}", f"clone:{guest.name}")), None
    )
    return DomainGuest(
        domain_xml=next(each.path for each in files if each.task.startswith("domain-xml:")),
        files=tuple(each.path for each in files),
        disks=tuple(sorted((each.path for each in written), key=lambda path: path != boot)),
        raw_disks=frozenset(each.path for each in written if not isinstance(each.content, IMAGES)),
        shared_disks=shared_disks(guest, definition.disks),
        boot_disk=boot,
        cloud_init=_has_cloud_init(definition),
        username=definition.username,
        setup_scripts=script_paths("setup", definition.setup_scripts),
        run_scripts=script_paths("run", definition.run_scripts),
        ready=ready(definition.ready),
        ready_timeout=definition.ready_timeout_seconds,
        memory_mb=definition.memory_mb,
        cpus=definition.cpus,
        mounts=mounts(definition.shares),
        nvram=nvram_path(guest.identity, definition.firmware, definition.arch),
        secure_boot=definition.firmware == "uefi-secure",
        tpm=definition.tpm,
        arch=definition.arch or USUAL_ARCH,
        hardware=hardware_need(definition),
        most_memory_mb=max(definition.memory_mb, definition.max_memory_mb or 0),
    )


def privileges(guest: GuestState, shared: Shared) -> Iterator[Privilege]:  # noqa: ARG001 (as other kinds)
    """Yield the files outside the project that are copied into the guest.

    Images are not included: they can be anywhere, and their contents are checked instead.
    """
    definition = msgspec.convert(guest.definition, DomainSection)
    cloud = definition.libvirt_type.cloud_image
    paths = [
        *definition.setup_scripts,
        *definition.run_scripts,
        *([cloud.context_path] if cloud and cloud.context_path else []),
        *(definition.cloud_init.paths.values() if definition.cloud_init else []),
        *answer_files(definition.libvirt_type).values(),
    ]
    for path in dict.fromkeys(paths):
        steps = posixpath.normpath(path).split("/")
        if path.startswith(("/", "~")) or steps[0] == "..":
            yield Privilege(PrivilegeKind.FILE, repr(path), f"guest {guest.name}")
