"""What people write who know another tool: one problem each, that says how it is written here."""

from __future__ import annotations

import pytest

from golden.memory import MemoryFiles, compile_text
from kvmcompose.core.errors import InputError, Problem

YAML = """\
machines:
  - name: a
    interfaces: [{bridge: br0%s}]
    libvirt:
      cpus: 2
      memory_mb: 1024
      libvirt_type: {cloud_image: {name: debian_12}}
      %s
network: {bridges: [{name: br0}]}
"""


def problem_of(libvirt: str = "ready: none", nic: str = "") -> Problem:
    files = MemoryFiles({"key.pub", "key", "hash"}, {"data"})
    with pytest.raises(InputError) as caught:
        compile_text(YAML % (nic, libvirt), files=files)
    (problem,) = caught.value.problems
    assert problem.location is not None
    assert problem.location.line == (3 if nic else 8)
    return problem


@pytest.mark.parametrize(
    ("libvirt", "hint"),
    [
        ("uefi: true", "firmware: uefi"),
        ("secureboot: true", "firmware: uefi-secure"),
        ("nested: true", "vmx: require"),
        ("vcpu: 2", "did you mean 'cpus'?"),
        ("numcpus: 2", "did you mean 'cpus'?"),
        ("sharedfolders: [data]", "did you mean 'shares'?"),
        ("autostart: true", "kvm-compose up"),
        ("kernel: vmlinuz", "boots from its disk"),
        ("extends: base", "'defaults'"),
        ("disks: [{size_gigabytes: 1, interface: sata}]", "did you mean 'bus'?"),
        ("disks: [{capacity: 1}]", "size_gigabytes"),
        ("cloud_init: {locale: de_AT}", "user_data: {locale: …}"),
        (r'cloud_init: {user_data: "#cloud-config\npackages: [a]\n"}', "as a mapping"),
        ("shares: [{host: data, target: /srv}]", "did you mean 'source'?"),
        ("firmware: ", "uefi-secure is UEFI with secure boot"),
        ("graphics: {type: vnc}", None),
        ("numa: [{cpus: 0-1, memory: 1024}]", "did you mean 'memory_mb'?"),
        ("cloud_init: {apt: 'http://mirror.example'}", None),
        ("cloud_init: {packages: ['a b']}", None),
    ],
)
def test_a_key_of_the_section(libvirt: str, hint: str | None) -> None:
    problem = problem_of(libvirt)
    assert (hint in str(problem.hint)) if hint else problem.hint is None


@pytest.mark.parametrize(
    ("nic", "hint"),
    [
        ("type: e1000", "model: e1000"),
        ("static_ip: 192.0.2.1", "did you mean 'ip'?"),
        ("multiqueues: 2", "did you mean 'queues'?"),
        ("network: default", "network.bridges"),
        ("link: on", None),
    ],
)
def test_a_key_of_an_interface(nic: str, hint: str | None) -> None:
    problem = problem_of(nic=f", {nic}")
    assert (hint in str(problem.hint)) if hint else problem.hint is None


@pytest.mark.parametrize(
    ("libvirt", "wanted"),
    [
        ("disks: [20]", "{size_gigabytes: 20}"),
        ("shares: [data]", "{source: data, target: /srv/data}"),
        ("cloud_init: {users: [ada]}", "{name: ada"),
        ("cloud_init: {files: [/etc/motd]}", "{path: /etc/motd"),
        (f"disks: [{', '.join(['{size_gigabytes: 1}'] * 21)}]", "a list of at most 20"),
        ("cloud_init: {users: [{name: ada, sudo: yes}]}", "or a rule"),
        ("cloud_init: {users: [{name: ada, sudo: 'rm -rf'}]}", "or a rule"),
        ("cloud_init: {files: [{path: /etc/, content: x}]}", "path of a file"),
        ("cloud_init: {network_config: {version: 3, config: []}}", "version: 1 or version: 2"),
    ],
)
def test_a_value_of_another_form(libvirt: str, wanted: str) -> None:
    assert wanted in str(problem_of(libvirt).wanted)


@pytest.mark.parametrize(
    ("libvirt", "message"),
    [
        ("cloud_init: {users: [{name: ada, uid: 1001}, {name: bob, uid: 1001}]}", "1001 is the uid of 'ada'"),
        ("cloud_init: {files: [{path: /a, content: x}, {path: //a, content: y}]}", "'/a' is written by"),
        ("{boot_disk: {serial: data}, disks: [{name: data, size_gigabytes: 1}]}", "that of boot_disk"),
    ],
)
def test_two_of_one(libvirt: str, message: str) -> None:
    lines = libvirt if not libvirt.startswith("{b") else libvirt[1:-1].replace("}, disks", "}\n      disks")
    files = MemoryFiles({"key.pub", "key"})
    with pytest.raises(InputError) as caught:
        compile_text(YAML % ("", lines), files=files)
    (problem,) = caught.value.problems
    assert message in problem.message


def test_a_cloud_config_without_anything_is_none() -> None:
    files = MemoryFiles({"key.pub", "key"})
    assert not compile_text(YAML % ("", "cloud_init: {user_data: }"), files=files).warnings
