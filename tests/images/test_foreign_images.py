"""Images of other formats, made by qemu-img: every reference to one says what ``cloud-images add`` says."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from encrypted import create_encrypted

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import Bench, new_bench, tiny_qcow2, tiny_raw

MACHINE = """\
  - name: web-%s
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type: {%s}
"""
NETWORK = "network: {bridges: [{name: br0}]}\n"
REFERENCES = (
    "cloud_image: {path: PATH}",
    "existing_disk: {path: PATH}",
    "existing_disk: {path: PATH, driver_type: raw}",
    "existing_disk: {path: PATH, create_deep_copy: true}",
    "existing_disk: {path: PATH, device_type: cdrom}",
    "iso_guest: {path: PATH}",
)


def qemu_img(*words: str | Path) -> None:
    program = shutil.which("qemu-img")
    assert program is not None
    subprocess.run([program, *map(str, words)], check=True, capture_output=True)


def created(form: str, *options: str) -> Callable[[Path], None]:
    return lambda path: qemu_img("create", "-q", "-f", form, *options, path, "1M")


def luks(path: Path) -> None:
    create_encrypted(path, "luks")


def locked_qcow2(path: Path) -> None:
    create_encrypted(path, "qcow2")


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("disk.img", tiny_raw())


def tarred(path: Path) -> None:
    inner = path.with_name("disk.vmdk")
    inner.write_bytes(tiny_raw())
    with tarfile.open(path, "w") as file:
        file.add(inner, "disk.vmdk")


def cut_qcow2(path: Path) -> None:
    whole = path.with_name("whole")
    with whole.open("wb") as file:  # data at both ends of 2 GiB, so that there are two tables
        for place in (0, (2 << 30) - 4096):
            file.seek(place)
            file.write(b"x" * 4096)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", whole, path)
    os.truncate(path, path.stat().st_size // 2)
    whole.unlink()


def hollow(path: Path) -> None:
    """A raw disk of 2 TiB with almost no data."""
    path.write_bytes(tiny_raw())
    os.truncate(path, 2 << 40)


def yaml(reference: str) -> str:
    return f"machines:\n{MACHINE % (0, reference)}{NETWORK}"


def written(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "vmdk": (created("vmdk"), "VMDK"),
    "vmdk descriptor": (created("vmdk", "-o", "subformat=monolithicFlat"), "VMDK descriptor"),
    "vdi": (created("vdi"), "VDI"),
    "vhdx": (created("vhdx"), "VHDX"),
    "vpc": (created("vpc"), "VHD"),
    "qed": (created("qed"), "QED"),
    "parallels": (created("parallels"), "Parallels"),
    "luks": (luks, "encrypted (LUKS)"),
    "qcow2 with a key": (locked_qcow2, "encrypted (LUKS)"),
    "qcow": (created("qcow"), "a qcow image of version 1"),
    "xz": (written(lzma.compress(tiny_raw())), "xz"),
    "lzma": (written(lzma.compress(tiny_raw(), lzma.FORMAT_ALONE)), "lzma"),
    "gz": (written(gzip.compress(tiny_qcow2())), "gzip"),
    "bz2": (written(bz2.compress(tiny_raw())), "bzip2"),
    "zst": (written(b"\x28\xb5\x2f\xfd" + bytes(2000)), "zstd"),
    "lz4": (written(b"\x04\x22\x4d\x18" + bytes(2000)), "lz4"),
    "7z": (written(b"7z\xbc\xaf\x27\x1c" + bytes(2000)), "7z"),
    "zip": (zipped, "zip"),
    "ova": (tarred, "OVA"),
    "dmg": (written(tiny_raw() + b"koly" + bytes(508)), "DMG"),
    "lfs": (written(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS"),
    "page": (written(b"<!DOCTYPE html>\n<title>404</title>\n"), "web page"),
    "lzma -1": (
        written(
            lzma.compress(tiny_raw(), lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, "preset": 1}])
        ),
        "lzma",
    ),
    "lzma -9": (
        written(
            lzma.compress(tiny_raw(), lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, "preset": 9}])
        ),
        "lzma",
    ),
    "pzst": (written(b"\x50\x2a\x4d\x18\4\0\0\0" + bytes(2000)), "zstd"),
    "lz4 -l": (written(b"\x02\x21\x4c\x18" + bytes(2000)), "lz4"),
    "zip of nothing": (written(b"PK\x05\x06" + bytes(18)), "empty zip"),
    "cab": (written(b"MSCF" + bytes(2000)), "cabinet"),
    "deb": (written(b"!<arch>\ndebian-binary   " + bytes(2000)), "Debian package"),
    "simg": (written(bytes.fromhex("3aff26ed 01000000") + bytes(2000)), "Android sparse image"),
    "se sparse": (written(bytes.fromhex("bebafeca 00000000") + bytes(2000)), "VMDK"),
    "program": (written(b"\x7fELF" + bytes(2000)), "a program"),
    "lower page": (written(b"\n<!doctype html>\n<title>404</title>\n"), "web page"),
    "error of a store": (written(b'<?xml version="1.0"?>\n<Error/>'), "an XML document"),
    "qcow2 cut in its table": (written(tiny_qcow2()[: 3 << 16]), "is cut off"),
    "qcow2 cut in its data": (cut_qcow2, "is cut off"),
    "qcow2 with a table beyond measure": (
        written(tiny_qcow2()[:36] + b"\xff" * 4 + tiny_qcow2()[40:]),
        "a first-level table of 4294967295 entries",
    ),
    "qcow2 cut in its header": (written(tiny_qcow2()[:80]), "its header ends after 80 bytes"),
    "empty": (written(b""), "is empty"),
    "hollow": (hollow, "more than 1 TiB of holes"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all projects here, with one image store."""
    return tmp_path_factory.mktemp("projects")


@pytest.fixture
def bench(root: Path) -> Bench:
    return new_bench(root, f"lab-{len(list(root.iterdir()))}")


@pytest.mark.parametrize("kind", FOREIGN)
def test_every_reference_says_what_add_says(bench: Bench, kind: str) -> None:
    make, said = FOREIGN[kind]
    path = bench.folder / f"foreign {kind}.img"
    make(path)
    added = bench.run("cloud-images", "add", "mine", str(path))
    assert added.status == 1
    assert said in added.err
    references = [each.replace("PATH", json.dumps(path.name)) for each in REFERENCES]
    machines = "".join(MACHINE % (number, each) for number, each in enumerate(references))
    bench.write("kvm-compose.yaml", f"machines:\n{machines}{NETWORK}")
    ran = bench.run("validate", "--json")
    assert ran.status == 2
    problems = json.loads(ran.out)["problems"]
    assert len(problems) == len(REFERENCES)
    for number, problem in enumerate(problems):
        assert (problem["code"], problem["severity"]) == ("bad-image", "error")
        assert problem["location"]["line"] == 7 + 6 * number
        assert problem["message"].rpartition(path.name)[2] in added.err
        assert problem["hint"]
    assert bench.run("generate").status == 2
    assert not (bench.folder / "artefacts").exists()


@pytest.mark.parametrize("kind", ["vmdk", "vdi", "vhdx", "vpc", "xz", "gz", "bz2", "hollow"])
def test_the_hint_makes_a_usable_image(bench: Bench, kind: str) -> None:
    path = bench.folder / f"other {kind}.{kind}"
    FOREIGN[kind][0](path)
    bench.write("kvm-compose.yaml", yaml(f"existing_disk: {{path: {json.dumps(path.name)}}}"))
    (problem,) = json.loads(bench.run("validate", "--json").out)["problems"]
    command = problem["hint"].partition(": ")[2]
    subprocess.run(["/bin/sh", "-c", command], cwd=bench.folder, check=True)
    new = shlex.split(command)[-1] if "convert" in command else path.stem
    bench.write("kvm-compose.yaml", yaml(f"existing_disk: {{path: {json.dumps(new)}}}"))
    assert bench.run("validate").status == 0


def test_a_raw_disk_without_a_mark_needs_the_users_word(bench: Bench) -> None:
    (bench.folder / "blank.img").write_bytes(bytes(2**20))
    bench.write("kvm-compose.yaml", yaml("existing_disk: {path: blank.img}"))
    (problem,) = json.loads(bench.run("validate", "--json").out)["problems"]
    assert "driver_type: raw" in problem["hint"]
    bench.write("kvm-compose.yaml", yaml("existing_disk: {path: blank.img, driver_type: raw}"))
    assert json.loads(bench.run("validate", "--json").out)["problems"] == []
    bench.generate()


def test_outside_the_project_that_word_does_not_count(bench: Bench) -> None:
    (bench.root / "notes").write_text("a secret of this machine\n")
    bench.write("kvm-compose.yaml", yaml("existing_disk: {path: ../notes, driver_type: raw}"))
    (problem,) = json.loads(bench.run("validate", "--json").out)["problems"]
    assert "not a disk image" in problem["message"]
