from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from commands import REPOSITORY, kvm_compose, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Put tiny disks into the run's image store, under the names that the examples use."""
    folder = tmp_path_factory.mktemp("disks")
    run("qemu-img", "create", "-q", "-f", "qcow2", "tiny.qcow2", "1M", folder=folder)
    for name in ("debian_12", "micro", "ubuntu_24_04"):
        kvm_compose("cloud-images", "add", name, "tiny.qcow2", folder=folder)


@pytest.fixture
def copy_of(tmp_path: Path, images: None) -> Callable[[str], Path]:
    """Copies the tracked files of a path of the repository to the same path below a temporary folder."""

    def copy(name: str) -> Path:
        built = shutil.ignore_patterns("artefacts", "state.json", ".kvm-compose", "__pycache__", "macs.csv")
        source, copied = REPOSITORY / name, tmp_path / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copied, ignore=built)
        else:
            shutil.copy2(source, copied)
        return copied

    return copy
