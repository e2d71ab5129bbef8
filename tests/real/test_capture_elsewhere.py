"""Packets on another testbed host come over SSH; and nothing is left there, however the capture ended."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvm import Project
from test_capture import PINGS, Running, read, traces, wait_for_no_traces, wait_for_packets

from hosts import TestHost, TestHosts
from hosts.cluster import host_config

pytestmark = pytest.mark.real

YAML = """\
machines:
  - name: near
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, username: tester, libvirt_type: {cloud_image: {path: micro.qcow2}}}
  - name: far
    interfaces: [{bridge: br1}]
    libvirt: {cpus: 1, memory_mb: 128, username: tester, libvirt_type: {cloud_image: {path: micro.qcow2}}}
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
  external_bridge: br0
testbed_options:
  placement: {pin: {br0: one, br1: two}}
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    with TestHosts(2, directory=tmp_path_factory.mktemp("two"), ssh=True, tunnels=True) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def project(
    hosts: TestHosts, tmp_path_factory: pytest.TempPathFactory, micro_image: Path, ssh_key: Path
) -> Project:
    config = {
        "testbed_host_ssh_config": host_config(list(hosts), hosts.directory / "id_ed25519"),
        "ssh_public_key_location": "key.pub",
        "ssh_private_key_location": "key",
    }
    files = {"kvm-compose.yaml": YAML, "kvm-compose-config.json": json.dumps(config)}
    project = Project(hosts[0], tmp_path_factory.mktemp("elsewhere"), "wires", files)
    shutil.copy(ssh_key, project.folder / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), project.folder / "key.pub")
    (project.folder / "micro.qcow2").symlink_to(micro_image)
    project.run("up", timeout=300)
    return project


@pytest.fixture
def far(hosts: TestHosts) -> Iterator[TestHost]:
    """The other host. There and here nothing is left after each test."""
    yield hosts[1]
    for host in hosts:
        wait_for_no_traces(host, 30)


def test_a_guest_and_a_bridge_on_another_host(project: Project, far: TestHost) -> None:
    path = project.root / "far.pcap"
    captures = [
        Running(project, ("far", "--filter", "icmp", "-w", str(path))),
        Running(project, ("br1", "--filter", "icmp")),
    ]
    assert len(traces(far)) == 4
    said = project.inside("near", "ping", "-c", str(PINGS), "-i", "0.2", project.address("far"))
    assert f"{PINGS} packets received" in said
    wait_for_packets(path, 2 * PINGS)
    (status, out), (other_status, printed) = captures[0].end(), captures[1].end(signal.SIGTERM)
    assert (status, other_status, out) == (0, 0, "")
    for text in (read(path), printed):
        assert re.findall("ICMP echo (request|reply)", text) == ["request", "reply"] * PINGS


def test_a_filter_is_looked_at_there(project: Project, far: TestHost) -> None:
    assert "syntax error" in project.run("capture", "far", "--filter", "tcp prot 80", status=2).stderr


def test_what_is_killed_leaves_nothing_there(project: Project, far: TestHost) -> None:
    capture = Running(project, ("far", "-w", str(project.root / "killed.pcap")))
    project.host.run(["pkill", "-KILL", "-f", f"{project.folder} capture"])
    capture.process.wait(20)
    wait_for_no_traces(far, 3)
    capture = Running(project, ("far", "-w", str(project.root / "killed.pcap")))
    project.host.run(["pkill", "-KILL", "-f", "server --embedded"])
    assert capture.end(None)[0] == 1
    wait_for_no_traces(far, 3)


def test_a_connection_that_is_lost_ends_it_on_both_sides(project: Project, far: TestHost) -> None:
    path = project.root / "lost.pcap"
    capture = Running(project, ("br1", "-w", str(path)))
    far.run(["pkill", "-KILL", "-f", "sshd: root"])
    assert capture.end(None)[0] == 1
    assert "aborted the capture" in capture.said
    read(path)


def test_down_ends_captures_there(project: Project, far: TestHost) -> None:
    captures = [Running(project, (target,)) for target in ("far", "br1")]
    project.run("down", "--purge", "--timeout", "0")
    for each in captures:
        assert each.end(None)[0] == 1
        assert "disappeared" in each.said
