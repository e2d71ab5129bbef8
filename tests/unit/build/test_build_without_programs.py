"""What is made in memory needs no program: unit tests may not start any, so these would fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from golden.bench import Bench, new_bench, settle

CONFIG = """\
{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519.pub"}
"""

TESTBED = """\
machines:
  - name: live
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {iso_guest: {path: disks/install.iso}}}
  - name: web
    interfaces: [{bridge: br0}]
    docker: {image: nginx}
network: {bridges: [{name: br0}]}
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = new_bench(tmp_path, "lab", {"kvm-compose.yaml": TESTBED, "kvm-compose-config.json": CONFIG})
    settle()
    return bench


def test_text_and_links_are_made_without_a_program(bench: Bench) -> None:
    done = bench.generate()
    assert set(done) == {
        "state.json",
        "artefacts/lab-network.xml",
        "artefacts/live-media.iso",
        "artefacts/live-domain.xml",
        "artefacts/web-container.json",
    }
    assert set(done.values()) == {"create"}
    assert bench.generate() == {}


def test_seeds_are_made_without_a_program(bench: Bench) -> None:
    guest = TESTBED.replace("iso_guest: {path: disks/install.iso}", "cloud_image: {name: debian_12}")
    bench.yaml.write_text(guest)
    assert "artefacts/live-cloud-init.iso" in bench.generate("seed-iso")


def test_a_link_is_put_right(bench: Bench) -> None:
    bench.generate()
    link = bench.path("live-media.iso")
    link.unlink()
    link.symlink_to("elsewhere")
    assert bench.generate() == {"artefacts/live-media.iso": "rebuild"}
    assert link.resolve() == bench.folder / "disks/install.iso"


def test_a_link_follows_the_yaml(bench: Bench) -> None:
    (bench.folder / "disks/install.iso").rename(bench.folder / "other.iso")
    bench.edit("disks/install.iso", "./other.iso")
    bench.generate()
    assert bench.path("live-media.iso").resolve() == bench.folder / "other.iso"


def test_looking_starts_no_program_either(bench: Bench) -> None:
    bench.generate()
    for words in (
        ("plan", "--diff"),
        ("validate",),
        ("list", "--all"),
        ("placement",),
        ("why", "state"),
        ("graph",),
    ):
        ran = bench.run(*words)
        assert ran.status == 0, ran.said
