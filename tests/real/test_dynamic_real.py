"""A guest whose address DHCP assigns, on a real host: its name, and its address once the network was lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from kvm import Project
from running_lab import Lab

if TYPE_CHECKING:
    from hosts import TestHost

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("micro_image")]

YAML = """\
machines:
  - name: left
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: micro}}}
  - name: leased
    interfaces: [{bridge: br0, ip: dynamic}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {cloud_image: {name: micro, run_script: run.sh}}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""


@pytest.fixture(scope="module")
def lab(real_host: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    files = {"kvm-compose.yaml": YAML, "run.sh": "true\n"}
    project = Project(real_host, tmp_path_factory.mktemp("dynamic"), "dynamic", files)
    try:
        project.run("up")
        yield Lab(project)
    finally:
        project.run("down", "--purge", "--timeout", "0", status=None)


def test_it_is_reached_by_its_name_and_keeps_it(lab: Lab) -> None:
    lab.talks("left", "leased")
    assert lab.differences() == []
    assert "nothing to do" in lab.project.run("up").stderr


def test_its_address_is_found_when_the_network_was_lost(lab: Lab) -> None:
    network = lab.project.state()["network"]["libvirt_network_name"]
    (before,) = lab.addresses("leased")
    qemu = lab.qemu()
    for verb in ("net-destroy", "net-undefine"):
        lab.host.run(["virsh", verb, network])
    said = lab.project.run("up", "--rerun-scripts", timeout=90).stderr
    assert lab.qemu() == qemu, said
    assert lab.differences() == []
    assert before in lab.project.run("status").stdout
    lab.talks("left", "leased")
    assert lab.project.inside("leased", "hostname").strip()
