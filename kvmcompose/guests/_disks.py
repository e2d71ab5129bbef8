"""The disks of libvirt guests: cloud images, existing disks, installation media."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from kvmcompose.core.artefact import BaseImage, Blank, Content, DeepCopy, Overlay
from kvmcompose.core.errors import Complaint
from kvmcompose.core.project import ProjectFiles
from kvmcompose.guests import _files
from kvmcompose.guests._context import ContextSection, GivenFiles, check_context


class CloudImage(GivenFiles, msgspec.Struct, frozen=True, omit_defaults=True):
    """A cloud image with cloud-init: from the catalogue by name, or a file. ``expand_gigabytes`` is in GiB.

    ``environment_digest`` is not a key of the YAML: it represents the content of ``environment_file``.
    """

    name: str | None = None
    path: str | None = None
    expand_gigabytes: int = 0
    context: str | ContextSection | None = None
    environment: dict[str, str] = {}
    environment_file: str | None = None
    environment_digest: str | None = None
    setup_script: str | None = None
    run_script: str | None = None


class ExistingDisk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A disk image that the user prepared. ``expand_gigabytes`` is in GiB."""

    path: str
    expand_gigabytes: int = 0
    driver_type: Literal["raw", "qcow2"] | None = None
    device_type: Literal["disk", "cdrom"] = "disk"
    readonly: bool = False
    create_deep_copy: bool = False


class IsoGuest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Installation media, and an empty disk of ``expand_gigabytes`` GiB unless that is 0.

    ``unattended`` is an answer file, or files by their names on a medium of their own; ``drivers`` an ISO.
    """

    path: str
    expand_gigabytes: int = 0
    unattended: str | dict[str, str] | None = None
    drivers: str | None = None


class NetworkGuest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Booting from the network, and an empty disk of ``expand_gigabytes`` GiB unless that is 0."""

    expand_gigabytes: int = 0


class LibvirtType(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a guest boots from. Exactly one of these is set."""

    cloud_image: CloudImage | None = None
    existing_disk: ExistingDisk | None = None
    iso_guest: IsoGuest | None = None
    network_guest: NetworkGuest | None = None


def disk_path(identity: str) -> str:
    """Return the path of the disk of a guest that is not a clone, relative to the project folder."""
    return f"artefacts/{identity}-cloud-init.img"


def disk_content(kind: LibvirtType) -> Content | None:
    """Return how to make the disk of a guest, or None for a guest without one of its own."""
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
        if disk.create_deep_copy:
            return DeepCopy(image)
        return Overlay(image=image, expand_gigabytes=disk.expand_gigabytes)
    empty = kind.iso_guest or kind.network_guest
    return Blank(empty.expand_gigabytes) if empty is not None and empty.expand_gigabytes else None


def media_path(kind: LibvirtType) -> str | None:
    """Return the path of a guest's CD-ROM image, as written in the YAML, or None."""
    if kind.iso_guest is not None:
        return kind.iso_guest.path
    disk = kind.existing_disk
    return disk.path if disk is not None and disk.device_type == "cdrom" else None


def check(
    kind: LibvirtType, at: tuple[str | int, ...], files: ProjectFiles, *, scaled: bool
) -> Iterator[Complaint]:
    """Yield the problems of the files named at the path ``at``, and of what cannot be ``scaled``."""
    if kind.cloud_image is not None:
        at = (*at, "cloud_image")
        if kind.cloud_image.path is not None:
            yield from _files.image(files, (*at, "path"), kind.cloud_image.path, None)
        if kind.cloud_image.name is not None:
            yield from _files.catalogue_image(files, (*at, "name"), kind.cloud_image.name)
        for key in ("setup_script", "run_script"):
            yield from _files.script(files, (*at, key), getattr(kind.cloud_image, key))
        if kind.cloud_image.context is not None:
            yield from check_context(kind.cloud_image.context, (*at, "context"), files)
        yield from _files.environment(
            files, at, kind.cloud_image.environment, kind.cloud_image.environment_file
        )
    elif kind.existing_disk is not None:
        yield from _check_existing(kind.existing_disk, (*at, "existing_disk"), files, scaled=scaled)
    elif kind.iso_guest is not None:
        yield from _files.image(files, (*at, "iso_guest", "path"), kind.iso_guest.path, "raw")
        if scaled:
            yield Complaint(
                code="cannot-scale",
                path=(at[0], "scaling"),
                message="an iso_guest cannot be cloned",
                hint="scaling works with cloud_image and existing_disk",
                at_key=True,
            )


def _check_existing(
    disk: ExistingDisk, at: tuple[str | int, ...], files: ProjectFiles, *, scaled: bool
) -> Iterator[Complaint]:
    cdrom = disk.device_type == "cdrom"
    wanted = "raw" if cdrom else disk.driver_type
    is_raw = disk.driver_type == "raw"
    yield from _files.image(files, (*at, "path"), disk.path, wanted, is_said=is_raw, format_key="driver_type")
    conflicts = {"device_type": cdrom, "readonly": disk.readonly, "create_deep_copy": disk.create_deep_copy}
    conflict = next((key for key, is_given in conflicts.items() if is_given), None)
    if disk.expand_gigabytes and conflict is not None:
        yield Complaint(
            code="hardware-conflict",
            path=(*at, "expand_gigabytes"),
            message=f"expand_gigabytes does not go with {conflict}: only an overlay that is written to grows",
            at_key=True,
        )
    if scaled and (cdrom or disk.readonly):
        yield Complaint(
            code="cannot-scale",
            path=(*at, "device_type" if cdrom else "readonly"),
            message="a guest with a read-only disk cannot be cloned: its clones could not write either",
        )
