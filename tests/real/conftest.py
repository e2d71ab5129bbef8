"""Shared by tests against real programs. They fail when a program is missing; they are never skipped."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# The harness is a package in the parent folder, for all tests and for use by hand.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hosts import TestHost, TestHosts
from hosts.debian_image import debian_image as make_debian_image
from hosts.micro_image import micro_image as make_micro_image
from hosts.testbed import make_key

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def real_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHost]:
    """A testbed host for all tests of the session. Name domains, networks and bridges after the test."""
    with TestHosts(1, directory=tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts[0]


@pytest.fixture(scope="session")
def debian_image() -> Path:
    """A bootable qcow2 of Debian with cloud-init; read-only, so use it as a backing file."""
    return make_debian_image()


@pytest.fixture(scope="session")
def micro_image() -> Path:
    """A bootable qcow2 of a guest that boots in seconds and reads simple seeds; read-only."""
    return make_micro_image()


@pytest.fixture(scope="session")
def ssh_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key for this session; the public one is next to it (.pub)."""
    identity_file = tmp_path_factory.mktemp("key") / "id_ed25519"
    make_key(identity_file)
    return identity_file


@pytest.fixture
def root(tmp_path: Path, micro_image: Path, ssh_key: Path) -> Path:
    """A folder for projects of several hosts, beside the key and the image that they refer to."""
    shutil.copy(ssh_key, tmp_path / "key")
    shutil.copy(ssh_key.with_suffix(".pub"), tmp_path / "key.pub")
    (tmp_path / "micro.qcow2").symlink_to(micro_image)
    return tmp_path
