"""What a real libvirt changes while guests run: networks, metadata, guests that are paused."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import driven
import pytest
from driven import Up, assert_as_before, brought_up, seen_on_the_host

from hosts import TestHost
from kvmcompose.core.resource import Reason, ReasonCode
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt.interface.domains import DomainState
from kvmcompose.providers.libvirt.network_entries import NetworkDifference, difference

pytestmark = pytest.mark.real

DOMAIN = "virt-one"
NETWORK = "virt-network"


@pytest.fixture
def project(tmp_path: Path, micro_image: Path, ssh_key: Path) -> Path:
    """One guest on one bridge."""
    return driven.make_project(tmp_path / "virt", micro_image, ssh_key, {"one": "br0"})


def virsh(*argv: str) -> str:
    command = ["virsh", "-q", "-c", "qemu:///system", *argv]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def address_of(server: str, name: str) -> str | None:
    """Ask a DNS server for an address (RFC 1035); None for a name that it does not know."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(5)
        asker.sendto(query, (server, 53))
        answer = asker.recv(512)
    found = struct.unpack(">6H", answer[:12])[3]
    return socket.inet_ntoa(answer[-4:]) if found else None


def answers(server: str, name: str, wanted: str | None) -> bool:
    """Return whether the server soon gives this answer: libvirt does not wait until it has read its files."""
    for _ in range(20):
        if (found := address_of(server, name)) == wanted:
            return True
        time.sleep(0.1)
    sys.stderr.write(f"{name}: {found}\n")
    return False


def processes(pattern: str) -> list[str]:
    argv = ["pgrep", "-f", pattern]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=10)
    return done.stdout.split()


def mount(action: str, *argv: str | Path) -> None:
    subprocess.run([action, *argv], check=True, timeout=10)


def hosts_file() -> list[str]:
    return sorted(Path(f"/var/lib/libvirt/dnsmasq/{NETWORK}.hostsfile").read_text().split())


# -- networks ------------------------------------------------------------------------------------------


Entry = tuple[str, str, str]  # MAC address, IP address and name


def with_hosts(xml: str, hosts: Sequence[Entry]) -> str:
    dns = "".join(
        f'<host ip="{ip}"><hostname>virt-{name}</hostname><hostname>{name}</hostname></host>'
        for _, ip, name in hosts
    )
    dhcp = "".join(f'<host mac="{mac}" name="virt-{name}" ip="{ip}"/>' for mac, ip, name in hosts)
    changed = re.sub(r"(<dns[^>]*>).*</dns>", rf"\1{dns}</dns>", xml, flags=re.DOTALL)
    return re.sub(r"\s*<host mac=.*?/>", "", changed).replace("</dhcp>", f"{dhcp}</dhcp>")


class LiveNetwork:
    """The network of the project, and its XML with these hosts."""

    def __init__(self, up: Up) -> None:
        self.hypervisor = up.host.hypervisor
        self.xml = up.testbed.read(up.testbed.network_plan.network.xml)
        address = re.search(r'<ip address="([\d.]+)" prefix=', self.xml)
        (one,) = re.findall(r'<host mac="(.*)" name="virt-one" ip="(.*)"/>', self.xml)
        assert address
        self.server = address[1]
        self.one: Entry = (*one, "one")

    def host(self, number: int, name: str, address: int) -> Entry:
        return f"52:54:00:00:00:{number:02}", f"{self.server.rpartition('.')[0]}.{address}", name

    async def difference(self, xml: str) -> NetworkDifference | None:
        return difference(xml, (await self.hypervisor.networks.observe("virt"))[NETWORK])


async def entries_follow_the_xml(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        network, hypervisor = LiveNetwork(up), up.host.hypervisor
        daemon = processes(f"dnsmasq.*{NETWORK}.conf")
        assert daemon
        assert await network.difference(network.xml) is None
        assert answers(network.server, "virt-one.virt", network.one[1])

        one, two, three = network.one, network.host(2, "two", 102), network.host(3, "three", 103)
        moved = network.host(2, "two", 109)
        swapped = network.host(2, "two", 103), network.host(3, "three", 102)
        cases: list[tuple[Entry, ...]] = [
            (one, two, three),
            (one, moved),
            (one, two, three),
            swapped,
            (),
            (one,),
        ]
        for hosts in cases:
            wanted = with_hosts(network.xml, hosts)
            differs = await network.difference(wanted)
            assert differs is not None
            assert not differs.other
            assert await hypervisor.networks.update(wanted)
            assert await network.difference(wanted) is None
            assert hosts_file() == sorted(f"{mac},{ip},virt-{name}" for mac, ip, name in hosts)
            for name in ("one", "two", "three"):
                known = {each[2]: each[1] for each in hosts}.get(name)
                assert answers(network.server, f"virt-{name}.virt", known), hosts
            await hypervisor.networks.start(wanted)  # it is as its XML says
        assert processes(f"dnsmasq.*{NETWORK}.conf") == daemon
    assert_as_before(before)


async def networks_are_left_or_mended(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        network, hypervisor = LiveNetwork(up), up.host.hypervisor
        two = network.host(2, "two", 102)
        grown = with_hosts(network.xml, [network.one, two])

        # nothing is begun of what libvirt cannot do alive
        other = grown.replace('localOnly="yes"', 'localOnly="no"')
        assert await network.difference(other) == NetworkDifference(
            entries=(Reason(ReasonCode.ADDED, "addresses and names of two"),),
            other=True,
            edited=False,
            outside=False,
        )
        assert not await hypervisor.networks.update(other)
        assert await network.difference(network.xml) is None

        # by hand
        entry = f"<host ip='{network.one[1]}'/>"
        virsh("net-update", NETWORK, "delete", "dns-host", entry, "--live")
        assert await network.difference(network.xml) == NetworkDifference(
            entries=(Reason(ReasonCode.CHANGED, "addresses and names of one"),),
            other=False,
            edited=False,
            outside=True,
        )
        assert await hypervisor.networks.update(network.xml)
        assert answers(network.server, "virt-one.virt", network.one[1])

        # a network that is off has them from its next start
        virsh("net-destroy", NETWORK)
        assert not (await hypervisor.networks.observe("virt"))[NETWORK].active
        assert await hypervisor.networks.update(grown)
        virsh("net-start", NETWORK)
        assert answers(network.server, "virt-two.virt", two[1])
        await hypervisor.networks.start(grown)
    assert_as_before(before)


def test_networks_that_differ_otherwise(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, networks_are_left_or_mended, folder=project)


def test_entries_of_a_live_network_follow_its_xml(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, entries_follow_the_xml, folder=project)


# -- what a domain was made from -----------------------------------------------------------------------


async def state_of(up: Up) -> DomainState:
    return (await up.host.hypervisor.domains.states("virt"))[DOMAIN]


def made_by_virsh(*flags: str) -> str:
    element = virsh("metadata", DOMAIN, "urn:kvmcompose:guest:1", *flags)
    found = re.search(r'made="(.*?)"', element)
    return "" if found is None else found[1]


async def domains_say_what_they_are(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        hypervisor = up.host.hypervisor
        run = up.testbed.guests["one"].run
        assert run
        xml = up.testbed.read(run.domain_xml)
        first = json.dumps({"memory": 128, "words": "<a & \"b\" 'c'\n\t>"})
        await hypervisor.domains.define(xml, first)
        state = await state_of(up)
        assert (state.state, state.made) == ("shut off", first)
        await hypervisor.domains.start(xml, first)
        await hypervisor.domains.start(xml, "of a start that changes nothing")
        state = await state_of(up)
        assert (state.state, state.reason, state.made) == ("running", None, first)

        # its next definition; it runs on as it is
        number = virsh("domid", DOMAIN)
        more = xml.replace('<memory unit="MiB">128<', '<memory unit="MiB">160<')
        await hypervisor.domains.define(more, "second")
        assert ((await state_of(up)).made, made_by_virsh("--config")) == (first, "second")
        assert "<memory unit='KiB'>163840</memory>" in virsh("dumpxml", DOMAIN, "--inactive")
        await hypervisor.domains.stamp(DOMAIN, "third")
        assert ((await state_of(up)).made, made_by_virsh("--config")) == ("third", "third")
        assert virsh("domid", DOMAIN) == number

        await hypervisor.domains.suspend(DOMAIN)
        await hypervisor.domains.suspend(DOMAIN)
        state = await state_of(up)
        assert (state.state, state.reason) == ("paused", "by user")
        for _ in range(2):
            await hypervisor.domains.resume(DOMAIN)
            assert ((await state_of(up)).state, (await state_of(up)).reason) == ("running", None)
        await hypervisor.domains.destroy(DOMAIN)
        state = await state_of(up)
        assert (state.state, state.reason, state.made) == ("shut off", "destroyed", "third")
        for call in (hypervisor.domains.resume, hypervisor.domains.suspend):
            with pytest.raises(DriverError, match=f"the domain {DOMAIN}: it is off"):
                await call(DOMAIN)
            with pytest.raises(DriverError, match="there is no domain virt-two"):
                await call("virt-two")
        await hypervisor.domains.start(xml, "fourth")
        assert (await state_of(up)).made == "fourth"
        assert await hypervisor.domains.shut_down(DOMAIN, 60)
        assert (await state_of(up)).reason == "shutdown"
    assert_as_before(before)


def test_domains_say_what_they_were_made_from(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, domains_say_what_they_are, folder=project)


# -- a disk without room -------------------------------------------------------------------------------


async def no_room(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        hypervisor, artefacts = up.host.hypervisor, up.testbed.folder / "artefacts"
        shutil.copytree(artefacts, f"{folder}-kept", symlinks=True)
        mount("mount", "-t", "tmpfs", "-o", "size=24m", "none", artefacts)
        try:
            shutil.copytree(f"{folder}-kept", artefacts, symlinks=True, dirs_exist_ok=True)
            await up.start("one")
            fill = "(sleep 1; dd if=/dev/urandom of=/big bs=1M count=32; sync) >/dev/null 2>&1 &"
            assert (await up.run("one", "sudo", "-n", "sh", "-c", fill))[0] == 0
            for _ in range(300):
                if (state := await state_of(up)).state != "running":
                    break
                await asyncio.sleep(0.2)
            assert (state.state, state.reason) == ("paused", "I/O error: no space for vda")
            with pytest.raises(DriverError, match="paused again at once: I/O error: no space for vda"):
                await hypervisor.domains.resume(DOMAIN)
            mount("mount", "-o", "remount,size=200m", artefacts)
            await hypervisor.domains.resume(DOMAIN)
            assert ((await state_of(up)).state, (await state_of(up)).reason) == ("running", None)
            assert (await up.run("one", "true"))[0] == 0
            await hypervisor.domains.destroy(DOMAIN)
        finally:
            mount("umount", "-l", artefacts)
    assert_as_before(before)


def test_a_guest_whose_disk_has_no_room(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, no_room, folder=project)
