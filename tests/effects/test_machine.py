from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kvmcompose.effects import capabilities
from kvmcompose.effects import survey as doctor
from kvmcompose.effects.capabilities import Probe, boot_probe, kvm_works, virt_type
from kvmcompose.effects.survey import Finding, survey

Qemu = Callable[[str], Path]


@pytest.fixture
def kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that can be opened, in the place of /dev/kvm."""
    device = tmp_path / "kvm"
    device.write_bytes(b"")
    monkeypatch.setattr(capabilities, "_KVM", device)
    return device


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qemu:
    """Put a shell script in the place of QEMU, first in PATH; it counts its runs in a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def call(script: str) -> Path:
        program = folder / "qemu-system-x86_64"
        program.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\n{script}\n")
        program.chmod(0o755)
        return program

    return call


def runs(tmp_path: Path) -> int:
    return (tmp_path / "runs").read_text().count("run")


def test_without_the_device_nothing_is_booted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qemu: Qemu
) -> None:
    qemu("exit 33")
    monkeypatch.setattr(capabilities, "_KVM", tmp_path / "none")
    probe = kvm_works(tmp_path)
    assert not probe.works
    assert "there is no" in probe.reason
    assert "modprobe" in str(probe.hint)
    assert not (tmp_path / "runs").exists()


def test_without_permission_the_group_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        capabilities, "_KVM", Path("/proc/sys/kernel/ostype")
    )  # which not even root may write
    probe = kvm_works(tmp_path)
    assert "no permission" in probe.reason
    assert "usermod -aG kvm" in str(probe.hint)


def test_a_device_that_cannot_be_opened_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "_KVM", tmp_path)  # a folder
    assert "cannot be opened" in kvm_works(tmp_path).reason


def test_without_qemu_nothing_is_remembered(
    tmp_path: Path, kvm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    probe = kvm_works(tmp_path)
    assert "not installed" in probe.reason
    assert "qemu-system-x86" in str(probe.hint)
    assert not (tmp_path / "kvm.json").exists()


def test_the_answer_is_remembered_until_qemu_or_the_boot_changes(
    tmp_path: Path, kvm: Path, qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = qemu("exit 33")
    assert kvm_works(tmp_path).works
    assert virt_type(tmp_path) == ("kvm", "a guest was booted under kvm")
    assert runs(tmp_path) == 1
    os.utime(program, ns=(1, 1))
    kvm_works(tmp_path)
    assert runs(tmp_path) == 2
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(capabilities, "_BOOT_ID", tmp_path / "boot_id")
    kvm_works(tmp_path)
    kvm_works(tmp_path)
    assert runs(tmp_path) == 3


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[]", b'{"boot_id": 1}'])
def test_a_damaged_cache_is_ignored(tmp_path: Path, kvm: Path, qemu: Qemu, damage: bytes) -> None:
    qemu("exit 33")
    (tmp_path / "kvm.json").write_bytes(damage)
    assert kvm_works(tmp_path).works
    assert json.loads((tmp_path / "kvm.json").read_bytes())["probe"]["works"] is True


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, kvm: Path, qemu: Qemu) -> None:
    qemu("exit 33")
    assert kvm_works(kvm / "not a folder").works


def test_a_failure_of_qemu_is_reported_with_its_message(tmp_path: Path, kvm: Path, qemu: Qemu) -> None:
    qemu("echo 'failed to initialize kvm: Invalid argument' >&2; exit 1")
    assert virt_type(tmp_path) == (
        "qemu",
        "QEMU cannot run a guest under kvm: failed to initialize kvm: Invalid argument",
    )


def test_a_guest_that_hangs_is_killed(tmp_path: Path, qemu: Qemu) -> None:
    qemu(f"echo $$ > {tmp_path}/pid; sleep 60")
    probe = boot_probe("kvm", seconds=0.5)
    assert "did not finish within 0.5 s" in probe.reason
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_answer_is_kept_in_the_cache_folder(
    tmp_path: Path, kvm: Path, qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu("exit 33")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kvm_works()
    assert (tmp_path / "cache/kvm-compose/kvm.json").exists()


@pytest.mark.real
def test_the_boot_sector_boots_in_an_emulated_machine() -> None:
    assert boot_probe("tcg", seconds=60).works


@pytest.mark.real
def test_this_machine_answers_in_time(tmp_path: Path) -> None:
    answer = virt_type(tmp_path)
    assert answer[0] in ("kvm", "qemu")
    assert virt_type(tmp_path) == answer


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.mark.real
def test_the_survey_of_this_machine(tmp_path: Path, qemu: Qemu) -> None:
    qemu("exit 33")  # the boot itself is tried above
    found = by_name(survey(tmp_path / "a" / "store", tmp_path))
    assert found["Python"].ok
    assert found["qemu-img"].ok
    assert found["disk space"].detail.endswith(f"for images in {tmp_path}/a/store")
    assert all(finding.ok or finding.mend for finding in found.values())
    assert msgspec.json.encode(list(found.values()))


def test_the_survey_of_a_machine_that_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "which", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(capabilities, "_KVM", tmp_path / "none")
    tmp_path.chmod(0o700)
    found = by_name(survey(tmp_path, tmp_path))
    lacking = {name for name, finding in found.items() if not finding.ok}
    assert lacking >= {"qemu-img", "libvirt", "Open vSwitch", "dnsmasq", "ssh", "KVM", "image access"}
    assert all(found[name].mend for name in lacking)
    assert found["qemu-img"].needed_for == "generate"
    assert {finding.name for finding in found.values() if finding.needed_for == "generate"} == {
        "Python",
        "qemu-img",
    }


def test_a_program_that_fails_is_not_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho broken library >&2; exit 127\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(doctor, "kvm_works", lambda _cache: Probe(works=True, reason="yes"))
    found = by_name(survey(tmp_path, tmp_path))["dot"]
    assert not found.ok
    assert "broken library" in found.detail
