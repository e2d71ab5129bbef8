"""No data is lost silently: images of projects that moved, merges in .new files, edits during a build."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import Bench, environment, new_bench, tiny_qcow2

KEYS = '"ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}'
CONFIG = (
    '{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},'
    + KEYS
)
ONE = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: own}}}
network: {bridges: [{name: br0}], external_bridge: br0}
"""
HERD = """\
machines:
  - name: herd
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {cloud_image: {path: disks/base.qcow2}}
      scaling: {count: COUNT, interfaces: [{bridge: br0, clones: [ALL]}]}
network: {bridges: [{name: br0}], external_bridge: br0}
"""
DISK = "one-cloud-init.img"
XML = "artefacts/one-domain.xml"
MERGE = "<domain><!-- hours of work --></domain>\n"


def bench_of(root: Path, yaml: str, name: str = "lab") -> Bench:
    files = {"kvm-compose.yaml": yaml, "kvm-compose-config.json": CONFIG, "keys/id_ed25519": ""}
    return new_bench(root, name, files)


@pytest.fixture
def lab(tmp_path: Path) -> Bench:
    """A project on an image of the user's own in the store, built."""
    bench = bench_of(tmp_path, ONE)
    give(bench, b"\1")
    bench.generate()
    return bench


def give(bench: Bench, byte: bytes) -> None:
    """Give the name of the image to another content."""
    file = bench.root / "own.qcow2"
    file.write_bytes(tiny_qcow2().ljust(2**18 + 65536, byte))
    assert bench.run("cloud-images", "add", "own", str(file)).status == 0


def prune(bench: Bench) -> str:
    ran = bench.run("cloud-images", "prune")
    assert ran.status == 0, ran.said
    return ran.said


def backing(bench: Bench) -> Path:
    """What the disk lies on, as QEMU reads it."""
    disk = bench.path(DISK)
    said = subprocess.run(
        [shutil.which("qemu-img") or "", "info", "-U", str(disk)], check=True, capture_output=True, text=True
    ).stdout
    name = said.partition("backing file: ")[2].split()[0]
    return (disk.parent / name).resolve()


# -- images ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["moved", "moved and back", "its parent renamed", "copied"])
def test_an_image_follows_its_project(lab: Bench, way: str) -> None:
    place = lab.folder
    elsewhere = lab.root / "elsewhere"
    elsewhere.mkdir()
    other = Bench(lab.root, elsewhere / "lab")
    if way == "copied":
        shutil.copytree(place, other.folder, symlinks=True)
    else:
        place.rename(other.folder)
    lab = other
    assert "up to date" in lab.run("generate").said
    if way == "its parent renamed":
        elsewhere.rename(lab.root / "renamed")
        lab = Bench(lab.root, lab.root / "renamed" / "lab")
        assert "up to date" in lab.run("generate").said
    if way == "moved and back":
        prune(lab)
        lab.folder.rename(place)
        lab = Bench(lab.root, place)
        assert "up to date" in lab.run("generate").said
    if way == "copied":
        assert Bench(lab.root, place).run("clean").status == 0
    lab.use(DISK)
    give(lab, b"\2")
    prune(lab)
    assert backing(lab).is_file()
    # and no longer than it is used
    assert lab.run("clean", "--force").status == 0
    shutil.rmtree(lab.root / "store" / "uses")
    assert "B freed" in prune(lab)


def test_a_note_that_went_is_made_again_by_a_build_with_nothing_to_do(lab: Bench) -> None:
    time.sleep(0.05)
    lab.generate()
    lab.generate()  # by now it stands
    shutil.rmtree(lab.root / "store" / "uses")
    assert "up to date" in lab.run("generate").said
    give(lab, b"\2")
    prune(lab)
    assert backing(lab).is_file()


@pytest.mark.parametrize("way", ["moved", "not mounted"])
def test_an_image_is_kept_for_a_project_that_cannot_be_looked_into(lab: Bench, way: str) -> None:
    lab.use(DISK)
    give(lab, b"\2")
    away = lab.folder.with_name("away")
    lab.folder.rename(away)
    if way == "not mounted":
        lab.folder.mkdir()  # the empty folder that it is mounted on
    said = prune(lab)
    assert f"for '{lab.folder}/artefacts/images/own-" in said
    assert "rm " in said
    if way == "not mounted":
        lab.folder.rmdir()
    away.rename(lab.folder)
    assert backing(lab).is_file()
    note = Path(said.partition("rm ")[2].split(",")[0])
    shutil.rmtree(lab.folder)
    note.unlink()
    assert "kept:" not in prune(lab)


def test_an_image_is_kept_when_the_store_was_moved(lab: Bench) -> None:
    lab.use(DISK)
    give(lab, b"\2")
    store, moved = lab.root / "store", lab.root / "moved"
    store.rename(moved)
    assert lab.run("cloud-images", "prune", KVM_COMPOSE_STORE=str(moved)).status == 0
    moved.rename(store)
    assert backing(lab).is_file()


def test_an_image_is_kept_for_a_folder_of_another_user(lab: Bench) -> None:
    """A store that users share, and a home that only its owner may look into."""
    lab.use(DISK)
    give(lab, b"\2")
    image = backing(lab)
    lab.folder.chmod(0o700)
    for folder in (lab.root, *lab.root.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    store = lab.root / "store"
    for path in (store, *store.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o777)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = subprocess.run(
        [*nobody, *lab.argv("cloud-images", "prune")],
        env=environment(lab.root), cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"kept: {image}" in done.stderr
    assert "Permission denied" in done.stderr
    assert image.is_file()


# -- .new ------------------------------------------------------------------------------------------------


@pytest.fixture
def conflict(lab: Bench) -> Bench:
    """A file that was edited by hand, and its new version offered beside it."""
    (lab.folder / XML).write_text("<domain>mine</domain>\n")
    lab.edit("memory_mb: 64", "memory_mb: 65")
    lab.generate(status=1)
    assert "65" in (lab.folder / f"{XML}.new").read_text()
    return lab


@pytest.mark.parametrize("words", [(), ("--overwrite",), ("one",)])
@pytest.mark.parametrize("edit", [False, True])
def test_a_merge_in_a_new_file_is_the_users(conflict: Bench, words: tuple[str, ...], *, edit: bool) -> None:
    new = conflict.folder / f"{XML}.new"
    new.write_text(MERGE)
    if edit:
        conflict.edit("memory_mb: 65", "memory_mb: 66")
    ran = conflict.run("generate", *words)
    assert new.read_text() == MERGE
    assert f"mv {XML}.new {XML}" in ran.said
    assert ran.status == (0 if words == ("--overwrite",) else 1)


def test_a_merge_that_is_moved_into_place_counts(conflict: Bench) -> None:
    new = conflict.folder / f"{XML}.new"
    new.write_text(MERGE)
    conflict.generate(status=1)
    new.rename(conflict.folder / XML)
    conflict.generate()
    assert (conflict.folder / XML).read_text() == MERGE


def test_an_offer_that_nobody_touched_is_renewed_and_goes(conflict: Bench) -> None:
    new = conflict.folder / f"{XML}.new"
    conflict.edit("memory_mb: 65", "memory_mb: 66")
    conflict.generate(status=1)
    assert "66" in new.read_text()
    conflict.generate("--overwrite")
    assert not new.exists()


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_new_file_of_the_users_own_is_kept(lab: Bench, kind: str) -> None:
    new = lab.folder / f"{XML}.new"
    elsewhere = lab.write("notes", MERGE)
    if kind == "file":
        new.write_text(MERGE)
    elif kind == "link":
        new.symlink_to(elsewhere)
    else:
        new.mkdir()
    lab.edit("memory_mb: 64", "memory_mb: 65")
    ran = lab.run("generate")
    assert (ran.status, new.is_dir() if kind == "folder" else new.read_text()) == (
        0, True if kind == "folder" else MERGE,
    )  # fmt: skip
    assert f"{XML}.new is kept" in ran.said
    assert elsewhere.read_text() == MERGE
    # nor is it taken for an offer later on
    (lab.folder / XML).write_text("<domain>mine</domain>\n")
    lab.edit("memory_mb: 65", "memory_mb: 66")
    assert lab.run("generate").status == 1
    assert elsewhere.read_text() == MERGE
    assert os.path.lexists(new)


# -- during a build --------------------------------------------------------------------------------------


def test_an_edit_during_a_build_is_not_lost(tmp_path: Path) -> None:
    """800 guests; while their files are staged, before any is in its place, one of those is edited."""
    count = 800
    yaml = HERD.replace("COUNT", str(count)).replace("ALL", ", ".join(map(str, range(count))))
    bench = bench_of(tmp_path, yaml)
    bench.generate()
    bench.edit("memory_mb: 64", "memory_mb: 65")
    victims = [bench.path(f"herd-{number}-domain.xml") for number in (0, count - 1)]
    build = subprocess.Popen(
        bench.argv("generate"), env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while build.poll() is None and not any(bench.path("").glob(".kvm-compose-staged-*")):
        time.sleep(0.001)
    for victim in victims:
        with victim.open("a") as file:
            file.write(MERGE)
    said = build.communicate(timeout=120)[0].decode()
    for victim in victims:
        kept = [victim, *victim.parent.glob(f"{victim.name}.orig*")]
        assert any(each.read_text().endswith(MERGE) for each in kept), said
    # the conflict is told by this build, or by the next
    assert (bench.run("generate").status, build.returncode) != (0, 0)


def test_a_damaged_disk_that_was_kept_does_not_lose_its_image(lab: Bench) -> None:
    lab.use(DISK)
    disk = lab.path(DISK)
    shutil.copy(disk, f"{disk}.orig")
    image = backing(lab)
    assert lab.run("clean", "--force").status == 0
    give(lab, b"\2")
    prune(lab)
    assert image.is_file()
