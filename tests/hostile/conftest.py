"""Attacks: what a lab, a client or a guest tries, and what must happen. One file for each topic.

An attack with a link to a device runs in a mount namespace of its own (``own_devices``): a program that
replaces what the link leads to would replace the machine's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from people import ALICE, Shared, ask, new

# The harness of tests with real hosts is in the parent folder.
_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS), str(_TESTS / "real")]

_OWN_DEVICES = """
mount -t tmpfs -o mode=755 tmpfs /mnt
for each in null zero full random urandom; do cp -a /dev/$each /mnt/; done
mount --move /mnt /dev
exec "$@"
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def own_devices() -> Run:
    """Run a command with a /dev of its own, as root; options are those of ``subprocess.run``."""

    def run(argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _OWN_DEVICES, "sh", *argv]
        return subprocess.run(command, **{"capture_output": True, "text": True, "timeout": 60, **options})  # noqa: PLW1510 (the caller decides)

    return run


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path that every user can traverse."""
    with tempfile.TemporaryDirectory(prefix="kc") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def shared(place: Path) -> Iterator[Shared]:
    """The root server, running, with Alice's deployment ``alices``."""
    made = Shared(place)
    made.start()
    folder = made.project("alices", ALICE)
    answer = ask(made.socket, ALICE, "PUT", "/deployments/alices", body=new("alices", folder))
    assert answer.status == 201, answer
    yield made
    made.daemon.kill()
