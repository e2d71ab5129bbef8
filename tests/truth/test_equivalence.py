"""Incremental builds make what clean builds make, do no more than that takes, and say beforehand what.

Random edits, one after the other, to small projects. After each of them an oracle that knows the rules,
but none of kvmcompose's code, says what has to be done with every path; ``plan`` has to say the same,
``generate`` has to do it and nothing else, doit's verdicts have to agree, and a second ``generate``
must have nothing to do. Every failure names its seed::

    KVM_COMPOSE_TEST_SEED=1234 pytest tests/truth/test_equivalence.py
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from edits import Editor
from oracle import FAILING, KEPT, Clean, Grown, Oracle, build_clean, content, size_of, stamps

from golden.bench import Bench, lay_out, new_bench
from kvmcompose.build import stamp

SEQUENCES = 500 if os.environ.get("KVM_COMPOSE_TEST_LONG") else 6
EDITS = 10
#: The first seed; with it set, one sequence can be seen again.
SEED = os.environ.get("KVM_COMPOSE_TEST_SEED")
#: So many sequences share an image store, and a test.
_TOGETHER = 6

_DONE = re.compile(r"^(?P<action>[a-z]+( [a-z]+)?) +(?P<path>\S+)(  \(.*\))?$", re.MULTILINE)


class Sequence:
    """One project and what is done to it. ``said`` tells the story when something is wrong."""

    def __init__(self, root: Path, seed: int) -> None:
        self.seed = seed
        self.bench = Bench(root, root / f"project-{seed}" / "lab")
        lay_out(self.bench.folder)
        self.oracle = Oracle(self.bench.folder)
        self.editor = Editor(self.bench, self.oracle, seed)
        self.said: list[str] = []
        self._clean: tuple[object, Clean] | None = None

    def run(self) -> None:
        try:
            self.build(())
            for _ in range(EDITS):
                self.said.append(self.editor.edit())
                words = ()
                if self.editor.random.random() < 0.1:
                    words = (self.editor.random.choice(("--overwrite", "--provision")),)
                    self.said[-1] += f" {words[0]}"
                self.build(words)
        except Exception as error:
            error.add_note(f"seed {self.seed}: {'; '.join(self.said)}")
            raise
        shutil.rmtree(self.bench.folder.parent)

    def clean(self) -> Clean:
        """A clean build of the inputs as they are, repeated only when one of them has changed."""
        folder = self.bench.folder
        inputs: list[object] = [(self.bench.root / "store/index.json").read_bytes()]
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if name.parts[0] in ("artefacts", ".kvm-compose") or name.name.startswith("state.json"):
                continue
            inputs.append((str(name), path.stat().st_mode, path.read_bytes() if path.is_file() else b""))
        if self._clean is None or self._clean[0] != inputs:
            self._clean = inputs, build_clean(self.bench, folder.parent / "clean")
        return self._clean[1]

    def build(self, words: tuple[str, ...]) -> None:
        """Plan and build, and hold both to what the oracle says."""
        clean = self.clean()
        self.editor.wanted = frozenset(clean.artefacts)
        self.oracle.allow(words)
        predicted = self.oracle.predict(clean)
        assert self.plan(words) == predicted
        self.list_tasks()
        self.ask_doit(predicted, words)
        quiet = all(action in ("keep", "adopt") for action in predicted.values())
        short = None if words else self.short_way()
        assert quiet or short is None, "the short way out says that there is nothing to do"
        expected = self.expected(predicted, clean)
        before = stamps(self.bench.folder)
        ran = self.bench.run("generate", "-k", *words)
        done = {match["path"]: match["action"] for match in _DONE.finditer(ran.out)}
        assert done == self.oracle.acted(predicted, clean), ran.said
        assert ran.status == (1 if FAILING & set(predicted.values()) else 0), ran.said
        assert "Traceback" not in ran.err, ran.err
        if short is None:  # else not even the ledger was looked at
            self.oracle.remember(predicted, done, clean)
        self.look(expected, predicted, before, done)
        self.build_again(predicted, clean)

    def plan(self, words: tuple[str, ...]) -> dict[str, str]:
        ran = self.bench.run("plan", "--json", *words)
        assert ran.status == 0, ran.said
        assert "Traceback" not in ran.err, ran.err
        found = {row["path"]: row["action"] for row in ran.json["files"]}
        for path in [path for path in found if path.startswith("image:")]:
            # the plan names the image, the build the link
            found |= self._link_of(path, found.pop(path))
        return found

    def _link_of(self, image: str, action: str) -> dict[str, str]:
        stem = image.removeprefix("image:").rpartition("/")[2].partition(".")[0]
        assert self._clean is not None
        links = [link for link in self._clean[1].links if link.startswith(f"artefacts/images/{stem}-")]
        if len(links) > 1:  # base.qcow2 and base.raw
            links = [link for link in links if link.endswith(image.rpartition(".")[2])]
        assert len(links) == 1, (image, links)
        return {links[0]: action}

    def short_way(self) -> str | None:
        """What the check says that looks at nothing but time stamps."""
        package = str(Path(stamp.__file__).parent.parent)
        private = str(self.bench.folder / ".kvm-compose")
        found = stamp.read_stamp(private)
        if found is None:
            return None
        # whatever the environment of the last build was, it is that of the next
        assert found.around["package"] == package
        return stamp.summary_if_unchanged(str(self.bench.folder), private, found.around)

    def list_tasks(self) -> None:
        """What the last build noted of the tasks is what they are, as long as it counts."""
        private = str(self.bench.folder / ".kvm-compose")
        found = stamp.read_stamp(private)
        noted = stamp.overview_if_unchanged(private, found.around) if found is not None else None
        if noted is not None and len(self.said) % 3 == 0:
            place, aside = (Path(private, name) for name in (stamp.FILE_NAME, "aside"))
            place.rename(aside)  # or it would be asked again
            assert self.bench.run("list").out == noted
            aside.rename(place)

    def ask_doit(self, predicted: dict[str, str], words: tuple[str, ...]) -> None:
        """What doit calls up to date is what the plan calls settled."""
        if words or self.editor.random.random() > 0.2:
            return
        ran = self.bench.run("list", "--all", "--status")
        assert ran.status == 0, ran.said
        status = {line.split()[1]: line.split()[0] for line in ran.out.splitlines() if line[1:2] == " "}
        assert self._clean is not None
        for path, action in predicted.items():
            made = self._clean[1].artefacts.get(path)
            task = made.task if made is not None else f"remove:{path}"
            if path not in self._clean[1].links:
                assert status[task] == ("U" if action in KEPT else "R"), (task, action, ran.out)

    def expected(self, predicted: dict[str, str], clean: Clean) -> dict[str, object]:
        """What has to lie at each path after the build."""
        found: dict[str, object] = {}
        done = self.oracle.acted(predicted, clean)
        for path, action in predicted.items():
            if path in clean.links:
                found[path] = clean.links[path]
            elif done.get(path) in ("create", "rebuild"):
                found[path] = clean.artefacts[path].content
            elif action == "grow" and path not in self.oracle.golden:
                wanted, there = clean.artefacts[path].content, content(self.bench.folder / path)
                assert isinstance(wanted, bytes)
                assert isinstance(there, bytes)
                found[path] = Grown.to(size_of(wanted), there)
            elif action == "remove":
                found[path] = None
            else:
                found[path] = content(self.bench.folder / path)
            if action == "conflict":
                found[f"{path}.new"] = clean.artefacts[path].content
        return found

    def look(
        self,
        expected: dict[str, object],
        predicted: dict[str, str],
        before: dict[str, tuple[int, int]],
        done: dict[str, str],
    ) -> None:
        folder = self.bench.folder
        for path, wanted in expected.items():
            assert wanted == content(folder / path), path
        after = stamps(folder)
        assert not [path for path in after if "kvm-compose-staged" in path]
        written = {path for path in after if before.get(path) != after[path]}
        aside = {path for path in written if ".orig" in path or path.endswith(".new")}
        grown = {path for path, action in done.items() if action == "grow"}
        made = {path for path, action in done.items() if action in ("create", "rebuild")}
        assert written - aside - grown == made
        gone = {path for path in before.keys() - after.keys() if "/images/" not in path}
        settled = {path for path in gone if path.endswith(".new")}
        assert gone - settled == {
            path for path, action in predicted.items() if action == "remove" and path in before
        }

    def build_again(self, predicted: dict[str, str], clean: Clean) -> None:
        """There is nothing left to do but what cannot be done."""
        before = stamps(self.bench.folder)
        ran = self.bench.run("generate", "-k")
        left = self.oracle.predict_again(clean)
        again = {match["path"]: match["action"] for match in _DONE.finditer(ran.out)}
        assert again == self.oracle.acted(left, clean), ran.said
        assert set(again.values()) <= {"keep customised", "left over"}, ran.said
        assert ran.status == (1 if FAILING & set(left.values()) else 0), ran.said
        after = stamps(self.bench.folder)
        assert {
            path for path in after if before.get(path) != after[path] and not path.endswith(".new")
        } == set()


@pytest.fixture(scope="module")
def store(memory_root: Path) -> Path:
    """A folder with an image store in it."""
    new_bench(memory_root, "unused")
    return memory_root


@pytest.mark.long
@pytest.mark.parametrize("first", [int(SEED)] if SEED else range(0, SEQUENCES, _TOGETHER))
def test_incremental_builds_make_what_clean_builds_make(store: Path, first: int) -> None:
    for seed in range(first, first + (1 if SEED else _TOGETHER)):
        Sequence(store, seed).run()
