"""Which files a guest can start from: qcow2 images and raw disks that need no other file and no key.

A raw disk can contain anything, so every file could be one. A file of another format would silently become a
tiny disk; it is recognised by its magic number here, before anything is made of it.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.files import LARGEST_HOLES, has_too_many_holes
from kvmcompose.effects.opening import open_regular
from kvmcompose.images.qcow2 import QCOW2_MAGIC, ImageHeader, is_cut_off, read_header

_UNPACK = "unpack it first: {command} {path}"
_CONVERT = "convert it: qemu-img convert -O qcow2 {path} {stem}.qcow2"
_DECRYPT = "decrypt it with qemu-img convert: kvm-compose has no key for it"
_FETCH = "fetch the image itself"
_FETCH_AGAIN = "fetch it again, and compare its checksum"

_LZMA_DICTIONARIES = (*(bytes((1 << n, 0)) for n in range(8)), *(bytes((0, 1 << n)) for n in range(8)))

#: Magic numbers of other formats: offset, bytes, name, hint, and the command for the hint.
_FOREIGN = (
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK, "gunzip -k"),
    (0, b"\x1f\x9d", "a compress archive", _UNPACK, "gunzip -k"),
    (0, b"\xfd7zXZ\0", "an xz archive", _UNPACK, "unxz -k"),
    *((0, b"\x5d\0\0" + size, "an lzma archive", _UNPACK, "unlzma -k") for size in _LZMA_DICTIONARIES),
    (0, b"LZIP", "an lzip archive", _UNPACK, "lzip -dk"),
    (0, b"\x89LZO\0\r\n\x1a\n", "an lzop archive", _UNPACK, "lzop -d"),
    (0, b"BZh", "a bzip2 archive", _UNPACK, "bunzip2 -k"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK, "unzstd"),
    *((0, bytes((n,)) + b"\x2a\x4d\x18", "a zstd archive", _UNPACK, "unzstd") for n in range(0x50, 0x60)),
    (0, b"\x04\x22\x4d\x18", "an lz4 archive", _UNPACK, "unlz4"),
    (0, b"\x02\x21\x4c\x18", "an lz4 archive", _UNPACK, "unlz4"),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK, "unzip"),
    (0, b"PK\x05\x06", "an empty zip archive", _FETCH, ""),
    (0, b"PK\x07\x08", "a part of a zip archive", _FETCH, ""),
    (0, b"MSCF\0\0\0\0", "a cabinet archive", _UNPACK, "cabextract"),
    (0, b"!<arch>\n", "an ar archive (a Debian package is one)", _UNPACK, "ar x"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK, "7z x"),
    (0, b"Rar!\x1a\x07", "a rar archive", _UNPACK, "unrar x"),
    (0, b"MSWIM\0\0\0", "a WIM archive", _UNPACK, "wimextract"),
    (0, b"070701", "a cpio archive", _UNPACK, "cpio -idI"),
    (257, b"ustar", "a tar archive (an OVA is one)", _UNPACK, "tar -xf"),
    (0, b"KDMV", "a VMDK image", _CONVERT, ""),
    (0, b"COWD", "a VMDK image", _CONVERT, ""),
    (0, b"\xbe\xba\xfe\xca\0\0\0\0", "a VMDK image", _CONVERT, ""),
    (0, b"\x3a\xff\x26\xed\1\0", "an Android sparse image", "convert it: simg2img {path} {stem}.raw", ""),
    (0, b"vhdxfile", "a VHDX image", _CONVERT, ""),
    (0, b"conectix", "a VHD image", _CONVERT, ""),
    (64, b"\x7f\x10\xda\xbe", "a VDI image", _CONVERT, ""),
    (0, b"QED\0", "a QED image", _CONVERT, ""),
    (0, b"WithoutFreeSpace", "a Parallels image", _CONVERT, ""),
    (0, b"WithouFreSpacExt", "a Parallels image", _CONVERT, ""),
    (0, b"Bochs Virtual HD Image", "a Bochs image", _CONVERT, ""),
    (0, b"#!/bin/sh\n#V2.0 Format", "a cloop image", _CONVERT, ""),
    (0, b"QFI\xfb\0\0\0\1", "a qcow image of version 1", _CONVERT, ""),
    (0, b"LUKS\xba\xbe", "encrypted (LUKS)", _DECRYPT, ""),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "fetch the image itself: git lfs pull", ""),
    (0, b"\x7fELF", "a program", _FETCH, ""),
)
#: Text in lower case, after blanks and line ends.
_FOREIGN_TEXT = (
    (0, b"# disk descriptorfile", "a VMDK descriptor", _CONVERT, ""),
    (0, b"<!doctype", "a web page", _FETCH, ""),
    (0, b"<html", "a web page", _FETCH, ""),
    (0, b"<?xml", "an XML document", _FETCH, ""),
)
#: At the beginning of the last sector.
_DMG = b"koly"
_SECTOR = 512
#: Raw disks have no magic number: they have a boot sector or partition table, or are a file system.
_RAW_MARKS = (
    (510, b"\x55\xaa"),
    (0x200, b"LABELONE"),  # LVM
    (0x400, b"\x10\x20\xf5\xf2"),  # f2fs
    (0x438, b"\x53\xef"),  # ext2, ext3, ext4
    (0, b"XFSB"),
    (0x10040, b"_BHRfS_M"),  # btrfs
    (0x8001, b"CD001"),  # ISO 9660
    (0x8001, b"BEA01"),  # UDF
)
_MARKS_END = 0x10048


def check_image(path: Path, *, name: str | None = None, may_be_bare: bool = False) -> ImageHeader:
    """Return the header of a qcow2 image or raw disk that needs no other file and no key.

    ``name`` is the path as messages show it. With ``may_be_bare`` a file without any known magic number
    counts as a raw disk. Raises KvmComposeError for any other file.
    """
    shown = str(path) if name is None else name
    _check_magic(path, shown, may_be_bare=may_be_bare)
    header = read_header(path, shown)
    if header.format == "qcow2":
        _check_whole(path, shown)
    if reason := dependence(header):
        raise KvmComposeError(f"{shown} {reason}", hint=_DECRYPT if header.encryption else None)
    return header


def dependence(header: ImageHeader) -> str | None:
    """Return why an image cannot be used alone: QEMU would open other files with it, or need a key."""
    if header.backing_file is not None:
        # its name is relative to the folder of the image, not to that of the overlays
        return f"is itself an overlay, on {header.backing_file!r}: flatten it with qemu-img convert"
    if header.data_file is not None:
        return f"keeps its data in another file ({header.data_file!r}): flatten it with qemu-img convert"
    return f"is encrypted ({header.encryption})" if header.encryption is not None else None


def _check_whole(path: Path, shown: str) -> None:
    try:
        cut_off = is_cut_off(path)
    except OSError as error:
        raise KvmComposeError(f"cannot read the image {shown}: {error.strerror}") from error
    except ValueError as error:
        raise KvmComposeError(f"{shown} is not a valid qcow2 image: {error}", hint=_FETCH_AGAIN) from error
    if cut_off:
        raise KvmComposeError(f"{shown} is cut off: a part of the image is missing", hint=_FETCH_AGAIN)


def _check_magic(path: Path, shown: str, *, may_be_bare: bool) -> None:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            sparse = has_too_many_holes(file.fileno())
            head = file.read(_MARKS_END)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _SECTOR))
            tail = file.read(_SECTOR)
    except OSError as error:
        raise KvmComposeError(f"cannot read the image {shown}: {error.strerror}") from error
    if not head:
        raise KvmComposeError(f"{shown} is empty", hint=_FETCH)
    text = head[:_SECTOR].lstrip().lower()
    found = next((each for each in _FOREIGN if head.startswith(each[1], each[0])), None)
    found = found or next((each for each in _FOREIGN_TEXT if text.startswith(each[1])), None)
    if found is None and tail.startswith(_DMG) and len(head) > _SECTOR:
        found = (0, _DMG, "a DMG image", _CONVERT, "")
    if found is not None:
        *_, what, hint, command = found
        stem = shlex.quote(str(Path(shown).with_suffix("")))
        hint = hint.format(command=command, path=shlex.quote(shown), stem=stem)
        raise KvmComposeError(f"{shown} is {what}, not a qcow2 or raw disk image", hint=hint)
    if sparse:
        old, new = shlex.quote(shown), shlex.quote(f"{shown}.qcow2")
        raise KvmComposeError(
            f"{shown} has more than {LARGEST_HOLES >> 40} TiB of holes, which a build would read for hours",
            hint=f"convert it: qemu-img convert -O qcow2 {old} {new}",
        )
    known = ((0, QCOW2_MAGIC), *_RAW_MARKS)
    if not may_be_bare and not any(head.startswith(mark, offset) for offset, mark in known):
        raise KvmComposeError(
            f"{shown} is not a disk image: neither qcow2 nor a raw disk with a boot sector or a file system"
        )
