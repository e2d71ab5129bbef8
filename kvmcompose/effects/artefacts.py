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
    try:
        for path in paths:
            try:
                what = _wrong(top, path)
            except FileNotFoundError:
                missing.append(path)
            except NotADirectoryError:
                parent, what = _no_folder(top, path)
                foreign[parent] = what
            else:
                if what is not None:
                    foreign[path] = what
    finally:
        os.close(top)
    return Inspection(tuple(missing), foreign)


def _wrong(top: int, path: str) -> str | None:
    """Describe why a file is not as a build creates it, or return None. Raises OSError."""
    handle = open_below(top, path, os.O_PATH)
    try:
        status = os.fstat(handle)
        if stat.S_ISLNK(status.st_mode) and path.endswith(_MEDIUM):
            status = os.stat(path, dir_fd=top)
            return None if stat.S_ISREG(status.st_mode) else f"points to {kind_of(status.st_mode)}"
    finally:
        os.close(handle)
    return flaw(status)


def _no_folder(top: int, path: str) -> tuple[str, str]:
    """Return the parent of a path that is not a folder, and a description."""
    for each in reversed(PurePosixPath(path).parents[:-1]):
        mode = os.stat(each, dir_fd=top, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode):
            return str(each), f"is {kind_of(mode)}, not a folder"
    raise OSError(errno.EAGAIN, "it changes while it is inspected", path)
