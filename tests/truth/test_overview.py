"""``list`` without options answers for doit, in doit's words."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from golden.bench import Bench, cases, environment, golden_bench
from kvmcompose.build.doit_runner import doit_command
from kvmcompose.build.ledger import close_ledgers
from kvmcompose.build.project import Project
from kvmcompose.build.project_inputs import Where


def doit_list(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> str:
    """What doit's own command says."""
    said = io.StringIO()
    with monkeypatch.context() as patch, redirect_stdout(said):
        for name, text in environment(bench.root).items():
            patch.setenv(name, text)
        assert doit_command(Project(Where(bench.folder)), "list", []) == 0
    close_ledgers()
    return said.getvalue()


@pytest.mark.parametrize("case", cases())
def test_the_overview_is_what_doit_would_list(
    memory_root: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = golden_bench(memory_root, case)
    assert bench.run("list").out == doit_list(bench, monkeypatch)
    bench.generate()
    assert bench.run("list").out == doit_list(bench, monkeypatch)


def test_files_that_nobody_wants_are_a_group(memory_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = golden_bench(memory_root, "base-one-host", "with-stale-files")
    bench.generate()
    text = bench.yaml.read_text(encoding="utf-8")
    first = text.index("  - name: ")
    bench.yaml.write_text(text[:first] + text[text.index("  - name: ", first + 1) :], encoding="utf-8")
    said = bench.run("list").out
    assert "remove " in said
    assert said == doit_list(bench, monkeypatch)


def test_the_overview_needs_neither_doit_nor_templates(memory_root: Path) -> None:
    bench = golden_bench(memory_root, "base-one-host", "quick-list")
    program = (
        "import sys; from kvmcompose.cli._entry import main; status = main(); "
        "import json; print(json.dumps(sorted(sys.modules)), file=sys.stderr); sys.exit(status)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "-C", bench.folder, "list"],
        env=environment(bench.root),
        capture_output=True,
        check=True,
    )
    assert b"libvirt domains" in ran.stdout
    assert set(json.loads(ran.stderr.splitlines()[-1])).isdisjoint(
        {"doit", "jinja2", "jsonschema", "pycdlib", "requests"}
    )
