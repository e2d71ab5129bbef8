"""Frames are read as tcpdump(8) writes them, and what is cut off is nothing."""

from __future__ import annotations

import pytest

from kvmcompose.reachability.frames import FrameKind, read_frame

ETH = bytes.fromhex("020000000002020000000001")


def ipv4(protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
    header = bytes([0x45, 0, 0, 20 + len(payload), 0, 0, fragment >> 8, fragment & 255, 64, protocol, 0, 0])
    return ETH + b"\x08\x00" + header + bytes([10, 66, 1, 10, 10, 66, 1, 11]) + payload


def tcp(flags: int, sequence: int = 7, acknowledged: int = 0) -> bytes:
    ports = (4000).to_bytes(2, "big") + (80).to_bytes(2, "big")
    numbers = sequence.to_bytes(4, "big") + acknowledged.to_bytes(4, "big")
    return ports + numbers + bytes([0x50, flags]) + bytes(6)


def ipv6(protocol: int, payload: bytes) -> bytes:
    ends = bytes.fromhex("fd00" + "00" * 13 + "0a" + "fd00" + "00" * 13 + "0b")
    return ETH + b"\x86\xdd" + bytes([0x60, 0, 0, 0, 0, len(payload), protocol, 64]) + ends + payload


def test_a_connection_request_and_its_answers_have_one_mark() -> None:
    syn = read_frame(ipv4(6, tcp(0x02, sequence=0xFFFFFFFF)))
    assert syn is not None
    assert (syn.kind, syn.source, syn.target, syn.target_port) == (
        FrameKind.SYN,
        "10.66.1.10",
        "10.66.1.11",
        80,
    )
    assert (syn.eth_source, syn.eth_target) == ("02:00:00:00:00:01", "02:00:00:00:00:02")
    for flags, is_reset in ((0x12, False), (0x14, True)):
        answer = read_frame(ipv4(6, tcp(flags, acknowledged=0)))
        assert answer is not None
        assert (answer.kind, answer.mark, answer.is_reset) == (FrameKind.ANSWER, syn.mark, is_reset)


@pytest.mark.parametrize("flags", [0x10, 0x11, 0x18, 0x04])
def test_the_rest_of_a_connection_is_nothing(flags: int) -> None:
    assert read_frame(ipv4(6, tcp(flags))) is None


def test_echo_requests_and_replies_have_one_mark_without_their_identifier() -> None:
    asked = read_frame(ipv4(1, bytes([8, 0, 1, 1, 0, 1, 0, 5]) + b"payload"))
    told = read_frame(ipv4(1, bytes([0, 0, 2, 2, 9, 9, 0, 5]) + b"payload"))
    assert asked is not None
    assert told is not None
    assert (asked.kind, told.kind) == (FrameKind.ECHO, FrameKind.ECHO_REPLY)
    assert asked.mark == told.mark
    six = read_frame(ipv6(58, bytes([128, 0, 1, 1, 0, 1, 0, 5]) + b"payload"))
    assert six is not None
    assert (six.kind, six.target, six.mark) == (FrameKind.ECHO, "fd00::b", asked.mark)


def test_datagrams_are_known_by_their_payload() -> None:
    found = read_frame(ipv4(17, bytes.fromhex("0fa0 0035 000d 0000") + b"token"))
    assert found is not None
    assert (found.kind, found.source_port, found.target_port, found.mark) == (
        FrameKind.UDP,
        4000,
        53,
        b"token",
    )


def test_errors_are_about_the_packet_that_they_hold() -> None:
    about = ipv4(17, bytes.fromhex("0fa000350008 0000"))[14:]
    found = read_frame(ipv4(1, bytes([3, 10, 0, 0, 0, 0, 0, 0]) + about))
    assert found is not None
    assert (found.kind, found.target, found.target_port) == (FrameKind.ERROR, "10.66.1.11", 53)


def test_neighbours_ask_and_tell() -> None:
    body = "0001 0800 06 04 {:04x} 020000000001 0a42010a 020000000002 0a42010b"
    asked = read_frame(ETH + b"\x08\x06" + bytes.fromhex(body.format(1)))
    told = read_frame(ETH + b"\x08\x06" + bytes.fromhex(body.format(2)))
    assert asked is not None
    assert told is not None
    assert (asked.kind, asked.target) == (FrameKind.WHO_HAS, "10.66.1.11")
    assert (told.kind, told.target) == (FrameKind.IS_AT, "10.66.1.10")
    address = bytes.fromhex("fd00" + "00" * 13 + "0b")
    six = read_frame(ipv6(58, bytes([135, 0, 0, 0, 0, 0, 0, 0]) + address))
    assert six is not None
    assert (six.kind, six.target) == (FrameKind.WHO_HAS, "fd00::b")


def test_what_is_cut_off_or_a_fragment_or_foreign_is_nothing() -> None:
    whole = [ipv4(6, tcp(0x02)), ipv6(58, bytes([128, 0, 1, 1, 0, 1, 0, 5])), ETH + b"\x08\x06" + bytes(28)]
    for frame in whole:
        for length in range(len(frame)):
            read_frame(frame[:length])  # raises nothing
    assert read_frame(whole[0][:40]) is None
    assert read_frame(ipv4(6, tcp(0x02), fragment=5)) is None
    assert read_frame(ETH + b"\x88\xcc" + bytes(60)) is None
