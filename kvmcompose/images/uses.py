"""Which projects use which images of a store: notes in its folder ``uses``.

A note is a symlink to the symlink of a project into the store, named by the digest of that link's path. The
next build of a moved or copied project adds its notes. Until then a moved project looks like one that was
removed, or whose file system is not mounted; so a note is outdated only if the project can be inspected and
has no such link.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvmcompose.effects.files import STAGED_PREFIX, digest_bytes

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Links are called ``NAME-<the digest's first digits>.FORMAT`` (decision 6).
_IN_NAME = re.compile(r"-([0-9a-f]{12})\.[a-z0-9]+")


class Doubt(msgspec.Struct, frozen=True):
    """A note on a link that cannot be inspected, and why.

    ``digest`` is the beginning of the digest of the image that the project used, empty if unknown.
    """

    note: Path
    place: Path
    digest: str
    why: str


class Uses:
    """The notes in a store's folder ``uses``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def note_of(self, link: Path) -> Path:
        """Return the path of the note on a project's link. Raises OSError."""
        return self._folder / digest_bytes(os.fsencode(place_of(link)))

    def is_noted(self, link: Path) -> bool:
        """Return whether there is a note on a link. Raises OSError."""
        return _target(self.note_of(link)) == str(place_of(link))

    def note(self, link: Path) -> None:
        """Note that a project has a link into the store. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_link(self.note_of(link), place_of(link))

    def inspect(self) -> tuple[set[str], list[Doubt]]:
        """Return the digests of images in use, and doubts about others. Removes outdated notes.

        Raises OSError.
        """
        used: set[str] = set()
        doubts = []
        for note in self._notes():
            place = Path(_target(note) or "")
            try:
                digest = place.readlink().name
            except OSError as error:
                why = _doubt(place, error)
                if why is None:
                    note.unlink()
                else:
                    found = _IN_NAME.search(place.name)
                    doubts.append(Doubt(note, place, found[1] if found else "", why))
            else:
                # by name: the store may have been moved, or have another path there
                if _DIGEST.fullmatch(digest):
                    used.add(digest)
                else:
                    note.unlink()
        return used, doubts

    def _notes(self) -> Iterator[Path]:
        if self._folder.is_dir() and not self._folder.is_symlink():
            yield from (each for each in sorted(self._folder.iterdir()) if each.is_symlink())


def place_of(link: Path) -> Path:
    """Return the path of a link, with symlinks in its folder resolved. Raises OSError."""
    return Path(os.path.realpath(link.parent)) / link.name


def replace_link(path: Path, target: Path) -> None:
    """Make ``path`` a symlink to ``target`` atomically. Raises OSError, also if it is a file or folder."""
    if os.path.lexists(path) and not path.is_symlink():
        raise OSError(errno.EEXIST, "exists and is not a symlink", str(path))
    temporary = path.with_name(f"{STAGED_PREFIX}{os.getpid()}-{path.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)


def _target(link: Path) -> str | None:
    try:
        return str(link.readlink())
    except OSError:
        return None


def _doubt(place: Path, error: OSError) -> str | None:
    """Why it is unknown whether a project still has a link; None if it certainly has not."""
    if error.errno == errno.EINVAL:
        return None  # it exists and is not a link
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        return error.strerror or str(error)
    project = place.parent.parent.parent
    for witness in (place.parent, project / ".kvm-compose"):
        try:
            if stat.S_ISDIR(os.lstat(witness).st_mode):
                return None
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as other:
            return other.strerror or str(other)
    return "the project is not found: it may have been moved, or its disk is not mounted"
