"""Guests on logical switches are reached through management ports, on simulated hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from host_calls import counted_calls

from golden.bench import Bench
from kvmcompose.core.commands import Down, Exec, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.core.planned import PlanRequest
from kvmcompose.hosts.fake import Failure
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from conftest import Lab

GUEST = """\
  - name: {name}
    network: [{{switch: {switch}{more}}}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {{cloud_image: {{name: debian_12{script}}}}}
"""
YAML = (
    "machines:\n"
    + GUEST.format(name="near", switch="lan", more="", script=", setup_script: setup.sh")
    + GUEST.format(name="far", switch="lan", more=", ip: dynamic, gateway: 10.66.1.1", script="")
    + GUEST.format(name="dark", switch="lone", more="", script="")
    + """\
network:
  ovn:
    switches: {lan: {subnet: 10.66.1.0/24}, lone: {subnet: 10.66.2.0/24}}
    routers:
      r:
        ports: [{name: to-lan, switch: lan, gateway_ip: 10.66.1.1/24, mac: "02:00:00:00:01:01"}]
        dhcp: [{switch: lan}]
    acl: {apply_deny_all: true}
testbed_options:
  placement: {pin: {near: one, far: two, dark: two}}
  management: {except: [dark]}
"""
)
LAN, PORT = "kvm-compose.lab.lan", "lab-lan-mgmt"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The project, built once."""
    return built_project(tmp_path_factory.mktemp("management"), YAML, scripts=("setup",))


@pytest.fixture
def cut_off(built: Bench, tmp_path: Path, new_lab: type[Lab]) -> Iterator[Lab]:
    with new_lab.copied(built, tmp_path) as lab:
        yield lab


def differences(lab: Lab) -> tuple[str, ...]:
    return lab.status().differences


def host_ports(lab: Lab, host: str = "") -> dict[str, dict[str, Any]]:
    return lab.drivers.worlds[host].ovn.host_ports.get("lab", {})


def started(lab: Lab) -> dict[str, Any]:
    return {
        f"{host}/{name}": each.started
        for host, world in lab.drivers.worlds.items()
        for name, each in world.domains.items()
    }


def assert_nothing_left(lab: Lab) -> None:
    for host, world in lab.drivers.worlds.items():
        assert (world.namespaces, world.links, world.ovn.host_ports, world.ovn.rows) == ({}, {}, {}, {}), host


def test_up_waits_and_sets_up_and_enters_on_each_host(cut_off: Lab) -> None:
    with counted_calls(cut_off.drivers) as calls:
        action = cut_off.must(Up())
    for host in ("", "two"):
        made = calls.of(host) if host else calls.of()
        assert (made["apply_management"], made["create_host_port"]) == (1, 1), host
        assert set(cut_off.drivers.worlds[host].namespaces) == {LAN}
    assert calls.of()["change_rows"] == 1
    row = cut_off.world.ovn.rows["lab"]["Logical_Switch_Port/management lan"]
    assert row.columns["type"] == "localport"
    for host in ("", "two"):
        assert host_ports(cut_off, host)[PORT]["interface_id"] == row.columns["name"]
        assert host_ports(cut_off, host)[PORT]["bridge"] == "br-int"
    assert "cannot be reached from the main host: dark" in cut_off.text(action)
    for call in ("wait_ready:near", "wait_ready:far"):
        assert call in cut_off.drivers.calls
    assert any("setup.sh" in line.text for line in cut_off.log(action) if line.guest == "near")
    assert cut_off.must(Exec(guest="far", argv=("true",))).exit_status == 0
    assert differences(cut_off) == ()
    with counted_calls(cut_off.drivers) as calls:
        assert "nothing to do" in cut_off.text(cut_off.must(Up()))
    assert (calls.of()["apply_management"], calls.of()["create_host_port"]) == (0, 0)
    cut_off.must(Down(purge=True))
    assert_nothing_left(cut_off)


def test_what_is_gone_is_seen_and_repaired_and_nobody_restarts(cut_off: Lab) -> None:
    cut_off.must(Up())
    before = started(cut_off)
    two = cut_off.drivers.worlds["two"]
    # by hand: the port alone
    del host_ports(cut_off, "two")[PORT]
    assert differences(cut_off) == (f"interface {PORT}: is missing",)
    cut_off.must(Up())
    # as after a reboot: the pair is gone with the namespace, Open vSwitch knows its port still
    del two.links[two.namespaces.pop(LAN).port]
    assert f"management port {LAN}: is missing" in differences(cut_off)
    assert cut_off.do(Exec(guest="far", argv=("true",))).state is ActionState.FAILED
    cut_off.must(Up())
    assert differences(cut_off) == ()
    # a namespace that lost its name lives on while a connection uses it: the switch has the earlier pair open
    del two.namespaces[LAN]
    cut_off.must(Up())
    assert two.links[PORT].attached
    assert differences(cut_off) == ()
    two.links[PORT].attached = False
    assert any(PORT in each for each in differences(cut_off))
    cut_off.must(Up())
    assert differences(cut_off) == ()
    # a row
    del cut_off.world.ovn.rows["lab"]["ACL/lan management to-lport"]
    assert differences(cut_off) == ("rule lan management to-lport: is missing",)
    cut_off.must(Up())
    assert differences(cut_off) == ()
    assert started(cut_off) == before


def test_it_is_switched_on_and_off_and_nobody_restarts(cut_off: Lab) -> None:
    cut_off.edit("{except: [dark]}", "{except: ['*']}")
    cut_off.edit(", setup_script: setup.sh", "")
    cut_off.must(Up())
    assert not cut_off.world.namespaces
    before = started(cut_off)
    cut_off.edit("{except: ['*']}", "true")
    request = PlanRequest(state=msgspec.Raw(b"null"))
    planned = asyncio.run(cut_off.orchestrator.plan(cut_off.deployment, request))
    kinds = {each.kind for each in planned.changes}
    assert kinds == {"management-port", "ovn-row", "ovn-host-port", "reachable"}
    cut_off.must(Up())
    assert set(cut_off.drivers.worlds["two"].namespaces) == {LAN, "kvm-compose.lab.lone"}
    assert cut_off.must(Exec(guest="dark", argv=("true",))).exit_status == 0
    cut_off.edit("management: true", "management: false")
    cut_off.must(Up())
    for host in ("", "two"):
        world = cut_off.drivers.worlds[host]
        assert (world.namespaces, world.links, world.ovn.host_ports) == ({}, {}, {})
    assert not [name for name in cut_off.world.ovn.rows["lab"] if "management" in name]
    assert started(cut_off) == before


@pytest.mark.parametrize("call", ["apply_management", "two/apply_management", "two/create_host_port:*"])
def test_its_calls_may_fail(cut_off: Lab, call: str) -> None:
    cut_off.drivers.failures = [Failure(call, 1)]
    assert cut_off.do(Up()).state is ActionState.FAILED
    cut_off.must(Up())
    assert differences(cut_off) == ()
    cut_off.drivers.failures = [Failure("two/remove_management", 1)]
    assert cut_off.do(Down(purge=True)).state is ActionState.FAILED
    cut_off.must(Down(purge=True))
    assert_nothing_left(cut_off)
