"""``kvm-compose init``: creates a commented example project."""

from __future__ import annotations

import argparse
import importlib.resources
import os
from pathlib import Path

import msgspec

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.monitor.console import Console

NAME = "init"
HELP = "create a commented example project"
EXAMPLE = """\
examples:
  kvm-compose init my-testbed && cd my-testbed && kvm-compose plan
  kvm-compose init               in the current folder

Existing files are never overwritten: if one of them exists, nothing is written (status 3).
"""

_STARTER = importlib.resources.files("kvmcompose.cli") / "_starter"
#: Files that would affect git, or the checks of our own code, have other names in this repository.
_RENAMED = {"gitignore": ".gitignore", "dodo": "dodo.py"}
_SCHEMA_NAME = "kvm-compose.schema.json"

_WHAT = {
    "kvm-compose.yaml": "the testbed: two guests on one bridge, with comments on common keys",
    "setup.sh": "a setup script for one of the guests",
    "dodo.py": "for doit, and for your own tasks",
    ".gitignore": "files to keep out of version control",
    _SCHEMA_NAME: "JSON Schema for editors",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        type=Path,
        default=Path(),
        help="the folder to write to, created if necessary (default: the project folder)",
    )


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write the files, or none of them."""
    from kvmcompose.effects.files import write_atomic

    folder: Path = arguments.directory / arguments.folder
    files = starter()
    there = [name for name in files if (folder / name).exists() or (folder / name).is_symlink()]
    if there:
        raise RefusedError(
            f"{_shown(folder)} already contains {', '.join(there)}: nothing was written",
            hint="kvm-compose init DIR writes to another folder",
        )
    try:
        for name, data in files.items():
            write_atomic(folder / name, data, mode=0o755 if name.endswith(".sh") else 0o644)
    except OSError as error:
        raise KvmComposeError(f"cannot write to {_shown(folder)}: {error.strerror}") from error
    width = max(map(len, files))
    for name in files:
        console.data(f"{name:{width}}  {_WHAT[name]}")
    enter = "" if folder.resolve() == Path.cwd() else f"cd {_shown(folder)} && "
    console.say(f"\nnext: {enter}kvm-compose plan")
    console.say("then: kvm-compose generate     (kvm-compose doctor lists what this machine lacks for it)")
    return 0


def starter() -> dict[str, bytes]:
    """Return the files of the example project by name."""
    from kvmcompose.effects.resources import schemas
    from kvmcompose.pipeline.schemas import complete_schema

    files = {
        _RENAMED.get(entry.name, entry.name): entry.read_bytes()
        for entry in _STARTER.iterdir()
        if entry.is_file()
    }
    schema = msgspec.json.encode(complete_schema(schemas()))
    files[_SCHEMA_NAME] = msgspec.json.format(schema, indent=2) + b"\n"
    return {name: files[name] for name in _WHAT}


def _shown(folder: Path) -> str:
    return os.path.relpath(folder) if folder.is_relative_to(Path.cwd()) else str(folder)
