"""NICs of containers: veth pairs into their network namespaces, as ports of Open vSwitch's bridges."""

# ruff: noqa: ASYNC240 - a scenario has its loop to itself
from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import driven
import msgspec
import pytest
from driven import assert_as_before, seen_on_the_host

from driver_errors import message_of
from hosts import TestHost, TestHosts, engines
from hosts.tiny_image import image_id, tiny_image
from kvmcompose.core.deployable import SwitchBridge
from kvmcompose.core.nic import Trunk
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.providers.containers.connection import EngineConnection
from kvmcompose.providers.containers.driver import HostEngine
from kvmcompose.providers.iplink.driver import IpLinks
from kvmcompose.providers.netns.container_nics import ContainerNic, ContainerPlace, FoundNic, VethNics
from kvmcompose.providers.ovs.driver import OvsSwitches
from kvmcompose.providers.ovs.interface import GuestPort, SwitchChange

pytestmark = pytest.mark.real

REQUEST = {"Image": "tiny:1", "Cmd": ["sleep", "4444"], "HostConfig": {"NetworkMode": "none"}}
MTU = 1442
#: The logical port of each container, by its number.
ID = "6b766d63-0000-4000-8000-00000000000{}"
BRIDGE = SwitchBridge(name="t-br", host="main")


@pytest.fixture(scope="module")
def engine_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHost]:
    hosts = TestHosts(1, directory=tmp_path_factory.mktemp("short"), docker=True, podman=True, rootless=True)
    with hosts:
        yield hosts[0]


def nic(number: int) -> ContainerNic:
    return ContainerNic(
        end=f"t-{number}",
        name="eth0",
        mac=f"02:00:00:00:00:0{number}",
        mtu=MTU,
        addresses=(f"192.0.2.{number}/24", f"2001:db8::{number}/64"),
        gateways=("192.0.2.254", "2001:db8::fe"),
        userspace=True,
    )


def found_as(wanted: ContainerNic) -> FoundNic:
    return FoundNic(
        name=wanted.name,
        end=wanted.end,
        mac=wanted.mac,
        mtu=wanted.mtu,
        up=True,
        addresses=wanted.addresses,
        gateways=wanted.gateways,
    )


def port(number: int) -> GuestPort:
    wanted = nic(number)
    return GuestPort(bridge="t-br", name=wanted.end, mac=wanted.mac, interface_id=ID.format(number))


class Lab:
    """Containers 1, 2 and 3, one in each engine, on one bridge."""

    def __init__(self) -> None:
        self.machine = LocalRunner("main")
        self.nics, self.switches = VethNics(self.machine), OvsSwitches(self.machine)
        self.links = IpLinks(self.machine)
        self.engines = [
            HostEngine(EngineConnection([path]), self.machine) for path in engines.SOCKETS.values()
        ]

    async def create(self, image: str) -> None:
        async def archive():  # noqa: ANN202
            yield Path(image).read_bytes()

        for number, each in enumerate(self.engines, 1):
            await each.images.load(archive(), image_id(), print)
            await each.containers.create("p", str(number), f"p-{number}", REQUEST)

    async def places(self) -> dict[int, ContainerPlace]:
        found = {}
        for number, each in enumerate(self.engines, 1):
            container = (await each.containers.observe("p"))[f"p-{number}"]
            found[number] = ContainerPlace(id=container.id, pid=container.pid)
        return found

    async def plug(self, *numbers: int) -> None:
        places = await self.places()
        await self.nics.apply([(places[number], nic(number)) for number in numbers])
        ends = tuple(nic(number).end for number in numbers)
        await self.switches.change(
            SwitchChange(
                project="t",
                datapath_type="netdev",
                bridges=(BRIDGE,),
                guests=tuple(map(port, numbers)),
                removed_ports=ends,  # or the switch would keep a pair open that is gone
            )
        )

    async def sees(self, number: int, *, is_plugged: bool) -> None:
        """Check one container, as observed."""
        found = await self.nics.observe(await self.places())
        assert found[number] == ((found_as(nic(number)),) if is_plugged else ()), found[number]

    async def ping(self, number: int, other: str) -> bool:
        argv = ["ping", "-c", "1", "-W", "2", other]
        return await self.engines[number - 1].inside.run("p", f"p-{number}", argv, lambda _: None) == 0

    async def all_reach(self) -> None:
        for number in (1, 2, 3):
            other = number % 3 + 1
            for address in (f"192.0.2.{other}", f"2001:db8::{other}"):
                assert await self.ping(number, address), f"{number} cannot reach {address}"

    async def close(self) -> None:
        for number, each in enumerate(self.engines, 1):
            await each.containers.remove("p", f"p-{number}")
        await self.switches.remove(["t-br"])
        for each in self.engines:
            await each.close()


def printed(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


@contextmanager
def counted() -> Iterator[Callable[[], list[str]]]:
    """Note the programs that are started meanwhile: others of their names come first, and start them."""
    path = os.environ["PATH"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        log.touch()
        for name in ("cat", "ethtool", "grep", "ip", "nsenter", "readlink", "sed", "sh", "tr"):
            program = Path(folder) / name
            program.write_text(f'#!/bin/sh\necho {name} >>{log}\nexec {shutil.which(name)} "$@"\n')
            program.chmod(0o755)
        os.environ["PATH"] = f"{folder}:{path}"
        try:
            yield lambda: [each for each in log.read_text().split() if each != "nsenter"]  # becomes another
        finally:
            os.environ["PATH"] = path


async def networks(image: str) -> None:
    before = seen_on_the_host()
    lab = Lab()
    try:
        await lab.create(image)
        created = await lab.places()
        assert "has ended" in await message_of(lab.nics.apply([(created[1], nic(1))]))
        for number, each in enumerate(lab.engines, 1):
            await each.containers.start("p", f"p-{number}")
        wanted = [(place, nic(number)) for number, place in (await lab.places()).items()]
        with counted() as programs:
            await VethNics(LocalRunner("main")).apply(wanted)
            # for each: what is there, both ends, the host's, checksums, IPv6, all that is inside; the control
            # group does not name the rootless one
            assert len(programs()) <= 1 + 6 * 3 + 1, programs()
        with counted() as programs:
            await VethNics(LocalRunner("main")).observe(await lab.places())
            assert len(programs()) <= 2 + 3 + 1, programs()
        for _ in range(2):
            await lab.plug(1, 2, 3)
        for number in (1, 2, 3):
            await lab.sees(number, is_plugged=True)
        await lab.all_reach()
        ids = printed("ovs-vsctl", "get", "interface", "t-2", "external_ids")
        assert ID.format(2) in ids
        assert nic(2).mac in ids
        # the host answers neither ARP nor IPv6 where the pairs end
        assert Path("/proc/sys/net/ipv4/conf/t-1/arp_ignore").read_text() == "1\n"
        assert "inet6" not in printed("ip", "address", "show", "dev", "t-1")
        await drift(lab)
        await links_and_vlans(lab)
        await restarted(lab)
        await not_the_containers(lab)
        await lab.nics.remove(["t-1", "t-9"])
        await lab.nics.remove(["t-1"])
        await lab.sees(1, is_plugged=False)
    finally:
        await lab.close()
    assert_as_before(before)


async def drift(lab: Lab) -> None:
    """What is changed by hand is seen, and set again; a pair that is gone is created."""
    pid = str((await lab.places())[1].pid)
    for change in (
        ["ip", "link", "set", "eth0", "down"],
        ["ip", "link", "set", "eth0", "mtu", "1400"],
        ["ip", "address", "del", "192.0.2.1/24", "dev", "eth0"],
        ["ip", "address", "add", "198.51.100.1/24", "dev", "eth0"],
        ["ip", "-6", "route", "del", "default"],
        ["ip", "link", "delete", "eth0"],
    ):
        printed("nsenter", f"--net=/proc/{pid}/ns/net", "--", *change)
        found = (await lab.nics.observe(await lab.places()))[1]
        assert found != (found_as(nic(1)),), change
        await lab.plug(1)
        await lab.sees(1, is_plugged=True)
    await lab.all_reach()


async def links_and_vlans(lab: Lab) -> None:
    """An interface without carrier is seen as such, and a port in another VLAN reaches nobody."""
    places = await lab.places()
    await lab.nics.apply([(places[1], msgspec.structs.replace(nic(1), link="down"))])
    assert [each.link for each in (await lab.nics.observe(places))[1]] == ["down"]
    assert not await lab.ping(1, "192.0.2.2")
    await lab.plug(1)
    await lab.sees(1, is_plugged=True)
    for vlan in (5, Trunk((6, 7), 5), Trunk((7,)), None):
        change = msgspec.structs.replace(port(1), vlan=vlan)
        await lab.switches.change(SwitchChange(project="t", datapath_type="netdev", guests=(change,)))
        (bridge,) = (await lab.switches.observe("t")).values()
        assert next(each.vlan for each in bridge.ports if each.name == "t-1") == vlan
        # the switch's flows follow within a second, or later on a machine that is busy
        async with asyncio.timeout(20):
            while await lab.ping(1, "192.0.2.2") != (vlan is None):
                pass


async def restarted(lab: Lab) -> None:
    """With its namespace a container loses its NIC; the others keep theirs."""
    for number in (1, 2, 3):
        await lab.engines[number - 1].containers.stop("p", f"p-{number}", 1)
        await lab.engines[number - 1].containers.start("p", f"p-{number}")
        await lab.sees(number, is_plugged=False)
        assert f"t-{number}" not in await lab.links.observe([f"t-{number}"])
        await lab.plug(number)
        await lab.sees(number, is_plugged=True)
    await lab.all_reach()


async def not_the_containers(lab: Lab) -> None:
    """A process that is not the container's is never given a NIC, whatever its number once meant."""
    places = await lab.places()
    other = subprocess.Popen(["unshare", "--net", "sleep", "4445"])  # noqa: S607, ASYNC220
    try:
        await asyncio.sleep(0.3)
        for pid in (other.pid, 1, places[2].pid):
            stale = ContainerPlace(id=places[1].id, pid=pid)
            assert "has ended" in await message_of(lab.nics.apply([(stale, nic(4))]))
            assert await lab.nics.observe({"x": stale}) == {"x": ()}
        assert printed("nsenter", f"--net=/proc/{other.pid}/ns/net", "ls", "/proc/net/dev_snmp6").split() == [
            "lo"
        ]
    finally:
        other.kill()
        other.wait()
    printed("ip", "link", "add", "t-4", "type", "veth", "peer", "name", "t-5")
    taken = ContainerNic(end="t-4", name="eth1", mac="02:00:00:00:00:04", mtu=MTU)
    assert "there already is an interface t-4 on the host" in await message_of(
        lab.nics.apply([(places[1], taken)])
    )
    assert "t-5" in printed("ip", "link", "show", "dev", "t-4")
    printed("ip", "link", "delete", "t-4")


def test_containers_join_networks(engine_host: TestHost) -> None:
    driven.inside(engine_host, networks, image=tiny_image())
