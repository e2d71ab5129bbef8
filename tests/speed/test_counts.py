"""What a build of 1,000 guests may cost, in counts: they are the same on every machine, however busy.

How long it takes is for ``make bench`` to say. A figure here may go down; when it has to go up, the
reason belongs into the commit.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import doit.task
import pytest
from counters import Counts, counted
from synthetic import edit_one, write_project

from golden.bench import Bench, environment, new_bench, settle
from kvmcompose.effects.resources import own_files

GUESTS = 1000
#: Guests and one golden image, with three artefacts each; and the state and the network.
ARTEFACTS = 3 * (GUESTS + 1) + 2
#: kvmcompose's own files, and those that the project names: looked at to see that they are the same.
OWN_FILES = len(own_files()) + 20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A project of 1,000 guests that is built and stands."""
    memory = Path("/dev/shm")  # noqa: S108 (a folder of our own is made in it)
    place = memory if memory.is_dir() else tmp_path_factory.getbasetemp()
    root = Path(tempfile.mkdtemp(dir=place, prefix="kvm-compose-tests-"))
    bench = new_bench(root, "large")
    write_project(bench.folder, GUESTS)
    settle()
    bench.generate()
    settle()
    assert bench.generate() == {}
    yield bench
    shutil.rmtree(root)


def below(counts: dict[str, int], folder: Path) -> dict[str, int]:
    """What was done with the files of a folder; relative names are those of the project folder."""
    found = {path: count for path, count in counts.items() if path.startswith(f"{folder}/")}
    return found | {path: count for path, count in counts.items() if not os.path.isabs(path)}  # noqa: PTH117


# --- nothing to do --------------------------------------------------------------------------------------


def test_a_build_with_nothing_to_do_looks_at_each_artefact_once_and_reads_none(large: Bench) -> None:
    with counted() as counts:
        assert large.run("generate").err == f"{ARTEFACTS} up to date\n"
    artefacts = {
        path: count for path, count in counts.looked_at.items() if path.startswith(("artefacts/", "state"))
    }
    assert len(artefacts) == ARTEFACTS
    assert set(artefacts.values()) == {1}
    assert sum(counts.looked_at.values()) - ARTEFACTS <= OWN_FILES
    read_files = {Path(path).name for path in below(counts.read, large.folder)}
    assert read_files == {
        "standing", "lock", "ledger.sqlite", "kvm-compose.yaml", "kvm-compose-config.json", "",
    }  # fmt: skip
    assert sum(counts.read.values()) <= 12
    assert sum(counts.written.values()) == 0


def test_a_build_with_nothing_to_do_imports_next_to_nothing(large: Bench) -> None:
    program = (
        "import sys; from kvmcompose.cli._entry import main; status = main(); "
        "import json; print(json.dumps(sorted(sys.modules)), file=sys.stdout); sys.exit(status)"
    )
    assert large.spawn("generate").status == 0  # a process of its own has an environment of its own
    ran = subprocess.run(
        [sys.executable, "-c", program, "-C", large.folder, "generate"],
        env=environment(large.root),
        capture_output=True,
        check=True,
    )
    assert b"up to date" in ran.stderr
    loaded = set(json.loads(ran.stdout))
    heavy = {"doit", "yaml", "msgspec", "jinja2", "jsonschema", "sqlite3", "argparse", "pathlib", "pycdlib"}
    # how an editable installation is found may import more, before anything of ours
    blank = subprocess.run(
        [sys.executable, "-c", "import sys, json; print(json.dumps(sorted(sys.modules)))"],
        env=environment(large.root),
        capture_output=True,
        check=True,
    )
    assert loaded & heavy - set(json.loads(blank.stdout)) == set()
    ours = {name for name in loaded if name.startswith("kvmcompose.")}
    assert ours == {
        "kvmcompose.build",
        "kvmcompose.build.stamp",
        "kvmcompose.cli",
        "kvmcompose.cli._entry",
        "kvmcompose.effects",
        "kvmcompose.effects.opening",
        "kvmcompose.effects.text_encoding",
    }


def test_help_and_the_version_do_not_touch_the_project(large: Bench) -> None:
    with counted() as counts:
        for words in (("--help",), ("generate", "--help"), ("--version",)):
            assert large.run(*words).status == 0
    assert below(counts.read, large.folder) == {}
    assert below(counts.written, large.folder) == {}


# --- one machine edited ---------------------------------------------------------------------------------


class Work:
    """How many tasks doit was given."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.tasks = 0
        make = doit.task.Task.__init__

        def counting_make(task: object, *words: object, **options: object) -> None:
            self.tasks += 1
            make(task, *words, **options)

        patch.setattr(doit.task.Task, "__init__", counting_make)


def written_below(counts: Counts, folder: Path) -> set[str]:
    """The artefacts that were written, whatever they were called until they were finished."""
    return {path for path in below(counts.written, folder) if ".kvm-compose/" not in path}


def test_one_edit_costs_one_edit(large: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    settle()
    assert large.generate() == {}
    before = {path: path.lstat() for path in sorted((large.folder / "artefacts").iterdir())}
    name = edit_one(large.folder, GUESTS, 640)
    work = Work(monkeypatch)
    settle()
    with counted() as counts:
        done = large.generate()
    assert done == {"state.json": "rebuild", f"artefacts/{name}-domain.xml": "rebuild"}
    # two files are written, and no others change
    assert len(written_below(counts, large.folder)) == 2, counts.written
    after = {path: path.lstat() for path in sorted((large.folder / "artefacts").iterdir())}
    assert {path.name for path in after if after[path] != before[path]} - {"images"} == {f"{name}-domain.xml"}
    # their tasks, and the two that stand for others: "domain-xml" and "generate"
    assert work.tasks == 4
    # every artefact is looked at once, to decide: the stamp has what the ledger knows of it
    looked_at = sum(below(counts.looked_at, large.folder).values())
    assert ARTEFACTS <= looked_at <= ARTEFACTS + 200
    assert len(below(counts.read, large.folder)) <= 30
    # and so the next one has nothing to do, and knows it at once
    with counted() as counts:
        assert large.generate() == {}
    assert sum(counts.written.values()) == 0
    assert work.tasks == 4


def test_one_edit_writes_little_more_than_it_changes(large: Bench) -> None:
    """Bytes: the state and one domain; of the ledger only their rows."""
    settle()
    assert large.generate() == {}
    ledger = large.folder / ".kvm-compose/ledger.sqlite"
    before = ledger.read_bytes()
    edit_one(large.folder, GUESTS, 704)
    large.generate()
    after = ledger.read_bytes()
    page = 4096
    pages = range(0, max(len(before), len(after)), page)
    changed = sum(before[start : start + page] != after[start : start + page] for start in pages)
    assert changed <= 30


def test_a_plan_of_an_edit_gives_doit_nothing_to_do(large: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_one(large.folder, GUESTS, 768)
    work = Work(monkeypatch)
    with counted() as counts:
        assert len(large.plan()) == 2
    assert work.tasks == 0
    assert written_below(counts, large.folder) == set()


def test_a_first_build_gives_doit_tasks_by_the_hundred(large: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch)
    shutil.rmtree(large.folder / "artefacts")
    large.generate()
    assert work.tasks <= ARTEFACTS / 100
