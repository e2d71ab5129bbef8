"""Few modules start processes. import-linter sees only those that import ``subprocess``."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

STARTS = re.compile(
    r"subprocess|create_subprocess_\w+|multiprocessing|ProcessPoolExecutor|forkpty|fork|posix_spawnp?"
    r"|spawn[lv]\w*|exec[lv]\w*|system|popen"
)
DOORS = {
    "kvmcompose/effects/process.py": {"subprocess", "posix_spawn", "execv"},
    "kvmcompose/hosts/local.py": {"subprocess", "create_subprocess_exec"},  # asyncio's
    # copies of the command itself, which start no program
    "kvmcompose/build/stamp.py": {"fork"},
    "kvmcompose/build/worker_pool.py": {"multiprocessing", "ProcessPoolExecutor"},
}


def starts(source: str) -> set[str]:
    """The names in a module's code that stand for starting a process."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            names |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {part for alias in node.names for part in alias.name.split(".")}
    return {name for name in names if STARTS.fullmatch(name)}


def test_only_the_named_modules_start_processes() -> None:
    found = {
        str(path.relative_to(REPOSITORY)): starts(path.read_text())
        for package in ("kvmcompose", "microimage")
        for path in sorted((REPOSITORY / package).rglob("*.py"))
    }
    assert {path: names for path, names in found.items() if names} == DOORS


def test_the_ways_to_start_a_process_are_recognised() -> None:
    source = "import os\nfrom os import execvp\nos.posix_spawn()\nasyncio.create_subprocess_shell('ls')\n"
    assert starts(source) == {"execvp", "posix_spawn", "create_subprocess_shell"}
