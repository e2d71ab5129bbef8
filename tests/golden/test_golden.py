"""Each golden project builds to exactly what its ``expected`` folder holds.

    pytest tests/golden --update-golden

writes the folders anew; the diff is the review.
"""

from __future__ import annotations

import io
import json
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pycdlib
import pytest

from golden.bench import GOLDEN, Bench, cases, golden_bench


def seed_files(iso: Path) -> dict[str, bytes]:
    """The files on a seed, by their Rock Ridge names."""
    image = pycdlib.PyCdlib()
    image.open(str(iso))
    found = {}
    for folder, _, names in image.walk(rr_path="/"):
        for name in names:
            path = f"{folder.rstrip('/')}/{name}"
            data = io.BytesIO()
            image.get_file_from_iso_fp(data, rr_path=path)
            found[path.removeprefix("/")] = data.getvalue()
    found["label"] = image.pvd.volume_identifier.rstrip() + b"\n"
    image.close()
    return found


def listing(archive: bytes) -> str:
    """A tar as ``tar -tv`` shows it, with sizes and links."""
    lines = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            mode = stat.filemode(member.mode | _type_bits(member))
            goal = f" -> {member.linkname}" if member.issym() else ""
            lines.append(
                f"{mode} {member.uname}/{member.gname} {member.size} {member.mtime} {member.name!r}{goal}\n"
            )
    return "".join(lines)


def _type_bits(member: tarfile.TarInfo) -> int:
    return stat.S_IFDIR if member.isdir() else stat.S_IFLNK if member.issym() else stat.S_IFREG


def member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def disks(bench: Bench) -> str:
    """A line for each disk and link: what qemu-img says of it, where it leads."""
    program = shutil.which("qemu-img")
    assert program is not None
    lines = []
    for path in sorted((bench.folder / "artefacts").rglob("*")):
        name = path.relative_to(bench.folder)
        if path.is_symlink():
            goal = str(path.readlink()).replace(str(bench.root), "…")
            lines.append(f"{name} -> {goal}\n")
        elif path.suffix in (".img", ".qcow2"):
            info = json.loads(
                subprocess.run(
                    [program, "info", "--output=json", path], check=True, capture_output=True
                ).stdout
            )
            backing = f" on {info['backing-filename']} ({info['backing-filename-format']})" if (
                "backing-filename" in info
            ) else ""  # fmt: skip
            lines.append(f"{name}: {info['format']}, {info['virtual-size']} bytes{backing}\n")
    return "".join(lines)


def observed(bench: Bench) -> Iterator[tuple[str, bytes]]:
    """All text that a build leaves, by its path below ``expected``."""
    yield "state.json", (bench.folder / "state.json").read_bytes()
    yield "disks.txt", disks(bench).encode()
    for path in sorted((bench.folder / "artefacts").iterdir()):
        if path.suffix in (".xml", ".json", ".conf"):
            yield f"artefacts/{path.name}", path.read_bytes()
        elif path.suffix == ".tar":
            yield f"artefacts/{path.name}.txt", listing(path.read_bytes()).encode()
        elif path.suffix == ".iso" and not path.is_symlink():
            files = seed_files(path)
            label = files.pop("label")
            if label != b"CIDATA\n":
                yield f"artefacts/{path.name}/label", label
            for name in (each for each in files if each != "context.tar"):
                yield f"artefacts/{path.name}/{name}", files[name]
            if "context.tar" in files:
                yield f"artefacts/{path.name}/context.tar.txt", listing(files["context.tar"]).encode()
                yield f"artefacts/{path.name}/environment", member(files["context.tar"], "environment")


@pytest.mark.parametrize("case", cases())
def test_a_golden_project_builds_to_what_is_expected(
    case: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bench = golden_bench(tmp_path, case)
    bench.generate()
    found = dict(observed(bench))
    expected = GOLDEN / case / "expected"
    if request.config.getoption("update_golden", default=False):
        shutil.rmtree(expected, ignore_errors=True)
        for name, data in found.items():
            path = expected / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    wanted = {
        path.relative_to(expected).as_posix(): path.read_bytes()
        for path in sorted(expected.rglob("*"))
        if path.is_file()
    }
    assert sorted(found) == sorted(wanted)
    for name, data in found.items():
        assert data.decode() == wanted[name].decode(), name


@pytest.mark.parametrize("case", cases())
def test_a_second_build_of_a_golden_project_has_nothing_to_do(case: str, tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, case)
    bench.generate()
    before = bench.artefacts()
    assert bench.generate() == {}
    assert bench.plan() == {}
    assert bench.artefacts() == before
