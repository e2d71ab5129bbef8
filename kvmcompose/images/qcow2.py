"""What the header of a disk image says, read without running anything.

qcow2 as in QEMU's docs/interop/qcow2.rst, sections "Header" and "Header extensions". Whoever opens an
image hands QEMU a list of further files to open (its backing file, its external data file); so images
from elsewhere are looked at here before anything else opens them.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.opening import open_regular

if TYPE_CHECKING:
    from pathlib import Path

    from kvmcompose.images.catalogue import ImageFormat

#: So much of an image's beginning has its header and, whoever wrote it, the name of its backing file.
HEAD_BYTES = 1 << 16

_MAGIC = b"QFI\xfb"
_VERSION_2_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_VERSION_2_LENGTH = 72
_VERSION_3_LENGTH = 104
_CLUSTER_BITS = range(9, 22)
_LARGEST_CLUSTER = 1 << 21
_LARGEST_BACKING_NAME = 1023
_LARGEST_DISK = 2**63 - 1
_LARGEST_L1 = (32 << 20) // 8  # QEMU's own limit (QCOW_MAX_L1_SIZE), in entries
_EXTERNAL_DATA_FILE = 1 << 2
_EXTENSION_END = 0
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441
_ENCRYPTION = {0: None, 1: "AES", 2: "LUKS"}

#: What other files begin with (offset, bytes, name): said by name, because "not a disk image" helps nobody.
_FOREIGN = (
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (0, b"PK\x03\x04", "a zip archive"),
    (257, b"ustar", "a tar archive (an OVA is one)"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"QED\0", "a QED image"),
)
#: Raw disks have no magic of their own: a boot sector or partition table, or a file system without one.
_RAW_MARKS = (
    (510, b"\x55\xaa"),
    (0x438, b"\x53\xef"),  # ext2, ext3, ext4
    (0, b"XFSB"),
    (0x10040, b"_BHRfS_M"),  # btrfs
    (0x8001, b"CD001"),  # ISO 9660
)
_MARKS_END = 0x10048


class ImageHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of an image's header; ``virtual_size`` in bytes.

    ``backing_file`` and ``data_file`` are the names as they stand in the image, relative to its folder.
    ``encryption`` is ``AES`` or ``LUKS``.
    """

    format: ImageFormat
    virtual_size: int
    backing_file: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    encryption: str | None = None


def read_header(path: Path) -> ImageHeader:
    """The header facts of a qcow2 image; anything without qcow2's magic counts as raw.

    Raises KvmComposeError when the file cannot be read, or has the magic but no sound header.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if file.read(len(_MAGIC)) != _MAGIC:
                return ImageHeader(format="raw", virtual_size=size)
            file.seek(0)
            head = file.read(_LARGEST_CLUSTER)
    except OSError as error:
        raise KvmComposeError(f"cannot read the image {path}: {error.strerror}") from error
    try:
        return _parse_qcow2(head)
    except ValueError as error:
        raise KvmComposeError(
            f"{path} is not a sound qcow2 image: {error}",
            hint="it may be cut off or damaged: fetch it again, or ask qemu-img check",
        ) from error


class L1Table(msgspec.Struct, frozen=True, kw_only=True):
    """Where an image's map of its clusters begins, in bytes (the first of its two levels)."""

    offset: int
    length: int


def parse_header(head: bytes) -> ImageHeader | None:
    """The header facts from the first HEAD_BYTES of an image; None when it is not qcow2.

    Raises ValueError when it has the magic but no sound header.
    """
    return _parse_qcow2(head) if head.startswith(_MAGIC) else None


def l1_table(head: bytes) -> L1Table | None:
    """The place of the first-level table, from the first bytes of an image; None when it is not qcow2.

    All zeros there: the image holds no cluster of its own, and reads as its backing file does or as zeros.
    None, too, for an image with snapshots: what they hold is not in the table. Raises ValueError when the
    header is not sound.
    """
    if parse_header(head) is None:
        return None
    *_, entries, offset, _, _, snapshots, _ = _VERSION_2_HEADER.unpack_from(head)
    if snapshots:
        return None
    if entries > _LARGEST_L1:
        raise ValueError(f"a first-level table of {entries} entries")
    return L1Table(offset=offset, length=entries * 8)


def is_pristine(path: Path) -> bool:
    """Whether an image holds nothing of its own yet. Raises OSError, or ValueError for an unsound header."""
    with os.fdopen(open_regular(path), "rb") as file:
        table = l1_table(file.read(HEAD_BYTES))
        if table is None:
            return False
        file.seek(table.offset)
        return not any(file.read(table.length))


def refuse_no_image(path: Path) -> None:
    """Raise KvmComposeError for a file that is neither a qcow2 image nor looks like a raw disk."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            head = file.read(_MARKS_END)
    except OSError as error:
        raise KvmComposeError(f"cannot read the image {path}: {error.strerror}") from error
    if head.startswith(_MAGIC):
        return
    if not head:
        raise KvmComposeError(f"{path} is empty")
    for offset, magic, name in _FOREIGN:
        if head.startswith(magic, offset):
            archive = "archive" in name
            hint = "unpack it first" if archive else f"qemu-img convert -O qcow2 {path} {path.stem}.qcow2"
            raise KvmComposeError(f"{path} is {name}, not a qcow2 or raw disk image", hint=hint)
    if not any(head.startswith(mark, offset) for offset, mark in _RAW_MARKS):
        raise KvmComposeError(
            f"{path} is no disk image: neither qcow2 nor a raw disk with a boot sector or a file system"
        )


def _parse_qcow2(head: bytes) -> ImageHeader:
    """The facts in an image's first bytes. Raises ValueError with what is wrong with them."""
    if len(head) < _VERSION_2_LENGTH:
        raise ValueError(f"its header ends after {len(head)} bytes")
    _, version, name_offset, name_length, cluster_bits, virtual_size, crypt_method, *_ = (
        _VERSION_2_HEADER.unpack_from(head)
    )
    if version not in (2, 3):
        raise ValueError(f"version {version} (known are 2 and 3)")
    if cluster_bits not in _CLUSTER_BITS:
        raise ValueError(f"cluster_bits is {cluster_bits}")
    if virtual_size > _LARGEST_DISK:
        raise ValueError(f"a virtual size of {virtual_size} bytes")
    if crypt_method not in _ENCRYPTION:
        raise ValueError(f"encryption method {crypt_method}")
    head = head[: 1 << cluster_bits]  # extensions and the backing file's name lie in the first cluster
    header_length, external_data = _VERSION_2_LENGTH, False
    if version == 3:  # noqa: PLR2004
        header_length, external_data = _parse_version_3(head)

    backing_file = None
    extensions = head
    if name_offset:
        if name_offset < header_length or name_length > _LARGEST_BACKING_NAME:
            raise ValueError(f"a backing file name of {name_length} bytes at offset {name_offset}")
        extensions = head[:name_offset]
        backing_file = _name(head, name_offset, name_length)
    found = _parse_extensions(extensions, header_length)
    data_file = found.get(_EXTENSION_DATA_FILE)
    if external_data and not data_file:
        raise ValueError("its data lie in another file that it does not name")
    return ImageHeader(
        format="qcow2",
        virtual_size=virtual_size,
        backing_file=backing_file,
        backing_format=found.get(_EXTENSION_BACKING_FORMAT),
        data_file=data_file,
        encryption=_ENCRYPTION[crypt_method],
    )


def _parse_version_3(head: bytes) -> tuple[int, bool]:
    """The header's length, and whether the data lie in another file."""
    if len(head) < _VERSION_3_LENGTH:
        raise ValueError(f"its header ends after {len(head)} bytes")
    (incompatible,) = struct.unpack_from(">Q", head, 72)
    (header_length,) = struct.unpack_from(">I", head, 100)
    if not _VERSION_3_LENGTH <= header_length <= len(head):
        raise ValueError(f"header_length is {header_length}")
    return header_length, bool(incompatible & _EXTERNAL_DATA_FILE)


def _parse_extensions(head: bytes, offset: int) -> dict[int, str | None]:
    """The text of those header extensions that hold text. Each is padded to 8 bytes."""
    found: dict[int, str | None] = {}
    while offset + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, offset)
        if kind == _EXTENSION_END:
            break
        offset += 8
        if offset + length > len(head):
            raise ValueError(f"a header extension of {length} bytes at offset {offset} reaches past its end")
        if kind in (_EXTENSION_BACKING_FORMAT, _EXTENSION_DATA_FILE):
            found[kind] = _name(head, offset, length)
        offset += (length + 7) & ~7
    return found


def _name(head: bytes, offset: int, length: int) -> str | None:
    """Some bytes as a file name; none (as qemu-img rebase leaves behind) is no name."""
    if offset + length > len(head):
        raise ValueError(f"a name of {length} bytes at offset {offset} reaches past its end")
    return os.fsdecode(head[offset : offset + length].split(b"\0", 1)[0]) or None
