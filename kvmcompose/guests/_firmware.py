"""The firmware, TPM and architecture of libvirt guests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from kvmcompose.core.errors import Complaint
from kvmcompose.core.project import ProjectFiles

Arch = Literal["x86_64", "aarch64"]
Firmware = Literal["bios", "uefi", "uefi-secure"]

#: The architecture of guests whose machine has none.
USUAL_ARCH: Arch = "x86_64"


def nvram_path(identity: str, firmware: Firmware | None, arch: Arch | None) -> str | None:
    """Return the path of the variables of a guest's UEFI, relative to the project folder; None with a BIOS.

    Another firmware has another file: the variables of one are of no use to the other, and those with the
    keys of secure boot come from a template of their own.
    """
    if (arch or USUAL_ARCH) != USUAL_ARCH:
        return f"artefacts/{identity}-{arch}-nvram.fd"
    return f"artefacts/{identity}-{firmware}-nvram.fd" if firmware not in (None, "bios") else None


def check_image_arch(
    files: ProjectFiles, at: tuple[str | int, ...], name: str, arch: Arch | None
) -> Iterator[Complaint]:
    """Yield the problem of an image of the catalogue, named at the path ``at``, for another architecture."""
    wanted, found = arch or USUAL_ARCH, files.image_arch(name)
    if found not in (None, wanted):
        yield Complaint(
            code="hardware-conflict",
            path=at,
            message=f"{name!r} is an image for {found}, and the guest is {wanted}",
            wanted=f"an image for {wanted}",
            hint="cloud_image: {path: FILE}, or kvm-compose cloud-images add NAME FILE",
        )


def check_firmware(section: str, firmware: Firmware | None, arch: Arch | None) -> Iterator[Complaint]:
    """Yield the problem of a firmware that the architecture does not have."""
    if arch == "aarch64" and firmware in ("bios", "uefi-secure"):
        yield Complaint(
            code="hardware-conflict",
            path=(section, "firmware"),
            message=f"{firmware} is not available for an aarch64 guest",
            wanted="uefi",
            hint="an aarch64 guest has UEFI firmware without this key",
        )
