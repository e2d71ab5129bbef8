"""The shell completes guests where guests can be named, without asking the server."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from golden.bench import environment

if TYPE_CHECKING:
    from conftest import Lab


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ssh w", ["web"]),
        ("exec d", ["db"]),
        ("console w", ["web"]),
        ("cp w", ["web:"]),
        ("logs --guest ", ["web", "db"]),
        ("snapshot create --guest ", ["web", "db"]),
    ],
)
def test_guests(running: Lab, line: str, found: list[str]) -> None:
    typed = f"kvm-compose -C {running.folder} {line}"
    asking = {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": "/dev/stdout",
        "COMP_LINE": typed, "COMP_POINT": str(len(typed)), "COMP_TYPE": "9", "IFS": "\n",
        "KVM_COMPOSE_SERVER": "unix:/nowhere",
    }  # fmt: skip
    ran = subprocess.run(
        running.bench.argv(), env=environment(running.bench.root) | asking,
        capture_output=True, text=True, check=False, timeout=60, cwd=os.sep,
    )  # fmt: skip
    assert ran.stdout.split() == found, ran.stderr
