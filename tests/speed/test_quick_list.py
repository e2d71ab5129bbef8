"""``list`` of a project that was built is what the build has noted, as long as that is still so."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from synthetic import edit_one, write_project

from golden.bench import Bench, new_bench, settle
from kvmcompose.tasks import overview

GUESTS = 20


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A project that is built and stands."""
    with tempfile.TemporaryDirectory(prefix="kvm-compose-tests-") as root:
        bench = new_bench(Path(root), "lab")
        write_project(bench.folder, GUESTS)
        build(bench)
        yield bench


def build(bench: Bench) -> None:
    settle()
    bench.generate()


def listed(bench: Bench) -> tuple[str, bool]:
    """What ``list`` prints, and whether it took it from the notes of the last build."""
    with mock.patch.object(overview, "overview", wraps=overview.overview) as worked_out:
        said = bench.run("list").out
    return said, not worked_out.called


def long_way(bench: Bench) -> str:
    """What it prints when there are no notes."""
    (bench.folder / ".kvm-compose" / "standing").unlink(missing_ok=True)
    said, noted = listed(bench)
    assert not noted
    return said


def test_it_is_noted_with_the_build_and_right(bench: Bench) -> None:
    said, noted = listed(bench)
    assert noted
    assert "clone         linked clones of golden images\n" in said
    assert long_way(bench) == said


def test_edits_end_it_until_the_next_build(bench: Bench) -> None:
    before = listed(bench)
    edit_one(bench.folder, GUESTS, 640)
    assert listed(bench) == (before[0], False)
    build(bench)
    assert listed(bench) == before
    config = bench.config.read_text()
    bench.config.write_text(config + "\n")
    assert listed(bench) == (before[0], False)
    build(bench)
    assert listed(bench) == before
    assert long_way(bench) == before[0]


def test_it_does_not_rest_on_artefacts(bench: Bench) -> None:
    before = listed(bench)
    for artefact in bench.folder.glob("artefacts/*.xml"):
        artefact.unlink()
    assert listed(bench) == before
    build(bench)
    assert listed(bench) == before


def test_tasks_that_come_and_go_are_told(bench: Bench) -> None:
    text = bench.yaml.read_text()
    start, end = text.index("  - name: herd0"), text.index("network:\n")
    bench.yaml.write_text(text[:start] + text[end:])
    said, noted = listed(bench)
    assert ("remove" in said, noted) == (True, False)
    build(bench)
    said, noted = listed(bench)
    assert ("remove" in said, "clone" in said, noted) == (False, False, True)
    bench.yaml.write_text(text)
    build(bench)
    said, noted = listed(bench)
    assert ("clone" in said, noted) == (True, True)
    assert long_way(bench) == said


def test_options_and_other_projects_have_answers_of_their_own(bench: Bench) -> None:
    plain = listed(bench)
    for words in (["--all"], ["--status"], ["state"], ["--json"]):
        assert bench.run("list", *words).out != plain[0]
    assert "libvirt network other-network" in bench.run("list", "--project-name", "other").out
    assert "libvirt network other-network" in bench.run("list", KVM_COMPOSE_PROJECT_NAME="other").out
    assert bench.run("list", "-k").status == 2
    assert listed(bench) == plain
