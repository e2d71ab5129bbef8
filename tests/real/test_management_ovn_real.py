"""Guests on a logical switch of two hosts: the server enters them past all rules, and no more."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvm import changes, inventory
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
    + "network:\n  ovn:\n    switches: {lan: {subnet: 10.66.1.0/24}}\n    acl: {apply_deny_all: true}\n"
    "testbed_options:\n  placement: {pin: {near: one, far: two}}\n  management: true\n"
)
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
    project.run("down", "--purge", "--timeout", "0")
    assert_nothing_left(hosts, before)


def assert_nothing_left(hosts: TestHosts, before: list[dict[str, list[str]]]) -> None:
    for host, there in zip(hosts, before, strict=True):
        assert namespaces(host) == []
        left = changes(there, inventory(host))
        assert left.keys() <= {"projects", "run", "processes"}, (host.name, left)
        ports = host.run(["ovs-vsctl", "--bare", "--columns=name", "list", "Interface"]).stdout
        assert "mgmt" not in ports
    assert hosts[0].run(["ovn-nbctl", "show"]).stdout == ""
