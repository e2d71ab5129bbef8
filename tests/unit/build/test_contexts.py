"""Contexts: packed once for all guests, without holding their files in memory."""

from __future__ import annotations

import hashlib
import io
import resource
import sys
import tracemalloc
from pathlib import Path

import pytest

from kvmcompose.build import context_listing
from kvmcompose.build.contexts import Contexts
from kvmcompose.build.project_files import FolderFiles
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.stat_cache import StatCache
from kvmcompose.render.archive import ContextMember, pack_context

MIB = 2**20


@pytest.fixture
def files(tmp_path: Path) -> FolderFiles:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/small").write_text("content")
    return FolderFiles(tmp_path, StatCache())


def test_a_large_context_is_never_in_memory(files: FolderFiles) -> None:
    with (files.folder / "context/large").open("wb") as file:
        file.truncate(64 * MIB)
    tracemalloc.start()
    packed, digest = Contexts(files, 0).packed("context", {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert packed.size > 64 * MIB
    assert peak < 8 * MIB
    assert digest == files.context_digest("context", {})


@pytest.mark.parametrize("size", [0, 2 * MIB])
def test_what_was_packed_stays_and_can_be_read_by_many(files: FolderFiles, size: int) -> None:
    large = files.folder / "context/large"
    large.write_bytes(b"1" * size)
    known = Contexts(files, 0)
    packed, digest = known.packed("context", {})
    large.write_bytes(b"2" * size)
    assert known.packed("context", {}) == (packed, digest)
    with packed.open() as one, packed.open() as other:
        assert len(one.read()) == packed.size
        content = other.read()
    assert b"2" * MIB not in content
    assert packed.sha256.hexdigest() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("what", ["context/small", "context"])
def test_what_becomes_a_link_out_of_the_project_is_not_packed(files: FolderFiles, what: str) -> None:
    """A container whose volume it is can put a link there at any moment."""
    outside = files.folder.with_name(f"{files.folder.name}-outside")
    outside.mkdir()
    (outside / "small").write_text("secret of the host")
    assert files.flaws("context", {}) == ()  # it is listed
    assert files.build_flaws("context", "small") == ()
    (files.folder / what).rename(files.folder / "moved")
    (files.folder / what).symlink_to(outside / ("" if what == "context" else "small"))
    known = Contexts(files, 0)
    for pack in (lambda: known.packed("context", {}), lambda: known.packed_for_image("context", "small")):
        with pytest.raises(KvmComposeError, match="became a link out of the project folder"):
            pack()


def test_a_file_that_shrinks_meanwhile_is_an_error() -> None:
    class Shrinking(io.BytesIO):
        def read(self, _size: int | None = -1) -> bytes:
            return b""

    with pytest.raises(KvmComposeError, match="became shorter"):
        pack_context([ContextMember("a", lambda: Shrinking(b"1"))], 0, io.BytesIO())


def test_a_context_has_a_limit(files: FolderFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_listing, "CARRIED_LIMIT", 3)
    with pytest.raises(KvmComposeError, match="too much for a seed"):
        Contexts(files, 0).packed("context", {})


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_room_for_a_context_is_an_error_that_says_where(
    files: FolderFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (files.folder / "context/large").write_bytes(b"1" * 4 * MIB)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    open_before = descriptors()
    raised: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, limits[1]))
    try:
        known = Contexts(files, 0)
        with pytest.raises(
            KvmComposeError, match="cannot pack the context 'context': File too large"
        ) as caught:
            known.packed("context", {})
        assert descriptors() == open_before
        del known
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.hint is not None
    assert f"make room in {tmp_path}" in caught.value.hint
    assert raised == []
