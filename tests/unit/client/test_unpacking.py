"""Archives from guests: what they have is unpacked, and whatever is in them, nothing gets elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmcompose.client.packing import collect, packed
from kvmcompose.client.unpacking import LinkError, Unpacked, first_entry, unpack
from kvmcompose.core.errors import KvmComposeError

File, Folder, Link, Hard = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def archive(*entries: tuple[str, bytes, str | bytes], mode: int = 0o644) -> bytes:
    """An archive of names, types, and contents or targets."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, more in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, mode
            if isinstance(more, str):
                info.linkname = more
            else:
                info.size = len(more)
            tar.addfile(info, io.BytesIO(more if isinstance(more, bytes) else b""))
    return buffer.getvalue()


def pieces(data: bytes, size: int = 700) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def arrive(data: bytes, target: Path) -> Unpacked:
    return unpack(pieces(data), target, recursive=True, advance=lambda _: None)


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """What is below a folder: contents, targets of links, None for folders."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


@pytest.mark.parametrize("root", ["d", "d/", "./d", "/", "."])
def test_a_folder_arrives_whatever_it_is_called_in_the_archive(tmp_path: Path, root: str) -> None:
    base = root.rstrip("/")
    data = archive(
        (root, Folder, ""),
        (f"{base}/e", Folder, ""),
        (f"{base}/e/f", File, b"content" * 1000),
        (f"{base}/hard", Hard, f"{base}/e/f"),
        (f"{base}/link", Link, "e/f"),
        (f"{base}/e/up", Link, "../e"),
    )
    found = arrive(data, tmp_path / "target")
    assert found == Unpacked(files=2, size=7000, left_out=())
    assert tree(tmp_path) == {
        "target": None,
        "target/e": None,
        "target/e/f": b"content" * 1000,
        "target/e/up": "../e",
        "target/hard": b"content" * 1000,
        "target/link": "e/f",
    }


def test_a_file_replaces_one_and_keeps_only_harmless_bits_of_its_mode(tmp_path: Path) -> None:
    target = tmp_path / "f"
    (tmp_path / "elsewhere").write_bytes(b"kept")
    target.symlink_to("elsewhere")
    arrive(archive(("x", File, b"new"), mode=0o6777), target)
    assert tree(tmp_path) == {"elsewhere": b"kept", "f": b"new"}
    assert target.stat().st_mode & 0o7777 == 0o755 & ~_umask()


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_a_folder_is_added_to_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/mine").write_bytes(b"mine")
    (tmp_path / "d/f").write_bytes(b"old")
    arrive(archive(("d", Folder, ""), ("d/f", File, b"new"), ("d/e/g", File, b"g")), tmp_path / "d")
    assert tree(tmp_path) == {"d": None, "d/e": None, "d/e/g": b"g", "d/e/mine": b"mine", "d/f": b"new"}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (("d/../../x", File, b"x"), "not below"),
        (("../x", File, b"x"), "not below"),
        (("/x", File, b"x"), "not below"),
        (("other/x", File, b"x"), "not below"),
        (("d/l", Link, "/etc/passwd"), "outside"),
        (("d/l", Link, "../x"), "outside"),
        (("d/l", Link, "sub/../../x"), "outside"),
        (("d/l", Link, ""), "outside"),
        (("d/h", Hard, "/etc/passwd"), "has not come"),
        (("d/h", Hard, "d/nothing"), "has not come"),
        (("d/h", Hard, "d/../../x"), "has not come"),
        (("d/p", tarfile.FIFOTYPE, b""), "neither"),
        (("d/c", tarfile.CHRTYPE, b""), "neither"),
        (("d/b", tarfile.BLKTYPE, b""), "neither"),
    ],
)
def test_what_leads_elsewhere_is_left_out(
    tmp_path: Path, entry: tuple[str, bytes, str | bytes], reason: str
) -> None:
    place = tmp_path / "in" / "d" / "t"
    place.parent.mkdir(parents=True)
    found = arrive(archive(("d", Folder, ""), entry, ("d/last", File, b"last")), place)
    (left_out,) = found.left_out
    assert reason in left_out
    assert tree(tmp_path) == {"in": None, "in/d": None, "in/d/t": None, "in/d/t/last": b"last"}


def test_names_never_lead_through_a_link_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    for target in ("..", "../outside", str(tmp_path / "outside"), "."):
        data = archive(("d", Folder, ""), ("d/l", Link, target), ("d/l/x", File, b"x"))
        place = tmp_path / "outside" / "t" / "deep"
        place.parent.mkdir(exist_ok=True)
        with contextlib.suppress(KvmComposeError):  # it may be refused
            arrive(data, place)
        files = [each for each in tmp_path.rglob("x") if place not in each.parents]
        assert not files


def test_links_that_together_lead_out_do_not(tmp_path: Path) -> None:
    data = archive(
        ("d", Folder, ""),
        ("d/a", Folder, ""),
        ("d/a/b", Folder, ""),
        ("d/a/b/top", Link, "../.."),
        ("d/out", Link, "a/b/top/.."),
    )
    found = arrive(data, tmp_path / "d")
    assert found.left_out == ("out: a symbolic link to a/b/top/.., which is outside",)
    for path in (tmp_path / "d").rglob("*"):
        assert path.resolve().is_relative_to(tmp_path / "d")


def test_links_of_several_copies_do_not_lead_out(tmp_path: Path) -> None:
    """Through the link of the first copy, that of the second would be nearer to the root, and lead out."""
    target = tmp_path / "home" / "work" / "logs"
    target.parent.mkdir(parents=True)
    (tmp_path / "home" / "keys").mkdir()
    folders: list[tuple[str, bytes, str | bytes]] = [
        (name, Folder, b"") for name in ("d", "d/s", "d/a", "d/a/b", "d/a/b/c")
    ]
    arrive(archive(*folders, ("d/a/b/c/p", Link, "../../../s"), mode=0o755), target)
    with pytest.raises(KvmComposeError, match="logs/a/b/c/p is a symbolic link, and what came is a folder"):
        arrive(
            archive(*folders, ("d/a/b/c/p", Folder, b""), ("d/a/b/c/p/l", Link, "../../../../keys")), target
        )
    assert tree(target)["a/b/c/p"] == "../../../s"
    assert not list((target / "s").iterdir())
    # what the user names may be a link
    (tmp_path / "link").symlink_to(target)
    arrive(archive(("d", Folder, b""), ("d/f", File, b"new"), mode=0o755), tmp_path / "link")
    assert (target / "f").read_bytes() == b"new"


def _header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("h")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_are_bounded(tmp_path: Path, kind: bytes) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield _header(kind, 6 << 30)
        while taken < 64:
            taken += 1
            yield bytes(1 << 20)

    with pytest.raises(KvmComposeError, match="a header of 6442450944 bytes"):
        unpack(endless(), tmp_path / "target", recursive=True, advance=lambda _: None)
    assert taken <= 1
    many = (_header(kind, 6) + b"6 a=b\n".ljust(512, b"\0")) * 3000
    with pytest.raises(KvmComposeError, match="nest too deeply"):
        arrive(many, tmp_path / "target")
    assert not list(tmp_path.iterdir())


def test_of_very_much_that_is_left_out_the_first_are_named(tmp_path: Path) -> None:
    entries: list[tuple[str, bytes, str | bytes]] = [
        (f"d/{number}", tarfile.CHRTYPE, b"") for number in range(1000)
    ]
    found = arrive(archive(("d", Folder, b""), *entries, mode=0o755), tmp_path / "target")
    assert found.left_out[0] == "0: neither a file nor a folder nor a link"
    assert found.left_out[100:] == ("900 more",)


@pytest.mark.parametrize("cut", [0, 100, 512, 600, 1200])
def test_one_that_breaks_off_leaves_nothing(tmp_path: Path, cut: int) -> None:
    (tmp_path / "f").write_bytes(b"old")
    data = archive(("f", File, b"x" * 5000))[:cut]
    with pytest.raises(KvmComposeError, match="the archive that came is"):
        arrive(data, tmp_path / "f")
    assert tree(tmp_path) == {"f": b"old"}


@pytest.mark.parametrize("end", [KeyboardInterrupt, KvmComposeError("the server aborted the copy")])
def test_whatever_ends_it_leaves_nothing(tmp_path: Path, end: type[BaseException] | BaseException) -> None:
    def broken() -> Iterator[bytes]:
        yield archive(("d", Folder, ""), ("d/f", File, b"x" * 5000))[:2000]
        raise end

    with pytest.raises((KeyboardInterrupt, KvmComposeError)):
        unpack(broken(), tmp_path / "d", recursive=True, advance=lambda _: None)
    assert tree(tmp_path) == {}


def test_what_a_killed_copy_has_left_goes_with_the_next_one(tmp_path: Path) -> None:
    target, long_ago = tmp_path / "note", time.time() - 3600
    data = archive(("note", tarfile.REGTYPE, b"new"))

    def left(name: str) -> Path:
        folder = tmp_path / name
        (folder / "root").mkdir(parents=True)
        os.utime(folder, (long_ago, long_ago))
        return folder

    dead, others = (
        left(".note.kvm-compose-cp.aaaa"),
        [left(".note.settings"), left(".other.kvm-compose-cp.aaaa")],
    )
    running = left(".note.kvm-compose-cp.bbbb")
    (tmp_path / ".note.kvm-compose-cp.link").symlink_to(others[0])
    handle = os.open(running, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        unpack([data], target, recursive=False, advance=lambda _: None)
        assert running.exists()
    finally:
        os.close(handle)
    assert target.read_bytes() == b"new"
    assert not dead.exists()
    assert all(each.exists() for each in others)
    unpack([data], target, recursive=False, advance=lambda _: None)
    assert not running.exists()
    young = tmp_path / ".note.kvm-compose-cp.cccc"
    young.mkdir()
    unpack([data], target, recursive=False, advance=lambda _: None)
    assert young.exists()


def test_a_folder_a_link_and_a_device_are_not_files(tmp_path: Path) -> None:
    for entry, message in (
        (("d", Folder, ""), "it is a folder"),
        (("d", tarfile.FIFOTYPE, b""), "neither a file nor a folder"),
    ):
        with pytest.raises(KvmComposeError, match=message):
            unpack(pieces(archive(entry)), tmp_path / "f", recursive=False, advance=lambda _: None)
    with pytest.raises(LinkError) as link:
        arrive(archive(("l", Link, "/etc")), tmp_path / "f")
    assert link.value.target == "/etc"
    (tmp_path / "d").mkdir()
    with pytest.raises(KvmComposeError, match="d is a folder, and what came is none"):
        arrive(archive(("d", File, b"x")), tmp_path / "d")
    assert tree(tmp_path) == {"d": None}


@pytest.mark.parametrize("junk", [b"x" * 10_000, b"\x1f\x8b" + b"x" * 5000, bytes(10_240)])
def test_what_is_no_archive_is_refused(tmp_path: Path, junk: bytes) -> None:
    with pytest.raises(KvmComposeError, match="the archive that came is"):
        arrive(junk, tmp_path / "f")
    with pytest.raises(KvmComposeError):
        first_entry(pieces(junk))


# -- packing


def test_what_is_packed_arrives_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "e").mkdir(parents=True)
    (source / "e" / ("long-" * 30)).write_bytes(b"content")
    (source / "empty").write_bytes(b"")
    (source / b"\xff\n".decode(errors="surrogateescape")).write_bytes(b"odd")
    (source / "program").write_bytes(b"x" * 3_000_000)
    (source / "program").chmod(0o755)
    (source / "link").symlink_to("e")
    os.mkfifo(source / "pipe")
    what = collect([(source, "source")], recursive=True)
    assert what.left_out == (str(source / "pipe"),)
    seen: list[int] = []
    data = b"".join(packed(what, seen.append))
    assert seen[-1] == what.size == 3_000_010
    (source / "pipe").unlink()
    arrive(data, tmp_path / "target")
    assert tree(tmp_path / "target") == tree(source)
    assert (tmp_path / "target/program").stat().st_mode & 0o777 == 0o755 & ~_umask()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {(each.uid, each.gid, each.uname) for each in tar} == {(0, 0, "")}


def test_what_cannot_be_packed_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "d").mkdir()
    for name, message in (
        ("nothing", "cannot read .*nothing: No such file or directory"),
        ("pipe", "pipe is neither a file nor a folder"),
        ("d", "d is a folder"),
    ):
        with pytest.raises(KvmComposeError, match=message):
            collect([(tmp_path / name, name)], recursive=False)


def test_a_file_that_changes_meanwhile_is_not_sent_wrong(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x" * 100)
    what = collect([(file, "f")], recursive=False)
    file.write_bytes(b"x" * 200)
    assert len(b"".join(packed(what, lambda _: None))) % 512 == 0  # as long as its entry says
    file.write_bytes(b"x" * 50)
    with pytest.raises(KvmComposeError, match="has become shorter"):
        list(packed(what, lambda _: None))
