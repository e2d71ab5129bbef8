"""Put the files of volumes in their places on another host: run there as root, by ``volume_store``.

It imports only the standard library, as our code is not on that host. Containers write to volumes while this
runs: a folder is opened from the one above it, no link is followed, only regular files are opened, and
everything that is put is made beforehand where no container sees it. What containers have made is neither
removed, written to nor given to another user, only renamed where the project has a file in its place.

Arguments: the folder of the project, and what to do. ``look`` prints the record: what was put, by volume and
path. ``put`` reads a line of JSON from standard input (``volume_store``), and the contents of files after it;
it prints ``{"kept": [[path, name]]}``, what containers had made or changed in the place of these files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    #: Kind ("folder", "file" or "link"), mode, SHA-256 or target, and size.
    Entry = list[Any]

#: Where our own files are in a project's folder: what is on its way, and the record.
PLACE = ".kvm-compose/volumes"
_RECORD = "record.json"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_A_FOLDER = (errno.ENOTDIR, errno.ELOOP)
_CHUNK = 1 << 20
#: How often something may appear in the place of what is put, before this gives up.
_TRIES = 8
_MISSING, _OTHER = "missing", "other"
#: The largest record, in bytes.
_LARGEST = 1 << 26


class VolumeProgramError(Exception):
    """What is printed, and ends the program."""


def identity() -> tuple[int, int]:
    """Return the user and the group that files belong to: those of the SSH connection."""
    return int(os.environ.get("SUDO_UID") or os.geteuid()), int(os.environ.get("SUDO_GID") or os.getegid())


def enter(parent: int, name: str) -> int:
    """Open a folder that is no link."""
    return os.open(name, _FOLDER, dir_fd=parent)


def seen(parent: int, name: str, *candidates: Entry) -> Entry | str:
    """Return which of the entries something is, or that it is missing, or something else."""
    try:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        return _MISSING
    try:
        status = os.fstat(handle)
        for kind, mode, value, size in candidates:
            if stat.S_ISDIR(status.st_mode):
                same = kind == "folder"
            elif stat.S_ISLNK(status.st_mode):
                same = kind == "link" and os.readlink("", dir_fd=handle) == value
            else:
                same = kind == "file" and stat.S_ISREG(status.st_mode) and status.st_size == size
                same = same and digest(handle, size) == value
            if same:
                return [kind, mode, value, size]
        return _OTHER
    finally:
        os.close(handle)


def digest(handle: int, size: int) -> str:
    """Return the SHA-256 of a regular file that is open as a path, "" if it is longer than ``size``."""
    found = hashlib.sha256()
    reading = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        left = size + 1
        while left and (piece := os.read(reading, min(left, _CHUNK))):
            found.update(piece)
            left -= len(piece)
    finally:
        os.close(reading)
    return found.hexdigest() if left else ""


class CopiedVolume:
    """One volume, and what was put into it; ``record`` is by path. A path "" is the volume itself."""

    def __init__(self, top: int, place: int, source: str, record: dict[str, Entry]) -> None:
        self.top = top
        self.place = place
        self.steps = source.split("/")
        self.source = source
        self.record = record
        self.kept: list[tuple[str, str]] = []

    # -- where things are

    def parent(self, path: str, *, make: bool) -> tuple[int, str]:
        """Open the folder that something is in; return it, and the name there. The caller closes it.

        Raises OSError where one of the folders is none, unless they are to be made.
        """
        below = path.split("/") if path else []
        *folders, name = self.steps + below
        here = os.dup(self.top)
        for number, step in enumerate(folders, 1):
            inner = "/".join(folders[len(self.steps) : number])
            try:
                if make:
                    mode = (
                        self.record.get(inner, ["folder", 0o755])[1] if number >= len(self.steps) else 0o755
                    )
                    after = self.folder(here, step, mode, "/".join(folders[:number]))
                else:
                    after = enter(here, step)
            finally:
                os.close(here)
            here = after
        return here, name

    def shown(self, path: str) -> str:
        """Return a path of the project."""
        return f"{self.source}/{path}" if path else self.source

    def set_aside(self, parent: int, name: str, shown: str) -> None:
        """Rename what a container has made in the place of what is put."""
        after = free_name(parent, name)
        os.rename(name, after, src_dir_fd=parent, dst_dir_fd=parent)
        self.kept.append((shown, after))

    # -- putting

    def folder(self, parent: int, name: str, mode: int, shown: str) -> int:
        """Open a folder, which is made if it is not there."""
        for _ in range(_TRIES):
            try:
                return enter(parent, name)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno not in _NOT_A_FOLDER:
                    raise
                self.set_aside(parent, name, shown)
            os.mkdir("made", 0o700, dir_fd=self.place)
            made = enter(self.place, "made")
            os.fchown(made, *identity())
            os.fchmod(made, mode)
            try:
                os.rename("made", name, src_dir_fd=self.place, dst_dir_fd=parent)
            except OSError:
                os.close(made)
                os.rmdir("made", dir_fd=self.place)
                continue
            return made
        raise VolumeProgramError(f"{shown}: something else is made there all the time")

    def put(self, path: str, entry: Entry, content: int | None) -> None:
        """Put a folder, a file with this content, or a link in its place."""
        kind, mode, value, _ = entry
        parent, name = self.parent(path, make=True)
        try:
            if kind == "folder":
                os.close(self.folder(parent, name, mode, self.shown(path)))
            elif kind == "file" and not path and self.is_file(parent, name):
                assert content is not None  # noqa: S101 (a file has one)
                self.write(parent, name, entry, content)
            else:
                if kind == "link":
                    os.symlink(value, "new", dir_fd=self.place)
                    os.chown("new", *identity(), dir_fd=self.place, follow_symlinks=False)
                self.replace(parent, name, entry, self.shown(path))
        finally:
            os.close(parent)
        self.record[path] = entry

    def is_file(self, parent: int, name: str) -> bool:
        """Return whether there is a regular file."""
        with contextlib.suppress(FileNotFoundError):
            return stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        return False

    def replace(self, parent: int, name: str, entry: Entry, shown: str) -> None:
        """Put what is ready as ``new`` in its place. What is there is looked at again when it is out."""
        known = self.record.get(self.path_of(shown))
        candidates = [entry] if known is None else [known, entry]
        for _ in range(_TRIES):
            there = seen(parent, name, *candidates)
            if there == _OTHER or there[0] == "folder":
                self.set_aside(parent, name, shown)
                continue
            if there == _MISSING:
                with contextlib.suppress(FileExistsError):
                    os.link("new", name, src_dir_fd=self.place, dst_dir_fd=parent, follow_symlinks=False)
                    os.unlink("new", dir_fd=self.place)
                    return
                continue
            if there[2] == entry[2] and (known is None or known[1] == entry[1]):
                os.unlink("new", dir_fd=self.place)
                return
            try:
                os.link(name, "old", src_dir_fd=parent, dst_dir_fd=self.place, follow_symlinks=False)
            except OSError:
                continue
            try:
                os.rename("new", name, src_dir_fd=self.place, dst_dir_fd=parent)
            except IsADirectoryError:
                os.unlink("old", dir_fd=self.place)
                continue
            self.look_back(parent, name, candidates, shown)
            return
        raise VolumeProgramError(f"{shown}: something else is made there all the time")

    def path_of(self, shown: str) -> str:
        """Return the path in the volume, ``shown`` without the volume."""
        return shown[len(self.source) + 1 :]

    def look_back(self, parent: int, name: str, candidates: list[Entry], shown: str) -> None:
        """Remove what was replaced, unless it was changed in the last moment."""
        if seen(self.place, "old", *candidates) == _OTHER:
            after = free_name(parent, name)
            self.kept.append((shown, after))
            try:
                os.link("old", after, src_dir_fd=self.place, dst_dir_fd=parent, follow_symlinks=False)
            except PermissionError:  # a folder has one name
                os.rename("old", after, src_dir_fd=self.place, dst_dir_fd=parent)
                return
        os.unlink("old", dir_fd=self.place)

    def write(self, parent: int, name: str, entry: Entry, content: int) -> None:
        """Write to a file that is itself the volume: a container sees this file, and no other of its name."""
        known = self.record.get("")
        there = seen(parent, name, *([entry] if known is None else [known, entry]))
        handle = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise VolumeProgramError(f"{self.source}: is no regular file")
            if there == _OTHER:
                after = free_name(parent, name)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                copy = os.open(after, flags, 0o600, dir_fd=parent)
                try:
                    os.fchown(copy, *identity())
                    pour(handle, copy)
                finally:
                    os.close(copy)
                self.kept.append((self.source, after))
            if not isinstance(there, list) or there[2] != entry[2]:
                os.lseek(content, 0, os.SEEK_SET)
                os.lseek(handle, 0, os.SEEK_SET)
                pour(content, handle)
                os.ftruncate(handle, entry[3])
                os.fsync(handle)
            if known is None or known[1] != entry[1]:
                os.fchmod(handle, entry[1])
        finally:
            os.close(handle)
        os.unlink("new", dir_fd=self.place)

    # -- removing

    def drop(self, path: str) -> None:
        """Remove what was put and is as it was put; a folder, if nothing else is in it."""
        known = self.record.pop(path, None)
        try:
            parent, name = self.parent(path, make=False)
        except OSError:
            return
        try:
            if known is None or not isinstance(seen(parent, name, known), list):
                return
            if known[0] == "folder":
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=parent)
                return
            with contextlib.suppress(FileNotFoundError):
                os.rename(name, "old", src_dir_fd=parent, dst_dir_fd=self.place)
                self.look_back(parent, name, [known], self.shown(path))
        finally:
            os.close(parent)


def free_name(parent: int, name: str) -> str:
    """Return a name beside another one that is not taken."""
    for number in range(1000):
        after = f"{name}.orig" + (f".{number}" if number else "")
        try:
            os.stat(after, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return after
    raise VolumeProgramError(f"{name}.orig: there are too many of these")


def pour(source: int, target: int) -> None:
    """Copy a file to another one, both from where they are."""
    while piece := os.read(source, _CHUNK):
        while piece:
            piece = piece[os.write(target, piece) :]


class Program:
    """One call. Other calls that change volumes of the same project wait."""

    def __init__(self, folder: str, *, changes: bool) -> None:
        self.top = os.open(folder, _FOLDER)
        private, name = PLACE.split("/")
        inner = enter(self.top, private)
        if changes:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=inner)
                os.chown(name, *identity(), dir_fd=inner, follow_symlinks=False)
        self.place = enter(inner, name)
        os.umask(0o077)
        if changes:
            fcntl.flock(self.place, fcntl.LOCK_EX)

    def record(self) -> dict[str, dict[str, Entry]]:
        try:
            with open(_RECORD, "rb", opener=self._opener) as file:
                found: dict[str, dict[str, Entry]] = json.loads(file.read(_LARGEST))
                return found
        except (FileNotFoundError, ValueError):
            return {}

    def _opener(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.place)

    def write_record(self, record: dict[str, dict[str, Entry]]) -> None:
        with open("record.part", "w", opener=self._opener) as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace("record.part", _RECORD, src_dir_fd=self.place, dst_dir_fd=self.place)

    def look(self) -> dict[str, dict[str, Entry]]:
        """Return the record of the volumes that are there."""
        found = {}
        for source, record in self.record().items():
            volume = CopiedVolume(self.top, self.place, source, record)
            try:
                parent, name = volume.parent("", make=False)
            except OSError:
                continue
            status = None
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            os.close(parent)
            if status is not None and stat.S_ISDIR(status.st_mode) == (record.get("", [""])[0] == "folder"):
                found[source] = record
        return found

    def put(self, stdin: BinaryIO) -> dict[str, Any]:
        """Carry out a request; see above."""
        request = json.loads(stdin.readline())
        record = self.record()
        # what is not there any more is not what a container has removed
        known = record.get(request["source"], {}) if request["source"] in self.look() else {}
        volume = CopiedVolume(self.top, self.place, request["source"], known)
        self.clean(all_of_it=False)
        try:
            for path in request["drop"]:
                volume.drop(path)
            for path, entry, sent in request["put"]:
                content = self.content(stdin, entry, sent, volume.shown(path))
                try:
                    volume.put(path, entry, content)
                finally:
                    if content is not None:
                        os.close(content)
        finally:
            record[request["source"]] = known
            self.write_record(record)
        self.clean(all_of_it=request["last"])
        return {"kept": volume.kept}

    def content(self, stdin: BinaryIO, entry: Entry, sent: str | None, shown: str) -> int | None:
        """Make a file ready as ``new``, and open it. Its content follows unless it was ``sent`` before."""
        kind, mode, value, size = entry
        if kind != "file":
            return None
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        if sent is not None:
            os.rename(sent, "new", src_dir_fd=self.place, dst_dir_fd=self.place)
            content = os.open("new", flags, dir_fd=self.place)
        else:
            content = os.open("new", flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.place)
            found = hashlib.sha256()
            left = size
            while left and (piece := stdin.read(min(left, _CHUNK))):
                found.update(piece)
                os.write(content, piece)
                left -= len(piece)
            if left or found.hexdigest() != value:
                raise VolumeProgramError(f"{shown} changed while it was sent: its digest differs")
        os.fchown(content, *identity())
        os.fchmod(content, mode)
        return content

    def clean(self, *, all_of_it: bool) -> None:
        """Remove what an interrupted call has left, or all but the record."""
        names = set(os.listdir(self.place))  # noqa: PTH208 (of a descriptor)
        names -= {_RECORD}
        for name in names if all_of_it else names & {"made", "new", "old", "record.part"}:
            try:
                os.unlink(name, dir_fd=self.place)
            except IsADirectoryError:
                os.rmdir(name, dir_fd=self.place)


def main(folder: str, action: str) -> None:
    """Do what the arguments say."""
    try:
        program = Program(folder, changes=action == "put")
        print(json.dumps(program.look() if action == "look" else program.put(sys.stdin.buffer)))  # noqa: T201
    except FileNotFoundError as error:
        if action == "look":
            print("{}")  # noqa: T201 (the answer)
            return
        complaint = f"{error.filename or folder}: {error.strerror}"
    except VolumeProgramError as error:
        complaint = str(error)
    except OSError as error:
        complaint = f"{error.filename or folder}: {error.strerror}"
    else:
        return
    sys.exit(complaint.replace("\n", "?"))


if __name__ == "__main__":
    main(*sys.argv[1:])
