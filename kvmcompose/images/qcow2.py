"""Read the headers of disk images without running a program.

Format of qcow2: QEMU, docs/interop/qcow2.rst, sections "Header" and "Header extensions". An image can name
further files for QEMU to open (its backing file, its external data file); so images of unknown origin are
inspected here before anything else opens them.
"""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.opening import open_regular

if TYPE_CHECKING:
    from pathlib import Path

    from kvmcompose.images.catalogue import ImageFormat

#: An image's first bytes, which contain its header and, by all known writers, the name of its backing file.
HEAD_BYTES = 1 << 16

#: The first bytes of every qcow2 image.
QCOW2_MAGIC = b"QFI\xfb"
_VERSION_2_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_VERSION_2_LENGTH = 72
_VERSION_3_LENGTH = 104
_CLUSTER_BITS = range(9, 22)
_LARGEST_CLUSTER = 1 << 21
_LARGEST_BACKING_NAME = 1023
_LARGEST_DISK = 2**63 - 1
_L1_OFFSET = 0x00FF_FFFF_FFFF_FE00  # in an entry of the first-level table
_LARGEST_L1 = (32 << 20) // 8  # QEMU's own limit (QCOW_MAX_L1_SIZE), in entries
_EXTERNAL_DATA_FILE = 1 << 2
_EXTENSION_END = 0
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441
#: What QEMU's programs print of an image that a running guest has locked.
IN_USE = 'Failed to get "write" lock'
_ENCRYPTION = {0: None, 1: "AES", 2: "LUKS"}


class ImageHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The content of an image's header; ``virtual_size`` in bytes.

    ``backing_file`` and ``data_file`` are names as written in the image, relative to its folder.
    ``encryption`` is ``AES`` or ``LUKS``.
    """

    format: ImageFormat
    virtual_size: int
    backing_file: str | None = None
    backing_format: str | None = None
    data_file: str | None = None
    encryption: str | None = None


def read_header(path: Path, name: str | None = None) -> ImageHeader:
    """Read an image's header; a file without qcow2's magic number counts as raw.

    ``name`` is the path as messages show it.
    Raises KvmComposeError when the file cannot be read, or is qcow2 with an invalid header.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if file.read(len(QCOW2_MAGIC)) != QCOW2_MAGIC:
                return ImageHeader(format="raw", virtual_size=size)
            file.seek(0)
            head = file.read(_LARGEST_CLUSTER)
    except OSError as error:
        raise KvmComposeError(f"cannot read the image {name or path}: {error.strerror}") from error
    try:
        return _parse_qcow2(head)
    except ValueError as error:
        raise KvmComposeError(
            f"{name or path} is not a valid qcow2 image: {error}",
            hint="it may be truncated or damaged: fetch it again, or try qemu-img check",
        ) from error


class L1Table(msgspec.Struct, frozen=True, kw_only=True):
    """The place of the first level of an image's cluster map, in bytes."""

    offset: int
    length: int


def parse_header(head: bytes) -> ImageHeader | None:
    """Parse the first HEAD_BYTES of an image; returns None if it is not qcow2.

    Raises ValueError for an invalid qcow2 header.
    """
    return _parse_qcow2(head) if head.startswith(QCOW2_MAGIC) else None


def l1_table(head: bytes) -> L1Table | None:
    """Return the place of the first-level table, from an image's first bytes; None if it is not qcow2.

    A table of zeros means that the image has no allocated clusters: it reads as its backing file or zeros.
    Returns None for an image with snapshots, too, whose clusters are not in the table. Raises ValueError for
    an invalid header.
    """
    if parse_header(head) is None:
        return None
    *_, entries, offset, _, _, snapshots, _ = _VERSION_2_HEADER.unpack_from(head)
    if snapshots:
        return None
    if entries > _LARGEST_L1:
        raise ValueError(f"a first-level table of {entries} entries")
    return L1Table(offset=offset, length=entries * 8)


def holds_nothing(data: bytes) -> bool:
    """Return whether ``data`` is all of a qcow2 image without allocated clusters.

    Raises ValueError for an invalid header.
    """
    table = l1_table(data)
    if table is None or len(data) < table.offset + table.length:
        return False
    return not any(data[table.offset : table.offset + table.length])


def is_pristine(path: Path) -> bool:
    """Return whether an image has no allocated clusters.

    Raises OSError, or ValueError for an invalid header.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        table = l1_table(file.read(HEAD_BYTES))
        if table is None:
            return False
        file.seek(table.offset)
        return not any(file.read(table.length))


def is_cut_off(path: Path) -> bool:
    """Return whether a qcow2 image ends before a table of its cluster map, as after half a download.

    Raises OSError, or ValueError for an invalid header.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        table = l1_table(file.read(HEAD_BYTES))
        if table is None:
            return False
        size = os.fstat(file.fileno()).st_size
        file.seek(table.offset)
        data = file.read(table.length)
    return len(data) < table.length or any(
        entry & _L1_OFFSET >= size for (entry,) in struct.iter_unpack(">Q", data)
    )


def resize_command(path: str, size: int) -> list[str]:
    """Return the command that makes a qcow2 image larger, to ``size`` bytes; it refuses to make one smaller.

    Data and internal snapshots stay (those of version 2 images prevent it). If it is killed, the image has
    its old or its new size. The backing file, which is not larger than the old size, is not opened.
    """
    return ["qemu-img", "resize", "-q", _by_itself(path), str(size)]


def _by_itself(path: str) -> str:
    """Return how QEMU's programs open an image without its backing file."""
    return "json:" + json.dumps(
        {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": path}}
    )


def _parse_qcow2(head: bytes) -> ImageHeader:
    """Parse a qcow2 header. Raises ValueError that describes what is invalid."""
    if len(head) < _VERSION_2_LENGTH:
        raise ValueError(f"its header ends after {len(head)} bytes")
    _, version, name_offset, name_length, cluster_bits, virtual_size, crypt_method, *_ = (
        _VERSION_2_HEADER.unpack_from(head)
    )
    if version not in (2, 3):
        raise ValueError(f"version {version} (supported: 2 and 3)")
    if cluster_bits not in _CLUSTER_BITS:
        raise ValueError(f"cluster_bits is {cluster_bits}")
    if virtual_size > _LARGEST_DISK:
        raise ValueError(f"a virtual size of {virtual_size} bytes")
    if crypt_method not in _ENCRYPTION:
        raise ValueError(f"encryption method {crypt_method}")
    head = head[: 1 << cluster_bits]  # extensions and the backing file's name are in the first cluster
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
        raise ValueError("its data is in another file that it does not name")
    return ImageHeader(
        format="qcow2",
        virtual_size=virtual_size,
        backing_file=backing_file,
        backing_format=found.get(_EXTENSION_BACKING_FORMAT),
        data_file=data_file,
        encryption=_ENCRYPTION[crypt_method],
    )


def _parse_version_3(head: bytes) -> tuple[int, bool]:
    """Return the length of the header, and whether the data is in another file."""
    if len(head) < _VERSION_3_LENGTH:
        raise ValueError(f"its header ends after {len(head)} bytes")
    (incompatible,) = struct.unpack_from(">Q", head, 72)
    (header_length,) = struct.unpack_from(">I", head, 100)
    if not _VERSION_3_LENGTH <= header_length <= len(head):
        raise ValueError(f"header_length is {header_length}")
    return header_length, bool(incompatible & _EXTERNAL_DATA_FILE)


def _parse_extensions(head: bytes, offset: int) -> dict[int, str | None]:
    """Return the header extensions that contain file or format names. Each is padded to 8 bytes."""
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
    """Decode a file name; an empty one, which qemu-img rebase leaves, counts as none."""
    if offset + length > len(head):
        raise ValueError(f"a name of {length} bytes at offset {offset} reaches past its end")
    return os.fsdecode(head[offset : offset + length].split(b"\0", 1)[0]) or None
