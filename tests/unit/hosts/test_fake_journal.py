"""A fake host is as it was when its server was killed; what a change writes does not grow with it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from kvmcompose.core.model import Host
from kvmcompose.hosts import fake_journal
from kvmcompose.hosts.blob_store import Blob
from kvmcompose.hosts.fake_world import FakeBridge, FakeDisk, FakePort, World
from kvmcompose.providers.drivers import HostDrivers
from kvmcompose.providers.fake import FakeDrivers
from kvmcompose.providers.guest.interface import Login
from kvmcompose.providers.ovs.interface import SwitchChange

DOMAIN = """\
<domain><name>p-{name}</name>
<metadata><g:guest xmlns:g="urn:kvmcompose:guest:1" project="p" name="{name}"/></metadata>
<devices><disk><source file="/disks/{name}"/></disk>
<interface type="bridge"><mac address="52:54:00:00:00:01"/><source bridge="br0"/>
<virtualport type="openvswitch"/><target dev="{name}-tap"/></interface></devices></domain>
"""
NETWORK = """\
<network><name>p-network</name>
<metadata><n:network xmlns:n="urn:kvmcompose:network:1" project="p"/></metadata>
<bridge name="p-lin"/><ip address="192.0.2.1" prefix="24"/></network>
"""
BRIDGES = [{"name": "br0", "host": "main"}, {"name": "br1", "host": "main"}]
VETH = {"host": "main", "left": "v0", "left_bridge": "br0", "right": "v1", "right_bridge": "br1"}
TUNNEL = {"host": "main", "bridge": "br0", "name": "t", "remote_ip": "192.0.2.2", "key": 7}


def plan(**named: object) -> SwitchChange:
    return msgspec.convert({"project": "p", "datapath_type": "netdev", **named}, SwitchChange)


def change(**named: object) -> SwitchChange:
    return msgspec.convert({"project": "p", "datapath_type": "netdev", **named}, SwitchChange)


def as_saved(drivers: FakeDrivers) -> dict[str, World]:
    """The worlds without disks that are as if they had never been looked at."""
    return {
        name: msgspec.structs.replace(
            world, disks={path: disk for path, disk in world.disks.items() if disk != FakeDisk()}
        )
        for name, world in drivers.worlds.items()
        if world != World()
    }


async def everything(  # noqa: PLR0915 (a list)
    drivers: FakeDrivers, host: HostDrivers, source: Path
) -> AsyncIterator[None]:
    """Do all that changes a world, and stop after each change."""
    switches, links, hypervisor, folders, disks, blobs = (
        host.switches, host.links, host.hypervisor, host.project_folders, host.disks, host.blobs,
    )  # fmt: skip
    assert blobs is not None
    shell = drivers.shell()
    login = Login(guest="web", alias="p-web", address="", user="u", identity_file=source, known_hosts=source)
    veth = plan(veths=[VETH]).veths
    foreign = {"br9": FakeBridge(ports={"web-tap": FakePort(mac="52:54:00:00:00:01", marked=False)})}

    async def changes() -> AsyncIterator[object]:
        yield await folders.link("p", Path("/p"))
        yield await blobs.open("p", "home")
        yield await blobs.store("d1", source, lambda _: None)
        yield await blobs.link("p", {"a": "d1", "b": "d2"})
        yield await blobs.put("p", {"c": Blob("d3", source)}, lambda _: None)
        yield await blobs.note("p", "c", "d4")
        yield await hypervisor.networks.start(NETWORK)
        yield await links.apply(veth, up=[], mtu=1442)
        yield await switches.change(plan(bridges=BRIDGES, veths=[VETH], tunnels=[TUNNEL]))
        yield await hypervisor.domains.define(DOMAIN.format(name="web"), "made")
        yield await hypervisor.domains.start(DOMAIN.format(name="web"), "made")
        yield await hypervisor.domains.stamp("p-web", "made so")
        yield await hypervisor.domains.suspend("p-web")
        yield await hypervisor.domains.resume("p-web")
        note = ["sh", "-c", ': >"$1"', "sh", "/marker"]
        yield await shell.run(login, note, lambda _: None)
        guest = {"bridge": "br1", "name": "web-tap", "mac": "52:54:00:00:00:01"}
        yield await switches.change(change(guests=[guest], removed_ports=["t"]))
        yield await links.remove(["v1"])
        yield await links.apply(veth, up=["v0"], mtu=1500)
        yield await switches.change(change(veths=[VETH], removed_ports=["v0", "v1"]))
        world = drivers.worlds["two"]
        world.bridges["p"]["br1"].ports.pop("web-tap")
        world.bridges["q"] = foreign
        drivers.keep()
        yield await switches.change(change(guests=[guest]))
        yield await hypervisor.snapshots.create("p-web", "s")
        yield await hypervisor.snapshots.redefine("p-web", "<domainsnapshot><name>k</name></domainsnapshot>")
        yield await hypervisor.snapshots.delete("p-web", "s")
        yield await hypervisor.snapshots.restore("p-web", "k")
        yield await hypervisor.domains.shut_down("p-web", 1)
        yield await hypervisor.domains.undefine("p-web")
        disk = Path("/disks/web")
        yield await disks.reset_overlay(disk)
        yield await disks.grow(disk, 7)
        yield await disks.set_frozen(disk, frozen=True)
        yield await disks.remove(disk)
        yield await switches.change(change(removed_bridges=["br1"]))
        yield await switches.remove(["br0"])
        yield await hypervisor.networks.remove("p-network")
        yield await blobs.clear("p")
        yield await folders.unlink("p", Path("/p"))

    async for _ in changes():
        yield


@pytest.mark.parametrize("least", [1, 1 << 20])
def test_nothing_is_lost_by_a_server_that_is_killed_after_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    """With a small limit, the journal is replaced by the file again and again."""
    monkeypatch.setattr(fake_journal, "_LEAST", least)
    path, source = tmp_path / "world.json", tmp_path / "source"
    source.write_bytes(b"content")
    drivers = FakeDrivers(path)
    host = drivers.host(Host(name="two", ip="192.0.2.2"))

    async def run() -> int:
        count = 0
        async for _ in everything(drivers, host, source):
            assert as_saved(FakeDrivers(path)) == as_saved(drivers)
            count += 1
        return count

    assert asyncio.run(run()) > 30
    assert drivers.worlds["two"].domains == {}
    assert drivers.worlds["two"].bridges.keys() == {"q"}


def test_server_may_be_killed_between_the_file_and_the_journal(tmp_path: Path) -> None:
    path, source = tmp_path / "world.json", tmp_path / "source"
    source.write_bytes(b"content")
    drivers = FakeDrivers(path)
    host = drivers.host(Host(name="two", ip="192.0.2.2"))
    changes = tmp_path / "world.json.changes"

    async def run() -> None:
        async for _ in everything(drivers, host, source):
            if changes.exists():
                shutil.copy(changes, tmp_path / "before")
                drivers.keep()
                assert not changes.exists()
                shutil.copy(tmp_path / "before", changes)
                assert as_saved(FakeDrivers(path)) == as_saved(drivers)
                changes.unlink()

    asyncio.run(run())


def test_change_that_was_cut_off_is_none(tmp_path: Path) -> None:
    path = tmp_path / "world.json"
    drivers = FakeDrivers(path)
    folders = drivers.host(Host(name="main", ip="127.0.0.1", is_main_host=True)).project_folders
    asyncio.run(folders.link("p", Path("/p")))
    asyncio.run(folders.link("q", Path("/q")))
    changes = tmp_path / "world.json.changes"
    changes.write_bytes(changes.read_bytes()[:-3])
    again = FakeDrivers(path)
    assert again.world.projects == {"p": "/p"}
    host = again.host(Host(name="main", ip="127.0.0.1", is_main_host=True))
    asyncio.run(host.project_folders.link("r", Path("/r")))  # and what follows is not part of it
    assert FakeDrivers(path).world.projects == {"p": "/p", "r": "/r"}


def test_what_a_change_writes_does_not_grow_with_the_world(tmp_path: Path) -> None:
    def written(guests: int) -> int:
        path = tmp_path / f"{guests}.json"
        drivers = FakeDrivers(path)
        host = drivers.host(Host(name="main", ip="127.0.0.1", is_main_host=True))

        async def run() -> None:
            await host.switches.change(plan(bridges=BRIDGES))
            for number in range(guests):
                await host.hypervisor.domains.start(DOMAIN.format(name=f"{number:04}"))

        asyncio.run(run())
        return path.with_name(f"{path.name}.changes").stat().st_size

    few, many = written(50), written(500)
    assert many < 10.5 * few
