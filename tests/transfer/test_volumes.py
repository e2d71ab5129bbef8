"""Volumes on another host: what the project has changed is sent, what containers have made there stays.

The host is this machine, with a folder of the test's own in the place of that in /var/lib.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.files import digest_file
from kvmcompose.hosts._volume_program import CopiedVolume
from kvmcompose.hosts.errors import DriverError, HostLostError
from kvmcompose.hosts.local import LocalRunner
from kvmcompose.hosts.remote_blobs import SMALL, RemoteBlobStore
from kvmcompose.hosts.volume_store import Kept, RemoteVolumeStore
from kvmcompose.hosts.volume_tree import MOST_ENTRIES, VolumeEntry, VolumeTree, difference, read_tree

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="the program on hosts runs as root"),
]

CONTAINER = 4242
#: The user of the SSH connection.
USER = 4343


class Place:
    """A project with a volume ``html``, and a host."""

    def __init__(self, root: Path) -> None:
        self.project = root / "lab"
        self.here = self.project / "html"
        self.here.mkdir(parents=True)
        self.there = root / "hosted" / "lab" / "html"
        self.outside = root / "outside"
        self.outside.mkdir()
        self.blobs = RemoteBlobStore(LocalRunner("two"), root / "hosted", root / "store")
        self.store = RemoteVolumeStore(self.blobs)
        self.sent: list[int] = []
        asyncio.run(self.blobs.open("lab", "desk:/lab"))

    def tree(self, source: str = "html") -> VolumeTree:
        return read_tree(self.project, source, lambda _, handle: digest_file(f"/proc/self/fd/{handle}"))

    def up(self, source: str = "html") -> Sequence[Kept]:
        async def run() -> Sequence[Kept]:
            tree, held = self.tree(source), await self.store.look("lab")
            change = difference(tree, held.get(source, {}))
            if not change.put and not change.dropped:
                return []
            return await self.store.put("lab", source, self.project, tree, change, self.sent.append)

        self.sent.clear()
        return asyncio.run(run())

    def is_settled(self, source: str = "html") -> bool:
        held = asyncio.run(self.store.look("lab"))
        return held.get(source) == self.tree(source)

    def files(self) -> dict[str, str]:
        """What the host has: contents, targets of links, "/" for folders."""
        found = {}
        for path in sorted(self.there.rglob("*")):
            text = (
                f"-> {path.readlink()}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
            )
            found[str(path.relative_to(self.there))] = text
        return found

    def write(self, path: str, text: str) -> Path:
        file = self.here / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def contain(self, path: str, text: str) -> Path:
        """Let a container write a file."""
        file = self.there / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        os.chown(file, CONTAINER, CONTAINER)
        return file


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("SUDO_UID", str(USER))
    monkeypatch.setenv("SUDO_GID", str(USER))
    return Place(tmp_path)


def test_a_folder_is_sent_with_all_that_is_in_it_and_then_nothing(place: Place) -> None:
    place.write("index", "a page\n").chmod(0o6755)
    place.write("deep/er/page", "another\n")
    place.write("a\nb 'c' é", "named\n")
    (place.here / "empty").mkdir(mode=0o700)
    (place.here / "link").symlink_to("/etc/passwd")
    os.truncate(place.write("large", ""), SMALL + 1)
    place.here.chmod(0o711)
    assert place.up() == []
    assert place.is_settled()
    found = place.files()
    assert found.pop("large") == "\0" * (SMALL + 1)
    assert found == {
        "a\nb 'c' é": "named\n",
        "deep": "/",
        "deep/er": "/",
        "deep/er/page": "another\n",
        "empty": "/",
        "index": "a page\n",
        "link": "-> /etc/passwd",
    }
    assert stat.S_IMODE(place.there.stat().st_mode) == 0o711
    assert stat.S_IMODE((place.there / "index").stat().st_mode) == 0o755
    assert {path.lstat().st_uid for path in (place.there, *place.there.rglob("*"))} == {USER}
    notes = place.there.parent / ".kvm-compose/volumes"
    assert os.listdir(notes) == ["record.json"]  # noqa: PTH208
    assert place.up() == []
    assert place.sent == []


def test_an_edit_replaces_that_file_and_nothing_else(place: Place) -> None:
    place.write("index", "old\n")
    place.write("other", "other\n")
    place.up()
    theirs = place.contain("log", "theirs\n")
    other = (place.there / "other").stat().st_ctime_ns
    place.write("index", "new\n")
    place.write("added/page", "added\n")
    assert place.up() == []
    assert place.sent == [len("new\n") + len("added\n")]
    assert place.files() == {
        "added": "/", "added/page": "added\n", "index": "new\n", "log": "theirs\n", "other": "other\n",
    }  # fmt: skip
    assert (place.there / "other").stat().st_ctime_ns == other
    assert theirs.stat().st_uid == CONTAINER
    assert place.is_settled()


def test_what_the_project_has_removed_goes_unless_a_container_has_changed_it(place: Place) -> None:
    for path in ("gone/a", "gone/b", "mine", "kept"):
        place.write(path, "sent\n")
    place.up()
    place.contain("gone/theirs", "theirs\n")
    place.contain("mine", "changed\n")
    for path in ("gone/a", "gone/b", "mine"):
        (place.here / path).unlink()
    (place.here / "gone").rmdir()
    assert place.up() == []
    assert place.files() == {
        "gone": "/", "gone/theirs": "theirs\n", "kept": "sent\n", "mine": "changed\n",
    }  # fmt: skip
    assert place.is_settled()


def test_what_was_changed_at_both_ends_is_kept_beside_the_project_s(place: Place) -> None:
    place.write("index", "old\n")
    place.write("same", "old\n")
    place.up()
    place.contain("index", "theirs\n")
    place.contain("index.orig", "an earlier one\n")
    place.contain("same", "new\n")
    place.contain("new", "theirs, too\n")
    for path in ("index", "same", "new"):
        place.write(path, "new\n")
    assert set(place.up()) == {Kept("html/index", "index.orig.1"), Kept("html/new", "new.orig")}
    assert place.files() == {
        "index": "new\n", "index.orig": "an earlier one\n", "index.orig.1": "theirs\n",
        "new": "new\n", "new.orig": "theirs, too\n", "same": "new\n",
    }  # fmt: skip
    assert place.is_settled()
    assert place.up() == []


def test_what_a_container_has_changed_or_removed_is_left_until_the_project_changes(place: Place) -> None:
    for path in ("a", "b", "folder/c"):
        place.write(path, "sent\n")
    place.up()
    place.contain("a", "changed\n")
    (place.there / "b").unlink()
    (place.there / "folder/c").unlink()
    (place.there / "folder").rmdir()
    assert place.up() == []
    assert place.files() == {"a": "changed\n"}
    place.write("b", "again\n")
    place.write("folder/c", "again\n")
    place.up()
    assert place.files() == {"a": "changed\n", "b": "again\n", "folder": "/", "folder/c": "again\n"}


def test_a_file_that_is_a_volume_is_written_where_it_is(place: Place) -> None:
    """A container that has it mounted sees this file, whatever has its name afterwards."""
    file = place.write("app.conf", "first, and longer\n")
    there = place.there / "app.conf"
    place.up("html/app.conf")
    inode = there.stat().st_ino
    file.write_text("second\n")
    file.chmod(0o600)
    assert place.up("html/app.conf") == []
    assert there.read_text() == "second\n"
    assert (there.stat().st_ino, stat.S_IMODE(there.stat().st_mode)) == (inode, 0o600)
    there.write_text("theirs\n")
    file.write_text("third\n")
    assert place.up("html/app.conf") == [Kept("html/app.conf", "app.conf.orig")]
    assert place.files() == {"app.conf": "third\n", "app.conf.orig": "theirs\n"}
    assert there.stat().st_ino == inode
    assert place.is_settled("html/app.conf")


def test_a_kind_that_changes(place: Place) -> None:
    place.write("a", "a file\n")
    place.write("b/in", "in a folder\n")
    place.up()
    (place.here / "a").unlink()
    (place.here / "a").mkdir()
    (place.here / "b/in").unlink()
    (place.here / "b").rmdir()
    (place.here / "b").symlink_to("a")
    assert place.up() == []
    assert place.files() == {"a": "/", "b": "-> a"}
    assert place.is_settled()


def theirs_is(kind: str, path: Path, outside: Path) -> None:
    match kind:
        case "link":
            path.symlink_to(outside)
        case "link to a file":
            path.symlink_to(outside / "secret")
        case "pipe":
            os.mkfifo(path)
        case "device":
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)  # bind accepts short paths alone
        case "folder":
            path.mkdir()
            (path / "theirs").write_text("theirs\n")
        case "hard link":
            other = path.with_name(f"other-{path.name}")
            other.write_text("theirs\n")
            path.hardlink_to(other)


@pytest.mark.parametrize(
    "kind", ["link", "link to a file", "pipe", "device", "socket", "folder", "hard link"]
)
def test_whatever_a_container_has_put_in_a_place_is_set_aside(place: Place, kind: str) -> None:
    secret = place.outside / "secret"
    secret.write_text("nobody's\n")
    paths = ("page", "folder/page")
    for path in paths:
        place.write(path, "old\n")
    place.up()
    (place.there / "page").unlink()
    shutil.rmtree(place.there / "folder")
    for name in ("page", "folder"):
        theirs_is(kind, place.there / name, place.outside)
    theirs = {name: (place.there / name).lstat().st_ino for name in ("page", "folder")}
    for path in paths:
        place.write(path, "new\n")
    before = [(each.st_mtime_ns, each.st_uid) for each in (secret.stat(), place.outside.stat())]
    aside = {"page", "folder"} - ({"folder"} if kind == "folder" else set())  # it is as good as that sent
    assert set(place.up()) == {Kept(f"html/{name}", f"{name}.orig") for name in aside}
    assert {name: (place.there / f"{name}.orig").lstat().st_ino for name in aside} == {
        name: theirs[name] for name in aside
    }
    assert [(place.there / path).read_text() for path in paths] == ["new\n", "new\n"]
    assert [(each.st_mtime_ns, each.st_uid) for each in (secret.stat(), place.outside.stat())] == before
    assert secret.read_text() == "nobody's\n"
    assert place.is_settled()


def test_links_that_are_swapped_meanwhile_lead_nowhere(place: Place) -> None:
    """A container exchanges a folder for a link all the time."""
    place.write("folder/page", "0\n")
    place.up()
    folder, aside = place.there / "folder", place.there / "aside"
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            try:
                folder.rename(aside)
                folder.symlink_to(place.outside)
                folder.unlink()
                aside.rename(folder)
            except OSError:  # something was put there
                continue

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for number in range(1, 12):
            place.write("folder/page", f"{number}\n")
            place.write(f"folder/new-{number}", f"{number}\n")
            with suppress(DriverError):  # something else is there all the time
                place.up()
    finally:
        done.set()
        thread.join()
    assert list(place.outside.iterdir()) == []
    assert place.outside.stat().st_uid == 0


def test_what_became_a_folder_in_the_last_moment_is_kept(place: Place) -> None:
    """It was to be removed, as it was what had been put. It blocks no later call."""
    place.write("page", "page\n")
    place.up()
    notes = place.there.parent / ".kvm-compose/volumes"
    (notes / "old").mkdir()
    (notes / "old" / "theirs").write_text("theirs\n")
    top, aside, there = (os.open(path, os.O_DIRECTORY) for path in (notes.parents[1], notes, place.there))
    try:
        volume = CopiedVolume(top, aside, "html", {})
        volume.look_back(there, "page", [["file", 0o644, "0" * 64, 5]], "html/page")
    finally:
        for each in (top, aside, there):
            os.close(each)
    assert volume.kept == [("html/page", "page.orig")]
    assert place.files() == {"page": "page\n", "page.orig": "/", "page.orig/theirs": "theirs\n"}
    assert os.listdir(notes) == ["record.json"]  # noqa: PTH208


def test_the_folder_above_a_volume_is_no_link(place: Place) -> None:
    place.write("app.conf", "text\n")
    place.there.symlink_to(place.outside)
    place.up("html/app.conf")
    assert list(place.outside.iterdir()) == []
    assert (place.there / "app.conf").read_text() == "text\n"


def test_what_is_gone_from_the_host_is_sent_again(place: Place) -> None:
    place.write("page", "page\n")
    place.up()
    (place.there / "page").unlink()
    place.there.rmdir()
    assert not place.is_settled()
    place.up()
    assert place.files() == {"page": "page\n"}


def test_purging_removes_volumes(place: Place) -> None:
    place.write("page", "page\n")
    place.up()
    (place.there / "away").symlink_to(place.outside)
    asyncio.run(place.blobs.clear("lab"))
    assert place.outside.is_dir()
    assert not place.there.parent.exists()


def test_looking_makes_nothing(place: Place) -> None:
    before = sorted(place.there.parent.rglob("*"))
    assert asyncio.run(place.store.look("lab")) == {}
    assert asyncio.run(place.store.look("other")) == {}
    assert sorted(place.there.parent.rglob("*")) == before


def test_a_file_that_changes_while_it_is_sent_is_not_put(place: Place) -> None:
    file = place.write("page", "old\n")
    tree = place.tree()
    change = difference(tree, {})
    for text in ("new\n", "longer\n"):
        file.write_text(text)
        with pytest.raises(DriverError, match="changed while it was sent"):
            asyncio.run(place.store.put("lab", "html", place.project, tree, change, place.sent.append))
    assert place.files() == {}
    place.up()
    assert place.files() == {"page": "longer\n"}


def test_a_broken_record_is_no_record(place: Place) -> None:
    place.write("page", "page\n")
    place.up()
    (place.there.parent / ".kvm-compose/volumes/record.json").write_text('{"html": ')
    assert place.up() == []
    assert place.is_settled()
    assert place.files() == {"page": "page\n"}


class Lost(LocalRunner):
    """A host that is lost after its ``at``-th program."""

    def __init__(self, at: int) -> None:
        super().__init__("two")
        self.left = at

    async def run(self, argv, **options):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN003, ANN201
        done = await super().run(argv, **options)
        self.left -= 1
        if self.left == 0:
            raise HostLostError("lost")
        return done


@pytest.mark.parametrize("at", range(1, 7))
def test_where_it_is_interrupted_it_goes_on(place: Place, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmcompose.hosts.blob_commands.PATIENCE", 0)
    monkeypatch.setattr("kvmcompose.hosts.volume_store._MOST", 1)
    place.write("page", "page\n")
    os.truncate(place.write("large", ""), SMALL + 1)
    tree = place.tree()
    blobs = RemoteBlobStore(Lost(at), place.there.parents[1], place.there.parents[2] / "store")
    try:
        call = RemoteVolumeStore(blobs).put(
            "lab", "html", place.project, tree, difference(tree, {}), place.sent.append
        )
        asyncio.run(call)
    except HostLostError:
        pass
    assert place.up() == []
    assert place.is_settled()
    assert {path: len(text) for path, text in place.files().items()} == {"large": SMALL + 1, "page": 5}


# -- containers of the main host write to the volume, too


def test_a_folder_that_becomes_a_link_while_it_is_looked_at_is_not_followed(place: Place) -> None:
    place.write("keys/key", "public")
    (place.outside / "key").write_text("secret")

    def digest(_path: str, handle: int) -> str:
        (place.here / "keys").rename(place.here / "other")
        (place.here / "keys").symlink_to(place.outside)
        return digest_file(f"/proc/self/fd/{handle}")

    tree = read_tree(place.project, "html", digest)
    assert tree["keys/key"].value == hashlib.sha256(b"public").hexdigest()


@pytest.mark.parametrize("size", [6, SMALL + 1])
@pytest.mark.parametrize("trick", ["folder", "file", "volume", "pipe"])
def test_what_becomes_a_link_or_a_pipe_is_not_sent(place: Place, trick: str, size: int) -> None:
    """The digest is that of the file of the host, as if the link had been there when it was taken."""
    secret = b"s" * size
    (place.outside / "key").write_bytes(secret)
    key = place.write("keys/key", "p" * size)
    tree = {
        **place.tree(),
        "keys/key": VolumeEntry("file", 0o644, hashlib.sha256(secret).hexdigest(), size),
    }
    change = difference(tree, {})
    if trick == "pipe":
        key.unlink()
        os.mkfifo(key)
    else:
        away = {"folder": key.parent, "file": key, "volume": place.here}[trick]
        away.rename(place.project / "moved")
        (place.outside / "keys").symlink_to(".")
        away.symlink_to(place.outside / ("key" if trick == "file" else ""))
    with pytest.raises(KvmComposeError, match=r"cannot read html/keys/key|is a link out of the project"):
        asyncio.run(place.store.put("lab", "html", place.project, tree, change, place.sent.append))
    assert secret.decode() not in place.files().values()


# -- what is in a volume


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_cannot_be_sent_is_named(place: Place, kind: str) -> None:
    theirs_is(kind, place.here / "odd", place.outside)
    with pytest.raises(KvmComposeError, match=r"'html/odd' is a .*, which other hosts cannot be sent"):
        place.tree()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (".", "has artefacts in it"),
        ("artefacts", "has artefacts in it"),
        ("artefacts/web", "has artefacts in it"),
        (".kvm-compose", "has artefacts in it"),
        ("to-all", "has artefacts in it"),
        ("away", "is a link out of the project folder"),
        ("missing", "cannot be read"),
        ("circle", "cannot be read"),
    ],
)
def test_what_is_no_volume_for_other_hosts(place: Place, source: str, said: str) -> None:
    (place.project / "artefacts/web").mkdir(parents=True)
    (place.project / ".kvm-compose").mkdir()
    (place.project / "to-all").symlink_to(".")
    (place.project / "away").symlink_to(place.outside)
    (place.project / "circle").symlink_to("circle")
    with pytest.raises(KvmComposeError, match=said):
        place.tree(source)


def test_a_volume_that_is_a_link_is_what_it_points_to(place: Place) -> None:
    place.write("page", "page\n")
    (place.project / "www").symlink_to("html")
    place.up("www")
    www = place.there.parent / "www"
    assert (www / "page").read_text() == "page\n"
    assert not www.is_symlink()


def test_names_that_are_no_text_and_too_many_files(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmcompose.hosts.volume_tree.MOST_ENTRIES", 2)
    for number in range(3):
        place.write(str(number), "")
    assert MOST_ENTRIES > 2
    with pytest.raises(KvmComposeError, match="has more than 2 files"):
        place.tree()
    with open(os.fsencode(place.here) + b"/\xff", "w"):  # noqa: PTH123
        pass
    with pytest.raises(KvmComposeError, match=r"not UTF-8|more than 2"):
        place.tree()


def test_a_name_like_a_digest_is_no_digest(place: Place) -> None:
    name = "a" * 64
    place.write(name, "page\n")
    assert place.tree()[name].value == hashlib.sha256(b"page\n").hexdigest()
