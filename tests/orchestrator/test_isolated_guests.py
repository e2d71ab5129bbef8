"""Isolated guests are reached through management ports, on simulated hosts."""

from __future__ import annotations

import asyncio
import glob
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from golden.bench import Bench
from kvmcompose.core.commands import Down, Exec, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.core.errors import RefusedError
from kvmcompose.core.planned import PlanRequest
from kvmcompose.hosts.fake import Failure
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from conftest import Lab

GUEST = """\
  - name: {name}
    interfaces: [{{bridge: {bridge}}}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {{cloud_image: {{name: debian_12{script}}}}}
"""
YAML = (
    "machines:\n"
    + GUEST.format(name="web", bridge="home", script="")
    + GUEST.format(name="cut", bridge="lab", script=", setup_script: setup.sh, run_script: run.sh")
    + GUEST.format(name="dark", bridge="lab", script="")
    + GUEST.format(name="far", bridge="away", script="")
    + "network:\n  bridges: [{name: home}, {name: lab}, {name: away}]\n  external_bridge: home\n"
    "testbed_options:\n  placement: {pin: {home: one, lab: one, away: two}}\n"
    "  management: {except: [dark]}\n"
)
LAB, AWAY = "kvm-compose.lab.lab", "kvm-compose.lab.away"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The project, built once."""
    return built_project(tmp_path_factory.mktemp("management"), YAML, scripts=("setup", "run"))


@pytest.fixture
def cut_off(built: Bench, tmp_path: Path, new_lab: type[Lab]) -> Iterator[Lab]:
    with new_lab.copied(built, tmp_path) as lab:
        yield lab


def ports(lab: Lab, host: str = "") -> list[str]:
    """The ports of the project's bridges on a host that are management ports."""
    bridges = lab.drivers.worlds[host].bridges.get("lab", {})
    return sorted(port for bridge in bridges.values() for port in bridge.ports if port.endswith("-mgmt"))


def differences(lab: Lab) -> tuple[str, ...]:
    return lab.status().differences


def test_up_waits_and_sets_up_and_enters(cut_off: Lab) -> None:
    action = cut_off.must(Up())
    text = cut_off.text(action)
    assert "cannot be reached from the main host: dark" in text
    for call in ("wait_ready:cut", "wait_ready:far"):
        assert call in cut_off.drivers.calls
    assert "wait_ready:dark" not in cut_off.drivers.calls
    assert any("setup.sh" in line.text for line in cut_off.log(action) if line.guest == "cut")
    assert set(cut_off.world.namespaces) == {LAB}
    assert set(cut_off.drivers.worlds["two"].namespaces) == {AWAY}
    assert (ports(cut_off), ports(cut_off, "two")) == (["lab-lab-mgmt"], ["lab-away-mgmt"])
    assert cut_off.must(Exec(guest="far", argv=("true",))).exit_status == 0
    access = {each.name: each for each in asyncio.run(cut_off.orchestrator.access(cut_off.deployment))}
    assert {name for name, each in access.items() if each.through_server} == {"cut", "far"}
    assert access["dark"].address is None
    assert differences(cut_off) == ()
    assert "nothing to do" in cut_off.text(cut_off.must(Up()))
    cut_off.must(Down(purge=True))
    cut_off.assert_clean()
    assert not cut_off.drivers.worlds["two"].namespaces


def test_what_is_gone_is_seen_and_repaired_and_nobody_restarts(cut_off: Lab) -> None:
    cut_off.must(Up())
    started = {name: each.started for name, each in cut_off.world.domains.items()}
    cut_off.world.namespaces[LAB].firewall = False
    assert differences(cut_off) == (f"management port {LAB}: its firewall is missing",)
    cut_off.must(Up())
    # as after a reboot of the host: the pair is gone with the namespace
    port = cut_off.world.namespaces.pop(LAB).port
    del cut_off.world.links[port]
    assert differences(cut_off) == (f"management port {LAB}: is missing",)
    assert cut_off.do(Exec(guest="cut", argv=("true",))).state is ActionState.FAILED
    cut_off.must(Up())
    assert differences(cut_off) == ()
    assert cut_off.must(Exec(guest="cut", argv=("true",))).exit_status == 0
    # a namespace that lost its name lives on while a connection uses it
    del cut_off.world.namespaces[LAB]
    cut_off.must(Up())
    assert differences(cut_off) == ()
    assert {name: each.started for name, each in cut_off.world.domains.items()} == started


def test_it_is_switched_on_and_off_and_nobody_restarts(cut_off: Lab) -> None:
    cut_off.edit("  management: {except: [dark]}\n", "  management: {except: ['*']}\n")
    cut_off.edit(", setup_script: setup.sh, run_script: run.sh", "")
    cut_off.must(Up())
    assert not cut_off.world.namespaces
    started = {name: each.started for name, each in cut_off.world.domains.items()}
    cut_off.edit("{except: ['*']}", "true")
    request = PlanRequest(state=msgspec.Raw(b"null"))
    planned = asyncio.run(cut_off.orchestrator.plan(cut_off.deployment, request))
    kinds = {each.kind for each in planned.changes}
    assert "management-port" in kinds
    assert not kinds & {"libvirt-domain", "libvirt-network", "ovs-bridge", "veth"}, planned.changes
    cut_off.must(Up())
    assert set(cut_off.world.namespaces) == {LAB}
    assert cut_off.must(Exec(guest="dark", argv=("true",))).exit_status == 0
    cut_off.edit("management: true", "management: {except: [cut, dark]}")
    cut_off.must(Up())
    assert not cut_off.world.namespaces
    assert ports(cut_off) == []
    assert set(cut_off.drivers.worlds["two"].namespaces) == {AWAY}
    assert {name: each.started for name, each in cut_off.world.domains.items()} == started


def test_an_exception_has_no_way_in(cut_off: Lab) -> None:
    cut_off.must(Up())
    action = cut_off.do(Exec(guest="dark", argv=("true",)))
    assert action.state is ActionState.FAILED
    assert "dark has no address that can be reached from here" in action.faults[0].message
    with pytest.raises(RefusedError, match="dark has no address"):
        asyncio.run(cut_off.orchestrator.reach(cut_off.deployment, "dark"))


def test_the_servers_connection_leads_through_the_namespace(cut_off: Lab) -> None:
    cut_off.must(Up())

    async def talk() -> tuple[bytes, bytes]:
        endpoint = await cut_off.orchestrator.reach(cut_off.deployment, "far")
        loop = asyncio.get_running_loop()
        with endpoint:
            banner = await loop.sock_recv(endpoint, 100)
            await loop.sock_sendall(endpoint, b"hello")
            return banner, await loop.sock_recv(endpoint, 100)

    assert asyncio.run(talk()) == (b"SSH-2.0-fake\r\n", b"hello")
    assert any(call.startswith("two/connect:") for call in cut_off.drivers.calls)


@pytest.mark.parametrize("call", ["observe_management", "apply_management", "connect:*", "two/connect:*"])
def test_its_calls_may_fail(cut_off: Lab, call: str) -> None:
    cut_off.drivers.failures = [Failure(call if "*" in call else glob.escape(call), 1)]
    assert cut_off.do(Up()).state is ActionState.FAILED
    cut_off.must(Up())
    assert differences(cut_off) == ()
    cut_off.drivers.failures = [Failure("remove_management", 1)]
    assert cut_off.do(Down(purge=True)).state is ActionState.FAILED
    cut_off.must(Down(purge=True))
    cut_off.assert_clean()


def test_down_finds_the_namespaces_of_the_project_by_name_alone(cut_off: Lab) -> None:
    cut_off.must(Up())
    world = cut_off.world
    world.namespaces["kvm-compose.lab-2.lab"] = world.namespaces[LAB]
    cut_off.store.set_deployed("lab", None)
    (cut_off.folder / "state.json").unlink()
    cut_off.do(Down())
    assert set(world.namespaces) == {"kvm-compose.lab-2.lab"}
