"""What a host has of the firmware and TPMs that a domain needs, and what libvirt keeps of a domain."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from kvmcompose.providers.libvirt.definitions import capabilities, has_own_nvram, tpm_xml, uuid_of
from kvmcompose.providers.libvirt.interface import Capabilities, DomainNeed
from kvmcompose.providers.libvirt.interface.domains import TpmHolder
from kvmcompose.server.orchestrator.resources._platform_checks import _lacking

#: As libvirt 9.0 says it with Debian's packages ovmf and swtpm; shortened.
HAVING = """\
<domainCapabilities>
  <os supported='yes'>
    <enum name='firmware'><value>efi</value></enum>
    <loader supported='yes'>
      <value>/usr/share/OVMF/OVMF_CODE_4M.fd</value>
      <enum name='secure'><value>yes</value><value>no</value></enum>
    </loader>
  </os>
  <devices>
    <tpm supported='yes'>
      <enum name='backendModel'><value>passthrough</value><value>emulator</value></enum>
    </tpm>
  </devices>
</domainCapabilities>
"""
LACKING = (
    HAVING.replace("<value>efi</value>", "").replace("<value>yes</value>", "").replace("emulator", "external")
)
NEED = DomainNeed(
    arch="x86_64", machine="q35", virt_type="kvm", uefi=True, secure_boot=True, tpm=True
)  # what Windows 11 asks for


def test_what_libvirt_says_of_a_host() -> None:
    assert capabilities(HAVING) == Capabilities(uefi=True, secure_boot=True, tpm=True)
    assert capabilities(LACKING) == Capabilities()


@pytest.mark.parametrize(
    ("has", "package"),
    [
        (Capabilities(reason="no emulator"), "qemu-system-x86"),
        (Capabilities(tpm=True), "ovmf"),
        (Capabilities(uefi=True, tpm=True), "ovmf"),
        (Capabilities(uefi=True, secure_boot=True), "swtpm swtpm-tools"),
    ],
)
def test_what_a_host_lacks_is_named_with_its_package(has: Capabilities, package: str) -> None:
    (hint,) = [each for _, each in _lacking(NEED, has)]
    assert hint == f"sudo apt-get install --no-install-recommends {package}"


def test_nothing_is_lacking_where_all_is_there() -> None:
    assert list(_lacking(NEED, capabilities(HAVING))) == []


def test_only_variables_that_libvirt_named_go_with_the_domain() -> None:
    xml = "<domain><os><nvram>%s</nvram></os></domain>"
    assert has_own_nvram(xml % "/var/lib/kvm-compose/lab/artefacts/web-uefi-nvram.fd")
    assert not has_own_nvram(xml % "/var/lib/libvirt/qemu/nvram/lab-web_VARS.fd")
    assert not has_own_nvram("<domain><os/></domain>")


def test_a_tpm_is_found_by_the_uuid_of_its_domain() -> None:
    uuid = "64033fb8-e657-5d80-8fc6-696b85eb8924"
    xml = tpm_xml(TpmHolder(name="lab-web", uuid=uuid, project="lab", guest="web", arch="aarch64"))
    assert uuid_of(xml) == uuid
    root = ET.fromstring(xml)  # noqa: S314 (our own)
    assert root.findtext("name") == "lab-web"
    backend = root.find("devices/tpm/backend")
    assert backend is not None
    assert backend.attrib == {"type": "emulator", "version": "2.0", "persistent_state": "yes"}
