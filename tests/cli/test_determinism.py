"""The same input makes the same bytes: in any folder, on any day, whatever the user's settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from golden.bench import GOLDEN, Bench, cases, golden_bench

#: Settings of two users who have nothing in common. POSIX time zones need no data base.
HERE = {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1", "LOGNAME": "one", "HOME": "/nonexistent"}
THERE = {
    "TZ": "XXX-13:45",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONHASHSEED": "4242",
    "LOGNAME": "two",
    "USER": "two",
}


def without_store(artefacts: dict[str, bytes | str], root: Path) -> dict[str, bytes | str]:
    """Links into the image store say where the store is: that is not the same on two machines."""
    return {
        path: content.replace(str(root), "") if isinstance(content, str) else content
        for path, content in artefacts.items()
    }


def build(root: Path, case: str, env: dict[str, str], *, umask: int, mtime: int) -> dict[str, bytes | str]:
    root.mkdir()
    before = os.umask(umask)
    try:
        bench = golden_bench(root, case)
        for path in sorted(bench.folder.rglob("*"), reverse=umask == 0o077):
            os.utime(path, (mtime, mtime), follow_symlinks=False)
        ran = bench.spawn("generate", **env)
    finally:
        os.umask(before)
    assert ran.status == 0, ran.said
    return without_store(bench.artefacts(), root)


@pytest.mark.parametrize(
    "case", ["base-three-hosts", "clones-two-hosts", "disks", "addresses", "own-template"]
)
def test_two_users_get_the_same_bytes(case: str, tmp_path: Path) -> None:
    here = build(tmp_path / "here", case, HERE, umask=0o022, mtime=1_000_000_000)
    there = build(tmp_path / "there is a longer path", case, THERE, umask=0o077, mtime=1_700_000_000)
    assert here.keys() == there.keys()
    assert [path for path in here if here[path] != there[path]] == []


def test_file_names_beyond_ascii_make_the_same_bytes_too(tmp_path: Path) -> None:
    here = build(tmp_path / "here", "metacharacters", HERE, umask=0o022, mtime=1_000_000_000)
    utf8 = {name: text for name, text in THERE.items() if name not in ("LC_ALL", "PYTHONUTF8")}
    there = build(tmp_path / "there", "metacharacters", utf8, umask=0o077, mtime=1_700_000_000)
    assert [path for path in here if here[path] != there[path]] == []


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    modes = []
    for name, umask in (("a", 0o022), ("b", 0o077)):
        build(tmp_path / name, "base-one-host", {}, umask=umask, mtime=1_000_000_000)
        folder = tmp_path / name / "base-one-host"
        files = [folder / "state.json", *folder.glob("artefacts/*.*")]
        modes.append({path.name: path.stat().st_mode & 0o777 for path in files})
    assert modes[0] == modes[1]
    assert modes[0]["server-cloud-init.iso"] == 0o600
    assert modes[0]["server-domain.xml"] == 0o644


def test_the_epoch_changes_only_seeds(bench: Bench) -> None:
    bench.generate()
    before = bench.artefacts()
    done = bench.generate(SOURCE_DATE_EPOCH="1700000000")
    isos = {"artefacts/server-cloud-init.iso", "artefacts/client-cloud-init.iso"}
    assert done == dict.fromkeys(isos, "rebuild")
    after = bench.artefacts()
    assert {path for path in before if before[path] != after[path]} == isos
    assert bench.generate(SOURCE_DATE_EPOCH="1700000000") == {}
    assert bench.generate() == dict.fromkeys(isos, "rebuild")
    assert bench.artefacts() == before


def test_two_folders_with_one_epoch_get_the_same_bytes(tmp_path: Path) -> None:
    epoch = {"SOURCE_DATE_EPOCH": "1234567890"}
    here = build(tmp_path / "a", "base-one-host", HERE | epoch, umask=0o022, mtime=1_000_000_000)
    there = build(tmp_path / "b", "base-one-host", THERE | epoch, umask=0o022, mtime=1_000_000_001)
    assert [path for path in here if here[path] != there[path]] == []


@pytest.mark.parametrize(
    "text", ["yesterday", "-1", "1e9", "4294967296", "1700000000.5", "99999999999999999999"]
)
def test_an_epoch_that_is_none_is_refused(bench: Bench, text: str) -> None:
    ran = bench.run("generate", SOURCE_DATE_EPOCH=text)
    assert ran.status == 1
    assert "SOURCE_DATE_EPOCH" in ran.err
    assert not (bench.folder / "state.json").exists()


def test_jobs_make_the_same_bytes(golden: Callable[[str], Bench], tmp_path: Path) -> None:
    one = golden("clones-three-hosts")
    one.generate()
    other = golden_bench(tmp_path / "other", "clones-three-hosts")
    other.generate("-n", "4")
    assert without_store(one.artefacts(), one.root) == without_store(other.artefacts(), other.root)


@pytest.mark.parametrize("case", cases())
def test_no_artefact_knows_where_or_when_it_was_built(case: str, tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, case)
    bench.generate()
    for path, content in bench.artefacts().items():
        if isinstance(content, bytes):
            assert str(tmp_path).encode() not in content, path
            assert str(GOLDEN).encode() not in content, path
