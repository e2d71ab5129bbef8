"""Reading files with holes."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

from kvmcompose.effects import files
from kvmcompose.effects.files import ZEROS, digest_file, read_sparse

MIB = 1 << 20


def sparse(path: Path, size: int, *data: tuple[int, bytes]) -> Path:
    """A file of this size with holes between its data."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, content in data:
            file.seek(offset)
            file.write(content)
    return path


@pytest.mark.parametrize(
    ("size", "data"),
    [
        (3 * MIB, ()),
        (3 * MIB + 5, ((2 * MIB, b"in the middle"),)),
        (8 * MIB + 1, ((0, b"first"), (8 * MIB, b"l"))),
        (2 * MIB, ((0, b"x" * 2 * MIB),)),
        (5 * MIB, ((4096, b"a"), (3 * MIB - 1, b"bc"))),
    ],
)
def test_the_digest_is_that_of_all_bytes(
    tmp_path: Path, size: int, data: tuple[tuple[int, bytes], ...]
) -> None:
    path = sparse(tmp_path / "disk", size, *data)
    assert digest_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_holes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sparse(tmp_path / "disk", 100 * MIB, (50 * MIB, b"data"))
    read, preadv = [], files.os.preadv
    monkeypatch.setattr("os.preadv", lambda *args: read.append(args) or preadv(*args))
    with path.open("rb") as file:
        chunks = sum(chunk is ZEROS for chunk in read_sparse(file.fileno(), path))
    assert len(read) <= 2
    assert chunks >= 98


def test_a_file_of_almost_nothing_but_holes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="more than 1 TiB of it are holes") as refused:
        digest_file(sparse(tmp_path / "hollow", 2 << 40, (1 << 40, b"data")))
    assert refused.value.filename == str(tmp_path / "hollow")
    monkeypatch.setattr(files, "LARGEST_HOLES", 8 * MIB)
    digest_file(sparse(tmp_path / "disk", 12 * MIB, (4 * MIB, b"x" * 4 * MIB)))


def test_one_that_is_truncated_meanwhile_ends(tmp_path: Path) -> None:
    path = sparse(tmp_path / "disk", 4 * MIB, (0, b"x" * 4 * MIB))
    with path.open("rb+") as file:
        read = read_sparse(file.fileno(), path)
        assert len(next(read)) == MIB
        file.truncate(MIB)
        assert list(read) == []


def test_what_takes_long_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = sparse(tmp_path / "disk", 8 * MIB)
    now = iter(range(0, 1000, 2))
    monkeypatch.setattr("time.monotonic", lambda: float(next(now)))
    with caplog.at_level(logging.WARNING):
        digest_file(path)
    assert [record.getMessage() for record in caplog.records] == [
        f"reading {path}: 0.0 of 0.0 GiB",
        f"reading {path}: 0.0 of 0.0 GiB",
    ]
