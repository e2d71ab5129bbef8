"""Which pieces of a file are sent: all its data, in order, and no holes; none is longer than PIECE."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmcompose.hosts import remote_blobs

BLOCK = 4096
PIECE = 8 * BLOCK


@pytest.fixture(autouse=True, scope="module")
def _small_pieces() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_blobs, "PIECE", PIECE)
        yield


def pieces_of(descriptor: int, begin: int = 0) -> list[tuple[int, int]]:
    return list(remote_blobs.pieces(descriptor, begin))


@given(
    written=st.lists(st.tuples(st.integers(0, 60 * BLOCK), st.integers(1, 12 * BLOCK)), max_size=5),
    size=st.integers(0, 80 * BLOCK),
    begin=st.integers(0, 90),
)
def test_data_is_sent_whole_and_in_order(written: list[tuple[int, int]], size: int, begin: int) -> None:
    with tempfile.TemporaryFile() as file:
        content = bytearray(size)
        for offset, length in written:
            if offset + length <= size:
                os.pwrite(file.fileno(), b"\1" * length, offset)
                content[offset : offset + length] = b"\1" * length
        file.truncate(size)
        first = begin * BLOCK
        found = pieces_of(file.fileno(), first)
        rest = bytearray(size)
        last = first
        for offset, length in found:
            assert offset >= last
            assert 0 < length <= PIECE
            assert offset // PIECE == (offset + length - 1) // PIECE  # none lies across
            rest[offset : offset + length] = os.pread(file.fileno(), length, offset)
            last = offset + length
        assert rest[first:] == content[first:]
        assert last <= max(size, first)


def test_holes_are_left_out() -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(100 * PIECE)
        assert pieces_of(file.fileno()) == []
        os.pwrite(file.fileno(), b"\1" * BLOCK, 50 * PIECE)
        assert pieces_of(file.fileno()) == [(50 * PIECE, BLOCK)]
        assert pieces_of(file.fileno(), 50 * PIECE + BLOCK) == []
        assert pieces_of(file.fileno(), 200 * PIECE) == []


def test_an_empty_file_has_no_pieces() -> None:
    with tempfile.TemporaryFile() as file:
        assert pieces_of(file.fileno()) == []
