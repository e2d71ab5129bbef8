"""Values that are written out though they are the defaults: the state with them can be read back."""

from __future__ import annotations

import pytest

from golden.memory import SCHEMAS, MemoryFiles, compile_text
from kvmcompose.core.state import encode_state
from kvmcompose.pipeline.stored import read_state

YAML = """\
machines:
  - name: a
    interfaces: [{bridge: br0, model: virtio, queues: 1, link: up}]
    libvirt:
      cpus: 1
      memory_mb: 64
      username: nocloud
      libvirt_type: {%s}
      %s
network: {bridges: [{name: br0}]}
"""
CLOUD = "cloud_image: {name: debian_12, expand_gigabytes: 0, environment: {}}"
#: kinds and keys
WRITTEN = [
    (CLOUD, "cpu: {topology: {sockets: 1, cores: 1}}"),
    (CLOUD, "cpu: {features: {}}"),
    (CLOUD, "numa: []"),
    (CLOUD, "boot_disk: {bus: virtio, discard: unmap}"),
    (CLOUD, "disks: [{size_gigabytes: 1, discard: unmap, device: disk, readonly: false}]"),
    (CLOUD, "shares: [{source: data, target: /srv, readonly: false}]"),
    (CLOUD, "watchdog: {model: i6300esb, action: reset}"),
    (CLOUD, "clock: {offset_seconds: 0}"),
    (CLOUD, "tpm: false"),
    (CLOUD, "hyperv: false"),
    (CLOUD, "arch: x86_64"),
    (CLOUD, "firmware: bios"),
    (CLOUD, "graphics: none"),
    (CLOUD, "ready: {http: {port: 80, path: /}}"),
    (CLOUD, "ready: {agent: true}"),
    (CLOUD, "cloud_init: {packages: [], os: linux}"),
    (CLOUD, "cloud_init: {ntp: {servers: []}, dnf: {repos: {}}}"),
    (CLOUD, "cloud_init: {users: [{name: ada, sudo: false, groups: []}]}"),
    (CLOUD, "host_devices: []"),
    ("existing_disk: {path: disk.qcow2, expand_gigabytes: 0, device_type: disk}", "ready: none"),
    ("network_guest: {expand_gigabytes: 0}", "boot: []"),
]


@pytest.mark.parametrize(("kind", "keys"), WRITTEN)
def test_the_state_can_be_read_back(kind: str, keys: str) -> None:
    files = MemoryFiles({"key.pub", "key", "disk.qcow2"}, {"data"})
    written = encode_state(compile_text(YAML % (kind, keys), files=files).state)
    assert set(read_state(written, SCHEMAS).testbed_guests) == {"a"}
