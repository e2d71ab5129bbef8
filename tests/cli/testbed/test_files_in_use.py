"""Files of guests that are up stay, whatever the YAML says by now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Lab

DB = """\
  - name: db
    labels: {role: store, tier: 1}
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 128, libvirt_type: {cloud_image: {name: debian_12}}}
"""
XML = "artefacts/db-domain.xml"


def files(lab: Lab) -> set[str]:
    return {f"artefacts/{each.name}" for each in (lab.folder / "artefacts").iterdir() if "db" in each.name}


def test_generate_keeps_files_of_a_removed_guest_that_runs(up: Lab) -> None:
    before = files(up)
    assert XML in before
    up.bench.edit(DB, "")
    ran = up.must("generate")
    assert files(up) == before
    for path in before:
        assert f"{path}  (its guest is up: kvm-compose up or down stops it first)" in ran.said
    ran = up.must("up")
    assert "removed, as nothing uses it any more: artefacts/" in ran.err
    assert up.guests() == {"web": "running"}
    assert XML not in files(up)
    assert "remove" not in up.must("plan").out


def test_clean_keeps_what_runs_even_by_force(up: Lab) -> None:
    before = files(up)
    for words in (("clean",), ("clear-artefacts", "--force")):
        ran = up.must(*words)
        assert f"{XML}: kept, its guest is up" in ran.said
        assert files(up) == before
    up.must("down")
    up.must("clean")
    assert not (up.folder / XML).exists()


def test_left_over_files_in_use_are_refused(up: Lab) -> None:
    up.bench.edit(DB, "")
    up.must("generate")
    before = files(up)
    assert "is in use: its guest is up" in up.must("clean", "--left-over", "db", status=3).err
    assert files(up) == before


def test_up_of_another_guest_leaves_the_removed_one_and_its_files(up: Lab) -> None:
    before = files(up)
    up.bench.edit(DB, "")
    up.must("up", "web")
    assert files(up) == before
    up.must("generate")
    assert files(up) == before
    up.must("up")
    assert XML not in files(up)


def test_a_failed_removal_keeps_the_files(idle: Lab) -> None:
    idle.serve()
    idle.must("up")
    before = files(idle)
    idle.bench.edit(DB, "")
    idle.serve("--fail", "undefine_domain:lab-db")
    idle.must("up", status=1)
    idle.must("generate")
    assert files(idle) == before
    idle.serve()
    idle.must("up")
    assert XML not in files(idle)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '["../../etc/passwd"]'])
def test_a_record_that_is_damaged_is_none(up: Lab, content: str) -> None:
    (up.folder / ".kvm-compose/in-use.json").write_text(content)
    up.bench.edit(DB, "")
    up.must("generate")
    assert XML not in files(up)
    up.must("up")  # to stop the guest needs none of its files
    assert up.guests() == {"web": "running"}
