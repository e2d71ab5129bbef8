"""Two testbeds on one bridge of a provider network, on fake hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from golden.bench import Bench
from kvmcompose.core.commands import Down, Up
from kvmcompose.hosts.fake_world import FakeOutside, FakeOvn, FakeRow
from orchestrator.projects import built_project

if TYPE_CHECKING:
    from conftest import Lab

ROUTED = "[{switch: lan}]"
YAML = """\
machines:
  - name: web
    network: [{switch: lan}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
network:
  ovn:
    switches:
      lan: {subnet: 10.66.1.0/24}
      public:
        subnet: 172.16.1.0/24
        ports: [{name: out, localnet: {network_name: public}}]
    routers:
      r:
        ports:
          - {name: to-lan, switch: lan, gateway_ip: 10.66.1.1/24, mac: "02:00:00:00:01:01"}
          - {name: to-out, switch: public, gateway_ip: 172.16.1.200/24, mac: "02:00:00:00:01:03",
             set_gateway_chassis: two}
        static_routes: [{prefix: 0.0.0.0/0, nexthop: 172.16.1.1}]
        nat: [{nat_type: snat, external_ip: 172.16.1.201, logical_ip: 10.66.1.0/24}]
"""
OTHER = {"network": "public", "address": "172.16.1.1/24"}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The project, built once."""
    return built_project(tmp_path_factory.mktemp("shared"), YAML)


def ovn(lab: Lab, host: str = "two") -> FakeOvn:
    """Return the host's part, from its first use on."""
    lab.status()
    return lab.drivers.worlds[host].ovn


def theirs(lab: Lab, **router: object) -> None:
    """Give another project, whose router is in the network, the bridge."""
    two, main = ovn(lab), ovn(lab, "")
    two.outsides["br-ex"] = FakeOutside({"other": dict(OTHER)}, "172.16.1.1/24", "system")
    two.chassis.mappings["public"] = "br-ex"
    port = {"name": "other-to-out", "mac": "02:00:00:00:02:03", "networks": "172.16.1.210/24"} | router
    switch = ["Logical_Switch", "public"]
    localnet = {"type": "localnet", "options": {"network_name": "public"}, "addresses": "unknown"}
    end = {"type": "router", "options": {"router-port": "other-to-out"}, "addresses": "router"}
    main.rows["other"] = {
        f"{each.table}/{each.name}": each
        for each in (
            FakeRow("here", "Logical_Switch", "public", {"name": "other-public"}),
            FakeRow("here", "Logical_Switch_Port", "port out", localnet, switch, "ports"),
            FakeRow("here", "Logical_Switch_Port", "port to-out", end, switch, "ports"),
            FakeRow("here", "Logical_Router", "r", {"name": "other-r"}),
            FakeRow("here", "Logical_Router_Port", "to-out", port, ["Logical_Router", "r"], "ports"),
        )
    }


def refused(lab: Lab) -> tuple[str, str]:
    (fault,) = lab.do(Up()).faults
    return fault.message, fault.hint or ""


def test_the_bridge_is_one_and_goes_with_the_last_project(lab: Lab) -> None:
    theirs(lab)
    lab.must(Up())
    assert list(lab.status().differences) == []
    assert {*ovn(lab).outsides["br-ex"].users} == {"lab", "other"}
    lab.must(Down(timeout=0))
    assert ovn(lab).outsides == {"br-ex": FakeOutside({"other": OTHER}, "172.16.1.1/24", "system")}
    assert ovn(lab).chassis.mappings == {"public": "br-ex"}
    theirs(lab)
    lab.must(Up())
    del ovn(lab).outsides["br-ex"].users["other"]
    lab.must(Down(timeout=0))
    assert (ovn(lab).outsides, ovn(lab).chassis.mappings) == ({}, {})


@pytest.mark.parametrize(
    ("port", "what"),
    [
        ({"networks": "172.16.1.200/24"}, "172.16.1.200 (router port to-out)"),
        ({"networks": ["172.16.1.7/24", "172.16.1.201/24"]}, "172.16.1.201 (NAT r snat 172.16.1.201"),
        ({"mac": "02:00:00:00:01:03"}, "02:00:00:00:01:03 (router port to-out)"),
    ],
)
def test_an_address_of_the_other_project_is_refused(lab: Lab, port: dict[str, object], what: str) -> None:
    theirs(lab, **port)
    message, hint = refused(lab)
    why = "two: the project other has addresses of this testbed on the bridge br-ex: "
    assert message.startswith(f"{why}{what}")
    assert hint == "give them others in the network public"
    assert "lab" not in ovn(lab, "").rows


@pytest.mark.parametrize("address", ["172.16.1.254/24", "edited by hand"])
def test_another_address_of_the_bridge_is_refused(lab: Lab, address: str) -> None:
    theirs(lab)
    ovn(lab).outsides["br-ex"].users["other"]["address"] = address
    why = f"two: no way out by br-ex: the bridge br-ex has the address {address} for the project other"
    assert refused(lab)[0] == why


def test_guests_directly_on_a_shared_bridge_are_refused(lab: Lab) -> None:
    theirs(lab)
    ovn(lab).outsides["br-ex"].users["other"]["has_guests"] = True
    message, hint = refused(lab)
    why = "two: no way out by br-ex: guests of the project other are directly on the bridge br-ex"
    assert message == why
    assert "through a router" in hint
    theirs(lab)
    lab.edit(f"    network: {ROUTED}", "    network: [{switch: lan}, {switch: public, ip: 172.16.1.9}]")
    message, _ = refused(lab)
    assert message.endswith("this testbed has guests directly on br-ex, which the project other uses")


def test_a_bridge_of_the_administrator_is_used_by_all_that_name_it(lab: Lab) -> None:
    config = lab.folder / "kvm-compose-config.json"
    text = config.read_text()
    named = '"two": {"ovn": {"bridge_mappings": [["public", "br-up", "172.16.1.1/24"]]}, '
    config.write_text(text.replace('"two": {', named, 1))
    lab.bench.generate()
    user = dict(OTHER, has_guests=True)
    ovn(lab).outsides["br-up"] = FakeOutside({"other": user}, "198.51.100.1/24", "system", kept=True)
    lab.must(Up())
    lab.must(Down(timeout=0))
    assert ovn(lab).outsides["br-up"].users == {"other": user}


def test_a_network_that_has_another_bridge_is_refused(lab: Lab) -> None:
    ovn(lab).chassis.mappings["public"] = "br-uplink"
    message, hint = refused(lab)
    assert message == "two: no way out by br-ex: the host has the bridge br-uplink for the network public"
    assert "network_name" in hint
    assert ovn(lab).chassis.mappings == {"public": "br-uplink"}
