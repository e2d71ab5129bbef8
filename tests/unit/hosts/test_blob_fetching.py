"""A disk is fetched from another host in pieces, as a whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from kvmcompose.hosts import remote_blobs
from kvmcompose.hosts.blob_store import Blob, FileSize
from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.errors import DriverError, HostLostError

DISK = "artefacts/web.qcow2"
PIECE = 16
CONTENT = b"a" * 10 + bytes(40) + b"z" * 5


class Source:
    """A host that reads from one file; the connection is lost after so many pieces."""

    name = "two"

    def __init__(self, content: bytes, pieces: int = 100) -> None:
        self.content = content
        self.pieces = pieces
        self.offsets: list[int] = []

    async def run(self, argv: Sequence[str], **options: object) -> Completed:
        assert options["privileged"]  # QEMU may have made the file root's
        words = dict(word.split("=", 1) for word in argv[1:] if "=" in word)
        assert argv[0] == "dd"
        assert "nofollow" in words["iflag"]
        if self.pieces == 0:
            raise HostLostError("the connection was lost")
        self.pieces -= 1
        offset, count = int(words["skip"]), int(words["count"])
        self.offsets.append(offset)
        return Completed(0, self.content[offset : offset + count], b"")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_blobs, "PIECE", PIECE)
    monkeypatch.setattr("kvmcompose.hosts.blob_commands.PATIENCE", 0)
    monkeypatch.setattr("kvmcompose.hosts.blob_commands._PAUSE", 0)


def fetch(source: Source, target: Path, content: bytes = CONTENT) -> None:
    store = remote_blobs.RemoteBlobStore(cast(Any, source))
    blob = Blob(hashlib.sha256(content).hexdigest(), target)
    size = FileSize(len(content), len(content))
    asyncio.run(store.fetch("lab", DISK, blob, size, lambda _count: None))


def test_it_has_the_content_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    source = Source(CONTENT)
    fetch(source, tmp_path / "disk")
    assert (tmp_path / "disk").read_bytes() == CONTENT
    assert (tmp_path / "disk").stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["disk"]
    fetch(source, tmp_path / "disk")  # it is there already
    assert source.offsets == [0, 16, 32, 48]


def test_an_interrupted_transfer_resumes(tmp_path: Path) -> None:
    with pytest.raises(HostLostError):
        fetch(Source(CONTENT, 2), tmp_path / "disk")
    assert not (tmp_path / "disk").exists()
    source = Source(CONTENT)
    fetch(source, tmp_path / "disk")
    assert source.offsets == [16, 32, 48]  # the last piece may be incomplete
    assert (tmp_path / "disk").read_bytes() == CONTENT


@pytest.mark.parametrize("there", [CONTENT[:-1] + b"y", CONTENT[:-1], CONTENT + b"more"])
def test_what_has_another_content_is_not_kept(tmp_path: Path, there: bytes) -> None:
    if there[: len(CONTENT)] == CONTENT:
        fetch(Source(there), tmp_path / "disk")  # no more is read than was announced
        assert (tmp_path / "disk").read_bytes() == CONTENT
        return
    with pytest.raises(DriverError, match="its digest differs"):
        fetch(Source(there), tmp_path / "disk")
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_place_of_the_part_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in ("disk", "disk.part"):
        (tmp_path / name).symlink_to(victim)
        with pytest.raises(OSError, match="symbolic links"):
            fetch(Source(CONTENT), tmp_path / "disk")
        (tmp_path / name).unlink()
        assert victim.read_bytes() == b"precious"
