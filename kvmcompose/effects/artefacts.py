"""Check that artefacts are what a build creates: regular files below the project folder, and no links.

A project from elsewhere may contain links in their place. What changes a disk with its owner's rights, or
root's, would change the file that the link points to.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Self

import msgspec

from kvmcompose.effects.opening import flaw, kind_of, open_below, open_folder

#: Ends the name of the one artefact that a build creates as a link, to the medium that the YAML names.
_MEDIUM = "-media.iso"


class Inspection(msgspec.Struct, frozen=True):
    """``missing`` paths do not exist; ``foreign`` describes, by path, what no build created."""

    missing: tuple[str, ...]
    foreign: dict[str, str]


def inspect(folder: Path, paths: Iterable[str]) -> Inspection:
    """Inspect artefacts, by their paths in a project, opening folders only. Raises OSError."""
    missing: list[str] = []
    foreign: dict[str, str] = {}
    try:
        top = open_folder(folder, follow=True)
    except FileNotFoundError:
        return Inspection(tuple(paths), {})
    with _Folders(top) as folders:
        for path in paths:
            try:
                what = _wrong(folders, path)
            except FileNotFoundError:
                missing.append(path)
            except NotADirectoryError:
                parent, what = _no_folder(top, path)
                foreign[parent] = what
            else:
                if what is not None:
                    foreign[path] = what
    return Inspection(tuple(missing), foreign)


class _Folders:
    """The folders below an open one, each opened once without following links; all are closed at the end."""

    def __init__(self, top: int) -> None:
        self._open = {"": top}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for handle in self._open.values():
            os.close(handle)

    def of(self, path: str) -> tuple[int, str]:
        """Return the folder of a path below the top, and the name in it. Raises OSError."""
        parent, _, name = path.rpartition("/")
        if name in ("", ".", "..") or path.startswith("/"):
            raise OSError(errno.EINVAL, "it is not a path below the folder", path)
        if parent not in self._open:
            self._open[parent] = open_below(self._open[""], parent, os.O_PATH | os.O_DIRECTORY)
        return self._open[parent], name


def _wrong(folders: _Folders, path: str) -> str | None:
    """Describe why a file is not as a build creates it, or return None. Raises OSError."""
    folder, name = folders.of(path)
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode) and path.endswith(_MEDIUM):
        status = os.stat(name, dir_fd=folder)
        return None if stat.S_ISREG(status.st_mode) else f"points to {kind_of(status.st_mode)}"
    return flaw(status)


def _no_folder(top: int, path: str) -> tuple[str, str]:
    """Return the parent of a path that is not a folder, and a description."""
    for each in reversed(PurePosixPath(path).parents[:-1]):
        mode = os.stat(each, dir_fd=top, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode):
            return str(each), f"is {kind_of(mode)}, not a folder"
    raise OSError(errno.EAGAIN, "it changes while it is inspected", path)
