"""Places that are unusual: files in the way, committed artefacts, long paths, links that are switched."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from golden.bench import Bench, environment, new_bench, settle

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


# --- a build that waits for another one -----------------------------------------------------------------

DODO = """\
from kvmcompose.build.dodo import doit_config, project_tasks
DOIT_CONFIG = doit_config()
def task_testbed():
    yield from project_tasks()
"""


def while_it_waits(lab: Bench, argv: list[str], change: Callable[[], object]) -> tuple[int, str]:
    """Start a build while another one seems to run, make a change when it waits, and let it build."""
    with (lab.folder / ".kvm-compose/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build = subprocess.Popen(
            argv, cwd=lab.folder, env=environment(lab.root), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert build.stdout is not None
        said = build.stdout.readline()
        while "waiting for another build" not in said:
            line = build.stdout.readline()
            assert line, said
            said += line
        change()
    rest, _ = build.communicate(timeout=60)
    return build.returncode, said + rest


def test_a_build_that_waited_builds_what_is_there_then(lab: Bench) -> None:
    lab.generate()
    lab.edit("memory_mb: 64", "memory_mb: 65")
    status, said = while_it_waits(
        lab, lab.argv("generate"), lambda: lab.edit("memory_mb: 65", "memory_mb: 66")
    )
    assert status == 0, said
    assert b"66</memory>" in lab.path("web-domain.xml").read_bytes()
    assert lab.plan() == {}


def test_a_build_that_waited_reports_what_has_become_wrong(lab: Bench) -> None:
    lab.generate()
    lab.edit("memory_mb: 64", "memory_mb: 65")
    before = lab.artefacts()
    status, said = while_it_waits(
        lab, lab.argv("generate"), lambda: lab.edit("memory_mb: 65", "memory_mb: none")
    )
    assert status == 2, said
    assert "memory_mb" in said
    assert lab.artefacts() == before


def test_doit_that_waited_asks_to_be_run_again(lab: Bench) -> None:
    """Its tasks are those of before the edit."""
    lab.write("dodo.py", DODO)
    lab.generate()
    lab.edit("memory_mb: 64", "memory_mb: 65")
    doit = [sys.executable, "-m", "doit", "run", "--continue"]
    status, said = while_it_waits(lab, doit, lambda: lab.edit("memory_mb: 65", "memory_mb: 66"))
    assert status != 0, said
    assert "run doit again" in said
    assert "Traceback" not in said
    assert lab.plan() == {"state.json": "rebuild", XML: "rebuild"}
    status, said = while_it_waits(lab, doit, lambda: None)
    assert status == 0, said
    assert lab.plan() == {}


# --- ledgers from elsewhere -----------------------------------------------------------------------------


def test_an_older_ledger_put_back_is_what_generate_reads(lab: Bench) -> None:
    """The stamp must not say "up to date" where plan sees that the ledger knows nothing of it."""
    lab.generate()
    private = lab.folder / ".kvm-compose"
    shutil.copytree(private, lab.root / "backup")
    lab.edit("memory_mb: 64", "memory_mb: 65")
    for _ in range(2):
        settle()
        lab.generate()
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        (private / name).unlink(missing_ok=True)
        if (lab.root / "backup" / name).exists():
            shutil.copy2(lab.root / "backup" / name, private / name)
    planned = lab.plan()
    ran = lab.run("generate")
    assert ran.status == 0
    assert "everything is checked again" in ran.err
    assert planned == dict.fromkeys(planned, "adopt")
    assert lab.plan() == {}


def test_what_is_kept_of_an_edit_is_said(lab: Bench) -> None:
    """A ledger of a later version is not read: the edited file is unknown, replaced, and kept as .orig."""
    lab.generate()
    with contextlib.closing(sqlite3.connect(lab.folder / ".kvm-compose/ledger.sqlite")) as ledger:
        ledger.execute("PRAGMA user_version = 99")
    with lab.path("web-domain.xml").open("a") as file:
        file.write("<!-- mine -->\n")
    with lab.path("web-cloud-init.img").open("r+b") as disk:
        disk.truncate(1000)
    for command in ("plan", "generate"):
        ran = lab.run(command)
        (line,) = [line for line in ran.out.splitlines() if XML in line]
        assert "the old file is kept as .orig" in line
    assert "<!-- mine -->" in lab.path("web-domain.xml.orig").read_text()
