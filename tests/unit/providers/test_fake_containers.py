"""Simulated containers behave as the drivers' real ones do (tests/real/test_containers_engines.py)."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvmcompose.core.model import Host
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.fake import FakeDrivers
from kvmcompose.providers.netns.container_nics import ContainerNic, ContainerPlace

MAIN = Host(name="main", ip="127.0.0.1", is_main_host=True)
REQUEST = {"Image": "tiny:1"}
NIC = ContainerNic(end="t-1", name="eth0", mac="02:00:00:00:00:01", mtu=1442, addresses=("192.0.2.1/24",))


async def archive() -> AsyncIterator[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("note")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"kept"))
    yield buffer.getvalue()


def test_a_container_lives_and_ends(tmp_path: Path) -> None:
    async def run() -> None:
        drivers = FakeDrivers(tmp_path / "world")
        host = drivers.host(MAIN)
        containers, inside = host.engine.containers, host.engine.inside
        with pytest.raises(DriverError, match="No such image"):
            await containers.create("p", "a", "p-a", REQUEST)
        image = await host.engine.images.pull("tiny:1", print)
        for _ in range(2):
            identity = await containers.create("p", "a", "p-a", REQUEST, "v1")
        with pytest.raises(DriverError, match="made from something else"):
            await containers.create("p", "a", "p-a", REQUEST, "v2")
        with pytest.raises(DriverError, match="not running"):
            await inside.run("p", "p-a", ["true"], print)
        await containers.start("p", "p-a")
        found = (await containers.observe("p"))["p-a"]
        assert (found.id, found.state, found.image, found.made) == (identity, "running", image, "v1")

        place = ContainerPlace(id=found.id, pid=found.pid)
        await host.nics.apply([(place, NIC)])
        (nic,) = (await host.nics.observe({"a": place}))["a"]
        assert (nic.end, nic.mac, nic.addresses) == ("t-1", NIC.mac, NIC.addresses)
        assert "t-1" in await host.links.observe(["t-1"])
        await containers.stop("p", "p-a", 0)
        assert await host.nics.observe({"a": place}) == {"a": ()}
        assert await host.links.observe(["t-1"]) == {}
        with pytest.raises(DriverError, match="has ended"):
            await host.nics.apply([(place, NIC)])
        found = (await containers.observe("p"))["p-a"]
        assert (found.state, found.exit_code, found.reason) == ("exited", 0, None)

        await containers.start("p", "p-a")
        await inside.put("p", "p-a", "/root", archive())
        assert b"kept" in b"".join([each async for each in inside.get("p", "p-a", "/root")])
        snapshot = await host.engine.images.commit("p", "p-a", "kvm-compose-p-a:s1")
        assert [each.id for each in await host.engine.images.of_project("p")] == [snapshot]
        await drivers.close()

        host = FakeDrivers(tmp_path / "world").host(MAIN)  # after a restart of the server
        assert (await host.engine.containers.observe("p"))["p-a"].state == "running"
        for _ in range(2):
            await host.engine.containers.remove("p", "p-a")
        assert await host.engine.containers.observe("p") == {}
        await host.engine.images.remove_image("p", "kvm-compose-p-a:s1")
        assert await host.engine.images.of_project("p") == []

    asyncio.run(run())


def test_containers_of_others_are_not_touched() -> None:
    async def run() -> None:
        host = FakeDrivers().host(MAIN)
        await host.engine.images.pull("tiny:1", print)
        await host.engine.containers.create("q", "a", "p-a", REQUEST)
        assert await host.engine.containers.foreign("p", ["p-a", "p-b"]) == ["p-a"]
        for call in (
            host.engine.containers.create("p", "a", "p-a", REQUEST),
            host.engine.containers.start("p", "p-a"),
            host.engine.containers.remove("p", "p-a"),
        ):
            with pytest.raises(DriverError, match="has this name"):
                await call
        assert list(await host.engine.containers.observe("q")) == ["p-a"]
        with pytest.raises(DriverError, match="not the project's"):
            await host.engine.images.remove_image("p", "tiny:1")

    asyncio.run(run())
