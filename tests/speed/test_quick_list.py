"""``list`` of a project that was built is what the build has noted, as long as that is still so."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from synthetic import edit_one, write_project

from golden.bench import Bench, new_bench, settle
from kvmcompose.build import overview
from kvmcompose.cli import main

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


def test_a_copy_is_another_project(bench: Bench) -> None:
    build(bench)
    before = listed(bench)
    copy = replace(bench, folder=bench.root / "copy")
    subprocess.run(["/bin/cp", "-a", bench.folder, copy.folder], check=True)
    said, noted = listed(copy)
    assert ("copy-network" in said, noted) == (True, False)
    copy.yaml.unlink()
    assert copy.run("list").status == 2
    assert listed(bench) == before


def test_a_link_to_it_is_not_the_project_it_led_to(bench: Bench) -> None:
    before = listed(bench)
    other = replace(bench, folder=bench.root / "other")
    write_project(other.folder, GUESTS)
    build(other)
    link = replace(bench, folder=bench.root / "link")
    for each in (bench, other):
        link.folder.unlink(missing_ok=True)
        link.folder.symlink_to(each.folder)
        assert f"{each.folder.name}-network" in listed(link)[0]
    # what a link's parent is, the system says, not the text of the path
    (bench.folder / "inside").symlink_to(other.folder / "artefacts")
    said = replace(bench, folder=bench.folder / "inside" / "..").run("list").out
    assert "other-network" in said
    assert listed(bench) == before
    # the other one takes this one's place
    bench.folder.rename(bench.root / "away")
    bench.folder.symlink_to(bench.root / "away")
    assert "away-network" in listed(bench)[0]


def test_a_store_is_looked_for_from_where_one_is(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    place = bench.root / "elsewhere"
    place.mkdir()
    store = {"KVM_COMPOSE_STORE": "store"}
    monkeypatch.chdir(bench.root)
    assert (bench.root / "store").is_dir()
    settle()
    bench.generate(**store)
    settle()
    bench.generate(**store)
    assert bench.run("list", **store).status == 0
    monkeypatch.chdir(place)
    for command in ("list", "generate"):  # not as the last build left it
        with mock.patch.object(main, "main", wraps=main.main) as asked:
            bench.run(command, **store)
        assert asked.called


def test_files_that_are_taken_in_again_end_it(bench: Bench) -> None:
    """As when another branch is looked at, and its artefacts come with it."""
    both = bench.yaml.read_text()
    own = [*(bench.folder / "artefacts").glob("g00000-*")]
    kept = {path: path.read_bytes() for path in (*own, bench.folder / "state.json")}
    start = both.index("  - name: g00001\n")
    one_less = both[: both.index("  - name: g00000\n")] + both[start:]
    for text in (one_less, one_less):
        bench.yaml.write_text(text)
        build(bench)
    before = listed(bench)
    bench.yaml.write_text(both)
    for path, content in kept.items():
        path.write_bytes(content)
    settle()
    bench.generate("g00000")
    bench.yaml.write_text(one_less)
    for path in own:
        path.unlink()
    said, _ = listed(bench)
    assert said == long_way(bench)
    assert ("remove" in said, "remove" in before[0]) == (True, False)


def test_a_config_that_cannot_be_read_is_there(bench: Bench) -> None:
    bench.config.unlink()
    build(bench)
    build(bench)
    assert listed(bench)[1]
    bench.config.mkdir()
    for command in ("list", "generate"):
        ran = bench.run(command)
        assert ran.status == 2
        assert "is a directory" in ran.err


@pytest.mark.parametrize("name", ["standing", "lock", "ledger.sqlite"])
def test_a_named_pipe_in_its_place_keeps_nobody_waiting(bench: Bench, name: str) -> None:
    before = listed(bench)[0]
    place = bench.folder / ".kvm-compose" / name
    place.unlink()
    os.mkfifo(place)
    assert bench.spawn("list").out == before
    ran = bench.spawn("generate")
    assert "Traceback" not in ran.err
    # a build can do without the build stamp; the others are not its to take away
    assert ran.status == (0 if name == "standing" else 1)
    assert ran.status == 0 or "is a named pipe, not a regular file" in ran.err


def test_what_cannot_be_noted_leaves_nothing(bench: Bench) -> None:
    place = bench.folder / ".kvm-compose" / "standing"
    place.unlink()
    place.mkdir()
    assert bench.run("generate").status == 0
    assert not place.with_name("standing.new").exists()
