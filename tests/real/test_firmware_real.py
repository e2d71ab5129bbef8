"""A guest with UEFI firmware and a TPM, by the commands that a user types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kvm import Project

from hosts import TestHost

pytestmark = pytest.mark.real

YAML = """\
machines:
  - name: efi
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 256
      firmware: uefi
      tpm: true
      libvirt_type: {cloud_image: {path: micro.qcow2}}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""
TPMS = "/var/lib/libvirt/swtpm"


@pytest.fixture
def project(real_host: TestHost, tmp_path: Path, micro_image: Path) -> Iterator[Project]:
    project = Project(real_host, tmp_path, "firmware", {"kvm-compose.yaml": YAML})
    (project.folder / "micro.qcow2").symlink_to(micro_image)
    yield project
    project.run("down", "--purge", "--timeout", "0", status=None)


def states_of_tpms(host: TestHost) -> list[str]:
    return host.run(["find", TPMS, "-name", "*.permall"], check=False).stdout.split()


@pytest.mark.long_only
def test_the_variables_and_the_tpm_outlive_down(project: Project) -> None:
    host, nvram = project.host, project.folder / "artefacts" / "efi-uefi-nvram.fd"
    project.run("generate")
    assert nvram.stat().st_size == 0
    # libvirt writes it by way of this name
    elsewhere = project.root / "elsewhere"
    elsewhere.write_text("of the host\n")
    nvram.with_name(f"{nvram.name}.new").symlink_to(elsewhere)

    project.run("up")
    assert elsewhere.read_text() == "of the host\n"
    assert project.inside("efi", "ls", "-d", "/sys/firmware/efi", "/dev/tpm0").split() == [
        "/dev/tpm0",
        "/sys/firmware/efi",
    ]
    made = nvram.stat()
    assert (made.st_size > 0, made.st_mode & 0o777) == (True, 0o600)
    (tpm,) = states_of_tpms(host)
    refused = project.run("snapshot", "create", "one", status=3).stderr
    assert (
        "efi is running, and libvirt makes snapshots of a guest with UEFI firmware only while it is"
        in refused
    )
    assert "kvm-compose stop efi && kvm-compose snapshot create one -n efi" in refused
    assert "nothing to do" in project.run("up").stderr
    project.edit("name: efi", "name: other")
    project.run("generate")
    (project.folder / ".kvm-compose/in-use.json").unlink()  # QEMU's locks say it, too
    refused = project.run("clean", "--left-over", nvram.name, status=3).stderr
    assert f"artefacts/{nvram.name} is in use: a guest has it" in refused
    project.edit("name: other", "name: efi")

    project.run("down")
    assert host.virsh("list", "--all", "--name").stdout.split() == []
    project.run("up")
    project.run("stop", "efi")
    project.run("snapshot", "create", "one")
    assert (nvram.stat().st_ino, nvram.stat().st_size) == (made.st_ino, made.st_size)
    assert states_of_tpms(host) == [tpm]
    project.run("generate")  # the build leaves it alone
    assert nvram.stat().st_ino == made.st_ino

    project.run("down", "--purge")
    assert not nvram.exists()
    assert states_of_tpms(host) == []


def test_what_is_in_the_place_of_the_variables_is_left_alone(project: Project) -> None:
    nvram = project.folder / "artefacts" / "efi-uefi-nvram.fd"
    project.run("generate")
    nvram.unlink()
    elsewhere = project.root / "elsewhere"
    elsewhere.write_text("of the host\n")
    nvram.symlink_to(elsewhere)
    said = project.run("up", status=None)
    assert said.returncode != 0
    assert "efi-uefi-nvram.fd" in said.stderr
    assert elsewhere.read_text() == "of the host\n"
