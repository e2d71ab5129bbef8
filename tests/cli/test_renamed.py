"""A machine is renamed: with an ``id`` it keeps its disk; without, the old disk stays, and is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from golden.bench import Bench, golden_bench

DISK = "alice-cloud-init.img"


@pytest.fixture
def lab(tmp_path: Path) -> Bench:
    """A built lab that has run, before its machines are renamed."""
    bench = golden_bench(tmp_path, "renamed")
    for new, old in (("bob", "alice"), ("flock", "herd"), ("installer", "live")):
        bench.edit(f"name: {new}\n    id: {old}\n", f"name: {old}\n")
    bench.generate()
    bench.use(DISK)
    return bench


def rename(lab: Bench, *, keep: bool) -> None:
    lab.edit("name: alice\n", "name: bob\n    id: alice\n" if keep else "name: bob\n")
    if keep:
        lab.edit("name: herd\n", "name: flock\n    id: herd\n")


def test_a_machine_with_an_id_keeps_its_files(lab: Bench) -> None:
    before = lab.artefacts()
    rename(lab, keep=True)
    planned = lab.plan()
    assert lab.generate() == planned
    after = lab.artefacts()
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} == {
        "state.json",
        "artefacts/renamed-network.xml",
        *(f"artefacts/{name}-cloud-init.iso" for name in ("alice", "herd-0")),
    }
    assert lab.generate() == {}


def test_it_is_called_by_its_new_name_everywhere(lab: Bench) -> None:
    rename(lab, keep=True)
    lab.generate()
    assert lab.run("why", "--json", "disk:bob").json["path"] == f"artefacts/{DISK}"
    assert lab.run("generate", "bob").status == 0
    assert lab.run("generate", "alice").status == 2
    # the machine goes: what is left over has its last name
    text = lab.yaml.read_text()
    lab.yaml.write_text(text[: text.index("  - name: bob")] + text[text.index("  - name: flock") :])
    ran = lab.run("generate")
    assert "clean --left-over bob" in ran.said
    assert lab.path(DISK).exists()
    assert lab.run("clean", "--left-over", "bob").status == 0
    assert not lab.path(DISK).exists()


def test_without_an_id_the_disk_stays_and_one_line_takes_it_back(lab: Bench) -> None:
    before = lab.path(DISK).read_bytes()
    rename(lab, keep=False)
    assert lab.generate()["artefacts/bob-cloud-init.img"] == "create"
    assert lab.path(DISK).read_bytes() == before
    lab.edit("name: bob\n", "name: bob\n    id: alice\n")
    lab.generate()
    assert lab.path(DISK).read_bytes() == before
    assert not lab.path("bob-cloud-init.img").exists()
