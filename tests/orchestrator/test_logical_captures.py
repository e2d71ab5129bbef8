"""Captures on logical switches and ports, on fake hosts, and how captures are merged."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Iterable
from typing import TYPE_CHECKING

import pytest
from test_captures import capture
from test_ovn_faked import template  # noqa: F401 (a fixture)

from kvmcompose.client.built_project import segments_of
from kvmcompose.client.formatting import address_text
from kvmcompose.core.commands import Up
from kvmcompose.core.errors import RefusedError
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import Failure
from kvmcompose.server.orchestrator.captures import WrongCaptureError
from kvmcompose.server.orchestrator.merged_packets import PacketReader, merged

if TYPE_CHECKING:
    from conftest import Lab

MICROSECONDS, NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D


@pytest.mark.parametrize(
    ("target", "calls"),
    [
        ("web", ["capture:lab-web-0"]),
        ("lan", ["capture:lab-host", "capture:lab-web-0", "two/capture:lab-db-0"]),
        ("lab-lan", ["capture:lab-host", "capture:lab-web-0", "two/capture:lab-db-0"]),
        ("lan-db-0", ["two/capture:lab-db-0"]),
        ("lab-lan-db-0", ["two/capture:lab-db-0"]),
        ("host", ["capture:lab-host"]),
    ],
)
def test_what_a_name_stands_for(lab: Lab, target: str, calls: list[str]) -> None:
    lab.must(Up())
    assert sorted(capture(lab, target)) == calls


def test_what_cannot_be_captured(lab: Lab) -> None:
    for target in ("web", "lan", "lan-db-0"):
        with pytest.raises(RefusedError):
            capture(lab, target)
    lab.must(Up())
    with pytest.raises(WrongCaptureError, match="to-lan is a port without an interface") as router:
        capture(lab, "to-lan")
    assert router.value.hint == "capture the switch: kvm-compose capture lan"
    with pytest.raises(RefusedError, match="no guest on public runs"):
        capture(lab, "public")
    with pytest.raises(WrongCaptureError, match="no guest or logical switch or port 'lam'") as unknown:
        capture(lab, "lam")
    assert "lan" in str(unknown.value.hint)
    port = lab.drivers.worlds["two"].bridges[""]["br-int"].ports["lab-db-0"]
    port.interface_id = "another"
    with pytest.raises(RefusedError, match="lab-db-0 is not the logical port of db on br-int"):
        capture(lab, "db")
    assert len(capture(lab, "lan")) == 2


def test_a_failure_on_one_host_ends_the_whole_capture(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.failures = [Failure("two/capture:lab-db-0")]
    with pytest.raises(DriverError, match="made to fail"):
        capture(lab, "lan")


def header(magic: int = MICROSECONDS, order: str = "<", link: int = 1) -> bytes:
    return struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)


def record(data: bytes, fraction: int = 7, order: str = "<") -> bytes:
    return struct.pack(f"{order}IIII", 5, fraction, len(data), len(data)) + data


async def chunks(*parts: bytes) -> AsyncGenerator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


async def broken(*parts: bytes) -> AsyncGenerator[bytes]:
    for part in parts:
        yield part
    raise DriverError("the host is gone")


def packets(captures: Iterable[AsyncGenerator[bytes]], count: int | None = None) -> list[bytes]:
    async def run() -> bytes:
        return b"".join([chunk async for chunk in merged(list(captures), 65535, count)])

    return [each.data for each in PacketReader().read(asyncio.run(run()))]


def test_a_packet_that_passes_two_interfaces_is_written_once() -> None:
    ping, again, own = record(b"ping"), record(b"ping", 9), record(b"own")
    found = packets([chunks(header(), ping, own), chunks(header(), again)])
    assert sorted(found) == [b"own", b"ping"]
    # sent twice, it is there twice, wherever it is seen
    found = packets([chunks(header(), ping, ping), chunks(header(), again, again), chunks(header())])
    assert found == [b"ping", b"ping"]


def test_captures_in_other_byte_orders_and_units_are_merged() -> None:
    big = struct.pack(">IHHiIII", NANOSECONDS, 2, 4, 0, 0, 65535, 1) + record(b"big", 7000, ">")

    async def run() -> bytes:
        captures = [chunks(big[:30], big[30:]), chunks(header() + record(b"little"))]
        return b"".join([chunk async for chunk in merged(captures, 65535, None)])

    found = {each.data: each.microseconds for each in PacketReader().read(asyncio.run(run()))}
    assert found == {b"big": 7, b"little": 7}


def test_the_count_is_that_of_all_interfaces() -> None:
    many = [chunks(header(), *(record(bytes([number, each])) for each in range(9))) for number in range(3)]
    assert len(packets(many, 5)) == 5


def test_failures_and_other_formats_end_it() -> None:
    with pytest.raises(DriverError, match="the host is gone"):
        packets([chunks(header()), broken(header(), record(b"x"))])
    with pytest.raises(DriverError, match="the host is gone"):
        packets([chunks(header()), broken()])
    endless = header() + struct.pack("<IIII", 0, 0, 1 << 31, 1 << 31)
    for wrong in (b"no capture, but long enough", header(link=113), endless):
        with pytest.raises(DriverError, match="invalid capture"):
            packets([chunks(header()), chunks(wrong)])


def test_names_and_addresses_are_known(lab: Lab) -> None:
    assert segments_of(lab.folder) == ["lan", "public"]
    assert segments_of(lab.folder / "nowhere") == []
    lab.must(Up())
    guests = {guest.name: guest for guest in lab.status().guests}
    assert guests["web"].address is None
    (address,) = guests["web"].addresses
    assert address.startswith("10.66.1.")
    assert address_text(guests["web"]) == address
