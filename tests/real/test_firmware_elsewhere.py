"""UEFI's variables move with their guest, and a guest of another architecture is emulated."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvm import Project
from test_several_hosts import config

from hosts import TestHost, TestHosts
from hosts.arm_disk import ARM_READY, arm_image

pytestmark = [pytest.mark.real, pytest.mark.long_only]

PIN = "{br0: one, br1: %s}"
YAML = f"""\
machines:
  - name: efi
    libvirt:
      cpus: 1
      memory_mb: 256
      username: tester
      firmware: uefi
      tpm: true
      libvirt_type: {{cloud_image: {{path: micro.qcow2}}}}
      scaling:
        count: 1
        shared_setup: shared.sh
        interfaces: [{{bridge: br1, clones: [0]}}]
network:
  bridges: [{{name: br0}}, {{name: br1}}]
  bridge_connections: {{br0: br1}}
  external_bridge: br0
testbed_options:
  placement: {{pin: {PIN % "two"}}}
"""
SEEN = "artefacts/efi-0-uefi-nvram.fd"
MARK, PLACE = "kept", 540_600
ARM = """\
machines:
  - name: arm
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 2
      memory_mb: 256
      arch: aarch64
      libvirt_type: {existing_disk: {path: arm.qcow2}}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""


@pytest.fixture
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHosts]:
    with TestHosts(2, directory=tmp_path_factory.mktemp("firmware"), ssh=True, tunnels=True) as hosts:
        yield hosts


@pytest.fixture
def project(hosts: TestHosts, root: Path, micro_image: Path) -> Iterator[Project]:
    files = {
        "kvm-compose.yaml": YAML,
        "kvm-compose-config.json": json.dumps(config(list(hosts), hosts.directory / "id_ed25519")),
        "shared.sh": "#!/bin/sh\necho made >/shared\n",
    }
    project = Project(hosts[0], root, "moving", files)
    for each in ("key", "key.pub"):
        shutil.copy(root / each, project.folder / each)
    (project.folder / "micro.qcow2").symlink_to(micro_image)
    yield project
    project.run("down", "--purge", "--timeout", "0", status=None)


def mark(host: TestHost) -> None:
    """Write where the firmware keeps nothing: at the end of the block that it has in reserve."""
    script = f"printf %s {MARK} | dd of=/var/lib/kvm-compose/moving/{SEEN} bs=1 seek={PLACE} conv=notrunc"
    host.run(["sh", "-c", script])


def is_marked(host: TestHost) -> bool:
    path = f"/var/lib/kvm-compose/moving/{SEEN}"
    done = host.run(["tail", "-c", f"+{PLACE + 1}", path], check=False)
    return done.returncode == 0 and done.stdout.startswith(MARK)


def test_the_variables_of_a_clone_move_with_it(hosts: TestHosts, project: Project) -> None:
    one, two = hosts
    project.run("up")
    assert two.virsh("list", "--name").stdout.split() == ["moving-efi-0"]
    assert project.inside("efi-0", "cat", "/shared") == "made"
    project.run("stop", "efi-0")
    mark(two)
    project.run("start", "efi-0")

    project.edit(PIN % "two", PIN % "one")
    assert "its TPM does not move" in project.run("plan").stdout
    assert f"the disk {SEEN} of efi-0 moved from two to one" in project.run("up").stderr
    assert is_marked(one)
    assert not is_marked(two)

    project.edit(PIN % "one", PIN % "two")
    project.run("up")
    assert is_marked(two)
    project.run("down", "--purge")
    for host in hosts:
        assert host.run(["find", "/var/lib/libvirt/swtpm", "-name", "*.permall"], check=False).stdout == ""


def test_an_aarch64_guest_is_emulated(real_host: TestHost, tmp_path: Path) -> None:
    project = Project(real_host, tmp_path, "emulated", {"kvm-compose.yaml": ARM})
    arm_image(project.folder / "arm.qcow2")
    try:
        project.run("up")
        end = time.monotonic() + 600
        while ARM_READY not in project.run("logs", "arm").stdout:
            assert time.monotonic() < end, project.run("logs", "arm").stdout
            time.sleep(2)
        assert (project.folder / "artefacts/arm-aarch64-nvram.fd").stat().st_size > 0
    finally:
        project.run("down", "--purge", "--timeout", "0", status=None)
