from __future__ import annotations

import argparse
import contextlib
import hashlib
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import microimage
from kvmcompose.cli import cloud_images, doctor
from kvmcompose.core.errors import InputError, KvmComposeError, RefusedError
from kvmcompose.effects import survey, survey_ovn
from kvmcompose.effects.survey import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fileserver import Web


class FakeConsole:
    """Records its output."""

    def __init__(self) -> None:
        self.out: list[Any] = []
        self.talk: list[str] = []
        self.warnings: list[str] = []

    def data(self, text: str) -> None:
        self.out.append(text)

    def say(self, text: str) -> None:
        self.talk.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def json(self, value: Any) -> None:
        self.out.append(value)

    def table(self, rows: list[list[str]], header: list[str]) -> None:
        assert all(len(row) == len(header) for row in rows)
        self.out += rows

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int | None], None]]:
        yield lambda done, total: self.talk.append(f"{label} {done}/{total}")


DISK = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, 2**30, 0, 0, 0, 0, 0, 0, 0).ljust(100, b"\0")
DISK = (DISK + struct.pack(">I", 104)).ljust(5000, b"\0")


@pytest.fixture
def console() -> FakeConsole:
    return FakeConsole()


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVM_COMPOSE_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("KVM_COMPOSE_MIRROR", raising=False)
    (tmp_path / "mine.qcow2").write_bytes(DISK)


def call(command: Any, console: FakeConsole, *argv: str) -> int:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return int(command.run(parser.parse_args(argv), console))


def images(console: FakeConsole, *argv: str) -> int:
    return call(cloud_images, console, *argv)


def test_the_list_says_what_is_here_and_where_checksums_are(console: FakeConsole, tmp_path: Path) -> None:
    images(console, "add", "my_image", str(tmp_path / "mine.qcow2"))
    assert images(console) == 0
    rows = {row[0]: row[1:] for row in console.out}
    assert rows["debian_12"][:2] == ["no", "-"]
    assert rows["debian_12"][2].endswith("SHA512SUMS")
    assert rows["my_image"][:2] == ["added", "4.9 KiB"]
    assert rows["my_image"][3] == "added by you"


def test_the_list_may_be_asked_for_by_name(console: FakeConsole) -> None:
    images(console)
    images(console, "list")
    assert console.out[: len(console.out) // 2] == console.out[len(console.out) // 2 :] != []


def test_the_list_as_json(console: FakeConsole, tmp_path: Path) -> None:
    images(console, "add", "debian_12", str(tmp_path / "mine.qcow2"))
    assert images(console, "--json") == 0
    found = {row["name"]: row for row in console.out[0]}
    assert found["debian_12"]["cached"]
    assert found["debian_12"]["added_by_user"]
    assert found["debian_12"]["virtual_size"] == 2**30
    assert found["cirros_0_6_2"]["sha256"]
    assert found["cirros_0_6_2"]["path"] is None


def test_pulling_shows_progress_and_the_source_of_the_checksum(console: FakeConsole, web: Web) -> None:
    folder = "cloud.debian.org/images/cloud/bookworm/latest"
    name = "debian-12-genericcloud-amd64.qcow2"
    web.put(f"{folder}/{name}", DISK)
    web.put(f"{folder}/SHA512SUMS", f"{hashlib.sha512(DISK).hexdigest()}  {name}\n".encode())
    assert images(console, "pull", "debian_12", "--mirror", web.url) == 0
    assert f"debian_12 {len(DISK)}/{len(DISK)}" in console.talk
    assert f"sha512 of {web.url}/{folder}/SHA512SUMS" in console.talk[-2]
    assert console.talk[-1] == "    signature: its publisher does not sign its list"
    console.talk.clear()
    assert images(console, "pull", "debian_12", "debian_12") == 0
    assert ["is here already" in line for line in console.talk] == [True]


def test_all_mistyped_names_are_reported_before_anything_is_fetched(console: FakeConsole) -> None:
    with pytest.raises(InputError) as caught:
        images(console, "pull", "debain_12", "ubuntu_22_4", "debian_12")
    assert len(caught.value.problems) == 2
    assert "did you mean" in str(caught.value)
    assert "debian_12" in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_image_the_user_added_needs_no_fetching(console: FakeConsole, tmp_path: Path) -> None:
    images(console, "add", "my_image", str(tmp_path / "mine.qcow2"))
    assert images(console, "pull", "my_image") == 0
    assert "nothing to fetch" in console.talk[-1]


def test_adding_an_image_under_a_used_name_warns(console: FakeConsole, tmp_path: Path) -> None:
    mine = tmp_path / "mine.qcow2"
    images(console, "add", "my_image", str(mine))
    images(console, "add", "my_image", str(mine))
    assert console.warnings == []
    mine.write_bytes(DISK + b"more")
    images(console, "add", "my_image", str(mine))
    assert "until now" in console.warnings[0]
    with pytest.raises(KvmComposeError):
        images(console, "add", "other", str(tmp_path))


def test_verify_has_its_status(console: FakeConsole, tmp_path: Path) -> None:
    images(console, "add", "my_image", str(tmp_path / "mine.qcow2"))
    assert images(console, "verify") == 0
    (blob,) = (tmp_path / "store" / "sha256").glob("*/*")
    blob.chmod(0o644)
    blob.write_bytes(DISK.replace(b"\0", b"\1"))
    assert images(console, "verify") == 1
    assert "was changed" in console.out[-1]
    assert images(console, "--json", "verify") == 1
    assert console.out[-1][0]["path"] == str(blob)


def test_removing_and_pruning_free_the_space(console: FakeConsole, tmp_path: Path) -> None:
    images(console, "add", "my_image", str(tmp_path / "mine.qcow2"))
    with pytest.raises(InputError, match="did you mean my_image"):
        images(console, "remove", "my_imag")
    assert images(console, "remove", "my_image") == 0
    assert images(console, "prune") == 0
    assert "/sha256/" in console.out[-1]
    assert console.talk[-1].endswith("freed")


GOOD = Finding(name="qemu-img", ok=True, detail="7.2", needed_for="generate")
BAD = Finding(name="qemu-img", ok=False, detail="not installed", needed_for="generate", mend="apt it")
NO_OVS = Finding(name="Open vSwitch", ok=False, detail="silent", needed_for="up", mend="start it")


@pytest.mark.parametrize(
    ("findings", "status", "said"),
    [
        ([GOOD], 0, "bring them up"),
        ([GOOD, NO_OVS], 0, "but not bring testbeds up"),
        ([BAD, NO_OVS], 1, "cannot build"),
    ],
)
def test_the_doctor_says_what_can_be_done(
    console: FakeConsole, monkeypatch: pytest.MonkeyPatch, findings: list[Finding], status: int, said: str
) -> None:
    monkeypatch.setattr(survey, "survey", lambda _store: findings)
    monkeypatch.setattr(survey_ovn, "survey_ovn", list)
    monkeypatch.setattr(doctor, "_hosts", lambda _arguments: (None, []))
    monkeypatch.setattr(doctor, "_survey_all", lambda _main, _others: ([], {}))
    assert call(doctor, console) == status
    *mends, last = [text for text in console.out if isinstance(text, str)]
    assert said in last
    assert mends == [f"{finding.name}: {finding.mend}" for finding in findings if finding.mend]
    console.out.clear()
    assert call(doctor, console, "--json") == status
    assert console.out[0]["can_generate"] is (status == 0)
    assert console.out[0]["findings"][0]["name"] == "qemu-img"


@pytest.fixture
def no_real_build(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is built is DISK and the number of the build; the numbers."""
    builds: list[str] = []

    def build(target: Path, report: Callable[[str], None]) -> None:
        report("making the disk")
        builds.append(str(len(builds)))
        target.write_bytes(DISK + builds[-1].encode())

    monkeypatch.setattr(microimage, "build", build)
    return builds


def test_building_says_what_is_done_and_is_done_once(console: FakeConsole, no_real_build: list[str]) -> None:
    assert images(console, "build", "micro") == 0
    assert console.talk[0] == "micro: making the disk"
    assert console.talk[1].startswith("micro: 4.9 KiB, sha256 ")
    console.talk.clear()
    assert images(console, "build", "micro") == 0
    assert [line.partition(",")[0] for line in console.talk] == ["micro is here already"]
    assert images(console, "build", "--refresh", "micro") == 0
    assert no_real_build == ["0", "1"]
    assert console.out == []


def test_the_list_says_whether_what_is_built_here_was(console: FakeConsole, no_real_build: list[str]) -> None:
    images(console)
    images(console, "build", "micro")
    images(console)
    rows = [row for row in console.out if row[0] == "micro"]
    assert [row[1] for row in rows] == ["no", "yes"]
    assert {row[4] for row in rows} == {"built here"}
    console.out.clear()
    images(console, "--json")
    (row,) = (row for row in console.out[0] if row["name"] == "micro")
    assert (row["built"], row["cached"], row["url"]) == (True, True, None)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("build", "debian_12"), "kvm-compose cloud-images pull debian_12"),
        (("build", "mirco"), "did you mean micro?"),
        (("pull", "micro"), "kvm-compose cloud-images build micro"),
    ],
)
def test_pull_and_build_name_each_other(console: FakeConsole, words: tuple[str, ...], hint: str) -> None:
    with pytest.raises(InputError) as caught:
        images(console, *words)
    assert caught.value.problems[0].hint == hint


def test_what_is_missing_to_build_is_named(console: FakeConsole, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(microimage, "_MORE_FOLDERS", "/nowhere")
    with pytest.raises(RefusedError) as caught:
        images(console, "build", "micro")
    assert caught.value.exit_code == 3
    names = ("apt-get", "debugfs", "dpkg-deb", "mcopy", "mkfs.vfat", "qemu-img", "syslinux")
    assert all(name in caught.value.message for name in names)


def test_plan_and_generate_say_which_command_builds_what_is_not_here(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "kvm-compose.yaml").write_text(
        "machines:\n"
        "  - name: web\n"
        "    interfaces: [{bridge: br0}]\n"
        "    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: micro}}}\n"
        "network:\n"
        "  bridges: [{name: br0}]\n"
        "  external_bridge: br0\n"
    )
    planned, done = (
        subprocess.run(
            [sys.executable, "-m", "kvmcompose", command],
            cwd=tmp_path / "lab", check=False, capture_output=True, text=True, timeout=120,
        )
        for command in ("plan", "generate")
    )  # fmt: skip
    assert "(not in the store: build it first: kvm-compose cloud-images build micro)\n" in planned.stdout
    assert done.returncode == 1
    assert "the image 'micro' is not here yet, and it is built, not fetched\n" in done.stderr
    assert "hint: kvm-compose cloud-images build micro\n" in done.stderr
