"""A network configuration of the user's own is compared with the addresses that the testbed has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the golden projects are a package there

from golden.memory import MemoryFiles, compile_text
from kvmcompose.core.errors import Severity
from kvmcompose.core.state import Interface
from kvmcompose.guests._cloud_init import StoredCloudInit
from kvmcompose.guests._network_config import check_addresses

MAC = "52:54:00:aa:bb:cc"
NIC = Interface("br0", "ovs", "p-br0", "p-tap", MAC, "10.0.0.7", 24, 1442)
YAML = """\
machines:
  - name: a
    interfaces: [{bridge: br0, mac: "52:54:00:aa:bb:cc"}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}, cloud_init: &c
      {network_config: {version: 2, ethernets: {
        x: {match: {macaddress: "52:54:00:AA:BB:CC"}, addresses: [10.200.0.1/24]}}}}}
  - name: c
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}, cloud_init: *c,
      scaling: {count: 3, interfaces: [{bridge: br0, clones: [0, 1, 2]}]}}
network: {bridges: [{name: br0}], external_bridge: br0}
"""


class OneFile(MemoryFiles):
    """A project with one network configuration."""

    def __init__(self, text: str) -> None:
        super().__init__(set(), set())
        self.text = text

    def content(self, path: str, limit: int) -> bytes | None:
        assert path == "net.yaml"
        return self.text.encode()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("version: 2\nethernets:\n  a: {match: {macaddress: MAC}, addresses: [10.0.0.7/24]}", None),
        ("version: 2\nethernets:\n  a: {match: {name: e*}, dhcp4: on}", None),
        ("version: 2\nethernets:\n  a: {}\nbridges:\n  b: {addresses: [{10.0.0.7/24: {label: x}}]}", None),
        ("version: 1\nconfig:\n  - type: physical\n    subnets: [{type: static, address: 10.0.0.7}]", None),
        ("version: 1\nconfig:\n  - type: physical\n    subnets: [{type: dhcp4}]", None),
        ("version: 2\nethernets:\n  a: {match: {macaddress: mac}, addresses: [10.0.0.8/24]}", "3:3"),
        ("version: 2\nethernets:\n  a: {match: {macaddress: mac}, dhcp6: yes}", "3:3"),
        ("version: 2\nethernets:\n  a: {match: {macaddress: '52:54:00:00:00:01'}, dhcp4: yes}", "1:1"),
        ("network:\n  version: 1\n  config:\n  - type: physical\n    subnets: [{type: static}]", "4:5"),
        ("x: &x {addresses: [10.0.0.8/24]}\nversion: 2\nethernets:\n  a: {<<: *x}", "4:3"),
        ("x: &x {addresses: [10.0.0.7/24]}\nversion: 2\nethernets:\n  a: {<<: *x}", None),
        ("version: 2\nethernets: {a: {addresses: [10:20:30, 2026-99-99, {a: b}, [c]], match: x}}", "2:13"),
        ("version: 2\nethernets: [a]", None),
        ("version: 1\nconfig: {a: 1}", None),
        ("version: 1\nconfig: [a, {subnets: [b, {type: [dhcp]}]}]", "2:13"),
        ("- version", None),
        ("version: {a", None),
    ],
)  # fmt: skip
def test_an_address_that_the_testbed_does_not_have_is_found_at_its_line(text: str, place: str | None) -> None:
    section = StoredCloudInit(paths={"network_config": "net.yaml"})
    found = [
        *check_addresses(
            section,
            "a",
            (NIC,),
            ("at",),
            OneFile(text.replace("MAC", repr(MAC.upper())).replace("mac}", f"{MAC!r}}}")),
        )
    ]
    assert [str(each.location) for each in found] == ([f"net.yaml:{place}"] if place else [])


def test_a_mapping_is_compared_with_addresses_that_follow_from_names_for_one_clone() -> None:
    warnings = compile_text(YAML, files=MemoryFiles({"key.pub", "key"}, set())).warnings
    found = [each for each in warnings if each.code == "other-address"]
    assert [each.path for each in found] == [
        "machines[0].libvirt.cloud_init.network_config.ethernets.x",
        "machines[1].libvirt.cloud_init.network_config",
    ]
    assert all(each.severity is Severity.WARNING for each in found)
