"""A project that root built, used by another user."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmcompose.build.lock import build_lock
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.private import complaint

USER = 61001

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


@pytest.fixture
def private() -> Iterator[Path]:
    """The private folder of a project of root that everybody can enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        made = Path(folder) / ".kvm-compose"
        made.mkdir(mode=0o700)
        os.seteuid(USER)
        yield made
        os.seteuid(0)


def hint(private: Path) -> str:
    return (
        "root built this project: use sudo, or take it over: "
        f"sudo chown -R {USER}:{os.getegid()} {private.parent}"
    )


def test_one_that_cannot_be_opened(private: Path) -> None:
    error = complaint(private)
    assert error is not None
    assert (error.message, error.hint) == (f"'{private}' cannot be opened (Permission denied)", hint(private))


def test_one_of_0_1_that_can_be_read(private: Path) -> None:
    os.seteuid(0)
    private.chmod(0o755)
    os.seteuid(USER)
    assert complaint(private) is None
    with pytest.raises(KvmComposeError) as raised, build_lock(private / "lock", waiting=None):
        pass
    assert raised.value.hint == hint(private)


def test_sudo_needs_no_hint(private: Path) -> None:
    os.seteuid(0)
    assert complaint(private) is None
