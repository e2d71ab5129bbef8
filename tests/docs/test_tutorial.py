"""The tutorial is what happens: its commands are run in order, and must print what it shows.

In ``docs/tutorial.md`` a ``sh`` block is run, in one shell for all of them. A ``text`` block after it is what
it prints (stdout and stderr together); ``…`` in it stands for any text of a line, a line of ``…`` alone
for any number of lines. ``<!-- status: N -->`` before the ``text`` block is the status that the last command
ends with, where that is not 0.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
BIN = Path(sys.executable).parent

_STEP = re.compile(
    r"^```sh\n(?P<commands>.*?)^```\n"
    r"(?:\n<!-- status: (?P<status>\d+) -->\n)?"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


class Step(NamedTuple):
    """Commands of the tutorial, the line they start at, and what it says of them."""

    line: int
    commands: str
    output: str | None
    status: int


def steps(text: str) -> list[Step]:
    return [
        Step(
            text.count("\n", 0, found.start()) + 2,
            found["commands"],
            found["output"],
            int(found["status"] or 0),
        )
        for found in _STEP.finditer(text)
    ]


def pattern(shown: str) -> str:
    """A regular expression for output as it is shown."""
    parts = []
    for line in shown.splitlines():
        if line == "…":
            parts.append("(?:.*\n)*?")
        else:
            parts.append(".*?".join(re.escape(part) for part in line.split("…")) + "\n")
    return "".join(parts)


def run_all(commands: list[str], folder: Path, state: Path) -> list[tuple[str, int]]:
    """Run blocks of commands one after the other in one shell: what each prints, and its last status."""
    marks = [f"--- end of step {number}" for number in range(len(commands))]
    script = "".join(
        f"{block}printf '%s %s\\n' '{mark}' $?\n" for block, mark in zip(commands, marks, strict=True)
    )
    environment = {
        **os.environ,
        # a server of its own, which tests of other processes do not see: one for all commands
        "KVM_COMPOSE_STATE_DIR": str(state),
        "KVM_COMPOSE_SERVER_IDLE": "60",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "KVM_COMPOSE_STORE": str(folder / "store"),
        "LC_ALL": "C.UTF-8",
    }
    work = folder / "work"
    work.mkdir()
    said = subprocess.run(
        ["/bin/bash", "-c", f"exec 2>&1\n{script}"],
        cwd=work, env=environment, capture_output=True, text=True, check=True, timeout=300,
    ).stdout  # fmt: skip
    results = []
    for mark in marks:
        output, _, said = said.partition(mark)
        status, _, said = said.partition("\n")
        results.append((output, int(status)))
    return results


def test_the_tutorial_is_what_happens(tmp_path: Path, state_place: Path) -> None:
    shown = steps(TUTORIAL.read_text())
    results = run_all([step.commands for step in shown], tmp_path, state_place)
    for step, (output, status) in zip(shown, results, strict=True):
        where = f"docs/tutorial.md:{step.line}"
        assert status == step.status, f"{where}: status {status}:\n{output}"
        if step.output is not None and not re.fullmatch(pattern(step.output), output):
            pytest.fail(f"{where}: shown is\n{step.output}\nbut it says\n{output}")


def test_every_block_of_the_tutorial_is_looked_at() -> None:
    text = TUTORIAL.read_text()
    shown = steps(text)
    assert len(shown) == text.count("\n```sh\n")
    assert sum(step.output is not None for step in shown) == text.count("\n```text\n")


def test_a_mark_stands_for_any_text_of_a_line_or_for_lines() -> None:
    assert re.fullmatch(pattern("made …\n…\nend\n"), "made 9\nmore\nand more\nend\n")
    assert re.fullmatch(pattern("made …\n…\nend\n"), "made \nend\n")
    assert not re.fullmatch(pattern("made …\nend\n"), "made 9\nmore\nend\n")
