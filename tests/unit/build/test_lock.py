"""The lock of a project: who only looks whether it is held does not count as a build."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from kvmcompose.build import lock
from kvmcompose.build.ledger import Ledger
from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.images.index import locked


def test_who_only_looks_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    looking = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(lock.time, "sleep", lambda _seconds: os.close(looking))
    with lock.build_lock(path, waiting=None):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_build_is_not(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        lock.build_lock(path, waiting=None),
        pytest.raises(RefusedError, match=f"process {os.getpid()}"),
        lock.build_lock(path, waiting=None),
    ):
        pass


def test_a_disk_without_room_for_the_holders_number_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock.os, "pwrite", full)
    with lock.build_lock(tmp_path / "lock", waiting=None):
        pass
    with lock.build_lock(tmp_path / "lock", waiting=None):
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS without lockd, for example: no build can run there, and no traceback says so."""

    def lacking(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", lacking)
    with (
        pytest.raises(KvmComposeError, match=r"cannot lock files \(No locks available\)") as caught,
        lock.build_lock(tmp_path / "lock", waiting=None),
    ):
        pass
    assert caught.value.hint
    with pytest.raises(OSError, match="cannot lock files") as failed, locked(tmp_path / "index.lock"):
        pass
    assert failed.value.filename == str(tmp_path / "index.lock")
    with pytest.raises(OSError, match="cannot lock files"):
        Ledger(tmp_path / "private" / "ledger.sqlite")
