"""``firmware``, ``tpm`` and ``arch``: what is refused at its line, and what XML may name of a guest's own."""

from __future__ import annotations

import pytest

from golden.memory import MemoryFiles, compile_text
from kvmcompose.core.deployable import DomainGuest
from kvmcompose.core.errors import InputError
from kvmcompose.core.state import decode_state, encode_state
from kvmcompose.guests import guest_kind
from kvmcompose.networks import dialect
from kvmcompose.pipeline.compile import Compiled
from kvmcompose.privileges import Xml, of_domain

TEXT = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 64
      %s
      libvirt_type: {cloud_image: {path: disk.qcow2}}
network: {bridges: [{name: br0}], external_bridge: br0}
"""
DOMAIN = '<domain type="qemu"><name>lab-web</name>%s<os firmware="efi">%s</os></domain>'


def compiled(keys: str) -> Compiled:
    return compile_text(TEXT % keys, files=MemoryFiles({"key.pub", "key", "disk.qcow2"}))


def run_of(found: Compiled) -> DomainGuest:
    guest = found.state.testbed_guests["web"]
    run = guest_kind(guest.kind).deployable(guest, found.state.shared)
    assert isinstance(run, DomainGuest)
    return run


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("arch: aarch64\n      firmware: bios", "bios is not available for an aarch64 guest"),
        ("arch: aarch64\n      firmware: uefi-secure", "uefi-secure is not available for an aarch64 guest"),
        ("arch: aarch64\n      machine: q35", "a machine type of another architecture"),
        ("machine: virt", "a machine type of another architecture"),
        ("machine: pc\n      firmware: uefi-secure", "secure boot needs System Management Mode"),
        ("arch: arm64", "arm64"),
        ("firmware: efi", "efi"),
        ("tpm: '2.0'", "2.0"),
    ],
)
def test_what_cannot_be_is_refused_at_its_line(keys: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        compiled(keys)
    (problem,) = caught.value.problems
    assert said in f"{problem.message} {problem.found} {problem.wanted}"
    assert problem.location.line in (7, 8)


def test_without_the_keys_nothing_of_them_is_in_the_state() -> None:
    definition = compiled("username: me").state.testbed_guests["web"].definition
    assert (definition.firmware, definition.tpm, definition.arch) == (None, False, None)
    run = run_of(compiled("username: me"))
    assert (run.nvram, run.raw_disks, run.disks) == (None, frozenset(), (run.boot_disk,))


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ("firmware: uefi", "artefacts/web-uefi-nvram.fd"),
        ("firmware: uefi-secure", "artefacts/web-uefi-secure-nvram.fd"),
        ("arch: aarch64", "artefacts/web-aarch64-nvram.fd"),
    ],
)
def test_the_variables_are_a_disk_that_is_no_image(keys: str, path: str) -> None:
    run = run_of(compiled(keys))
    assert run.nvram == path
    assert run.disks == (run.boot_disk, path)
    assert run.raw_disks == {path}


def privileges(uuid: str, nvram: str, keys: str = "firmware: uefi\n      tpm: true") -> list[str]:
    found = compiled(keys)
    state = decode_state(encode_state(found.state))
    xml = Xml(DOMAIN % (uuid, nvram))
    plan = dialect("bridges").network_plan(state)
    return [str(each) for each in of_domain(xml, state.testbed_guests["web"], run_of(found), state, plan)]


def test_xml_may_name_the_variables_and_the_uuid_of_the_guest_alone() -> None:
    folder = "/var/lib/kvm-compose/lab/artefacts"
    own = f"<nvram>{folder}/web-uefi-nvram.fd</nvram>"
    others = (
        f"<nvram>{folder}/db-uefi-nvram.fd</nvram>",
        "<nvram>/etc/shadow</nvram>",
        f'<nvram template="/etc/shadow">{folder}/web-uefi-nvram.fd</nvram>',
        f'{own}<loader readonly="yes" type="pflash">/home/mallory/OVMF.fd</loader>',
    )
    assert privileges("", own) == []
    for each in others:
        assert len(privileges("", each)) >= 1, each
    # the state of another guest's TPM would be found by its UUID
    assert len(privileges("<uuid>64033fb8-e657-5d80-8fc6-696b85eb8924</uuid>", own)) == 1
    assert privileges("<uuid>64033fb8-e657-5d80-8fc6-696b85eb8924</uuid>", own)[0].find("uuid") > 0
    assert len(privileges("", own, "firmware: bios")) == 1


def test_an_image_of_the_catalogue_has_an_architecture() -> None:
    text = (TEXT % "arch: aarch64").replace("path: disk.qcow2", "name: debian_12")
    with pytest.raises(InputError) as caught:
        compile_text(text)
    (problem,) = caught.value.problems
    assert problem.message == "'debian_12' is an image for x86_64, and the guest is aarch64"
    assert problem.path == "machines[0].libvirt.libvirt_type.cloud_image.name"
