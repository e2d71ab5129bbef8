"""Run programs as a user does, and read YAML as an editor does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

Run = subprocess.CompletedProcess[str]


def run(*argv: str | Path, folder: Path, check: bool = True) -> Run:
    """Run a program in a folder. It has a server of its own, which tests of other processes do not see."""
    own = {"KVM_COMPOSE_STATE_DIR": str(folder / ".server"), **os.environ}
    return subprocess.run(
        [*argv], cwd=folder, env=own, check=check, capture_output=True, text=True, timeout=300
    )


def kvm_compose(*words: str, folder: Path, check: bool = True) -> Run:
    return run(BIN / "kvm-compose", *words, folder=folder, check=check)


class Yaml12(yaml.SafeLoader):
    """The core schema of YAML 1.2, which editors use: in it 52:54:00:12:34:56 is not a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's name)


for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", ["t", "f"]),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
):
    Yaml12.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read_yaml(text: str) -> Any:
    return yaml.load(text, Yaml12)  # noqa: S506 (it is a safe loader)
