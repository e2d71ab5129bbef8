"""What counts as arrived on another host, and what is sent again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from kvmcompose.hosts import blob_commands, remote_blobs
from kvmcompose.hosts.blob_commands import StoreListing
from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.errors import DriverError

_WHOLE, _PART = "a" * 64, "b" * 64


def test_a_part_is_no_content_that_has_arrived() -> None:
    words = ("room", "1000", "stored", _WHOLE, "part", f"{_PART}.part 8")
    held = StoreListing.parse(words, Path("/store")).inventory
    assert held.stored == {_WHOLE}
    assert held.parts == {_PART: 8 * 512}
    assert held.room == 1000
    assert held.delivered == {}


class Receiver:
    """A machine on which ``size`` bytes of a content lie, None: nothing."""

    name = "two"

    def __init__(self, size: int | None, *finished: int) -> None:
        self.size = size
        self.finished = list(finished)
        self.offsets: list[list[int]] = [[]]

    async def run(self, argv: Sequence[str], **_: object) -> Completed:
        status, said = 0, b""
        match argv:
            case ["test", "-e", _]:
                status = 1
            case ["stat", *_]:
                status, said = (1, b"") if self.size is None else (0, b"%d\n" % self.size)
            case ["sh", "-c", blob_commands._DD, *words]:
                (offset,) = (int(word.removeprefix("seek=")) for word in words if re.match("seek=", word))
                self.offsets[-1].append(offset)
            case ["sh", "-c", blob_commands._FINISH, *_]:
                status = self.finished.pop(0)
                self.offsets.append([])
        return Completed(status, said, b"no room")


def send(machine: Receiver, folder: Path) -> list[list[int]]:
    source = folder / "source"
    source.write_bytes(b"x" * 35)
    blobs = remote_blobs.RemoteBlobStore(cast(Any, machine))
    asyncio.run(blobs.store(_WHOLE, source, lambda _bytes: None))
    return machine.offsets[:-1]


@pytest.mark.parametrize(
    ("size", "offsets"),
    [
        (None, [0, 10, 20, 30]),
        (0, [0, 10, 20, 30]),
        (9, [0, 10, 20, 30]),
        (10, [0, 10, 20, 30]),
        (11, [10, 20, 30]),
        (30, [20, 30]),
        (35, [30]),
    ],
)
def test_the_last_piece_that_arrived_is_sent_again(
    size: int | None, offsets: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_blobs, "PIECE", 10)
    assert send(Receiver(size, 0), tmp_path) == [offsets]


def test_what_did_not_arrive_whole_is_an_error(tmp_path: Path) -> None:
    other = blob_commands.OTHER_CONTENT
    assert send(Receiver(None, other, 0), tmp_path) == [[0], [0]]
    with pytest.raises(DriverError, match="its digest differs"):
        send(Receiver(None, other, other), tmp_path)
    with pytest.raises(DriverError, match="no room"):
        send(Receiver(None, 1), tmp_path)
