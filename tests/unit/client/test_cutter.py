"""Packets are passed on whole, however the stream is cut into chunks."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmcompose.client.errors import ServerError
from kvmcompose.client.packets import Cutter

MAGICS = {"<": (0xA1B2C3D4, 0xA1B23C4D), ">": (0xA1B2C3D4, 0xA1B23C4D)}


def file_of(order: str, magic: int, packets: list[bytes]) -> bytes:
    header = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, 1)
    return header + b"".join(
        struct.pack(f"{order}IIII", 1, 2, len(each), len(each) + 9) + each for each in packets
    )


@given(
    order=st.sampled_from("<>"),
    nano=st.booleans(),
    packets=st.lists(st.binary(max_size=40), max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    lost=st.integers(0, 60),
)
def test_what_is_passed_on_is_the_file_up_to_the_last_whole_packet(
    order: str, packets: list[bytes], cuts: list[int], lost: int, *, nano: bool
) -> None:
    whole = file_of(order, MAGICS[order][nano], packets)
    data = whole[: len(whole) - lost]
    cutter = Cutter()
    places = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    out = b"".join(cutter.whole(data[a:b]) for a, b in itertools.pairwise(places))
    kept = [file_of(order, MAGICS[order][nano], packets[:count]) for count in range(len(packets) + 1)]
    expected = [each for each in kept if len(each) <= len(data)]
    assert out == (expected[-1] if expected else b"")
    assert cutter.packets == max(0, len(expected) - 1)


def test_something_else_than_packets_is_refused() -> None:
    with pytest.raises(ServerError, match="invalid capture"):
        Cutter().whole(b"<!doctype html><html lang=en>")
