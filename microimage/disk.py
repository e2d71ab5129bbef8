"""Make disks that a PC's BIOS and UEFI boot, without root: no mounts, no loop devices.

A small FAT partition holds SYSLINUX, the kernel and its initramfs, a second, ext4, the root file system.
UEFI finds SYSLINUX by the removable path.
The partition table (MBR, which SYSLINUX's boot code requires) gives the second partition more sectors than
any disk has: Linux ends such a partition where the disk ends, so a larger overlay needs no new table.
UEFI ignores a table with a partition that ends behind the disk, unless that is of type 0, which it skips.
Linux looks at the sizes of partitions only, and not at this type.

The same files give the same bytes: every time stamp, UUID and hash seed is set.
"""

from __future__ import annotations

import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.core.errors import RefusedError
from kvmcompose.effects.process import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from microimage.filetree import TreeEntry

MIB = 2**20
SECTOR = 512  # bytes
#: program -> Debian package
PROGRAMS = {
    "debugfs": "e2fsprogs",
    "mcopy": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mmd": "mtools",
    "qemu-img": "qemu-utils",
    "syslinux": "syslinux",
}

_BOOT_START = MIB  # bytes
_CODE_BYTES = 440  # of a master boot record; the disk signature and the table follow
_CODE_FILES = (Path("/usr/lib/syslinux/mbr/mbr.bin"), Path("/usr/lib/SYSLINUX/mbr.bin"))
#: SYSLINUX for UEFI: name in the boot partition -> Debian package, and the file in it.
_EFI_FILES = {
    "EFI/BOOT/BOOTX64.EFI": ("syslinux-efi", "/usr/lib/SYSLINUX.EFI/efi64/syslinux.efi"),
    "ldlinux.e64": ("syslinux-common", "/usr/lib/syslinux/modules/efi64/ldlinux.e64"),
}
_EFI_FOLDERS = ("EFI", "EFI/BOOT")
_DISK_ID = 0x6B766D63
_FAT_ID = "6b766d63"
_ROOT_ID = "6b766d63-0000-4000-8000-000000000001"
_FAT, _SKIPPED = 0x0E, 0  # partition types
_LBA_ONLY = bytes([0xFE, 0xFF, 0xFF])  # the cylinder, head and sector of a partition addressed by LBA
# 32 KiB: the BIOS takes five times as long to read a file in small clusters
_CLUSTER_SECTORS = 64
_CONFIG = "DEFAULT linux\nPROMPT 0\nTIMEOUT 0\nLABEL linux\n  LINUX kernel\n  INITRD initrd\n  APPEND {}\n"
# a complete list, as the defaults of mke2fs depend on a configuration file; no checksums, as they take time
_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,flex_bg,sparse_super,large_file,"
    "huge_file,dir_nlink,extra_isize"
)


class Layout(msgspec.Struct, frozen=True):
    """The sizes of the partitions, in bytes. The root partition reaches to the end of the disk."""

    boot_size: int
    root_size: int

    @property
    def root_start(self) -> int:
        """The offset of the root partition."""
        return _BOOT_START + self.boot_size

    @property
    def size(self) -> int:
        """The size of the disk."""
        return self.root_start + self.root_size


def boot_code() -> bytes:
    """Return the boot code of SYSLINUX's master boot record. Raises RefusedError when it is not installed."""
    for path in _CODE_FILES:
        if path.is_file():
            return path.read_bytes()[:_CODE_BYTES]
    raise RefusedError(
        f"SYSLINUX's boot code is not installed ({_CODE_FILES[0]})",
        hint="sudo apt-get install --no-install-recommends syslinux-common",
    )


def efi_files() -> dict[str, bytes]:
    """Return SYSLINUX for UEFI, by names in the boot partition.

    Raises RefusedError when it is not installed.
    """
    found = {}
    for name, (package, path) in _EFI_FILES.items():
        if not Path(path).is_file():
            raise RefusedError(
                f"SYSLINUX for UEFI is not installed ({path})",
                hint=f"sudo apt-get install --no-install-recommends {package}",
            )
        found[name] = Path(path).read_bytes()
    return found


def master_boot_record(code: bytes, layout: Layout) -> bytes:
    """Return the first sector of the disk: boot code, and a table with both partitions."""
    start = layout.root_start // SECTOR
    table = _partition(_FAT, _BOOT_START // SECTOR, layout.boot_size // SECTOR, bootable=True)
    table += _partition(_SKIPPED, start, 2**32 - 1 - start)
    head = code.ljust(_CODE_BYTES, b"\0") + struct.pack("<IH", _DISK_ID, 0)
    return head + table.ljust(64, b"\0") + b"\x55\xaa"


def _partition(kind: int, start: int, sectors: int, *, bootable: bool = False) -> bytes:
    return struct.pack("<B3sB3sII", 0x80 if bootable else 0, _LBA_ONLY, kind, _LBA_ONLY, start, sectors)


def ownership(entries: Iterable[TreeEntry], *, mtime: int) -> str:
    """Return a debugfs script that gives all files to root and sets their times.

    mke2fs would keep the owner of the files it copies.
    """
    lines = []
    for path in ("/", "/lost+found", *(f"/{entry.path}" for entry in entries)):
        facts = {"uid": 0, "gid": 0, **dict.fromkeys(("atime", "ctime", "mtime", "crtime"), f"@{mtime}")}
        lines += [f"sif {path} {name} {fact}" for name, fact in facts.items()]
    return "\n".join([*lines, ""])


def write_tree(entries: Iterable[TreeEntry], folder: Path) -> None:
    """Write entries (folders first) into an empty folder."""
    for entry in entries:
        path = folder / entry.path
        if stat.S_ISDIR(entry.mode):
            path.mkdir()
        elif stat.S_ISLNK(entry.mode):
            path.symlink_to(entry.data.decode())
            continue
        else:
            path.write_bytes(entry.data)
        path.chmod(stat.S_IMODE(entry.mode))


def make_disk(
    target: Path,
    *,
    layout: Layout,
    boot: Mapping[str, bytes],
    options: str,
    root: Sequence[TreeEntry],
    programs: Mapping[str, str],
    mtime: int,
) -> None:
    """Write the disk as a qcow2 image; temporary files go to the folder of ``target``.

    The root partition is compressed, the boot partition is not: the BIOS reads a few sectors at a time, and
    QEMU would decompress a whole cluster for each of them, a third of the time that an emulated boot takes.

    ``boot`` has the keys ``kernel`` and ``initrd``, ``options`` is the kernel's command line, ``programs``
    has the paths of PROGRAMS. All files get the time ``mtime`` (seconds since 1970).
    """
    folder = target.parent
    raw, fat, tree = folder / "disk.raw", folder / "boot.fat", folder / "tree"
    with raw.open("wb") as disk:
        disk.write(master_boot_record(boot_code(), layout))
        disk.truncate(layout.size)
    files = {**boot, **efi_files(), "syslinux.cfg": _CONFIG.format(options).encode()}
    _make_boot(fat, files, layout, programs, mtime)
    tree.mkdir()
    write_tree(root, tree)
    _make_root(raw, tree, root, layout, programs, mtime)
    convert, env = [programs["qemu-img"], "convert", "-f", "raw"], {"LC_ALL": "C"}
    run([*convert, "-c", "-O", "qcow2", str(raw), str(target)], env=env)
    place = f"driver=raw,offset={_BOOT_START},size={layout.boot_size},file.driver=qcow2,file.file.driver=file"
    # by names in their folder: a comma in its path would have a meaning
    place += f",file.file.filename={target.name}"
    run([*convert, "-n", "--target-image-opts", fat.name, place], cwd=folder, env=env)


def _make_boot(
    fat: Path, files: Mapping[str, bytes], layout: Layout, programs: Mapping[str, str], mtime: int
) -> None:
    with fat.open("wb") as disk:
        disk.truncate(layout.boot_size)
    env = {"LC_ALL": "C", "TZ": "UTC", "SOURCE_DATE_EPOCH": str(mtime), "MTOOLSRC": "/dev/null"}
    argv = [programs["mkfs.vfat"], "--invariant", "-i", _FAT_ID, "-n", "BOOT"]
    run([*argv, "-s", str(_CLUSTER_SECTORS), "-h", str(_BOOT_START // SECTOR), str(fat)], env=env)
    for name in _EFI_FOLDERS:
        run([programs["mmd"], "-i", str(fat), f"::{name}"], env=env)
    for name, data in files.items():
        source = fat.with_name("boot-file")
        source.write_bytes(data)
        run([programs["mcopy"], "-i", str(fat), str(source), f"::{name}"], env=env)
    run([programs["syslinux"], "--install", str(fat)], env=env)


def _make_root(
    raw: Path,
    tree: Path,
    entries: Sequence[TreeEntry],
    layout: Layout,
    programs: Mapping[str, str],
    mtime: int,
) -> None:
    env = {"LC_ALL": "C", "E2FSPROGS_FAKE_TIME": str(mtime), "MKE2FS_CONFIG": "/dev/null"}
    # initialise all tables now: the kernel would do so at the first boot, in the overlay of each guest
    extended = f"offset={layout.root_start},lazy_itable_init=0,lazy_journal_init=0,hash_seed={_ROOT_ID}"
    argv = [programs["mke2fs"], "-q", "-F", "-t", "ext4", "-O", _FEATURES, "-L", "micro-root", "-U", _ROOT_ID]
    argv += ["-b", "4096", "-I", "256", "-N", "16384", "-m", "0", "-J", "size=4", "-E", extended]
    run([*argv, "-d", str(tree), str(raw), f"{layout.root_size // 1024}k"], env=env)
    script = raw.with_name("ownership")
    script.write_text(ownership(entries, mtime=mtime))
    run([programs["debugfs"], "-w", "-f", str(script), f"{raw}?offset={layout.root_start}"], env=env)
