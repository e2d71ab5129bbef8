"""Isolated guests on two hosts: the server enters them, and they reach nothing of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvm import Project, changes, inventory

from hosts import TestHost, TestHosts
from hosts.cluster import host_config

pytestmark = pytest.mark.real

GUEST = """\
  - name: {name}
    interfaces: [{{bridge: {bridge}}}]
    libvirt:
      cpus: 1
      memory_mb: 128
      username: tester
      libvirt_type: {{cloud_image: {{path: micro.qcow2{script}}}}}
"""
YAML = (
    "machines:\n"
    + GUEST.format(name="near", bridge="lab", script=", setup_script: setup.sh")
    + GUEST.format(name="far", bridge="away", script=", setup_script: setup.sh")
    + "network:\n  bridges: [{name: lab}, {name: away}]\n"
    "testbed_options:\n  placement: {pin: {lab: one, away: two}}\n"
    "  management: true\n"
)
NAMESPACES = {"near": "kvm-compose.cut.lab", "far": "kvm-compose.cut.away"}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    with TestHosts(2, directory=tmp_path_factory.mktemp("mgmt"), ssh=True, tunnels=True) as hosts:
        yield hosts


@pytest.fixture
def project(hosts: TestHosts, tmp_path: Path, micro_image: Path, ssh_key: Path) -> Project:
    config = {
        "testbed_host_ssh_config": host_config(hosts, hosts.directory / "id_ed25519"),
        "ssh_public_key_location": "key.pub",
        "ssh_private_key_location": "key",
    }
    project = Project(
        hosts[0],
        tmp_path,
        "cut",
        {
            "kvm-compose.yaml": YAML,
            "kvm-compose-config.json": json.dumps(config),
            "setup.sh": "#!/bin/sh\necho made >/made\n",
        },
    )
    shutil.copy(ssh_key, project.folder / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), project.folder / "key.pub")
    (project.folder / "micro.qcow2").symlink_to(micro_image)
    return project


def namespaces(host: TestHost) -> list[str]:
    return host.run(["sh", "-c", "ls /run/netns 2>/dev/null || true"]).stdout.split()


def test_isolated_guests_are_entered_and_reach_nothing(project: Project, hosts: TestHosts) -> None:
    before = [inventory(host) for host in hosts]
    project.run("up")
    assert [namespaces(host) for host in hosts] == [["kvm-compose.cut.lab"], ["kvm-compose.cut.away"]]
    ports = {each["guests"][0]: each for each in project.state()["network"]["management_ports"]}
    for guest in ("near", "far"):
        (project.folder / "given").write_text("x" * 300_000)
        project.run("cp", str(project.folder / "given"), f"{guest}:taken")
        said = project.run("ssh", guest, "--", "wc", "-c", "<taken;", "cat", "/made;", "ip", "route")
        assert said.stdout.split()[:2] == ["300000", "made"]
        assert "default" not in said.stdout
        # to the host: neither the port's address answers, nor does anything behind it
        port = ports[guest]["ip"]
        script = f"ping -c 1 -W 1 {port} >/dev/null && echo answers; ip route replace default via {port};"
        script += "ping -c 1 -W 1 10.0.0.1 >/dev/null && echo forwards; ip route del default;"
        script += f"ip neigh show {port}"
        said_there = project.inside(guest, "sudo", "-n", "sh", "-c", script)
        assert "answers" not in said_there
        assert "forwards" not in said_there
        assert ports[guest]["mac"] in said_there  # ARP aside
    # a namespace that goes, as when the host restarts, is made again; nobody restarts
    running = hosts[0].run(["pgrep", "-f", "guest=cut-near"]).stdout
    hosts[0].run(["ip", "netns", "delete", "kvm-compose.cut.lab"])
    assert project.json("status")["differences"] == ["management port kvm-compose.cut.lab: is missing"]
    project.run("up")
    assert project.inside("near", "cat", "/made") == "made"
    assert hosts[0].run(["pgrep", "-f", "guest=cut-near"]).stdout == running
    project.run("down", "--purge")
    assert [namespaces(host) for host in hosts] == [[], []]
    left = [changes(old, inventory(host)) for old, host in zip(before, hosts, strict=True)]
    for each in left:
        each.pop("run", None)
        each.pop("processes", None)
        each.pop("projects", None)
    assert left == [{}, {}]
