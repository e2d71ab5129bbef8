"""The build stamp: which changes it must detect, and that it is used when nothing has changed."""

from __future__ import annotations

import array
import os
from pathlib import Path

import pytest

from golden.bench import Bench, new_bench, settle
from kvmcompose.build import project, stamp

YAML = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}
  - name: herd
    libvirt:
      cpus: 1
      memory_mb: 65
      libvirt_type: {cloud_image: {path: disks/base.qcow2}}
      scaling:
        count: 2
        interfaces: [{bridge: br0, clones: [0, 1]}]
        clone_run: [{script: a.sh, clones: [1]}]
  - name: last
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 66, libvirt_type: {cloud_image: {name: debian_12}}}
network: {bridges: [{name: br0}], external_bridge: br0}
"""
CONFIG = (
    '{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu",'
    ' "identity_file": "keys/id_ed25519"}},'
    '"ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}'
)
FILES = {
    "kvm-compose.yaml": YAML,
    "kvm-compose-config.json": CONFIG,
    "keys/id_ed25519": "",
    "a.sh": "echo a\n",
    "b.sh": "echo b\n",
}


@pytest.fixture
def lab(tmp_path: Path) -> Bench:
    """A project with a build stamp."""
    bench = new_bench(tmp_path, "lab", FILES)
    settle()
    bench.generate()
    settle()
    assert bench.generate() == {}
    assert (bench.folder / ".kvm-compose/standing").exists()
    settle()
    return bench


class Compiles:
    """Counts how often the testbed was compiled."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        compile_project = project.compile_project

        def counting_compile(*words: object) -> object:
            self.count += 1
            return compile_project(*words)  # type: ignore[arg-type]

        patch.setattr(project, "compile_project", counting_compile)


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> Compiles:
    return Compiles(monkeypatch)


def test_after_an_edit_there_is_a_new_stamp(lab: Bench, compiles: Compiles) -> None:
    lab.edit("memory_mb: 64", "memory_mb: 640")
    assert lab.generate() == {"state.json": "rebuild", "artefacts/one-domain.xml": "rebuild"}
    assert compiles.count == 1
    before = lab.artefacts()
    assert lab.generate() == {}
    assert compiles.count == 1, "the stamp is used"
    # and a build that looks at everything finds nothing to do either
    (lab.folder / ".kvm-compose/standing").unlink()
    assert lab.generate() == {}
    assert compiles.count == 2
    assert lab.artefacts() == before


def test_a_comment_is_an_edit_that_changes_nothing(lab: Bench, compiles: Compiles) -> None:
    lab.edit("memory_mb: 65", "memory_mb: 65  # enough")
    assert lab.generate() == {}
    assert lab.run("generate").err == "17 up to date\n"
    assert compiles.count == 1


def test_a_script_that_an_edit_names_is_watched_from_then_on(lab: Bench) -> None:
    lab.edit("script: a.sh", "script: b.sh")
    assert set(lab.generate()) == {"state.json", "artefacts/herd-1-cloud-init.iso"}
    settle()
    assert lab.generate() == {}
    lab.write("b.sh", "echo other\n")
    settle()
    assert lab.generate() == {"artefacts/herd-1-cloud-init.iso": "rebuild"}


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("script: a.sh", "script: c.sh", "missing-file"),
        ("memory_mb: 64", "memory_mb: none", "wrong-type"),
        ("name: last", "name: one", "duplicate-name"),
        ("clones: [1]", "clones: [2]", "clone-out-of-range"),
    ],
)
def test_an_edit_that_is_wrong_is_refused(lab: Bench, old: str, new: str, code: str) -> None:
    before = lab.artefacts()
    lab.edit(old, new)
    ran = lab.run("generate")
    assert ran.status == 2
    assert f"[{code}]" in ran.err
    assert lab.run("validate").err == f"{ran.err}1 problem\n"
    assert lab.artefacts() == before


def test_a_guest_that_ran_keeps_its_disk_through_an_edit(lab: Bench) -> None:
    lab.use("one-cloud-init.img")
    before = lab.path("one-cloud-init.img").read_bytes()
    settle()
    lab.generate()
    lab.edit("memory_mb: 64", "memory_mb: 640")
    assert set(lab.generate()) == {"state.json", "artefacts/one-domain.xml"}
    assert lab.path("one-cloud-init.img").read_bytes() == before
    settle()
    lab.edit("libvirt_type: {cloud_image: {path: disks/base.qcow2}}",
             "libvirt_type: {cloud_image: {path: disks/base.qcow2, expand_gigabytes: 1}}")  # fmt: skip
    assert "artefacts/herd-0-linked-clone.qcow2" in lab.generate()


# --- options --------------------------------------------------------------------------------------------


def test_a_stamp_is_not_used_for_another_path(lab: Bench) -> None:
    assert "state.json" in lab.generate("--project-name", "other")
    settle()
    assert lab.generate("--project-name", "other") == {}
    done = lab.generate()
    assert done["state.json"] == "rebuild"
    assert lab.state()["project_name"] == "lab"


def test_a_stamp_is_not_used_for_another_yaml(lab: Bench) -> None:
    lab.write("other.yaml", YAML.replace("memory_mb: 66", "memory_mb: 67"))
    settle()
    assert lab.generate("--input", "other.yaml") != {}
    settle()
    assert lab.generate("--input", "other.yaml") == {}
    assert set(lab.generate()) == {"state.json", "artefacts/last-domain.xml"}


def test_what_was_allowed_once_is_not_allowed_for_ever(lab: Bench) -> None:
    outside = lab.root / "elsewhere"
    outside.mkdir()
    (outside / "out.sh").write_text("echo out\n")
    lab.edit("script: a.sh", f"script: {outside}/out.sh")
    settle()
    assert lab.generate("--allow-path", str(outside)) != {}
    settle()
    assert lab.generate("--allow-path", str(outside)) == {}
    ran = lab.run("generate")
    assert ran.status == 2
    assert "[outside-project]" in ran.err


def test_an_option_in_the_environment_is_as_quick_as_none(lab: Bench, compiles: Compiles) -> None:
    assert lab.generate(KVM_COMPOSE_PROJECT_NAME="other") != {}
    settle()
    before = compiles.count
    assert lab.generate(KVM_COMPOSE_PROJECT_NAME="other") == {}
    assert compiles.count == before
    assert lab.generate() != {}


# --- many artefacts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("touched", [None, 0, 3, 7, 9])
def test_another_process_looks_as_closely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, touched: int | None
) -> None:
    monkeypatch.setattr(stamp, "_MANY", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    names = [f"f{number}" for number in range(10)]
    for name in names:
        (tmp_path / name).write_text(name)
    numbers = stamp.output_signatures(str(tmp_path), names)
    assert isinstance(numbers, array.array)
    here = Path.cwd()
    assert stamp._same(str(tmp_path), names, numbers)
    if touched is not None:
        (tmp_path / names[touched]).unlink()
        assert not stamp._same(str(tmp_path), names, numbers)
        (tmp_path / names[touched]).write_text("other")
        assert not stamp._same(str(tmp_path), names, numbers)
    assert not stamp._same(str(tmp_path / "gone"), names, numbers)
    assert Path.cwd() == here
