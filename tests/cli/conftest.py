"""Shared by tests of the command line: each gets its own project folder and image store."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# The golden projects are a package in the parent folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import Bench, golden_bench, new_bench, settle

SMALL = """\
# a testbed of two guests
machines:
  - name: server
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 512
      libvirt_type:
        cloud_image:
          name: debian_12
          expand_gigabytes: 1
          setup_script: setup.sh
          context: files
  - name: client
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 2
      memory_mb: 256
      libvirt_type:
        cloud_image: {name: debian_12}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""

CONFIG = """\
{
  "testbed_host_ssh_config": {
    "one": {"ip": "192.0.2.11", "user": "nocloud", "is_main_host": true, "virt_type": "qemu"}
  },
  "ssh_public_key_location": "keys/id_ed25519.pub",
  "ssh_private_key_location": "keys/id_ed25519"
}
"""

FILES = {
    "kvm-compose.yaml": SMALL,
    "kvm-compose-config.json": CONFIG,
    "setup.sh": "#!/bin/sh\ntrue\n",
    "files/readme": "read me\n",
    "keys/id_ed25519": "not a key: warnings about it would only be in the way\n",
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A project of two guests that was never built."""
    return new_bench(tmp_path, "small", FILES)


@pytest.fixture
def built(bench: Bench) -> Bench:
    """The same, built, with files old enough for the build to rely on time stamps."""
    settle()
    bench.generate()
    return bench


@pytest.fixture
def golden(tmp_path: Path) -> Callable[[str], Bench]:
    """Makes a bench with a copy of the golden project of that name."""
    return lambda case: golden_bench(tmp_path, case)
