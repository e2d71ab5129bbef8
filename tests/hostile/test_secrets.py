"""Secrets of a lab: they are in seeds and on disks, for their owner alone, and nowhere else."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

# The bench is in a package beside this folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import COMMAND as COMMAND_LINE
from golden.bench import Bench, new_bench, settle
from golden.bench import environment as bench_environment
from golden.test_golden import member, seed_files

SECRET = "xyzzy-plugh-4711"  # noqa: S105 (that is what is looked for)
OTHER = "frobozz-0815"
#: A user that stands for libvirt-qemu.
QEMU = 4711
YAML = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 256
      libvirt_type:
        cloud_image:
          name: debian_12
          environment: {GREETING: quite-plain-value, API_TOKEN: in-the-yaml}
          environment_file: secrets.env
  - name: two
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 256, libvirt_type: {cloud_image: {name: debian_12}}}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""
CONFIG = """\
{
  "testbed_host_ssh_config": {
    "one": {"ip": "192.0.2.11", "user": "me", "is_main_host": true, "virt_type": "qemu"}
  },
  "ssh_public_key_location": "keys/id_ed25519.pub",
  "ssh_private_key_location": "keys/id_ed25519"
}
"""
FILES = {
    "kvm-compose.yaml": YAML,
    "kvm-compose-config.json": CONFIG,
    "keys/id_ed25519": "not a key\n",
    "secrets.env": f"# of the lab\n\nPASSWORD={SECRET}\n",
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return new_bench(tmp_path, "lab", FILES)


def environment(bench: Bench, guest: str = "one") -> str:
    return member(seed_files(bench.path(f"{guest}-cloud-init.iso"))["context.tar"], "environment").decode()


def holders(folder: Path, text: str) -> set[str]:
    """The files in which a text is found, as it is."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and text.encode() in path.read_bytes()
    }


def test_a_secret_is_in_its_file_and_in_the_seed_and_nowhere_else(bench: Bench) -> None:
    ran = [bench.run("-vv", *words) for words in (
        ("generate",), ("validate",), ("plan",), ("why", "seed-iso:one"), ("why", "state"), ("list", "--all"),
        ("generate", "--json"), ("plan", "--json"), ("why", "seed-iso:one", "--json"),
    )]  # fmt: skip
    assert [each.status for each in ran] == [0] * len(ran)
    assert holders(bench.folder, SECRET) == {"secrets.env", "artefacts/one-cloud-init.iso"}
    assert not any(SECRET in each.out + each.err for each in ran)
    assert environment(bench) == f"API_TOKEN=in-the-yaml\nGREETING=quite-plain-value\nPASSWORD={SECRET}\n"


def test_values_of_the_yaml_are_not_in_what_people_commit_either(bench: Bench) -> None:
    bench.generate()
    found = holders(bench.folder, "quite-plain-value")
    # the build stamp keeps the YAML's text, in the private folder
    assert found - {".kvm-compose/standing"} == {"kvm-compose.yaml", "artefacts/one-cloud-init.iso"}
    names = json.loads((bench.folder / "state.json").read_text())["testbed_guests"]["one"]["libvirt"]
    assert sorted(names["libvirt_type"]["cloud_image"]["environment"]) == ["API_TOKEN", "GREETING"]


def test_a_changed_secret_rebuilds_the_seed_that_has_it_and_the_state(bench: Bench) -> None:
    bench.generate()
    settle()
    bench.generate()
    before = {
        path.name: path.read_bytes() for path in (bench.folder / "artefacts").iterdir() if path.is_file()
    }
    state = (bench.folder / "state.json").read_bytes()
    (bench.folder / "secrets.env").write_text(f"PASSWORD={OTHER}\n")
    planned = bench.run("plan")
    why = bench.run("why", "seed-iso:one")
    assert "environment_file" in planned.out + why.out
    bench.generate()
    after = {
        path.name: path.read_bytes() for path in (bench.folder / "artefacts").iterdir() if path.is_file()
    }
    assert {name for name in after if after[name] != before[name]} == {"one-cloud-init.iso"}
    assert (bench.folder / "state.json").read_bytes() != state
    assert OTHER in environment(bench)
    assert not any(OTHER in each.out + each.err for each in (planned, why))


def test_an_edit_beside_a_secret_comes_to_what_a_clean_build_does(tmp_path: Path) -> None:
    bench = new_bench(tmp_path / "here", "lab", FILES)
    bench.generate()
    settle()
    bench.generate()
    bench.edit("memory_mb: 256\n", "memory_mb: 512\n")
    bench.generate()
    clean = new_bench(tmp_path / "there", "lab", FILES)
    clean.edit("memory_mb: 256\n", "memory_mb: 512\n")
    clean.generate()
    for name in ("state.json", "artefacts/one-cloud-init.iso", "artefacts/one-domain.xml"):
        assert (bench.folder / name).read_bytes() == (clean.folder / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"PASS WORD=xyzzy-plugh-4711\n", "secrets.env:1:5"),
        (b"A=1\n  =xyzzy-plugh-4711\n", "secrets.env:2:3"),
        (b"A=1\nA=xyzzy-plugh-4711\n", "secrets.env:2:1"),
        (b"A='xyzzy-plugh-4711\n", "secrets.env:1:3"),
        (b"A=xyzzy-plugh-4711\x1b[31m\n", "secrets.env:1:19"),
        (b"A=\xffxyzzy-plugh-4711\n", "secrets.env:1:3"),
        (b"A=" + b"x" * 2**18, "secrets.env"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_without_the_secret(
    bench: Bench, text: bytes, place: str
) -> None:
    (bench.folder / "secrets.env").write_bytes(text)
    ran = bench.run("validate")
    assert ran.status == 2
    assert place in ran.err + ran.out
    assert "bad-environment-file" in ran.err + ran.out
    assert SECRET not in ran.err + ran.out


def test_a_variable_has_one_source(bench: Bench) -> None:
    (bench.folder / "secrets.env").write_text(f"GREETING={SECRET}\n")
    ran = bench.run("validate")
    assert ran.status == 2
    assert "duplicate-variable" in ran.err + ran.out
    assert SECRET not in ran.err + ran.out


def test_the_file_lies_in_the_project_and_is_a_file(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "outside.env"
    outside.write_text("A=1\n")
    path = bench.folder / "secrets.env"
    path.unlink()
    path.symlink_to(outside)
    assert "outside-project" in bench.run("validate").err
    path.unlink()
    os.mkfifo(path)
    assert bench.run("validate").status == 2
    path.unlink()
    assert "missing-file" in bench.run("validate").err


def test_names_like_those_of_secrets_are_pointed_out_by_validate_alone(bench: Bench) -> None:
    ran = bench.run("validate", "--json")
    (problem,) = json.loads(ran.out)["problems"]
    assert ran.status == 0
    assert (problem["code"], problem["severity"]) == ("secret-in-environment", "warning")
    assert "API_TOKEN" in problem["path"]
    assert problem["location"]["line"] == 10
    assert "environment_file" in problem["hint"]
    assert "in-the-yaml" not in ran.out
    assert "secret-in-environment" not in bench.run("generate").err


def test_what_holds_secrets_is_its_owners_whatever_the_umask(bench: Bench) -> None:
    before = os.umask(0)
    try:
        bench.generate()
    finally:
        os.umask(before)
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in (bench.folder / "state.json", *(bench.folder / "artefacts").iterdir())
        if path.is_file() and not path.is_symlink()
    }
    assert modes["one-domain.xml"] == 0o644
    assert {name: mode for name, mode in modes.items() if not name.endswith(".xml")} == {
        "state.json": 0o600,
        "one-cloud-init.img": 0o600,
        "one-cloud-init.iso": 0o600,
        "two-cloud-init.img": 0o600,
        "two-cloud-init.iso": 0o600,
    }


def test_a_project_of_version_0_1_is_closed_by_the_next_build_and_nothing_is_made(bench: Bench) -> None:
    bench.generate()
    disk = bench.path("one-cloud-init.img")
    with disk.open("r+b") as file:  # its guest has run
        file.seek(0, os.SEEK_END)
        file.write(b"\0" * 65536)
    open_to_all = (disk, bench.path("two-cloud-init.img"), bench.folder / "state.json")
    for path in open_to_all:
        path.chmod(0o644)
    shared = bench.path("two-cloud-init.iso")
    shared.chmod(0o640)  # somebody's own wish: QEMU's group
    (bench.folder / ".kvm-compose/standing").unlink(missing_ok=True)
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in open_to_all]
    said = bench.run("generate")
    assert said.status == 0
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in open_to_all] == before
    assert [stat.S_IMODE(path.stat().st_mode) for path in open_to_all] == [0o600] * 3
    assert stat.S_IMODE(shared.stat().st_mode) == 0o640
    assert bench.run("plan", "--detailed-exitcode").status == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away as libvirt does")
class TestQemuHasTheFiles:
    """libvirt gives disks and seeds of running guests to QEMU's user; a project's owner is no root."""

    def as_owner(self, bench: Bench, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the program as root without root's powers over the files of others."""
        powers = "-dac_override,-dac_read_search,-fowner,-chown"
        return subprocess.run(
            ["/usr/bin/setpriv", "--bounding-set", powers, "--inh-caps", powers, *COMMAND_LINE,
             "-C", str(bench.folder), *words],
            env=bench_environment(bench.root),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    @pytest.fixture
    def running(self, bench: Bench) -> Bench:
        """A project whose guests run: one has written to its disk, the other not yet."""
        assert self.as_owner(bench, "generate").returncode == 0
        with bench.path("one-cloud-init.img").open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(b"\1" * 65536)
        for path in (bench.folder / "artefacts").iterdir():
            if path.suffix in (".img", ".iso") and not path.is_symlink():
                os.chown(path, QEMU, QEMU)
        return bench

    def test_nothing_changed(self, running: Bench) -> None:
        before = {path.name: path.lstat().st_ino for path in (running.folder / "artefacts").iterdir()}
        for words in (("generate",), ("plan", "--detailed-exitcode"), ("generate", "--verify"), ("list",)):
            ran = self.as_owner(running, *words)
            assert (ran.returncode, "Traceback" in ran.stderr) == (0, False), (words, ran.stderr)
        assert {path.name: path.lstat().st_ino for path in (running.folder / "artefacts").iterdir()} == before

    def test_a_disk_in_use_is_kept_and_its_image_too(self, running: Bench) -> None:
        disk = running.path("one-cloud-init.img")
        links = sorted(path.name for path in (running.folder / "artefacts/images").iterdir())
        inode = disk.stat().st_ino
        running.edit(
            "          name: debian_12\n", "          name: debian_12\n          expand_gigabytes: 3\n"
        )
        content = disk.read_bytes()
        ran = self.as_owner(running, "generate")
        assert ran.returncode == 0  # it grows when that is possible
        assert "data kept, when you may write to it" in ran.stderr
        assert "Traceback" not in ran.stderr
        assert (disk.stat().st_ino, disk.read_bytes()) == (inode, content)
        assert sorted(path.name for path in (running.folder / "artefacts/images").iterdir()) == links

    def test_a_disk_nobody_needs_any_more_is_kept_with_what_it_lies_on(self, running: Bench) -> None:
        start, end = (
            running.yaml.read_text().index("  - name: one"),
            running.yaml.read_text().index("  - name: two"),
        )
        running.yaml.write_text(running.yaml.read_text()[:start] + running.yaml.read_text()[end:])
        links = sorted(path.name for path in (running.folder / "artefacts/images").iterdir())
        ran = self.as_owner(running, "generate")
        assert "Traceback" not in ran.stderr
        assert running.path("one-cloud-init.img").exists()
        assert sorted(path.name for path in (running.folder / "artefacts/images").iterdir()) == links

    def test_without_a_ledger_no_disk_is_touched(self, running: Bench) -> None:
        shutil.rmtree(running.folder / ".kvm-compose")
        inodes = [running.path(f"{name}-cloud-init.img").stat().st_ino for name in ("one", "two")]
        ran = self.as_owner(running, "generate")
        assert (ran.returncode, "Traceback" in ran.stderr) == (1, False)
        assert "sudo chown" in ran.stderr
        assert [running.path(f"{name}-cloud-init.img").stat().st_ino for name in ("one", "two")] == inodes
