"""A testbed that version 0.1 brought up: an upgrade restarts nobody, and runs no script again."""

from __future__ import annotations

import json
import sqlite3
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from edited import SCRIPT
from test_converging import changes
from test_failures import _kill_at

from golden.bench import new_bench
from kvmcompose.core.commands import Up
from kvmcompose.core.deployable import TunnelPort
from kvmcompose.core.deployment import Phase
from kvmcompose.effects.files import digest_bytes
from kvmcompose.hosts.blob_store import HOSTED
from kvmcompose.providers.libvirt.fake_hardware import hardware
from kvmcompose.providers.ovs.interface import GENEVE, tunnel_options
from kvmcompose.server.orchestrator.context import Context
from kvmcompose.server.orchestrator.deployed import unpacked
from kvmcompose.server.people import this_user

if TYPE_CHECKING:
    from conftest import Lab

BEFORE = Path(__file__).resolve().parent / "brought_up_by_0_1"
GUESTS = {"web", "db", "far", "worker-0", "worker-1", "worker-2", "worker-3"}
PENDING = "brought up by an earlier version of kvm-compose"


@pytest.fixture
def old(tmp_path: Path, new_lab: type[Lab]) -> Iterator[Lab]:
    """The testbed as it is up, its project built by this version, and a server of this version."""
    files = {name: (BEFORE / name).read_text() for name in ("kvm-compose.yaml", "kvm-compose-config.json")}
    scripts = {f"{name}.sh": SCRIPT for name in ("setup", "run", "shared")}
    bench = new_bench(tmp_path, "lab", files | scripts | {"keys/id_ed25519": "not a key\n"})
    bench.generate()
    for name in ("golden.json", "sent.json"):
        (bench.folder / ".kvm-compose" / name).write_text((BEFORE / name).read_text())
    _write_database(tmp_path / "server.sqlite", bench.folder)
    (tmp_path / "world.json").write_text(
        (BEFORE / "world.json").read_text().replace("{folder}", str(bench.folder))
    )
    lab = new_lab(bench, tmp_path)
    _complete(lab)
    yield lab
    lab.store.close()


def _write_database(path: Path, folder: Path) -> None:
    with sqlite3.connect(path) as database:
        database.executescript((BEFORE / "schema.sql").read_text())
        deployed = (BEFORE / "deployed.json").read_text().replace("{folder}", str(folder))
        database.execute(
            "INSERT INTO deployments (name, project_location, state, deployed) VALUES (?, ?, ?, ?)",
            ("lab", str(folder), "up", json.dumps(json.loads(deployed)).encode()),
        )
    database.close()


def _complete(lab: Lab) -> None:
    """Real hosts have what the fake ones of 0.1 did not."""
    context = Context(lab.deployment, this_user(), lab.drivers, lab.store)
    plan, home = context.built.network_plan, context.home
    for host, world in lab.drivers.worlds.items():
        world.homes = dict.fromkeys(world.homes, home)
        folder = lab.folder if not host else HOSTED / "lab"
        world.disks = {str(folder / "artefacts" / name): disk for name, disk in world.disks.items()}
        for tunnel in (each.spec for each in plan.resources):
            if isinstance(tunnel, TunnelPort) and tunnel.host == (host or "one"):
                port = world.bridges["lab"][tunnel.bridge].ports[tunnel.name]
                port.type, port.options = GENEVE, tunnel_options(tunnel)
        for bridge in world.bridges["lab"].values():
            bridge.datapath_type = "system"
            for port in bridge.ports.values():
                port.marked = False
        for name, domain in world.domains.items():
            xml = (BEFORE / f"artefacts/{domain.guest}-domain.xml").read_text()
            domain.hardware = hardware(ET.fromstring(xml))  # noqa: S314 (our own)
            domain.disk = str(folder / "artefacts" / domain.disk)
            world.plug(name, domain.hardware.nics)
    main = lab.world
    main.network_definitions = {"lab-network": (BEFORE / "artefacts/lab-network.xml").read_text()}
    for name, link in main.links.items():
        link.mtu, link.master = plan.mtu, plan.network.bridge if name == "lab-veth1" else None
        link.attached = name != "lab-veth1"
    lab.drivers.keep()
    lab.restart()


def started(lab: Lab) -> dict[str, float]:
    return {
        domain.guest: domain.started
        for world in lab.drivers.worlds.values()
        for domain in world.domains.values()
        if domain.started
    }


def inside(lab: Lab) -> list[str]:
    """The calls that went into guests."""
    return [call for call in lab.drivers.calls if call.startswith(("run:", "wait_ready:"))]


def test_it_is_what_0_1_left(old: Lab) -> None:
    assert started(old).keys() == GUESTS
    assert old.deployment.state is Phase.UP
    assert not any(domain.made for world in old.drivers.worlds.values() for domain in world.domains.values())


def test_an_upgrade_restarts_nobody_and_runs_nothing(old: Lab) -> None:
    before = started(old)
    assert set(old.status().differences) == {f"guest {name}: {PENDING}" for name in GUESTS}
    for _ in range(3):
        action = old.must(Up())
        assert "nothing else is to be done" in old.text(action) or "is up:" in old.text(action)
        assert started(old) == before
        assert inside(old) == []
        assert {call for call in old.drivers.calls if changes(call) and "stamp_domain" not in call} == set()
        assert set(old.status().differences) == {f"guest {name}: {PENDING}" for name in GUESTS}
        old.restart()
        old.drivers.calls.clear()


def test_what_waits_is_done_when_it_is_asked_for(old: Lab) -> None:
    before = started(old)
    old.must(Up())
    old.must(Up(restart=True))
    now = started(old)
    assert now.keys() == GUESTS
    assert all(now[name] != before[name] for name in GUESTS)
    assert not [call for call in inside(old) if "setup" in call and "done" not in call], "it has run once"
    assert old.status().differences == ()


def test_an_edit_restarts_that_guest_alone(old: Lab) -> None:
    before = started(old)
    old.bench.yaml.write_text(old.bench.yaml.read_text().replace("memory_mb: 128", "memory_mb: 192", 1))
    old.bench.generate()
    old.must(Up())
    now = started(old)
    assert {name for name in GUESTS if now[name] != before[name]} == {"web"}
    assert {call.split(":")[1] for call in inside(old)} == {"web"}
    assert set(old.status().differences) == {f"guest {name}: {PENDING}" for name in GUESTS - {"web"}}


def test_a_golden_image_stays_when_its_address_changes(old: Lab) -> None:
    """It was recorded with its address then; what equals it is recorded without at the first ``up``."""
    old.must(Up())
    old.bench.edit("{name: br0}", "{name: br0, subnet: 10.9.0.0/24}")
    old.bench.generate()
    old.drivers.calls.clear()
    old.must(Up())
    assert started(old).keys() == GUESTS
    assert "start_domain:lab-worker" not in old.drivers.calls


def test_what_equals_is_stamped(old: Lab) -> None:
    """As from a version that made the same files."""
    document = unpacked(old.store.deployed("lab") or b"")
    deployed = msgspec.json.decode(document)
    for path in deployed["files"]:
        deployed["files"][path] = digest_bytes((old.folder / path).read_bytes())
    old.store.set_deployed("lab", msgspec.json.encode(deployed))
    before = started(old)
    assert old.status().differences == ()
    old.must(Up())
    domains = [domain for world in old.drivers.worlds.values() for domain in world.domains.values()]
    assert all(domain.made for domain in domains)
    assert started(old) == before
    assert inside(old) == []
    old.drivers.calls.clear()
    assert "nothing to do" in old.text(old.must(Up()))
    assert inside(old) == []


@pytest.mark.parametrize("at", range(3, 40, 6))
def test_an_upgrade_that_is_killed_restarts_nobody(old: Lab, at: int) -> None:
    before = started(old)
    _kill_at(old, Up(), at, may_end=True)
    old.drivers.calls.clear()
    old.must(Up())
    assert started(old) == before
    assert inside(old) == []
