"""All drivers at once: guests on chained bridges come up, talk, and go away without a trace."""

# ruff: noqa: ASYNC221 - a scenario has its loop to itself
from __future__ import annotations

import asyncio
import hashlib
import subprocess
import time
from pathlib import Path

import driven
import pytest
from driven import Up, assert_as_before, brought_up, seen_on_the_host

from hosts import TestHost

pytestmark = pytest.mark.real


async def leased_address(up: Up, name: str) -> str:
    """What the DHCP server has given the guest, as soon as it has."""
    mac = up.testbed.guests[name].state.interfaces[0].mac
    network = up.testbed.network_plan.network.name
    deadline = time.monotonic() + 60
    while mac not in (leases := await up.host.hypervisor.networks.leases(network)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.3)
    return leases[mac]


async def assert_all_talk(up: Up) -> None:
    """Small and large packets, TCP and UDP, between guests and with the host."""
    right = up.testbed.guests["right"].address
    assert right
    large = str(up.testbed.network_plan.mtu - 28)
    for size in ("56", large):
        status, lines = await up.run("left", "ping", "-c", "2", "-W", "5", "-s", size, right)
        assert status == 0, lines
    # names of guests, from guests (dnsmasq answers over UDP)
    status, lines = await up.run("left", "nslookup", "together-right")
    assert (status, any(right in line for line in lines)) == (0, True), lines

    # TCP from the host into a guest and back, more than fits into one packet
    data = up.testbed.folder / "data"
    data.write_bytes(bytes(range(256)) * 4096)
    login = up.login("right")
    argv = [
        "ssh", "-F", "none", "-i", str(login.identity_file), "-o", "BatchMode=yes",
        "-o", f"UserKnownHostsFile={login.known_hosts}", "-o", f"HostKeyAlias={login.alias}",
        f"{login.user}@{login.address}", "tee copy | sha256sum; cat copy",
    ]  # fmt: skip
    with data.open("rb") as file:
        done = subprocess.run(argv, check=True, stdin=file, capture_output=True, timeout=60)
    line, _, copy = done.stdout.partition(b"\n")
    assert line.split()[0].decode() == hashlib.sha256(data.read_bytes()).hexdigest()
    assert copy == data.read_bytes()


async def guests_talk(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        await up.start("left", "right")
        await assert_all_talk(up)

        # a guest with an address by DHCP, through three bridges and two pairs
        hypervisor, testbed = up.host.hypervisor, up.testbed
        assert await hypervisor.networks.leases("no-such-network") == {}
        run = testbed.guests["leased"].run
        assert run
        await hypervisor.domains.start(testbed.read(run.domain_xml))
        leased = up.login("leased", await leased_address(up, "leased"))
        await up.shell.wait_ready(leased, 60)
        assert await up.shell.run(leased, ["true"], print) == 0

        # again, as `up` on a testbed that is up does it
        await up.network()
        await up.start("left", "right")

        domains = await hypervisor.domains.states(testbed.project)
        assert {state.guest for state in domains.values()} == {"left", "right", "leased"}
        for state in domains.values():
            assert state.state == "running"
            assert state.uptime is not None
            assert 0 <= state.uptime < 180
            assert state.cpu_seconds
            assert state.memory_mb
            assert 30 < state.memory_mb < 1000
        console = testbed.folder / ".kvm-compose/consoles/left.log"
        assert "micro guest: ready" in await up.host.console_logs.read_tail(console, 20)
        assert await hypervisor.domains.shut_down(f"{testbed.project}-left", 60)
        assert (await hypervisor.domains.states(testbed.project))["together-left"].state == "shut off"
    assert_as_before(before)


def test_guests_on_chained_bridges_talk_and_nothing_is_left(
    real_host: TestHost, tmp_path: Path, micro_image: Path, ssh_key: Path
) -> None:
    guests = {"left": "br0", "right": "br1", "leased": "br2"}
    folder = tmp_path / "together"
    project = driven.make_project(folder, micro_image, ssh_key, guests, dynamic=["leased"])
    driven.inside(real_host, guests_talk, folder=project)
