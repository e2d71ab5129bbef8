"""``images.lock``: as it is written, read, and found wrong."""

from __future__ import annotations

import pytest

from kvmcompose.core.image_lock import LARGEST_LOCK, digest_among, pinned, read_lock, written_lock

A, B, C = ("sha256:" + each * 64 for each in "abc")


def test_what_is_written_is_read() -> None:
    digests = {"nginx:1.25": A, "localhost:5000/lab/web": B, "busybox": C}
    written = written_lock(digests)
    assert read_lock(written).digests == digests
    assert written == written_lock(dict(reversed(digests.items())))
    assert [line.partition(": ")[0] for line in written.decode().splitlines()[1:]] == sorted(digests)


def test_a_file_edited_elsewhere_is_read() -> None:
    for mark in ("", "\ufeff"):
        lock = read_lock(f"{mark}# why\nnginx: {A}\r\n\n".encode())
        assert (lock.digests, lock.problems) == ({"nginx": A}, ())


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"<<<<<<< HEAD\n", 1),
        (f"a: {A}\na: {B}\n".encode(), 2),
        (f"a: {A}\nb: {A[:-1]}\n".encode(), 2),
        (f"a: {A.upper()}\n".encode(), 1),
        (f"--privileged: {A}\n".encode(), 1),
        (f" a: {A}\n".encode(), 1),
        (f"a: {A}\n\n\xff".encode("latin-1"), 3),
        (f"a: {A}\0\n".encode(), 1),
        (b"#" * (LARGEST_LOCK + 1), 0),
    ],
)
def test_what_is_no_lock_is_refused_at_its_line(data: bytes, line: int) -> None:
    (problem,) = read_lock(data).problems
    assert (problem.code, problem.location.file, problem.location.line) == ("bad-lock", "images.lock", line)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("nginx", "nginx"),
        ("nginx:1.25", "nginx"),
        ("localhost:5000/lab/web", "localhost:5000/lab/web"),
        ("localhost:5000/lab/web:2", "localhost:5000/lab/web"),
    ],
)
def test_a_pinned_reference_keeps_its_registry(reference: str, expected: str) -> None:
    assert pinned(reference, A) == f"{expected}@{A}"


@pytest.mark.parametrize(
    ("reference", "known"),
    [
        ("nginx:1", f"nginx@{A}"),
        ("nginx:1", f"docker.io/library/nginx@{A}"),
        ("docker.io/nginx", f"nginx@{A}"),
        ("lab/web", f"docker.io/lab/web@{A}"),
        ("reg.example/web:3", f"reg.example/web@{A}"),
    ],
)
def test_a_digest_is_found_as_engines_write_it(reference: str, known: str) -> None:
    assert digest_among(reference, (f"mirror.example/nginx@{B}", known)) == A


def test_of_several_digests_the_one_in_the_lock_stays() -> None:
    known = (f"nginx@{A}", f"nginx@{B}")
    assert digest_among("nginx", known) == A
    assert digest_among("nginx", known, before=B) == B
    assert digest_among("nginx", known, before=C) == A
    assert digest_among("nginx", (f"other@{A}", "nginx@sha256:short", "nginx")) is None
