"""Programs, switches, links and disks of a host, through their drivers."""

# ruff: noqa: ASYNC240 - a scenario has its loop to itself
from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import driven
import pytest
from driven import assert_as_before, seen_on_the_host

from driver_errors import error_of
from hosts import TestHost
from kvmcompose.core.deployable import NicPort, SwitchBridge, TunnelPort, VethPair
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.providers.console_logs.driver import HostConsoleLogs
from kvmcompose.providers.disks.driver import HostDisks
from kvmcompose.providers.iplink.driver import IpLinks
from kvmcompose.providers.ovs.driver import OvsSwitches
from kvmcompose.providers.ovs.interface import SwitchChange
from kvmcompose.providers.project_folder.driver import HostProjectFolders

pytestmark = pytest.mark.real


def printed(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


# -- programs ------------------------------------------------------------------------------------------


async def programs_run() -> None:
    machine = LocalRunner("main")
    done = await machine.run(["cat"], stdin=b"two words\n")
    assert (done.status, done.text, done.stderr) == (0, "two words\n", b"")
    assert (await machine.run(["cat"])).text == ""  # standard input is not ours
    assert (await machine.run(["false"], check=False)).status == 1
    assert (await machine.run(["sh", "-c", "kill -9 $$"], check=False)).status == -9
    error = await error_of(machine.run(["ls", "/nowhere"], privileged=True))
    assert error.message.startswith("ls failed with status 2 on main: ls: cannot access '/nowhere'")
    assert error.hint == "to reproduce: ls /nowhere"
    error = await error_of(machine.run(["no-such-program"]))
    assert error.message == "the program 'no-such-program' is not installed on main"
    assert len((await machine.run(["head", "-c", "5000000", "/dev/zero"])).stdout) == 5_000_000

    # out of time, with its children
    started = time.monotonic()
    error = await error_of(machine.run(["sh", "-c", "sleep 4444 & sleep 4444"], seconds=0.5))
    assert error.message == "sh did not end within 0.5 s on main"
    task = asyncio.create_task(machine.run(["sh", "-c", "trap '' TERM INT; sleep 4444 & sleep 4444"]))
    await asyncio.sleep(0.5)
    task.cancel()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
    assert time.monotonic() - started < 60
    assert "sleep 4444" not in printed("ps", "-e", "-o", "args")


def test_programs_run_and_end(real_host: TestHost) -> None:
    driven.inside(real_host, programs_run)


# -- switches and links --------------------------------------------------------------------------------

EXTERNAL = VethPair(
    host="main",
    left="t-veth0",
    left_bridge="t-br0",
    right="t-veth1",
    right_bridge="t-lin",
    right_is_linux=True,
)
JOINT = VethPair(host="main", left="t-a", left_bridge="t-br0", right="t-b", right_bridge="t-br1")
PLAN = SwitchChange(
    project="t-net",
    datapath_type="netdev",
    bridges=(
        SwitchBridge(name="t-br0", host="main", protocol="OpenFlow13", controller="tcp:127.0.0.1:6653"),
        SwitchBridge(name="t-br1", host="main"),
    ),
    veths=(EXTERNAL, JOINT),
    tunnels=(TunnelPort(host="main", bridge="t-br1", name="t-tunnel", remote_ip="192.0.2.99", key=77),),
    nics=(NicPort(host="main", bridge="t-br1", nic="t-nic"),),
)
ENDS = ("t-veth0", "t-veth1", "t-a", "t-b")


async def ports_of(switches: OvsSwitches, project: str) -> dict[str, list[str]]:
    found = await switches.observe(project)
    return {name: [port.name for port in bridge.ports] for name, bridge in found.items()}


async def network_is_made() -> None:
    machine = LocalRunner("main")
    switches, links = OvsSwitches(machine), IpLinks(machine)
    before = seen_on_the_host()
    await switches.check()
    printed("ip", "link", "add", "t-lin", "type", "bridge")
    printed("ip", "link", "add", "t-nic", "type", "veth", "peer", "name", "t-far")
    try:
        # ports before their interfaces: an error that names the first of them
        error = await error_of(switches.change(SwitchChange(
            project="t-net", datapath_type="netdev", bridges=PLAN.bridges, veths=(JOINT,)
        )))  # fmt: skip
        assert error.message.startswith("Open vSwitch on main cannot set up the port t-")
        assert "No such device" in error.message

        for _ in range(2):  # the second time it is there
            await links.apply(PLAN.veths, up=["t-nic"], mtu=1442)
            await switches.change(PLAN)
            await links.apply([], up=["t-br0"], mtu=1442)
        assert (await links.observe([*ENDS, "t-none"])).keys() == set(ENDS)
        assert await ports_of(switches, "t-net") == {
            "t-br0": ["t-a", "t-veth0"],
            "t-br1": ["t-b", "t-nic", "t-tunnel"],
        }
        assert await switches.foreign(PLAN) == []
        shown = printed("ip", "-br", "link", "show")
        assert "t-br0" in shown
        for name in ENDS:
            assert "mtu 1442" in printed("ip", "link", "show", "dev", name)
            assert ",UP" in printed("ip", "link", "show", "dev", name)
        assert "master t-lin" in printed("ip", "link", "show", "dev", "t-veth1")
        assert printed("ovs-vsctl", "get-controller", "t-br0").strip() == "tcp:127.0.0.1:6653"
        assert printed("ovs-vsctl", "get-fail-mode", "t-br0").strip() == "standalone"
        assert "OpenFlow13" in printed("ovs-vsctl", "get", "bridge", "t-br0", "protocols")
        assert printed("ovs-vsctl", "get", "bridge", "t-br1", "datapath_type").strip() == "netdev"
        assert printed("ovs-vsctl", "get", "interface", "t-tunnel", "options").strip() == (
            '{key="77", remote_ip="192.0.2.99"}'
        )
        assert printed("ovs-vsctl", "get", "interface", "t-tunnel", "error").strip() == "[]"

        # a controller that went from the plan goes; a port elsewhere moves
        bare = SwitchBridge(name="t-br0", host="main")
        await switches.change(SwitchChange(project="t-net", datapath_type="netdev", bridges=(bare,)))
        assert printed("ovs-vsctl", "get-controller", "t-br0") == ""
        moved = VethPair(host="main", left="t-a", left_bridge="t-br1", right="t-b", right_bridge="t-br1")
        await switches.change(SwitchChange(project="t-net", datapath_type="netdev", veths=(moved,)))
        assert (await ports_of(switches, "t-net"))["t-br1"] == ["t-a", "t-b", "t-nic", "t-tunnel"]
        await switches.change(SwitchChange(project="t-net", datapath_type="netdev", veths=(JOINT,)))

        # somebody else's
        printed("ovs-vsctl", "add-br", "t-other", "--", "set", "bridge", "t-other", "datapath_type=netdev")
        other = SwitchBridge(name="t-other", host="main")
        plan = SwitchChange(project="t-net", datapath_type="netdev", bridges=(other,))
        assert await switches.foreign(plan) == ["t-other"]
        assert "t-other" not in await switches.observe("t-net")
        printed("ovs-vsctl", "del-br", "t-other")

        error = await error_of(links.apply([VethPair(
            host="main", left="t-nic", left_bridge="t-br0", right="t-x", right_bridge="t-br1"
        )], up=[], mtu=1442))  # fmt: skip
        assert error.message.startswith("there already is an interface t-nic")
        assert await links.observe(["t-x"]) == {}
    finally:
        for _ in range(2):
            await links.remove(ENDS)
            await switches.remove(["t-br0", "t-br1"])
        printed("ip", "link", "del", "t-lin")
        printed("ip", "link", "del", "t-nic")
    assert_as_before(before)


def test_switches_and_links_are_made_once_and_go_without_a_trace(real_host: TestHost) -> None:
    driven.inside(real_host, network_is_made)


async def switch_that_is_dead() -> None:
    switches = OvsSwitches(LocalRunner("main"))
    pid = printed("cat", "/run/openvswitch/ovs-vswitchd.pid").strip()
    printed("kill", "-STOP", pid)
    try:
        error = await error_of(switches.check())
        assert error.message.startswith("ovs-vswitchd on main does not answer")
    finally:
        printed("kill", "-CONT", pid)
    await switches.check()


def test_switch_that_does_not_answer_is_an_error(real_host: TestHost) -> None:
    driven.inside(real_host, switch_that_is_dead)


# -- disks ---------------------------------------------------------------------------------------------


@contextmanager
def in_use(disk: Path) -> Iterator[None]:
    """QEMU has the disk open, as for a guest."""
    argv = ("qemu-io", str(disk))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None
        guest.stdin.write(b"length\n")
        guest.stdin.flush()
        guest.stdout.readline()
        yield
        guest.stdin.close()


async def a_disk_grows(disks: HostDisks, overlay: Path) -> None:
    printed("qemu-io", "-c", "write -P 8 2M 64k", str(overlay))
    await disks.grow(overlay, 160 << 20)
    header = await disks.header(overlay)
    assert (header.virtual_size, header.backing_file) == (160 << 20, "base.qcow2")
    assert "verification failed" not in printed("qemu-io", "-c", "read -P 8 2M 64k", str(overlay))
    assert stat.S_IMODE(overlay.stat().st_mode) == 0o640
    with in_use(overlay):
        error = await error_of(disks.grow(overlay, 192 << 20))
    assert error.message == f"{overlay} cannot grow while its guest runs"
    assert (await disks.header(overlay)).virtual_size == 160 << 20
    await disks.reset_overlay(overlay)
    assert (await disks.header(overlay)).virtual_size == 160 << 20


async def disks_are_kept(folder: str) -> None:
    disks = HostDisks(LocalRunner("main"))
    project = Path(folder)
    artefacts = project / "artefacts"
    artefacts.mkdir()
    base, overlay = artefacts / "base.qcow2", artefacts / "disk.img"
    printed("qemu-img", "create", "-q", "-f", "qcow2", str(base), "64M")
    printed("qemu-io", "-c", "write -P 7 0 4M", str(base))
    printed(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-b",
        "base.qcow2",
        "-F",
        "qcow2",
        str(overlay),
        "96M",
    )
    overlay.chmod(0o640)
    os.chown(overlay, 1234, 1234)
    raw = artefacts / "raw.img"
    raw.write_bytes(bytes(1 << 20))

    assert await disks.pristine(overlay)
    assert not await disks.pristine(base)
    assert not await disks.pristine(raw)
    before = await disks.signature(overlay)
    printed("qemu-io", "-c", "write -P 9 1M 64k", str(overlay))
    assert not await disks.pristine(overlay)
    assert await disks.signature(overlay) != before

    await disks.reset_overlay(overlay)
    assert await disks.pristine(overlay)
    printed("qemu-io", "-c", "read -P 7 0 4M", str(overlay))
    shown = printed("qemu-img", "info", str(overlay))
    assert "backing file: base.qcow2 (actual path:" in shown
    assert "virtual size: 96 MiB" in shown
    status = overlay.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, 1234, 1234)
    await a_disk_grows(disks, overlay)
    printed("qemu-img", "snapshot", "-c", "kept", str(overlay))
    assert not await disks.pristine(overlay)

    await disks.set_frozen(base, frozen=True)
    frozen = await disks.signature(base)
    assert stat.S_IMODE(base.stat().st_mode) == 0o444
    assert await disks.signature(base) == frozen
    await disks.set_frozen(base, frozen=False)
    assert stat.S_IMODE(base.stat().st_mode) == 0o644

    for _ in range(2):
        await disks.remove(raw)
    assert sorted(path.name for path in artefacts.iterdir()) == ["base.qcow2", "disk.img"]
    for call in (disks.signature, disks.pristine, disks.reset_overlay):
        error = await error_of(call(raw))
        assert error.message == f"{raw} does not exist on main"

    log = project / "console.log"
    log.write_bytes(b"".join(b"line %d\n" % number for number in range(50_000)) + b"\xff no end")
    log.chmod(0o600)
    logs = HostConsoleLogs(LocalRunner("main"))
    assert await logs.read_tail(log, 3) == "line 49998\nline 49999\n\ufffd no end"
    assert await logs.read_tail(log, 0) == ""
    assert await logs.read_tail(project / "none.log", 3) == ""


def test_disks_are_reset_frozen_and_removed(real_host: TestHost, tmp_path: Path) -> None:
    driven.inside(real_host, disks_are_kept, folder=tmp_path)


async def projects_are_linked(folder: str) -> None:
    folders = HostProjectFolders(LocalRunner("main"))
    first, second = Path(folder, "first"), Path(folder, "second")
    first.mkdir()
    second.mkdir()
    link = Path("/var/lib/kvm-compose/t-link")
    before = set(link.parent.iterdir()) if link.parent.is_dir() else set()
    for _ in range(2):
        await folders.link("t-link", first)
    await folders.link("t-link", first.parent / "second" / ".." / "first")
    assert link.readlink() == first.resolve()
    assert (first / ".kvm-compose" / "consoles").is_dir()

    error = await error_of(folders.link("t-link", second))
    assert error.message.startswith("another project on main is named t-link: ")
    await folders.unlink("t-link", second)
    assert link.is_symlink()
    first.rename(first.with_name("moved"))
    await folders.link("t-link", second)
    assert link.readlink() == second.resolve()
    for _ in range(2):
        await folders.unlink("t-link", second)
    assert not link.is_symlink()
    link.mkdir()
    error = await error_of(folders.link("t-link", second))
    assert error.message == f"{link} on main is a directory, not a link to a project"
    link.rmdir()
    assert set(link.parent.iterdir()) == before


def test_projects_are_linked_under_one_name_each(real_host: TestHost, tmp_path: Path) -> None:
    driven.inside(real_host, projects_are_linked, folder=tmp_path)
