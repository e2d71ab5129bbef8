"""A testbed of OVN on two real hosts: brought up, edited, damaged, taken down; judged by packets."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvm import Project, inventory
from logical_lab import assert_nothing_left
from test_several_hosts import make_project

from hosts import TestHost, TestHosts

pytestmark = pytest.mark.real

GUEST = """\
  - name: {name}
    network: [{{switch: {switch}, ip: {ip}, gateway: {gateway}, mac: "02:00:00:00:00:{mac}"}}]
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type: {{cloud_image: {{path: micro.qcow2}}}}
"""
LEFT = GUEST.format(name="left", switch="lan", ip="10.66.1.10", gateway="10.66.1.1", mac="0a")
RIGHT = GUEST.format(name="right", switch="far", ip="10.66.2.10", gateway="10.66.2.1", mac="0b")
RULE = (
    "        - {direction: to-lport, priority: 1000, match: 'icmp4 && ip4.src == 10.66.1.2', action: drop}\n"
)
YAML = f"""\
machines:
{LEFT}{RIGHT}\
network:
  ovn:
    switches:
      lan:
        subnet: 10.66.1.0/24
        ports:
          - {{name: host, chassis: one, internal: {{ip: 10.66.1.2, mac: "02:00:00:00:00:02"}}}}
      far: {{subnet: 10.66.2.0/24}}
      public:
        subnet: 172.16.1.0/24
        ports: [{{name: out, localnet: {{network_name: public}}}}]
    routers:
      r:
        ports:
          - {{name: to-lan, switch: lan, gateway_ip: 10.66.1.1/24, mac: "02:00:00:00:01:01"}}
          - {{name: to-far, switch: far, gateway_ip: 10.66.2.1/24, mac: "02:00:00:00:01:02"}}
          - {{name: to-out, switch: public, gateway_ip: 172.16.1.200/24, mac: "02:00:00:00:01:03",
             set_gateway_chassis: one}}
        static_routes: [{{prefix: 0.0.0.0/0, nexthop: 172.16.1.1}}]
        nat:
          - {{nat_type: snat, external_ip: 172.16.1.200, logical_ip: 10.66.2.0/24}}
          - {{nat_type: dnat_and_snat, external_ip: 172.16.1.201, logical_ip: 10.66.2.10}}
    acl:
      switches:
        lan:
        - {{direction: from-lport, priority: 900, match: ip, action: allow-related}}
testbed_options:
  placement: {{pin: {{left: one, right: two}}}}
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    with TestHosts(2, directory=tmp_path_factory.mktemp("up"), ssh=True, tunnels=True, ovn=True) as hosts:
        yield hosts


def reaches(host: TestHost, address: str, seconds: float = 20) -> bool:
    """Whether a guest answers within a time: it may be booting."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if host.run(["ping", "-c1", "-W1", address], check=False).returncode == 0:
            return True
    return False


def differences(project: Project) -> list[str]:
    found: list[str] = project.json("status")["differences"]
    return found


def qemu(host: TestHost) -> str:
    return host.run(["pgrep", "-f", "guest="], check=False).stdout


def test_a_network_is_brought_up_edited_repaired_and_taken_down(
    hosts: TestHosts, tmp_path: Path, micro_image: Path, ssh_key: Path
) -> None:
    one, two = hosts
    shutil.copy(ssh_key, tmp_path / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), tmp_path / "key.pub")
    (tmp_path / "micro.qcow2").symlink_to(micro_image)
    project = make_project(hosts, tmp_path, "logical", 2, yaml=YAML)
    before = [inventory(host) for host in hosts]
    said = project.run("up").stderr

    one.run(["ip", "route", "add", "10.66.2.0/24", "via", "10.66.1.1"])
    assert reaches(one, "10.66.1.10"), said  # on this host
    assert reaches(one, "10.66.2.10"), said  # routed, on the other one
    assert reaches(one, "172.16.1.201", 3)  # from outside, by NAT
    # what does not fit into a tunnel is answered, not lost
    large = one.run(["ping", "-c1", "-W2", "-Mdo", "-s1472", "172.16.1.201"], check=False)
    assert "mtu = 1442" in large.stdout or "mtu=1442" in large.stderr, large
    assert differences(project) == []
    assert "nothing to do" in project.run("up").stderr

    # a rule alone: in force when `up` says so, and nobody restarts
    running = [qemu(host) for host in hosts]
    project.edit("        lan:\n        - ", f"        lan:\n{RULE}        - ")
    said = project.run("up").stderr
    assert "rule lan to-lport 1000" in said
    assert not reaches(one, "10.66.1.10", 1)
    assert reaches(one, "172.16.1.201", 3)
    project.edit(RULE, "")
    project.run("up")
    assert reaches(one, "10.66.1.10", 1)

    # by hand: a row, a port, a mapping, masquerading
    tap = two.run(["ovs-vsctl", "--bare", "--columns=name", "find", "Interface", "external_ids:iface-id!=[]"])
    (name,) = [each for each in tap.stdout.split() if "right" in each]
    two.run(["ovs-vsctl", "del-port", name])
    one.run(["ovn-nbctl", "lr-route-del", "logical-r", "0.0.0.0/0"])
    one.run(["ovn-nbctl", "ls-del", "logical-lan"])
    one.run(["ovs-vsctl", "remove", "open", ".", "external_ids", "ovn-bridge-mappings"])
    one.run(["nft", "delete", "table", "ip", "kvm-compose-br-ex"])
    seen = differences(project)
    for each in (
        "switch lan: is missing",
        "route r 0.0.0.0/0 via 172.16.1.1: is missing",
        "its port on the bridge",
    ):
        assert any(each in line for line in seen), seen
    project.run("up")
    assert differences(project) == []
    assert reaches(one, "10.66.1.10", 5)
    assert reaches(one, "172.16.1.201", 5)
    assert [qemu(host) for host in hosts] == running

    for host in hosts:  # addresses, rules of nftables and guests are gone; databases are not
        host.reboot()
    said = project.run("up").stderr
    assert differences(project) == []
    one.run(["ip", "route", "replace", "10.66.2.0/24", "via", "10.66.1.1"])
    for address in ("10.66.1.10", "10.66.2.10", "172.16.1.201"):
        assert reaches(one, address), said

    project.run("down", "--purge", "--timeout", "0")
    assert_nothing_left([*hosts], before)
