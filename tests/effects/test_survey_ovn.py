"""``doctor`` on the main host: what networks of OVN require."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kvmcompose.effects import survey_ovn as doctor
from kvmcompose.effects.survey import Finding
from kvmcompose.effects.survey_ovn import is_new_enough, survey_ovn


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, the only one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(doctor, "_SBIN", str(folder))
    for name, version in (
        ("ovn-northd", "ovn-northd 23.03.1"),
        ("ovn-controller", "ovn-controller 23.03.1"),
        ("ovsdb-server", "ovsdb-server (Open vSwitch) 3.1.0"),
    ):
        program(folder / name, version)
    return folder


def program(path: Path, version: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def survey(folder: Path) -> tuple[Finding, Finding]:
    central, controller = survey_ovn(folder)
    return central, controller


def test_what_runs_is_fine(programs: Path, tmp_path: Path) -> None:
    for name in ("ovnnb_db.sock", "ovnsb_db.sock"):
        (tmp_path / name).touch()
    (tmp_path / "ovn-controller.pid").write_text(f"{os.getpid()}\n")
    central, controller = survey(tmp_path)
    assert (central.ok, controller.ok) == (True, True)
    assert central.detail.startswith("ovn-northd 23.03.1")
    assert central.needed_for == "extras"


def test_what_does_not_run_or_is_old_or_missing_is_named_with_what_mends_it(
    programs: Path, tmp_path: Path
) -> None:
    (tmp_path / "ovn-controller.pid").write_text("999999999\n")
    central, controller = survey(tmp_path)
    assert (central.ok, central.mend) == (False, "sudo systemctl enable --now ovn-central")
    assert (controller.ok, controller.mend) == (False, "sudo systemctl enable --now ovn-controller")
    central, _ = survey(tmp_path / "none")  # root needs no other rights for a folder that is not there
    assert (central.ok, central.mend) == (False, "sudo systemctl enable --now ovn-central")
    program(programs / "ovsdb-server", "ovsdb-server (Open vSwitch) 2.17.9")
    central, _ = survey(tmp_path)
    assert (central.ok, central.mend) == (False, "install Open vSwitch 3.1 or newer")
    for name in ("ovn-northd", "ovn-controller"):
        (programs / name).unlink()
    central, controller = survey(tmp_path)
    assert (central.mend or "").endswith("ovn-central")
    assert (controller.mend or "").endswith("ovn-host")


@pytest.mark.parametrize(
    ("version", "is_it"), [("3.1.0", True), ("3.0.9", False), ("10.0", True), ("", False)]
)
def test_versions_are_compared_as_numbers(version: str, is_it: bool) -> None:
    assert is_new_enough(f"ovsdb-server (Open vSwitch) {version}") is is_it
