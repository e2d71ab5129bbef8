"""Places that are unusual: files in the way, committed artefacts, long paths, links that are switched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from golden.bench import Bench, new_bench, settle

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {path: disks/base.qcow2, setup_script: %s}}}
network: {bridges: [{name: br0}], external_bridge: br0}
"""
CONFIG = """\
{
  "testbed_host_ssh_config": {"main": {"ip": "127.0.0.1", "is_main_host": true, "virt_type": "qemu"}},
  "ssh_public_key_location": "keys/id_ed25519.pub"
}
"""
XML = "artefacts/web-domain.xml"
SEED = "artefacts/web-cloud-init.iso"


@pytest.fixture
def lab(memory_root: Path, tmp_path: Path) -> Bench:
    root = memory_root / tmp_path.name
    root.mkdir()
    files = {
        "kvm-compose.yaml": YAML % "setup.sh",
        "kvm-compose-config.json": CONFIG,
        "keys/id_ed25519": "",
        "setup.sh": "#!/bin/sh\n",
    }
    return new_bench(root, "lab", files)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_committed_artefacts_of_a_clone_are_closed_to_others(lab: Bench, umask: int) -> None:
    """git knows no mode but that of programs: a clone has the seeds, with keys in them, as the umask says."""
    lab.generate()
    for path in (*(lab.folder / "artefacts").iterdir(), lab.folder / "state.json"):
        if path.is_file():
            path.chmod(0o666 & ~umask)
    shutil.rmtree(lab.folder / ".kvm-compose")
    before = lab.artefacts()
    lab.generate()
    assert lab.artefacts() == before, "nothing was made again"
    modes = {path: (lab.folder / path).stat().st_mode & 0o777 for path in (SEED, "state.json")}
    assert modes == {SEED: 0o600, "state.json": 0o600}
    assert (lab.folder / "artefacts/web-cloud-init.img").stat().st_mode & 0o077 == 0
    assert lab.plan() == {}
    settle()
    assert lab.generate() == {}


def in_the_way(path: Path) -> None:
    path.mkdir()
    (path / "mine").touch()


@pytest.mark.parametrize("make", [in_the_way, os.mkfifo, lambda path: path.symlink_to("/nowhere")])
def test_something_in_the_place_of_an_offer(lab: Bench, make: object) -> None:
    """It is kept, and the build is finished and recorded all the same."""
    lab.generate()
    new = lab.path("web-domain.xml.new")
    make(new)  # type: ignore[operator]
    lab.edit("memory_mb: 64", "memory_mb: 65")
    ran = lab.run("generate")
    assert ran.status == 0, ran.said
    assert "it is not a file; move artefacts/web-domain.xml.new away" in ran.err
    assert os.path.lexists(new)
    assert lab.plan() == {}
    lab.path("web-domain.xml").write_text("<domain/>\n")
    lab.edit("memory_mb: 65", "memory_mb: 66")
    ran = lab.run("generate")
    assert ran.status == 1
    assert "it is not a file; move artefacts/web-domain.xml.new away" in ran.err
    assert lab.run("generate", "--overwrite").status == 0
    assert lab.plan() == {}


def test_a_path_too_long_for_sqlite(lab: Bench) -> None:
    deep = lab.folder
    while len(str(deep)) < 3400:
        deep = deep / ("d" * 200)
    (deep / "x").parent.mkdir(parents=True)
    for name in ("kvm-compose.yaml", "kvm-compose-config.json", "setup.sh"):
        shutil.copy(lab.folder / name, deep / name)
    shutil.copytree(lab.folder / "keys", deep / "keys")
    shutil.copytree(lab.folder / "disks", deep / "disks")
    far = Bench(lab.root, deep, ("--project-name", "far"))
    for words in (("generate",), ("clean",)):
        ran = far.run(*words)
        assert ran.status == 1
        assert "Traceback" not in ran.err
        assert "move the project up" in ran.err
    assert far.run("plan").status == 0


def test_an_allowed_folder_behind_a_link_that_is_switched(lab: Bench) -> None:
    """What was allowed is no longer, though the file that is named is as it was."""
    for name in ("one", "two"):
        (lab.root / name).mkdir()
        (lab.root / name / "s.sh").write_text("#!/bin/sh\n")
    link = lab.root / "allowed"
    link.symlink_to("one")
    lab.write("kvm-compose.yaml", YAML % (lab.root / "one/s.sh"))
    for _ in range(2):
        settle()
        lab.generate(KVM_COMPOSE_ALLOW_PATH=str(link))
    link.unlink()
    link.symlink_to("two")
    ran = lab.run("generate", KVM_COMPOSE_ALLOW_PATH=str(link))
    assert ran.status == 2
    assert "outside-project" in ran.err
