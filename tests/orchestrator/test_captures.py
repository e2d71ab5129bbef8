"""What is captured where, and what is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kvmcompose.core.commands import Capture, Up
from kvmcompose.core.errors import RefusedError
from kvmcompose.hosts.errors import DriverError
from kvmcompose.hosts.fake import Failure
from kvmcompose.server.orchestrator.captures import WrongCaptureError

if TYPE_CHECKING:
    from conftest import Lab

PCAP = b"\xd4\xc3\xb2\xa1"


def capture(lab: Lab, target: str, interface: str | None = None, *, packets: int = 2) -> list[str]:
    """Capture a little; the calls of drivers that were made for it."""

    async def run() -> bytes:
        wanted = Capture(target=target, interface=interface, count=packets)
        found = await lab.orchestrator.capture(lab.deployment, wanted)
        try:
            return b"".join([chunk async for chunk in found])
        finally:
            await found.close()

    before = len(lab.drivers.calls)
    assert asyncio.run(run()).startswith(PCAP)
    calls = lab.drivers.calls[before:]
    return [call for call in calls if call.rpartition("/")[2].startswith(("capture", "mirror"))]


PROXY = "  - {name: proxy, interfaces: [{bridge: br0}], docker: {image: nginx}}\n"


@pytest.mark.parametrize(
    ("target", "call"),
    [
        ("web", "capture:lab-web-0"),
        ("lab-web", "capture:lab-web-0"),
        ("worker-1", "capture:lab-worker-1-0"),
        ("br1", "mirror:lab-br1"),
        ("lab-br1", "mirror:lab-br1"),
        ("lab-network", "capture:lab-prjbr0"),
        ("lab-prjbr0", "capture:lab-prjbr0"),
    ],
)
def test_what_a_name_stands_for(lab: Lab, target: str, call: str) -> None:
    lab.must(Up())
    bridges = lab.world.bridges["lab"]
    ports = {name: set(each.ports) for name, each in bridges.items()}
    assert capture(lab, target) == [call]
    assert {name: set(each.ports) for name, each in bridges.items()} == ports


def test_what_cannot_be_captured(lab: Lab) -> None:
    for target in ("web", "br0", "lab-network"):
        with pytest.raises(RefusedError, match="not up"):
            capture(lab, target)
    lab.bench.edit("machines:\n", "machines:\n" + PROXY)
    lab.bench.generate()
    lab.do(Up())
    (call,) = capture(lab, "proxy")
    assert call.startswith("capture:")  # a container, by the host end of its pair
    with pytest.raises(RefusedError, match="worker is not up"):
        capture(lab, "worker")
    with pytest.raises(WrongCaptureError, match="no guest or bridge 'worker1'") as unknown:
        capture(lab, "worker1")
    assert unknown.value.hint == "did you mean worker-1 or worker or worker-0?"
    with pytest.raises(WrongCaptureError, match="no interface br1"):
        capture(lab, "web", "br1")


def test_one_that_is_not_listened_to_leaves_nothing(lab: Lab) -> None:
    lab.must(Up())
    ports = lab.world.bridges["lab"]["lab-br0"].ports
    before = set(ports)

    async def run() -> None:
        found = await lab.orchestrator.capture(lab.deployment, Capture(target="br0"))
        assert len(ports) == len(before) + 1
        await found.close()

    asyncio.run(run())
    assert set(ports) == before


def test_failures_come_before_the_first_packet(lab: Lab) -> None:
    lab.must(Up())
    lab.drivers.failures = [Failure("mirror:*"), Failure("capture:*")]
    for target in ("br0", "web"):
        with pytest.raises(DriverError, match="made to fail"):
            capture(lab, target)
