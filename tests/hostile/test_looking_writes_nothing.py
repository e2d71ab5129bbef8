"""A private folder that came along with a lab: no command reads, changes or makes anything through it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import Bench, Ran, environment, new_bench, settle
from kvmcompose.cli._project import complete_names
from kvmcompose.core.errors import KvmComposeError

CONFIG = """\
{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""
LAB = {
    "machines": [
        {
            "name": "one",
            "interfaces": [{"bridge": "br0"}],
            "libvirt": {"cpus": 1, "memory_mb": 64, "libvirt_type": {"cloud_image": {"name": "debian_12"}}},
        }
    ],
    "network": {"bridges": [{"name": "br0"}], "external_bridge": "br0"},
}
LOOKING = [
    ("validate",), ("list",), ("list", "--all"), ("plan",), ("plan", "--diff"), ("why", "state.json"),
    ("graph",), ("info", "state"), ("placement", "--explain"), ("placement", "--compare"),
    ("clean", "--dry-run"), ("config",), ("config", "--json"),
]  # fmt: skip
ACTING = [("generate",), ("clean",), ("forget",), ("generate", "--overwrite", "--provision")]
FILES = [
    "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "ledger.lock", "ledger.new", "lock",
    "standing", "standing.new", ".gitignore", "digests.json", "sent.json", "in-use.json",
]  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> Bench:
    files = {
        "kvm-compose.yaml": json.dumps(LAB),
        "kvm-compose-config.json": CONFIG,
        "keys/id_ed25519": "",
    }
    return new_bench(tmp_path, "lab", files)


def seen(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that may not change below a folder."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(status.st_mode) and status.st_size < 2**20 else b""
        times = () if path.is_dir() else (status.st_mtime_ns,)
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_ino, status.st_size, *times, data)
    return found


def quickly(bench: Bench, *words: str) -> Ran:
    def too_late(_signal: int, _frame: object) -> None:
        pytest.fail(f"{words} does not end")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(20)
    try:
        ran = bench.run(*words)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert "Traceback" not in ran.said
    return ran


def victims(root: Path) -> Path:
    home = root / "home"
    home.mkdir(mode=0o755)
    (home / "keys").write_text("ssh-ed25519 AAAA precious\n")
    (home / "empty").touch()
    (home / "empty").chmod(0o644)
    database = sqlite3.connect(home / "places.sqlite")
    database.execute("CREATE TABLE t (x)")
    database.commit()
    database.close()
    return home


def test_commands_that_look_leave_no_trace(lab: Bench) -> None:
    before = seen(lab.folder)
    for words in LOOKING:
        quickly(lab, *words)
        assert seen(lab.folder) == before, words
    lab.generate()
    settle()
    lab.generate()
    before = seen(lab.folder)
    for words in LOOKING:
        assert quickly(lab, *words).status == 0
        assert seen(lab.folder) == before, words


def test_completion_leaves_no_trace(lab: Bench) -> None:
    words = {"input": None, "config": None, "project_name": None, "allow_path": ()}
    asked = argparse.Namespace(directory=lab.folder, **words)
    lab.generate()
    settle()
    lab.generate()
    before = seen(lab.folder)
    assert complete_names(asked)[0] == "one"
    assert seen(lab.folder) == before
    home = victims(lab.root)
    (lab.folder / ".kvm-compose/ledger.sqlite").unlink()
    (lab.folder / ".kvm-compose/ledger.sqlite").symlink_to(home / "places.sqlite")
    before = seen(lab.folder), seen(home)
    with suppress(KvmComposeError):
        complete_names(asked)
    assert (seen(lab.folder), seen(home)) == before


VICTIMS = ["keys", "empty", "places.sqlite", "not-there"]
#: Those of the ledger link to each of them; each other file to one, and to all in `make test-long`.
LINKS = [
    pytest.param(
        name, victim,
        marks=() if "ledger.sqlite" in name or at == number % len(VICTIMS) else pytest.mark.long_only,
    )
    for number, name in enumerate(FILES)
    for at, victim in enumerate(VICTIMS)
]  # fmt: skip


@pytest.mark.parametrize(("name", "victim"), LINKS)
def test_nothing_is_written_through_a_link_in_the_private_folder(name: str, victim: str, lab: Bench) -> None:
    home = victims(lab.root)
    (lab.folder / ".kvm-compose").mkdir()
    (lab.folder / ".kvm-compose" / name).symlink_to(home / victim)
    before = seen(home), seen(lab.folder)
    for words in LOOKING:
        ran = quickly(lab, *words)
        assert (seen(home), seen(lab.folder)) == before, words
        if words == ("plan",) and name not in ("standing", "standing.new"):
            assert "hint: " in ran.err
    for words in ACTING:
        ran = quickly(lab, *words)
        if "generate" in words:
            assert ran.status == (0 if name in ("standing", "standing.new") else 1), ran.said
            assert ran.status == 0 or "hint: " in ran.err
        assert seen(home) == before[0], words
    assert (lab.folder / ".kvm-compose" / name).is_symlink()


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_another_name_is_not_written_to(name: str, lab: Bench) -> None:
    home = victims(lab.root)
    (lab.folder / ".kvm-compose").mkdir()
    os.link(home / "keys", lab.folder / ".kvm-compose" / name)
    before = seen(home)
    for words in (*LOOKING, *ACTING):
        quickly(lab, *words)
        assert seen(home) == before, words


def test_a_private_folder_that_is_a_link_makes_nothing_elsewhere(lab: Bench) -> None:
    home = victims(lab.root)
    (lab.folder / ".kvm-compose").symlink_to(home)
    before = seen(home)
    for words in (*LOOKING, *ACTING):
        quickly(lab, *words)
        assert seen(home) == before, words
    ran = lab.run("generate")
    assert ran.status == 1
    assert "is a link, not a folder" in ran.err


@pytest.mark.parametrize("kind", ["folder", "file", "dangling"])
@pytest.mark.parametrize(
    "place",
    ["artefacts", "artefacts/images", "artefacts/one-domain.xml", "artefacts/one-domain.xml.new",
     "artefacts/one-domain.xml.orig", "artefacts/one-cloud-init.iso", "artefacts/one-cloud-init.img",
     "artefacts/network.xml", "state.json", "state.json.new"],
)  # fmt: skip
def test_nothing_is_written_or_removed_through_a_link_among_artefacts(
    place: str, kind: str, lab: Bench
) -> None:
    home = victims(lab.root)
    (home / "images").mkdir()
    for name in ("one-domain.xml", "one-cloud-init.img", "images/x", ".kvm-compose-staged-1-1"):
        (home / name).write_text("precious")
    (home / "images/link").symlink_to("x")
    path = lab.folder / place
    path.parent.mkdir(exist_ok=True)
    path.symlink_to({"folder": home, "file": home / "keys", "dangling": home / "not-there"}[kind])
    before = seen(home)
    for words in (*LOOKING, *ACTING, ("clean", "--force")):
        quickly(lab, *words)
        assert seen(home) == before, words


def pipe(path: Path) -> None:
    os.mkfifo(path)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"1000000000000\n")
        file.truncate(1 << 40)


def deep(path: Path) -> None:
    head = b"[" * 200_000
    path.write_bytes(b"%d\n" % len(head) + head)


def endless(path: Path) -> None:
    """A ledger with the right names, whose rows never end."""
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c WHERE x < 0"
    for table in ("artefacts", "intended", "files", "doit", "origin"):
        database.execute(f"CREATE VIEW {table} AS {rows}")
    database.execute("PRAGMA user_version = 2")
    database.commit()
    database.close()


@pytest.mark.parametrize("kind", [pipe, huge, deep, endless])
@pytest.mark.parametrize("name", ["ledger.sqlite", "standing", "lock", "digests.json"])
def test_nothing_waits_for_what_is_in_it(name: str, kind: Callable[[Path], None], lab: Bench) -> None:
    (lab.folder / ".kvm-compose").mkdir()
    kind(lab.folder / ".kvm-compose" / name)
    for words in (*LOOKING, *ACTING):
        quickly(lab, *words)


def test_it_is_for_its_owner_alone_whatever_the_umask(lab: Bench) -> None:
    before = os.umask(0)
    try:
        lab.generate()
        settle()
        lab.generate()
    finally:
        os.umask(before)
    private = lab.folder / ".kvm-compose"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in private.iterdir()} == {
        path.name: 0o600 for path in private.iterdir()
    }


def test_one_of_an_older_version_is_tightened_by_a_build(lab: Bench) -> None:
    lab.generate()
    private = lab.folder / ".kvm-compose"
    private.chmod(0o755)
    for path in private.iterdir():
        path.chmod(0o644)
    lab.edit('"memory_mb": 64', '"memory_mb": 65')
    lab.generate()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in private.iterdir()} == {0o600}


def test_python_m_imports_nothing_from_a_foreign_folder(lab: Bench) -> None:
    for name in ("json", "argparse", "yaml", "msgspec", "array", "jinja2", "doit", "sqlite3"):
        lab.write(f"{name}.py", "raise SystemExit('from the lab')\n")
    ran = subprocess.run(
        [sys.executable, "-m", "kvmcompose", "list"],
        cwd=lab.folder, env=environment(lab.root), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "from the lab" not in ran.stdout + ran.stderr
    assert ran.returncode == 0, ran.stderr
