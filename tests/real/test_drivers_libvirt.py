"""The libvirt driver against a real libvirtd: that it survives, recognises what is its own, keeps memory."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import driven
import pytest
from driven import assert_as_before, brought_up, seen_on_the_host

from driver_errors import error_of
from hosts import TestHost
from kvmcompose.core.model import Host
from kvmcompose.providers.libvirt.interface import Hypervisor
from kvmcompose.providers.real import RealDrivers

pytestmark = pytest.mark.real

_LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))


@pytest.fixture
def project(tmp_path: Path, micro_image: Path, ssh_key: Path) -> Path:
    """One guest on one bridge."""
    return driven.make_project(tmp_path / "virt", micro_image, ssh_key, {"one": "br0"})


DOMAIN = "virt-one"
NOTES = Path(f"/run/libvirt/qemu/{DOMAIN}.xml")


def virsh(*argv: str) -> str:
    command = ["virsh", "-q", "-c", "qemu:///system", *argv]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def pid_in(path: str) -> int:
    return int(Path(path).read_text())


def kill_libvirtd() -> None:
    pid = pid_in("/run/libvirtd.pid")
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([ended], [], [], 10)  # whoever started it may leave a zombie
    os.close(ended)


def start_libvirtd() -> None:
    null = subprocess.DEVNULL
    argv = ["setsid", "--fork", "libvirtd"]
    subprocess.run(argv, check=True, stdin=null, stdout=null, stderr=null, timeout=10)


def snapshots_in(disk: Path) -> str:
    argv = ["qemu-img", "snapshot", "-l", str(disk)]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


def qemu_img(*argv: str | Path) -> str:
    command = ["qemu-img", *argv]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


# -- snapshots -----------------------------------------------------------------------------------------


#: libvirt passes it to QEMU in a line of QEMU's monitor when the guest runs, and stores it in a file name.
AWKWARD = "l\u00e4uft noch & 'so' <\u5feb\u7167>; %n $x"


async def snapshots_are_kept(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        hypervisor = up.host.hypervisor
        await up.start("one")
        assert (
            await up.run(
                "one", "sudo", "-n", "sh", "-c", "echo kept >/run/in-memory; echo first >/disk; sync"
            )
        )[0] == 0
        await hypervisor.snapshots.create(DOMAIN, AWKWARD)
        assert (await up.run("one", "sudo", "-n", "sh", "-c", "rm /run/in-memory; echo second >/disk; sync"))[
            0
        ] == 0
        assert await hypervisor.domains.shut_down(DOMAIN, 60)
        await hypervisor.snapshots.create(DOMAIN, "while-off")

        found = await hypervisor.snapshots.of(DOMAIN)
        assert [(each.name, each.state, each.current) for each in found] == [
            (AWKWARD, "running", False),
            ("while-off", "shutoff", True),
        ]
        assert all(abs(each.created - time.time()) < 120 for each in found)

        taken = await error_of(hypervisor.snapshots.create(DOMAIN, "while-off"))
        assert taken.message == f"{DOMAIN} already has a snapshot while-off"
        unknown = await error_of(hypervisor.snapshots.restore(DOMAIN, "while-of"))
        assert (unknown.message, unknown.hint) == (
            f"{DOMAIN} has no snapshot while-of",
            "did you mean while-off?",
        )
        gone = await error_of(hypervisor.snapshots.of("virt-two"))
        assert "there is no domain virt-two" in gone.message

        # forgotten with its domain, and told again: its data is in the disk
        await hypervisor.domains.undefine(DOMAIN)
        run = up.testbed.guests["one"].run
        assert run
        await hypervisor.domains.start(up.testbed.read(run.domain_xml))
        assert await hypervisor.snapshots.of(DOMAIN) == []
        for _ in range(2):
            for each in found:
                await hypervisor.snapshots.redefine(DOMAIN, each.xml)
        assert [each.name for each in await hypervisor.snapshots.of(DOMAIN)] == [AWKWARD, "while-off"]

        await hypervisor.snapshots.restore(DOMAIN, AWKWARD)
        assert (await hypervisor.domains.states("virt"))[DOMAIN].state == "running"
        await up.shell.wait_ready(up.login("one"), 60)
        assert await up.run("one", "cat", "/run/in-memory", "/disk") == (0, ["kept", "first"])

        await hypervisor.snapshots.restore(DOMAIN, "while-off")
        assert (await hypervisor.domains.states("virt"))[DOMAIN].state == "shut off"
        await up.start("one")
        assert await up.run("one", "cat", "/disk") == (0, ["second"])

        for each in found:
            await hypervisor.snapshots.delete(DOMAIN, each.name)
        assert await hypervisor.snapshots.of(DOMAIN) == []
        await hypervisor.domains.destroy(DOMAIN)
        assert snapshots_in(up.testbed.folder / "artefacts/one-cloud-init.img") == ""
    assert_as_before(before)


async def names_are_no_ids(folder: str) -> None:
    """Names that are IDs, as snapshots made by an older version may have, of a guest that was off."""
    async with brought_up(folder) as up:
        hypervisor, disk = up.host.hypervisor, up.testbed.folder / "artefacts/one-cloud-init.img"
        await up.start("one")
        for name, content in (("2", "named two"), ("other", "other")):
            assert (await up.run("one", "sudo", "-n", "sh", "-c", f"echo {content} >/disk; sync"))[0] == 0
            assert await hypervisor.domains.shut_down(DOMAIN, 60)
            await hypervisor.snapshots.create(DOMAIN, name)
            await (up.start if name == "2" else up.power_on)("one")
        table = json.loads(qemu_img("info", "-U", "--output=json", disk))["snapshots"]
        assert [(each["id"], each["name"]) for each in table] == [("1", "2"), ("2", "other")]
        assert "has one with that ID" in (await error_of(hypervisor.snapshots.create(DOMAIN, "1"))).message

        # of a guest that runs, and of one that is off: by the bytes of the disk
        for was in ("running", "off"):
            await hypervisor.snapshots.restore(DOMAIN, "2")
            assert (await hypervisor.domains.states("virt"))[DOMAIN].state == "shut off"
            assert [each.name for each in await hypervisor.snapshots.of(DOMAIN) if each.current] == ["2"]
            qemu_img("convert", "-f", "qcow2", "-O", "raw", disk, Path(folder) / "now.raw")
            kept = Path(folder) / "kept.raw"
            qemu_img("convert", "-f", "qcow2", "-l", "snapshot.name=2", "-O", "raw", disk, kept)
            assert (Path(folder) / "now.raw").read_bytes() == kept.read_bytes(), was
        await up.power_on("one")
        await hypervisor.snapshots.delete(DOMAIN, "2")
        await hypervisor.domains.destroy(DOMAIN)
        await hypervisor.snapshots.restore(DOMAIN, "other")  # and by the guest itself
        await up.start("one")
        assert await up.run("one", "cat", "/disk") == (0, ["other"])

        # memory is loaded by name alone: refused where that is ambiguous, and nothing is done to the guest
        await hypervisor.snapshots.create(DOMAIN, "4")
        coming = await error_of(hypervisor.snapshots.create(DOMAIN, "another"))
        assert "it would get the ID 4" in coming.message
        virsh("snapshot-create-as", DOMAIN, "by-hand")
        refused = await error_of(hypervisor.snapshots.restore(DOMAIN, "4"))
        assert "named by-hand" in refused.message
        assert await up.run("one", "cat", "/disk") == (0, ["other"])


@pytest.mark.long_only
def test_a_snapshot_that_is_named_like_the_id_of_another(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, names_are_no_ids, folder=project)


def test_snapshots_of_running_and_stopped_guests(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, snapshots_are_kept, folder=project)


# -- a libvirtd that goes away -------------------------------------------------------------------------


def begin_start() -> subprocess.Popen[bytes]:
    """Another's start of the domain; it has begun when this returns."""
    argv = ["virsh", "-q", "-c", "qemu:///system", "start", DOMAIN]
    start = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not NOTES.exists():
        assert start.poll() is None
    return start


def is_noted(words: str) -> bool:
    return words in NOTES.read_text()


async def leave_half_a_start(hypervisor: Hypervisor) -> None:
    """A libvirtd is killed between two notes of its own, of a start and of its QEMU's process."""
    while True:
        with begin_start():
            kill_libvirtd()
        half = is_noted("state='paused' reason='starting up' pid='0'")
        start_libvirtd()
        if half:
            assert (await hypervisor.domains.states("virt"))[DOMAIN].state == "paused"
            return
        await hypervisor.domains.destroy(DOMAIN)  # too late: there was a QEMU


async def starts_that_never_end(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        hypervisor = up.host.hypervisor
        # its first boot, which enlarges the file system: one of those that are cut off below must not be
        await up.start("one")
        await up.run("one", "sync")
        await hypervisor.domains.destroy(DOMAIN)

        await leave_half_a_start(hypervisor)
        async with asyncio.timeout(15):
            await hypervisor.domains.destroy(DOMAIN)
        assert (await hypervisor.domains.states("virt"))[DOMAIN].state == "shut off"

        await leave_half_a_start(hypervisor)
        await up.start("one")
        await hypervisor.domains.destroy(DOMAIN)

        # one that goes on is waited for
        libvirtd = pid_in("/run/libvirtd.pid")
        run = up.testbed.guests["one"].run
        assert run
        with begin_start() as start:
            await hypervisor.domains.start(up.testbed.read(run.domain_xml))
        assert (start.returncode, pid_in("/run/libvirtd.pid")) == (0, libvirtd)
        assert (await hypervisor.domains.states("virt"))[DOMAIN].state == "running"

        await hypervisor.domains.destroy(DOMAIN)
        await leave_half_a_start(hypervisor)
    assert_as_before(before)


def test_start_that_never_ends_is_begun_anew(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, starts_that_never_end, folder=project)


async def libvirtd_comes_back(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        hypervisor = up.host.hypervisor
        await up.start("one")
        off = asyncio.create_task(hypervisor.domains.wait_off(DOMAIN))
        await asyncio.sleep(0.1)
        kill_libvirtd()
        asyncio.get_running_loop().call_later(2, start_libvirtd)
        domains = await hypervisor.domains.states("virt")
        assert domains[DOMAIN].state == "running"
        assert not off.done()
        kill_libvirtd()
        asyncio.get_running_loop().call_later(1, start_libvirtd)
        # the guest goes off while nobody looks: no event of this is ever sent
        await up.run("one", "sh", "-c", "(sleep 1; sudo -n poweroff) >/dev/null 2>&1 &")
        await asyncio.wait_for(off, 30)
        await hypervisor.domains.undefine(DOMAIN)

        await up.power_on("one")
        kill_libvirtd()
        started = time.monotonic()
        lost = await error_of(hypervisor.domains.states("virt"))
        assert 10 < time.monotonic() - started < 60
        assert lost.message.startswith(
            "cannot list domains: libvirt does not answer at qemu:///system: Failed to connect socket"
        )
        start_libvirtd()
        assert (await hypervisor.domains.states("virt"))[DOMAIN].state == "running"
    assert_as_before(before)


def test_connection_comes_back_with_libvirtd(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, libvirtd_comes_back, folder=project)


async def kill_at_random(folder: str, rounds: int) -> None:
    before = seen_on_the_host()
    chance = random.Random(20)  # noqa: S311 - moments, not secrets

    async def restart_libvirtd() -> None:
        await asyncio.sleep(chance.uniform(0, 1.2))
        kill_libvirtd()
        await asyncio.sleep(chance.uniform(0, 1))
        start_libvirtd()

    async with brought_up(folder) as up:
        await up.host.hypervisor.facts()  # libvirtd has asked QEMU what it can: killed then, it leaves one
        run = up.testbed.guests["one"].run
        assert run
        for _ in range(rounds):
            restart = asyncio.create_task(restart_libvirtd())
            await up.network()
            await up.host.hypervisor.domains.start(up.testbed.read(run.domain_xml))
            await restart
            assert (await up.host.hypervisor.domains.states("virt"))[DOMAIN].state == "running"
            restart = asyncio.create_task(restart_libvirtd())
            await up.down()
            await restart
            await up.host.hypervisor.facts()
            assert_as_before(before)


def test_libvirtd_is_killed_at_any_moment(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, kill_at_random, folder=project, rounds=8 if _LONG else 4)


async def nobody_answers(uri: str) -> None:
    drivers = RealDrivers()
    host = drivers.host(Host(name="main", ip="127.0.0.1", is_main_host=True, libvirt_uri=uri))
    started = time.monotonic()
    error = await error_of(host.hypervisor.facts())
    assert time.monotonic() - started < 9
    assert error.message.startswith(f"cannot read the facts of the host: libvirt does not answer at {uri}: ")
    await drivers.close()


def test_libvirt_that_never_answered_is_an_error_at_once(real_host: TestHost) -> None:
    driven.inside(real_host, nobody_answers, uri="qemu+unix:///system?socket=/nowhere")


async def cancelled_start(folder: str) -> None:
    """Whoever cancels finds the domain started or not, never about to be."""
    async with brought_up(folder) as up:
        run = up.testbed.guests["one"].run
        assert run
        for pause in (0.0, 0.01, 0.1, 0.3):
            start = asyncio.create_task(up.host.hypervisor.domains.start(up.testbed.read(run.domain_xml)))
            await asyncio.sleep(pause)
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)
            states = {
                name: state.state for name, state in (await up.host.hypervisor.domains.states("virt")).items()
            }
            await asyncio.sleep(1)
            again = {
                name: state.state for name, state in (await up.host.hypervisor.domains.states("virt")).items()
            }
            assert states == again
            await up.host.hypervisor.domains.destroy(DOMAIN)


def test_cancelled_start_is_waited_for(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, cancelled_start, folder=project)


# -- what is ours and what is not ----------------------------------------------------------------------


def without_metadata(xml: str) -> str:
    return re.sub(r"<metadata>.*</metadata>", "", xml, flags=re.DOTALL)


async def foreigners_are_left_alone(folder: str) -> None:
    before = seen_on_the_host()
    async with brought_up(folder) as up:
        hypervisor, testbed = up.host.hypervisor, up.testbed
        run = testbed.guests["one"].run
        assert run
        domain = testbed.read(run.domain_xml)
        network = testbed.read(testbed.network_plan.network.xml)

        async def activity() -> dict[str, bool]:
            return {name: each.active for name, each in (await hypervisor.networks.observe("virt")).items()}

        foreign = testbed.folder / "foreign.xml"
        foreign.write_text(without_metadata(domain))
        virsh("define", str(foreign))
        error = await error_of(hypervisor.domains.start(domain))
        assert error.message == f"there already is a domain {DOMAIN} that kvm-compose did not create"
        assert await hypervisor.domains.states("virt") == {}
        virsh("undefine", DOMAIN)
        foreign.write_text(domain.replace('project="virt"', 'project="other"'))
        virsh("define", str(foreign))
        error = await error_of(hypervisor.domains.start(domain))
        assert error.message == f"there already is a domain {DOMAIN} of the project other"
        virsh("undefine", DOMAIN)
        error = await error_of(hypervisor.domains.start(without_metadata(domain)))
        assert "does not name its project" in error.message

        # a network that is active stays as it is
        assert await activity() == {"virt-network": True}
        changed = network.replace('localOnly="yes"', 'localOnly="no"')
        error = await error_of(hypervisor.networks.start(changed))
        assert (
            error.message == "the network virt-network is active with another definition than its XML now has"
        )
        assert error.hint
        await hypervisor.networks.start(network.replace("  ", " "))

        # the same subnet elsewhere
        address = re.search(r'address="([\d.]+)" prefix="(\d+)"', network)
        assert address
        other = network.replace("virt-network", "other-network").replace(
            testbed.network_plan.network.bridge, "other-br"
        )
        error = await error_of(hypervisor.networks.start(other))
        assert error.message == (
            f"cannot start the network other-network: its subnet ({address[1]}/{address[2]})"
            f" is in use by the interface {testbed.network_plan.network.bridge}"
        )
        await hypervisor.networks.remove("other-network")
        await hypervisor.networks.remove("other-network")

        # defined and off: replaced, whatever it was
        virsh("net-destroy", "virt-network")
        assert await activity() == {"virt-network": False}
        await hypervisor.networks.start(changed)
        assert "localOnly='yes'" not in virsh("net-dumpxml", "virt-network")
        error = await error_of(hypervisor.domains.start(domain.replace("artefacts/one-", "artefacts/two-")))
        assert error.message.startswith(f"cannot start the domain {DOMAIN}: Cannot access storage file")
        assert "kvm-compose generate" in str(error.hint)
    assert_as_before(before)


def test_what_is_not_ours_is_left_alone(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, foreigners_are_left_alone, folder=project)


# -- how guests end ------------------------------------------------------------------------------------


async def guests_end(folder: str) -> None:
    async with brought_up(folder) as up:
        hypervisor = up.host.hypervisor
        facts = await hypervisor.facts()
        assert facts.cpus == os.cpu_count()
        assert facts.memory_mb > 500
        assert re.fullmatch(r"libvirt \d+\.\d+\.\d+, QEMU \d+\.\d+\.\d+", facts.version)

        # the power button is pressed before anybody listens to it, and again
        run = up.testbed.guests["one"].run
        assert run
        await hypervisor.domains.start(up.testbed.read(run.domain_xml))
        assert not await hypervisor.domains.shut_down(DOMAIN, 0.2)
        assert await hypervisor.domains.shut_down(DOMAIN, 60)
        assert await hypervisor.domains.shut_down(DOMAIN, 60)
        assert await hypervisor.domains.shut_down("virt-no-such", 60)

        # an event, not the next look
        await hypervisor.domains.start(up.testbed.read(run.domain_xml))
        running = await error_of(hypervisor.domains.undefine(DOMAIN))
        assert running.message == f"cannot undefine the domain {DOMAIN}: it is running"
        off = asyncio.create_task(hypervisor.domains.wait_off(DOMAIN))
        await asyncio.sleep(0.5)
        os.kill(pid_in("/run/libvirt/qemu/virt-one.pid"), signal.SIGKILL)
        await asyncio.wait_for(off, 4)  # it looks every 5
        states = await hypervisor.domains.states("virt")
        assert (states[DOMAIN].state, states[DOMAIN].uptime) == ("shut off", None)
        for _ in range(2):
            await hypervisor.domains.destroy(DOMAIN)
            await hypervisor.domains.undefine(DOMAIN)
        await hypervisor.domains.wait_off(DOMAIN)


def test_ends_of_guests(real_host: TestHost, project: Path) -> None:
    driven.inside(real_host, guests_end, folder=project)
