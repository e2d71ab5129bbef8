"""Shared by the tests of incremental builds: benches in memory, because they build many times."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# The bench is in a package in the parent folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

_MEMORY = Path("/dev/shm")  # noqa: S108 (a file system in memory, where folders of our own are made)
_ENOUGH = 2**29  # bytes


@pytest.fixture(scope="module")
def memory_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for many small projects, in memory if there is enough."""
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ENOUGH:
        with tempfile.TemporaryDirectory(dir=_MEMORY, prefix="kvm-compose-tests-") as name:
            yield Path(name)
    else:
        yield tmp_path_factory.mktemp("truth")
