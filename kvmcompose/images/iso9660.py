"""Where a file is in an ISO 9660 image with Joliet names: enough to read one file from a seed.

Format: ECMA-119 (4th edition), sections 8.4 (volume descriptors) and 9.1 (directory records); Joliet 1.1. The
image may be a user's, or damaged: nothing is followed but the root folder, and reads are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

_SECTOR = 2048
#: The first volume descriptor is in sector 16.
_DESCRIPTORS = range(16, 32)
_SUPPLEMENTARY, _END = 2, 255
#: The escape sequences of the three levels of UCS-2 (Joliet 1.1, "SVD Escape Sequences").
_JOLIET = (b"%/@", b"%/C", b"%/E")
_ROOT_RECORD = slice(156, 190)
#: The largest root folder that is read, in bytes.
_MOST = 1 << 16
_MULTI_EXTENT = 0x80


def find_file(image: BinaryIO, name: str) -> tuple[int, int]:
    """Return the offset and size, in bytes, of a file in the root folder. Raises ValueError without one."""
    start, size = _extent(_joliet(image)[_ROOT_RECORD])
    for record in _records(_read(image, start, min(size, _MOST))):
        found = record[33 : 33 + record[32]].decode("utf-16-be", "replace").removesuffix(";1")
        if found == name and not record[25] & _MULTI_EXTENT:
            return _extent(record)
    raise ValueError(f"no {name} in the image")


def _joliet(image: BinaryIO) -> bytes:
    for sector in _DESCRIPTORS:
        descriptor = _read(image, sector * _SECTOR, _SECTOR)
        if descriptor[1:6] != b"CD001" or descriptor[0] == _END:
            break
        if descriptor[0] == _SUPPLEMENTARY and descriptor[88:91] in _JOLIET:
            return descriptor
    raise ValueError("no ISO 9660 image with Joliet names")


def _records(folder: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(folder):
        length = folder[at]
        if length == 0:  # records do not cross sectors
            at = (at // _SECTOR + 1) * _SECTOR
            continue
        record = folder[at : at + length]
        if len(record) < length or length < 34 or 33 + record[32] > length:  # noqa: PLR2004
            raise ValueError("a directory record is damaged")
        yield record
        at += length


def _extent(record: bytes) -> tuple[int, int]:
    """Return the offset and size that a directory record names (both numbers in both byte orders)."""
    return int.from_bytes(record[2:6], "little") * _SECTOR, int.from_bytes(record[10:14], "little")


def _read(image: BinaryIO, offset: int, size: int) -> bytes:
    image.seek(offset)
    data = image.read(size)
    if len(data) < size:
        raise ValueError("the image is shorter than it says")
    return data
