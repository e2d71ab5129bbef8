"""The shell completes guests where guests can be named, without asking the server."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from golden.bench import environment

if TYPE_CHECKING:
    from conftest import Lab


def complete(running: Lab, line: str) -> list[str]:
    """What the shell would offer."""
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
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ssh w", ["web"]),
        ("ssh ", ["web", "db"]),
        ("exec ", ["web", "db"]),
        ("logs ", ["web", "db"]),
        ("exec --use", ["--user"]),
        ("exec web -- ", []),
        ("exec d", ["db"]),
        ("console w", ["web"]),
        ("cp w", ["web:"]),
        ("logs --guest ", ["web", "db"]),
        ("snapshot create --guest ", ["web", "db"]),
        ("start ", ["web", "db"]),
        ("stop w", ["web"]),
        ("stop web d", ["db"]),
        ("restart ", ["web", "db"]),
        ("pause ", ["web", "db"]),
        ("resume w", ["web"]),
        ("up ", ["web", "db"]),
        ("up --rerun-scripts w", ["web"]),
        ("down d", ["db"]),
    ],
)
def test_guests(running: Lab, line: str, found: list[str]) -> None:
    assert complete(running, line) == found


def test_options_come_where_there_is_nothing_to_name(running: Lab) -> None:
    assert "--exit-status" in complete(running, "status ")
    assert not [each for each in complete(running, "") if each.startswith("-")]
    assert {"ps", "status", "exec", "start", "stop", "restart", "pause", "resume"} <= set(
        complete(running, "")
    )
