"""Disks that a PC's BIOS and UEFI boot, made without mounts or loop devices.

A FAT partition with SYSLINUX holds kernel and initramfs; a second partition may hold a root file system.
Layout of the partition table: MBR, as SYSLINUX's boot code (mbr.bin) wants it. UEFI finds SYSLINUX by the
removable path.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 1 << 20
SECTOR_BYTES = 512
BOOT_START_MIB = 1
DISK_ID = "0x6b766d63"
ROOT_PARTUUID = f"{DISK_ID[2:]}-02"
MBR_CODE = Path("/usr/lib/syslinux/mbr/mbr.bin")
#: SYSLINUX for UEFI: paths on the FAT partition -> files of the package syslinux-efi and syslinux-common.
EFI_FILES = {
    "EFI/BOOT/BOOTX64.EFI": Path("/usr/lib/SYSLINUX.EFI/efi64/syslinux.efi"),
    "ldlinux.e64": Path("/usr/lib/syslinux/modules/efi64/ldlinux.e64"),
}
MBR_CODE_BYTES = 440  # the disk's identity and the partition table follow
STEP_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Root:
    """The tree that becomes the second partition."""

    tree: Path
    mib: int


def run(argv: list[str | Path], stdin: str = "") -> None:
    subprocess.run(argv, check=True, timeout=STEP_SECONDS, input=stdin, text=True, stdout=subprocess.DEVNULL)


SYSLINUX_CONFIG = """\
DEFAULT linux
PROMPT 0
TIMEOUT 0
LABEL linux
  LINUX kernel
  INITRD initrd
  APPEND {options}
"""


def make_boot_partition(target: Path, files: Mapping[str, Path], options: str, mib: int) -> None:
    """A FAT file system that SYSLINUX boots from; ``files`` maps names in it to their sources."""
    config = target.with_suffix(".cfg")
    config.write_text(SYSLINUX_CONFIG.format(options=options))
    with target.open("wb") as file:
        file.truncate(mib * MIB)
    hidden_sectors = BOOT_START_MIB * MIB // SECTOR_BYTES
    # clusters of 32 KiB: the BIOS takes five times as long to read a file in small ones
    run(["mkfs.vfat", "-n", "BOOT", "-s", "64", "-h", str(hidden_sectors), target])
    run(["mmd", "-i", target, "::EFI", "::EFI/BOOT"])
    for name, source in {**files, **EFI_FILES, "syslinux.cfg": config}.items():
        run(["mcopy", "-i", target, source, f"::{name}"])
    run(["syslinux", "--install", target])
    config.unlink()


def make_disk(
    target: Path, files: Mapping[str, Path], options: str, *, boot_mib: int, root: Root | None
) -> None:
    """Write the raw disk image ``target``; holes stay holes."""
    root_start_mib = BOOT_START_MIB + boot_mib
    table = [f"label: dos\nlabel-id: {DISK_ID}\n"]
    table.append(f"start={BOOT_START_MIB}MiB, size={boot_mib}MiB, type=e, bootable\n")
    if root:
        table.append(f"start={root_start_mib}MiB, size={root.mib}MiB, type=83\n")
    with target.open("wb") as disk:
        disk.truncate((root_start_mib + (root.mib if root else 0)) * MIB)
    run(["sfdisk", "--quiet", target], "".join(table))
    boot = target.with_suffix(".fat")
    make_boot_partition(boot, files, options, boot_mib)
    with target.open("r+b") as disk:
        disk.write(MBR_CODE.read_bytes()[:MBR_CODE_BYTES])
        disk.seek(BOOT_START_MIB * MIB)
        with boot.open("rb") as source:
            shutil.copyfileobj(source, disk, MIB)
    boot.unlink()
    if root:
        # Everything initialised now: the kernel would do it during the first boot, into the overlay.
        extended = f"offset={root_start_mib * MIB},lazy_itable_init=0,lazy_journal_init=0"
        run([
            "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-E", extended, "-J", "size=16",
            "-d", root.tree, target, f"{root.mib}M",
        ])  # fmt: skip
