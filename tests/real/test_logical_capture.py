"""Packets of a logical switch on two real hosts: each is seen once, whichever interfaces it passes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_capture import PINGS, Running, read, wait_for_no_traces, wait_for_packets
from test_ovn_up import GUEST, reaches
from test_several_hosts import make_project

from hosts import TestHosts

pytestmark = pytest.mark.real

NEAR = GUEST.format(name="near", switch="lan", ip="10.66.1.10", gateway="10.66.1.1", mac="0a")
FAR = GUEST.format(name="far", switch="lan", ip="10.66.1.11", gateway="10.66.1.1", mac="0b")
YAML = f"""\
machines:
{NEAR}{FAR}\
network:
  ovn:
    switches:
      lan:
        subnet: 10.66.1.0/24
        ports:
          - {{name: host, chassis: one, internal: {{ip: 10.66.1.2, mac: "02:00:00:00:00:02"}}}}
    routers:
      r:
        ports: [{{name: to-lan, switch: lan, gateway_ip: 10.66.1.1/24, mac: "02:00:00:00:01:01"}}]
testbed_options:
  placement: {{pin: {{near: one, far: two}}}}
"""


@pytest.fixture
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    with TestHosts(2, directory=tmp_path_factory.mktemp("seen"), ssh=True, tunnels=True, ovn=True) as hosts:
        yield hosts


def test_a_switch_a_port_and_a_guest(
    hosts: TestHosts, tmp_path: Path, micro_image: Path, ssh_key: Path
) -> None:
    shutil.copy(ssh_key, tmp_path / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), tmp_path / "key.pub")
    (tmp_path / "micro.qcow2").symlink_to(micro_image)
    project = make_project(hosts, tmp_path, "seen", 2, yaml=YAML)
    project.run("up")
    assert reaches(hosts[0], "10.66.1.11")
    files = {name: project.root / f"{name}.pcap" for name in ("lan", "lan-far-0", "far", "near")}
    captures = [Running(project, (name, "--filter", "icmp", "-w", str(file))) for name, file in files.items()]
    hosts[0].run(["ping", "-c", str(PINGS), "-i", "0.2", "10.66.1.11"])
    for name in ("lan", "lan-far-0", "far"):
        wait_for_packets(files[name], 2 * PINGS)
    for capture in captures:
        assert capture.end()[0] == 0, capture.said
    for name in ("lan", "lan-far-0", "far"):
        packets = re.findall(r"10\.66\.1\.\d+ > 10\.66\.1\.\d+: ICMP echo \w+, .*seq \d+", read(files[name]))
        assert len(packets) == len(set(packets)) == 2 * PINGS, (name, packets)
    assert not read(files["near"])
    for host in hosts:
        wait_for_no_traces(host, 30)
    refused = project.run("capture", "to-lan", status=None)
    assert "to-lan is a port without an interface on a host" in refused.stderr
    project.run("down", "--purge", "--timeout", "0")
