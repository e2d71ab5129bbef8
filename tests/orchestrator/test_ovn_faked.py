"""A network of OVN on fake hosts: what is wanted, compared, carried out, and what it costs."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from host_calls import counted_calls

from golden.bench import Bench
from kvmcompose.core.chassis import Remotes
from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import FakeOvn, FakeRow, World
from orchestrator.projects import TWO_HOSTS, built_project

if TYPE_CHECKING:
    from conftest import Lab

GUEST = """\
  - name: {name}
    network: [{{switch: lan}}]
    libvirt: {{cpus: 1, memory_mb: 128, libvirt_type: {{cloud_image: {{name: debian_12}}}}}}
"""
RULE = "          - {direction: to-lport, priority: 1000, match: icmp4, action: drop}\n"
YAML = f"""\
machines:
{GUEST.format(name="web")}{GUEST.format(name="db")}\
network:
  ovn:
    switches:
      lan:
        subnet: 10.66.1.0/24
        ports:
          - {{name: host, chassis: one, internal: {{ip: 10.66.1.2, mac: "02:00:00:00:00:02"}}}}
      public:
        subnet: 172.16.1.0/24
        ports: [{{name: out, localnet: {{network_name: public}}}}]
    routers:
      r:
        ports:
          - {{name: to-lan, switch: lan, gateway_ip: 10.66.1.1/24, mac: "02:00:00:00:01:01"}}
          - {{name: to-out, switch: public, gateway_ip: 172.16.1.200/24, mac: "02:00:00:00:01:03",
             set_gateway_chassis: two}}
        static_routes: [{{prefix: 0.0.0.0/0, nexthop: 172.16.1.1}}]
    acl:
      switches:
        lan:
{RULE}\
testbed_options:
  placement: {{pin: {{web: one, db: two}}}}
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The project, built once."""
    return built_project(tmp_path_factory.mktemp("ovn"), YAML)


def ovn(lab: Lab, host: str = "") -> FakeOvn:
    return lab.drivers.worlds[host].ovn


def rows(lab: Lab) -> dict[str, FakeRow]:
    return ovn(lab).rows["lab"]


def differences(lab: Lab) -> list[str]:
    return list(lab.status().differences)


def test_all_rows_come_in_one_transaction_and_nothing_is_left(lab: Lab) -> None:
    with counted_calls(lab.drivers) as calls:
        lab.must(Up())
    assert calls.of()["change_rows"] == calls.of()["in_force"] == 1
    assert ovn(lab).changes == 1
    assert {"Logical_Switch/lan", "Logical_Router/r", "ACL/lan to-lport 1000 icmp4"} <= rows(lab).keys()
    assert rows(lab)["Gateway_Chassis/to-out two"].columns["chassis_name"] == "two"
    assert (ovn(lab).address, ovn(lab).users) == ("192.0.2.11", ["lab"])
    settings = {host: ovn(lab, host).chassis.settings for host in ("", "two")}
    assert settings[""]["ovn-remote"] == "unix:/run/ovn/ovnsb_db.sock"
    assert settings["two"]["ovn-remote"] == "ssl:192.0.2.11:6642"
    assert ovn(lab, "two").chassis.keys
    assert not ovn(lab).chassis.keys
    assert ovn(lab, "two").chassis.mappings == {"public": "br-ex"}
    assert [*ovn(lab).host_ports["lab"]] == ["lab-host"]
    ports = lab.drivers.worlds["two"].bridges[""]["br-int"].ports
    assert [port.interface_id for port in ports.values()] == [
        rows(lab)["Logical_Switch_Port/db network[0]"].columns["name"]
    ]
    assert differences(lab) == []
    with counted_calls(lab.drivers) as calls:
        lab.must(Up())
    assert calls.of()["change_rows"] == 0
    lab.must(Down(timeout=0))
    for host in ("", "two"):
        left = ovn(lab, host)
        assert (left.rows, left.users, left.outsides, left.host_ports) == ({}, [], {}, {})
        assert (left.chassis.settings, left.chassis.users, left.chassis.mappings) == ({}, [], {})


def test_what_is_missing_in_ovn_is_told_by_its_switch_or_router(lab: Lab) -> None:
    lab.must(Up())
    for name in ("Logical_Switch/lan", "Logical_Router/r", "ACL/lan to-lport 1000 icmp4"):
        rows(lab).pop(name)
    found = {(each.kind, each.segment) for each in lab.status().differing if each.drift}
    assert {("ovn-row", "lan"), ("ovn-row", "r")} <= found
    assert "lan to-lport 1000 icmp4" not in {segment for _, segment in found}


def test_a_rule_that_is_replaced_leaves_no_gap(lab: Lab) -> None:
    lab.must(Up())
    lab.edit(RULE, RULE.replace("icmp4", "icmp4 && ip4.src == 10.66.1.2"))
    with counted_calls(lab.drivers) as calls:
        lab.must(Up())
    assert calls.of()["change_rows"] == 1
    assert calls.of()["start_domain"] == calls.of("two")["start_domain"] == 0
    assert [key for key in rows(lab) if key.startswith("ACL")] == [
        "ACL/lan to-lport 1000 icmp4 && ip4.src == 10.66.1.2"
    ]


def test_the_name_that_a_host_has_in_ovn_is_the_one_that_rows_have(lab: Lab) -> None:
    lab.must(Up())
    lab.must(Down(timeout=0))
    ovn(lab, "two").chassis.settings = {"system-id": "6d1f4a4e"}  # Debian's
    lab.must(Up())
    assert rows(lab)["Gateway_Chassis/to-out two"].columns["chassis_name"] == "6d1f4a4e"
    assert differences(lab) == []
    lab.must(Down(timeout=0))
    assert ovn(lab, "two").chassis.settings == {"system-id": "6d1f4a4e"}


def test_what_is_changed_by_hand_is_seen_and_repaired(lab: Lab) -> None:
    lab.must(Up())
    del rows(lab)["Logical_Router_Static_Route/r 0.0.0.0/0 via 172.16.1.1"]
    rows(lab)["ACL/lan to-lport 1000 icmp4"].columns["action"] = "allow"
    (port,) = lab.drivers.worlds["two"].bridges[""]["br-int"].ports.values()
    port.interface_id = "by-hand"
    ovn(lab, "two").chassis.mappings.clear()
    assert set(differences(lab)) >= {
        "rule lan to-lport 1000 icmp4: action: allow -> drop",
        "way out br-ex: is not mapped",
    }
    lab.must(Up())
    assert differences(lab) == []
    assert port.interface_id != "by-hand"


@pytest.mark.parametrize(
    ("host", "spoil", "why"),
    [
        (
            "two",
            {"ovn-remote": "tcp:198.51.100.1:6642"},
            "two is a chassis of another OVN: ovn-remote",
        ),
        ("two", {"system-id": "one"}, "its system-id is one, as that of one: one of them is a copy"),
    ],
)
def test_hosts_of_others_are_refused_before_anything_is_changed(
    lab: Lab, host: str, spoil: dict[str, str], why: str
) -> None:
    world = lab.drivers.worlds.setdefault(host, World())
    world.ovn.chassis.settings = dict(spoil)
    action = lab.do(Up())
    assert action.state is ActionState.FAILED
    assert any(why in fault.message for fault in action.faults)
    assert ovn(lab).rows == {}
    assert ovn(lab, host).chassis.settings == spoil


def test_a_controller_that_does_not_run_is_named(lab: Lab) -> None:
    lab.must(Up())
    ovn(lab, "two").chassis.runs = False
    assert differences(lab) == [
        "chassis two: is not connected (ovn-controller)", "guest db: its logical ports are not bound",
    ]  # fmt: skip
    action = lab.do(Up())
    assert any("ovn-controller does not run on two" in fault.message for fault in action.faults)
    lab.must(Down(timeout=0))
    assert ovn(lab).rows == {}


def test_keys_that_end_soon_are_shown_and_renewed(lab: Lab) -> None:
    lab.must(Up())
    soon = (dt.datetime.now(dt.UTC) + dt.timedelta(days=80)).date().isoformat()
    ovn(lab).expires = ovn(lab, "two").chassis.expires = soon
    assert differences(lab) == [
        f"OVN's databases at 192.0.2.11: is about to lose its TLS keys, which end on {soon}",
        f"chassis two: is about to lose its TLS key, which ends on {soon} (ovn-controller)",
    ]
    lab.must(Up())
    assert differences(lab) == []
    assert ovn(lab, "two").chassis.expires == ovn(lab).expires > soon


def test_guests_beside_an_interface_of_the_main_host_are_awaited(lab: Lab) -> None:
    def address(name: str) -> str | None:
        return next(guest.address for guest in lab.status().guests if guest.name == name)

    lab.must(Up())
    assert address("web") is None  # the rule that drops may be for the host
    lab.edit(RULE, RULE.replace("action: drop", "action: allow-related"))
    begun = len(lab.drivers.calls)
    lab.must(Up())
    assert str(address("web")).startswith("10.66.1.")
    assert any(call.startswith("wait") for call in lab.drivers.calls[begun:]), lab.drivers.calls[begun:]
    lab.edit("chassis: one", "chassis: two")
    lab.must(Up())
    assert address("web") is None
    assert differences(lab) == []


def test_a_host_that_did_not_follow_is_waited_for_by_the_next_up(lab: Lab) -> None:
    lab.must(Up())
    lab.edit(RULE, RULE.replace("icmp4", "icmp4 && ip4.src == 10.66.1.2"))
    lab.drivers.failures = [Failure.parse("in_force:*=1")]
    assert lab.do(Up()).state is ActionState.FAILED
    assert differences(lab) == [
        "chassis one: is behind (ovn-controller)", "chassis two: is behind (ovn-controller)",
    ]  # fmt: skip
    with counted_calls(lab.drivers) as calls:
        lab.must(Up())
    assert (calls.of()["change_rows"], calls.of()["in_force"]) == (0, 2)
    assert differences(lab) == []


def test_an_ovn_that_exists_is_used_with_its_keys(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads(TWO_HOSTS)
    config |= {
        "ovn_northbound": "ssl:192.0.2.1:6641",
        "ovn_southbound": "ssl:192.0.2.1:6642",
        "ovn_private_key": "keys/ovn.pem",
        "ovn_certificate": "keys/ovn.crt",
        "ovn_ca_certificate": "keys/ca.crt",
    }
    for name in ("ovn.pem", "ovn.crt", "ca.crt"):
        (lab.folder / "keys" / name).write_text("PEM\n")
    (lab.folder / "kvm-compose-config.json").write_text(json.dumps(config))
    lab.bench.generate()
    used: list[Remotes] = []
    ovn_of = lab.drivers.ovn
    monkeypatch.setattr(lab.drivers, "ovn", lambda main, given: (used.append(given), ovn_of(main, given))[1])
    lab.must(Up())
    assert {(each.ovn_northbound, each.ovn_private_key) for each in used} == {
        (("ssl:192.0.2.1:6641",), str(lab.folder / "keys/ovn.pem"))
    }
    assert ovn(lab).address == ""  # nothing is opened
    for host in ("", "two"):
        assert ovn(lab, host).chassis.settings["ovn-remote"] == "ssl:192.0.2.1:6642"
        assert not ovn(lab, host).chassis.keys


def test_rows_of_another_main_host_are_left_alone(lab: Lab) -> None:
    foreign = FakeRow("elsewhere", "Logical_Switch", "lan", {"name": "lab-lan"})
    ovn(lab).rows["lab"] = {"Logical_Switch/lan": foreign}
    action = lab.do(Up())
    assert any("a project lab of another main host: elsewhere" in fault.message for fault in action.faults)
    assert ovn(lab).rows["lab"] == {"Logical_Switch/lan": foreign}


def calls_of_up(lab: Lab) -> list[str]:
    begun = len(lab.drivers.calls)
    lab.must(Up())
    return patterns(lab, begun)


def patterns(lab: Lab, begun: int) -> list[str]:
    """Return the calls of OVN since then, as patterns: changes have other numbers each time."""
    calls = lab.drivers.calls[begun:]
    named = dict.fromkeys(re.sub(r"(in_force|lagging_chassis):.*", r"\1:*", call) for call in calls)
    return [each for each in named if any(word in each for word in OVNS)]


#: Parts of the names of calls that are OVN's.
OVNS = (
    "ovn",
    "bound_ports",
    "rows",
    "southbound",
    "in_force",
    "identity",
    "outside",
    "host_port",
    "chassis",
)


def test_wherever_up_fails_the_next_one_goes_on(lab: Lab) -> None:
    calls = calls_of_up(lab)
    assert {each.partition(":")[0].rpartition("/")[2] for each in calls} >= {
        "open_southbound", "join_ovn", "make_identity", "create_outside", "change_rows",
        "in_force", "create_host_port",
    }  # fmt: skip
    for call in calls:
        lab.must(Down(timeout=0))
        assert_nothing_left(lab)
        lab.drivers.failures = [Failure.parse(f"{call}=1")]
        assert lab.do(Up()).state is ActionState.FAILED, call
        lab.must(Up())
        assert differences(lab) == [], call


def test_wherever_down_fails_the_next_one_goes_on(lab: Lab) -> None:
    lab.must(Up())
    begun = len(lab.drivers.calls)
    lab.must(Down(timeout=0))
    calls = patterns(lab, begun)
    assert {"close_southbound:lab", "forget_chassis:one", "forget_chassis:two"} <= {*calls}
    for call in calls:
        lab.must(Up())
        lab.drivers.failures = [Failure.parse(f"{call}=1")]
        lab.do(Down(timeout=0))
        begun = len(lab.drivers.calls)
        lab.must(Down(timeout=0))
        # what was not done is done by the next one; there are no rows to wait for any more
        assert call in patterns(lab, begun) or call.startswith("in_force"), call
        assert_nothing_left(lab)


def assert_nothing_left(lab: Lab) -> None:
    for host in ("", "two"):
        left = ovn(lab, host)
        assert msgspec.structs.replace(left, changes=0) == FakeOvn(), host


def test_two_projects_share_the_hosts(lab: Lab) -> None:
    lab.must(Up())
    theirs = ovn(lab, "two").outsides["br-ex"]
    theirs.kept = True  # kvm-compose has not made it, and the config does not name it
    users, theirs.users = theirs.users, {}
    action = lab.do(Up())
    why = "two: no way out by br-ex: there is a bridge br-ex that kvm-compose has not made"
    assert [fault.message for fault in action.faults] == [why]
    assert "bridge_mappings" in (action.faults[0].hint or "")
    theirs.kept, theirs.users = False, users
    # another project needs what is the hosts'
    for host in ("", "two"):
        ovn(lab, host).chassis.users.append("other")
    ovn(lab).users.append("other")
    lab.must(Down(timeout=0))
    assert ovn(lab).address == "192.0.2.11"
    assert ovn(lab, "two").chassis.settings["ovn-remote"] == "ssl:192.0.2.11:6642"
    assert ovn(lab, "two").chassis.users == ["other"]
    assert ovn(lab).rows == {}
