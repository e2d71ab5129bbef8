"""Synthetic projects of any size: three artefacts for each guest; a tenth of the guests are clones."""

from __future__ import annotations

import json
from pathlib import Path

#: Clones of one golden image.
_HERD = 100
_BRIDGES = 50

_MACHINE = """\
  - name: g{number:05}
    interfaces:
      - bridge: br{bridge}
    libvirt:
      cpus: 1
      memory_mb: 512
      libvirt_type:
        cloud_image:
          name: debian_12
          expand_gigabytes: 10
"""

_SCALED = """\
  - name: herd{number}
    libvirt:
      cpus: 1
      memory_mb: 512
      libvirt_type:
        cloud_image:
          name: debian_12
      scaling:
        count: {count}
        interfaces:
          - bridge: br{bridge}
            clones: {clones}
"""


#: Any key that has the right form.
_PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f synthetic"


def write_project(folder: Path, guests: int) -> None:
    """Write the YAML and the config of a project with this many guests (and their golden images)."""
    clones = guests // 10
    machines = [_MACHINE.format(number=number, bridge=number % _BRIDGES) for number in range(guests - clones)]
    for number, first in enumerate(range(0, clones, _HERD)):
        count = min(_HERD, clones - first)
        machines.append(
            _SCALED.format(number=number, count=count, bridge=number % _BRIDGES, clones=list(range(count)))
        )
    bridges = "".join(f"    - name: br{number}\n" for number in range(_BRIDGES))
    text = f"machines:\n{''.join(machines)}network:\n  bridges:\n{bridges}  external_bridge: br0\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kvm-compose.yaml").write_text(text)
    host = {"ip": "192.0.2.1", "user": "nocloud", "is_main_host": True, "virt_type": "qemu"}
    config = {
        "testbed_host_ssh_config": {"main": host},
        "ssh_public_key_location": "id_ed25519.pub",
        "ssh_private_key_location": "id_ed25519",
    }
    (folder / "kvm-compose-config.json").write_text(json.dumps(config, indent=2))
    (folder / "id_ed25519.pub").write_text(f"{_PUBLIC_KEY}\n")
    (folder / "id_ed25519").write_text("not a key\n")


def edit_one(folder: Path, guests: int, memory: int) -> str:
    """Change the memory (MiB) of a machine in the middle, and return its name."""
    name = f"g{guests // 2:05}"
    path = folder / "kvm-compose.yaml"
    before, mark, after = path.read_text().partition(f"  - name: {name}\n")
    head, key, tail = after.partition("memory_mb: ")
    path.write_text(f"{before}{mark}{head}{key}{memory}\n{tail.partition(chr(10))[2]}")
    return name
