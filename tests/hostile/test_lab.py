"""A lab that was cloned with all that a build leaves behind: ledger, artefacts, links, disks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import Bench, golden_bench, new_bench, settle, tiny_qcow2

IMAGE = {"name": "debian_12", "setup_script": "setup.sh", "environment_file": "secrets"}
LAB = {
    "machines": [
        {
            "name": "one",
            "interfaces": [{"bridge": "br0"}],
            "libvirt": {"cpus": 1, "memory_mb": 64, "libvirt_type": {"cloud_image": IMAGE}},
        }
    ],
    "network": {"bridges": [{"name": "br0"}], "external_bridge": "br0"},
}
CONFIG = {
    "testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": True, "virt_type": "qemu"}},
    "ssh_public_key_location": "keys/id_ed25519.pub",
    "ssh_private_key_location": "keys/id_ed25519",
}
COMMANDS = [
    ("validate",), ("list",), ("list", "--all", "--status", "--deps"), ("plan", "--diff"),
    ("why", "state.json"), ("graph",), ("info", "state"), ("clean", "--dry-run"), ("generate",), ("clean",),
    ("clean", "--force"),
]  # fmt: skip
#: What a terminal acts on: a title, cleared, the other way round.
SIGNS = ("\x1b]0;x\x07", "\x1b[2J", "\u202e")


@pytest.fixture
def lab(tmp_path: Path) -> Bench:
    files = {
        "kvm-compose.yaml": json.dumps(LAB),
        "kvm-compose-config.json": json.dumps(CONFIG),
        "keys/id_ed25519": "",
        "setup.sh": "#!/bin/sh\n",
        "secrets": "A=b\n",
    }
    return new_bench(tmp_path, "lab", files)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def forge(bench: Bench, *rows: tuple[str, str, str, bytes]) -> None:
    """Write into the ledger that these were built: path, task, policy, content."""
    with sqlite3.connect(bench.folder / ".kvm-compose" / "ledger.sqlite") as database:
        for path, task, policy, content in rows:
            row = (path, task, policy, "0" * 64, digest(content), 1, 1, 1, 1, None, b"{}")
            database.execute("INSERT INTO artefacts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    database.close()


@pytest.mark.parametrize("policy", ["text", "reproducible", "mutable", "link"])
@pytest.mark.parametrize("sign", SIGNS)
def test_a_forged_ledger_puts_nothing_on_the_terminal(lab: Bench, sign: str, policy: str) -> None:
    lab.generate()
    name = f"artefacts/a{sign}b"
    (lab.folder / name).write_text("x")
    (lab.folder / "artefacts/c").write_text("x")
    forge(lab, (name, "disk:x", policy, b"x"), ("artefacts/c", f"di{sign}sk:y", policy, b"x"))
    for words in COMMANDS:
        assert sign not in lab.run(*words).said, words
    assert (lab.folder / name).exists()


@pytest.mark.parametrize("policy", ["text", "reproducible", "mutable"])
@pytest.mark.parametrize("place", ["artefacts/sub", "artefacts/sub/below", "artefacts/images/sub"])
def test_a_forged_ledger_removes_nothing_behind_a_link(lab: Bench, place: str, policy: str) -> None:
    lab.generate()
    settle()
    home = lab.root / "home"
    home.mkdir()
    (home / "keys").write_text("precious")
    (home / "empty").touch()
    (home / "link").symlink_to("keys")
    path = lab.folder / place
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(home)
    forge(
        lab,
        (f"{place}/keys", "disk:x", policy, b"precious"),
        (f"{place}/empty", "disk:y", policy, b""),
        (f"{place}/link", "disk:z", "link", b"keys"),
    )
    for words in (*COMMANDS, ("generate", "--overwrite", "--provision"), ("clean", "--force")):
        ran = lab.run(*words)
        assert "Traceback" not in ran.said
        assert sorted(each.name for each in home.iterdir()) == ["empty", "keys", "link"], words


def folder(path: Path) -> None:
    path.mkdir()


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def sinks(path: Path) -> None:
    """A link to a pipe."""
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


@pytest.mark.parametrize("kind", [folder, circle, sinks])
@pytest.mark.parametrize(
    "place",
    [
        "secrets",
        "setup.sh",
        "templates/domain.xml.j2",
        "artefacts/one-domain.xml",
        "keys/id_ed25519.pub",
        ".kvm-compose",
        "artefacts",
        "artefacts/images",
        "state.json",
    ],
)
def test_what_is_no_file_is_an_error_in_words(lab: Bench, place: str, kind: Callable[[Path], None]) -> None:
    lab.generate()
    path = lab.folder / place
    path.parent.mkdir(exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    kind(path)
    for words in (*COMMANDS[:-1], ("trust",), ("generate", "--overwrite"), ("clean", "--force")):
        ran = lab.run(*words)
        assert "Traceback" not in ran.said, (words, ran.said)
        assert "internal error" not in ran.said, (words, ran.said)


def test_a_task_that_there_is_not_is_an_error_in_words(lab: Bench) -> None:
    ran = lab.run("info", "nothing")
    assert ran.status == 2
    assert "there is no task 'nothing'" in ran.err
    assert "hint: kvm-compose list --all" in ran.err


@pytest.mark.parametrize("place", ["artefacts/one-domain.xml", "artefacts/old.xml", "state.json"])
def test_a_diff_shows_nothing_from_outside_the_project(lab: Bench, place: str) -> None:
    """What a pipeline of CI prints, others read."""
    lab.generate()
    secret = lab.root / "id_rsa"
    secret.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    path = lab.folder / place
    path.unlink(missing_ok=True)
    path.symlink_to(secret)
    if place == "artefacts/old.xml":
        forge(lab, (place, "domain-xml:x", "text", b""))
    for words in (("plan", "--diff"), ("plan", "--diff", "--json"), ("why", place)):
        assert "PRIVATE KEY" not in lab.run(*words).said


# -- disks that lead to the host -------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path: Path) -> tuple[Bench, dict[str, str]]:
    bench = golden_bench(tmp_path, "base-one-host")
    bench.generate()
    return bench, {"KVM_COMPOSE_STATE_DIR": str(tmp_path / "state")}


@pytest.mark.parametrize(
    "driver",
    [
        '<driver name="qemu" type="raw"/>',
        '<driver name="qemu"/>',
        "",
        '<driver type="qcow2"/><driver type="raw"/>',
    ],
)
def test_a_disk_that_a_guest_writes_as_raw_needs_the_users_word(
    built: tuple[Bench, dict[str, str]], driver: str
) -> None:
    """It could write the header of an image on the host's files there, for another guest to open as qcow2."""
    bench, env = built
    assert bench.run("trust", **env).status == 0
    xml = next((bench.folder / "artefacts").glob("*-domain.xml"))
    usual = '<driver name="qemu" type="qcow2" discard="unmap"/>'
    assert usual in xml.read_text()
    xml.write_text(xml.read_text().replace(usual, driver))
    ran = bench.run("trust", **env)
    assert ran.status == 3
    assert "a disk that its guest writes as raw" in ran.out


@pytest.mark.parametrize("form", ["vmdk", "vpc", "host_device", "json", "blkdebug"])
def test_a_backing_file_of_a_format_that_names_others_needs_the_users_word(
    built: tuple[Bench, dict[str, str]], form: str
) -> None:
    """A VMDK descriptor is a list of files; QEMU opens them all."""
    bench, env = built
    disk = next((bench.folder / "artefacts").glob("*-cloud-init.img"), None)
    disk = disk or next((bench.folder / "artefacts").glob("*.img"))
    (disk.parent / "evil").write_text('# Disk DescriptorFile\nRW 1 FLAT "/etc/shadow" 0\n')
    whole = tiny_qcow2(backing="evil")
    known = struct.pack(">II8s", 0xE2792ACA, 3, b"raw")
    assert known in whole
    extension = struct.pack(">II", 0xE2792ACA, len(form)) + form.encode().ljust((len(form) + 7) & ~7, b"\0")
    data = bytearray(whole.replace(known + bytes(8) + b"evil", extension + bytes(8) + b"evil"))
    struct.pack_into(">Q", data, 8, 104 + len(extension) + 8)
    disk.write_bytes(data)
    ran = bench.run("trust", **env)
    assert ran.status == 3, ran.said
    assert f"'evil' as {form!r}" in ran.out
