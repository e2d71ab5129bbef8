from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.images.formats import check_image
from kvmcompose.images.qcow2 import ImageHeader, read_header

GIB = 2**30


def a_header(
    *,
    version: int = 3,
    cluster_bits: int = 16,
    size: int = GIB,
    crypt: int = 0,
    incompatible: int = 0,
    header_length: int = 104,
    backing: bytes = b"",
    extensions: bytes = b"",
) -> bytes:
    """A qcow2 image's first cluster, as docs/interop/qcow2.rst has it."""
    start = header_length if version == 3 else 72
    name_offset = start + len(extensions) if backing else 0
    head = struct.pack(
        ">4sIQIIQIIQQIIQ",
        b"QFI\xfb",
        version,
        name_offset,
        len(backing),
        cluster_bits,
        size,
        crypt,
        0,
        0,
        0,
        0,
        0,
        0,
    )
    if version == 3:
        head += struct.pack(">QQQII", incompatible, 0, 0, 4, header_length)
    return (head.ljust(start, b"\0") + extensions + backing).ljust(1 << 9, b"\0")


def an_extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">II", kind, len(data)) + data.ljust((len(data) + 7) & ~7, b"\0")


END = an_extension(0, b"")


def read(data: bytes) -> ImageHeader:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "disk")
        path.write_bytes(data)
        return read_header(path)


@pytest.mark.parametrize("header", [{"version": 2}, {"version": 3}, {"version": 3, "header_length": 112}])
def test_a_plain_image_names_no_other_file(header: dict[str, int]) -> None:
    assert read(a_header(**header)) == ImageHeader(format="qcow2", virtual_size=GIB)


@pytest.mark.parametrize("version", [2, 3])
def test_a_backing_file_and_its_format_are_seen(version: int) -> None:
    extensions = an_extension(0x6803F857, bytes(48)) + an_extension(0xE2792ACA, b"qcow2") + END
    found = read(a_header(version=version, backing=b"../base.qcow2", extensions=extensions))
    assert (found.backing_file, found.backing_format) == ("../base.qcow2", "qcow2")


def test_an_external_data_file_is_seen() -> None:
    found = read(a_header(incompatible=4, extensions=an_extension(0x44415441, b"/etc/shadow") + END))
    assert found.data_file == "/etc/shadow"


def test_a_data_file_that_has_no_name_is_refused() -> None:
    with pytest.raises(KvmComposeError, match="does not name"):
        read(a_header(incompatible=4, extensions=END))


@pytest.mark.parametrize(("crypt", "name"), [(1, "AES"), (2, "LUKS")])
def test_encryption_is_noted(crypt: int, name: str) -> None:
    assert read(a_header(crypt=crypt)).encryption == name


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (a_header()[:71], "ends after 71 bytes"),
        (a_header()[:103], "ends after 103 bytes"),
        (a_header(version=1), "version 1"),
        (a_header(cluster_bits=8), "cluster_bits is 8"),
        (a_header(cluster_bits=2**32 - 1), "cluster_bits"),
        (a_header(size=2**64 - 1), "virtual size"),
        (a_header(crypt=3), "encryption method 3"),
        (a_header(header_length=103), "header_length is 103"),
        (a_header(header_length=100_000)[:512], "header_length is 100000"),
        (a_header(backing=b"x" * 1024), "1024 bytes"),
        (a_header(backing=b"x" * 1000)[:512], "reaches past its end"),
        (a_header(extensions=struct.pack(">II", 0xE2792ACA, 2**32 - 1)), "reaches past its end"),
    ],
)
def test_garbage_is_refused_by_name(data: bytes, why: str) -> None:
    with pytest.raises(KvmComposeError, match=why) as caught:
        read(data)
    assert "qemu-img check" in caught.value.hint


def test_anything_without_the_magic_is_raw() -> None:
    assert read(b"\0" * 1000) == ImageHeader(format="raw", virtual_size=1000)
    assert read(b"") == ImageHeader(format="raw", virtual_size=0)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for look in (read_header, check_image):
        with pytest.raises(KvmComposeError, match="No such file"):
            look(tmp_path / "none")
        with pytest.raises(KvmComposeError, match="Is a directory"):
            look(tmp_path)


@given(st.binary(max_size=600))
def test_no_bytes_after_the_magic_are_a_traceback(data: bytes) -> None:
    try:
        found = read(b"QFI\xfb" + data)
    except KvmComposeError:
        return
    assert found.format == "qcow2"


@given(
    version=st.sampled_from([2, 3]),
    damage=st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=6),
    length=st.integers(4, 512),
)
def test_no_damage_to_a_valid_header_is_a_traceback(
    version: int, damage: list[tuple[int, int]], length: int
) -> None:
    extensions = an_extension(0xE2792ACA, b"qcow2") + END
    data = bytearray(a_header(version=version, backing=b"base.qcow2", extensions=extensions)[:length])
    for place, value in damage:
        if 4 <= place < len(data):
            data[place] = value
    try:
        found = read(bytes(data))
    except KvmComposeError:
        return
    assert found.virtual_size >= 0


@pytest.mark.parametrize(
    "data",
    [
        a_header(),
        bytes(510) + b"\x55\xaa",
        bytes(0x438) + b"\x53\xef",
        b"XFSB" + bytes(600),
        bytes(0x8001) + b"CD001",
        bytes(0x10040) + b"_BHRfS_M",
    ],
)
def test_disks_are_recognised(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "disk").write_bytes(data)
    check_image(tmp_path / "disk")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"some text", "not a disk image"),
        (b"<html></html>", "a web page"),
        (bytes(100_000), "not a disk image"),
        (b"\x1f\x8b\x08" + bytes(600), "gzip"),
        (b"KDMV" + bytes(506) + b"\x55\xaa", "VMDK"),
        (b"\xfd7zXZ\0", "xz archive"),
        (bytes(257) + b"ustar", "OVA"),
        (bytes(64) + b"\x7f\x10\xda\xbe", "VDI"),
    ],
)
def test_other_files_are_refused_by_type(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "disk").write_bytes(data)
    with pytest.raises(KvmComposeError, match=why):
        check_image(tmp_path / "disk")
