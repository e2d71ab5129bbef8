"""Archives of images, of Docker's and of OCI's layout."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from typing import Any

import pytest

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers.archives import pieces_of, read_archive

CONFIG = b'{"os": "linux"}'
DIGEST = hashlib.sha256(CONFIG).hexdigest()


def tar_of(files: dict[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return io.BytesIO(buffer.getvalue())


def oci(**manifest: Any) -> io.BytesIO:
    content = json.dumps(
        {"config": {"digest": f"sha256:{DIGEST}"}, "layers": [{"digest": "sha256:1a"}], **manifest}
    ).encode()
    number = hashlib.sha256(content).hexdigest()
    return tar_of({
        "oci-layout": b"{}",
        "./index.json": json.dumps({"manifests": [{"digest": f"sha256:{number}"}]}).encode(),
        f"blobs/sha256/{number}": content,
        f"blobs/sha256/{DIGEST}": CONFIG,
        "blobs/sha256/1a": b"layer",
    })  # fmt: skip


def sent(file: io.BytesIO) -> tuple[str, dict[str, bytes]]:
    archive = read_archive(file, "x.tar")

    async def whole() -> bytes:
        return b"".join([piece async for piece in pieces_of(file, archive)])

    content = asyncio.run(whole())
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    assert content.endswith(bytes(1024))
    return archive.image_id, files


def test_an_archive_of_docker_is_sent_as_it_is() -> None:
    files = {"c.json": CONFIG, "manifest.json": b'[{"Config": "c.json", "Layers": ["l"]}]', "l": b"layer"}
    assert sent(tar_of(files)) == (f"sha256:{DIGEST}", files)


def test_an_archive_of_oci_gets_what_docker_reads() -> None:
    image, files = sent(oci())
    assert image == f"sha256:{DIGEST}"
    assert json.loads(files["manifest.json"]) == [
        {"Config": f"blobs/sha256/{DIGEST}", "RepoTags": None, "Layers": ["blobs/sha256/1a"]}
    ]
    assert files["blobs/sha256/1a"] == b"layer"


def header(kind: bytes, size: int, content: bytes = b"") -> bytes:
    """Return the header of an entry, and its content in whole blocks."""
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def link(kind: bytes) -> io.BytesIO:
    """Return an archive whose list of images is a link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("manifest.json")
        entry.type, entry.linkname = kind, "/etc/hostname"
        tar.addfile(entry)
    return io.BytesIO(buffer.getvalue())


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_fill_memory_is_not_read(kind: bytes) -> None:
    with pytest.raises(DriverError, match="a header is larger than 4 MiB"):
        read_archive(io.BytesIO(header(kind, 6 << 30)), "x.tar")


_NAMED = b"19 path=longer.json\n"


@pytest.mark.parametrize(
    "file",
    [
        io.BytesIO(header(tarfile.XHDTYPE, len(_NAMED), _NAMED) * 2000),
        link(tarfile.SYMTYPE),
        link(tarfile.LNKTYPE),
        link(tarfile.FIFOTYPE),
        tar_of({"manifest.json": b"[" * 100_000}),
        tar_of({"manifest.json": b'[{"Config": ["a"]}]'}),
    ],
    ids=["chain", "link", "hard-link", "fifo", "nested", "unhashable"],
)
def test_a_hostile_archive_is_refused(file: io.BytesIO) -> None:
    with pytest.raises(DriverError, match=r"x\.tar is not an archive with one image"):
        read_archive(file, "x.tar")


@pytest.mark.parametrize(
    "file",
    [
        io.BytesIO(b"no archive"),
        tar_of({}),
        tar_of({"manifest.json": b"[]"}),
        tar_of({"manifest.json": b'[{"Config": "a"}, {"Config": "b"}]', "a": b"", "b": b""}),
        tar_of({"manifest.json": b'[{"Config": "c"}]', "c": bytes((4 << 20) + 1)}),
        tar_of({"index.json": b'{"manifests": [{"digest": "sha256:../../x"}]}'}),
        oci(config={"digest": "md5:1"}),
        oci(layers=7),
    ],
    ids=range(8),
)
def test_what_is_no_archive_of_one_image_is_refused(file: io.BytesIO) -> None:
    with pytest.raises(DriverError, match=r"x\.tar is not an archive with one image"):
        read_archive(file, "x.tar")
