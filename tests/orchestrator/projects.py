"""Projects for tests on simulated hosts, built once for each module that uses them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from golden.bench import Bench, new_bench

#: The config of two hosts: ``one`` is the main host.
TWO_HOSTS = """\
{"testbed_host_ssh_config": {
   "one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"},
   "two": {"ip": "192.0.2.12", "user": "root", "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""
SCRIPT = "#!/bin/sh\ntrue\n"


def built_project(
    root: Path,
    yaml: str,
    config: str = TWO_HOSTS,
    scripts: tuple[str, ...] = (),
    others: Mapping[str, str] = MappingProxyType({}),
) -> Bench:
    """Return the project ``lab``, with ``scripts`` that do nothing and ``others``, and its artefacts."""
    files = {
        "kvm-compose.yaml": yaml,
        "kvm-compose-config.json": config,
        "keys/id_ed25519": "not a key\n",
        **{f"{name}.sh": SCRIPT for name in scripts},
        **others,
    }
    bench = new_bench(root, "lab", files)
    bench.generate()
    return bench
