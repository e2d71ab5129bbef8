"""Guests on a logical switch of two hosts: the server enters them past all rules, and no more."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kvm import Project, changes, inventory
from test_several_hosts import make_project

from hosts import TestHost, TestHosts

pytestmark = pytest.mark.real

GUEST = """\
  - name: {name}
    network: [{{switch: lan, ip: 10.66.1.{last}, mac: "02:00:00:00:00:{last}"}}]
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type: {{cloud_image: {{path: micro.qcow2}}}}
"""
YAML = (
    "machines:\n"
    + GUEST.format(name="near", last=10)
    + GUEST.format(name="far", last=11)
    + GUEST.format(name="third", last=12)
    + """\
network:
  ovn:
    switches: {lan: {subnet: 10.66.1.0/24}}
    acl:
      apply_deny_all: true
      switches:
        lan:
          - {direction: from-lport, priority: 1000, match: ip4, action: allow-related}
          - {direction: to-lport, priority: 1000, match: "tcp.dst == {22, 5432}", action: allow-related}
          - {direction: to-lport, priority: 1000, match: tcp.dst == 81, action: reject}
          - {direction: to-lport, priority: 1000, match: "udp.dst == {53, 54}", action: allow-related}
          - {direction: to-lport, priority: 1001, match: udp.dst == 54, action: reject}
          - {direction: to-lport, priority: 1000, match: icmp4 && ip4.dst == 10.66.1.12, action: allow}
testbed_options:
  placement: {pin: {near: one, far: two, third: two}}
  management: true
expect:
  - {from: near, to: far, tcp: 22, is: allowed}
  - {from: near, to: far, tcp: 5432, is: allowed}
  - {from: near, to: far, tcp: 81, is: denied}
  - {from: near, to: far, tcp: 82, is: denied}
  - {from: near, to: far, udp: 53, is: allowed}
  - {from: near, to: far, udp: 54, is: denied}
  - {from: near, to: far, udp: 55, is: denied}
  - {from: [near, third], to: far, icmp: true, is: denied}
  - {from: [near, far], to: third, icmp: true, is: allowed}
  - {from: [near, far], to: internet, tcp: 443, is: denied}
  - {from: far, to: near, tcp: 83, is: allowed}
  - {from: internet, to: near, is: denied}
"""
)
BROKEN = "far to near, tcp 83: allowed"
#: A dozen packets, most of which nothing answers; emulated guests beside other tests are slow.
TEST_SECONDS = 90
NAMESPACE = "kvm-compose.shut.lan"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    with TestHosts(2, directory=tmp_path_factory.mktemp("mo"), ssh=True, tunnels=True, ovn=True) as hosts:
        yield hosts


def namespaces(host: TestHost) -> list[str]:
    return host.run(["sh", "-c", "ls /run/netns 2>/dev/null || true"]).stdout.split()


def test_guests_behind_rules_are_entered_and_reach_nothing(
    hosts: TestHosts, tmp_path: Path, micro_image: Path, ssh_key: Path
) -> None:
    shutil.copy(ssh_key, tmp_path / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), tmp_path / "key.pub")
    (tmp_path / "micro.qcow2").symlink_to(micro_image)
    project = make_project(hosts, tmp_path, "shut", 2, yaml=YAML)
    before = [inventory(host) for host in hosts]
    project.run("up")
    assert [namespaces(host) for host in hosts] == [[NAMESPACE], [NAMESPACE]]
    (port,) = project.state()["network"]["management_ports"]
    for guest, other in (("near", "10.66.1.11"), ("far", "10.66.1.10")):
        script = (
            f"for each in {port['ip']} {other}; do ping -c 1 -W 1 $each >/dev/null && echo answers; done;"
        )
        script += f"ip neigh show {port['ip']}"
        said = project.inside(guest, "sudo", "-n", "sh", "-c", script)
        assert "answers" not in said
        assert port["mac"] in said  # ARP aside
    # as after a restart of the host: the pair is gone, Open vSwitch knows its port still
    running = hosts[1].run(["pgrep", "-f", "guest=shut-far"]).stdout
    hosts[1].run(["ip", "netns", "delete", NAMESPACE])
    assert f"management port {NAMESPACE}: is missing" in project.json("status")["differences"]
    project.run("up")
    assert project.run("ssh", "far", "--", "hostname").stdout.strip() == "shut-far"
    assert hosts[1].run(["pgrep", "-f", "guest=shut-far"]).stdout == running
    assert_packets_do_what_is_expected(hosts, project)
    project.run("down", "--purge", "--timeout", "0")
    assert_nothing_left(hosts, before)


def json_of(project: Project, *words: str, status: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(project.run(*words, "--json", status=status).stdout)
    return found


def verdicts(tested: dict[str, Any], wanted: str) -> list[str]:
    return [line["text"] for line in tested["expectations"] if line["verdict"] == wanted]


def assert_packets_do_what_is_expected(hosts: TestHosts, project: Project) -> None:
    """``test`` and ``check`` agree on all lines; what was changed by hand, or is off, shows in ``test``."""
    offline = {line["text"]: line["holds"] for line in json_of(project, "check", status=1)["expectations"]}
    assert [text for text, holds in offline.items() if not holds] == [BROKEN]
    began = time.monotonic()
    tested = json_of(project, "test", "--timeout", "2", status=1)
    assert time.monotonic() - began < TEST_SECONDS
    assert verdicts(tested, "broken") == [BROKEN], tested
    assert verdicts(tested, "skipped") == ["internet to near: denied"]
    assert len(verdicts(tested, "holds")) == len(offline) - 2, tested

    hosts[0].run(["ovn-nbctl", "acl-del", "shut-lan", "to-lport", "1000", "tcp.dst == {22, 5432}"])
    hosts[0].run(["ovn-nbctl", "--wait=hv", "--timeout=20", "sync"])
    hosts[1].run(["virsh", "destroy", "shut-third"])
    tested = json_of(project, "test", "--timeout", "2", status=1)
    cut = ["near to far, tcp 22: allowed", "near to far, tcp 5432: allowed"]
    assert verdicts(tested, "broken") == [*cut, BROKEN], tested
    assert {line["checked"] for line in tested["expectations"] if line["text"] in cut} == {True}
    unknown = [line for line in tested["expectations"] if line["verdict"] == "unknown"]
    assert [line["text"] for line in unknown] == [
        "near, third to far, icmp: denied",
        "near, far to third, icmp: allowed",
    ]
    assert {each["cause"] for line in unknown for each in line["unknown"]} == {"third is shut off"}


def assert_nothing_left(hosts: TestHosts, before: list[dict[str, list[str]]]) -> None:
    for host, there in zip(hosts, before, strict=True):
        assert namespaces(host) == []
        left = changes(there, inventory(host))
        assert left.keys() <= {"projects", "run", "processes"}, (host.name, left)
        ports = host.run(["ovs-vsctl", "--bare", "--columns=name", "list", "Interface"]).stdout
        assert "mgmt" not in ports
    assert hosts[0].run(["ovn-nbctl", "show"]).stdout == ""
