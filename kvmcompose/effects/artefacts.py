"""Artefacts as a build leaves them: regular files below the project folder, that no link leads to.

A project from elsewhere may come with artefacts, and with links among them. What works on a disk with the
rights of its owner, or root's, would do so to what they lead to.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import msgspec

from kvmcompose.effects.opening import kind_of, open_below, open_folder

#: The one artefact that a build makes as a link: to the medium that the YAML names.
_MEDIUM = "-media.iso"


class Found(msgspec.Struct, frozen=True):
    """``missing`` are paths where nothing is; ``foreign`` what no build made, by path, and what it is."""

    missing: tuple[str, ...]
    foreign: dict[str, str]


def look(folder: Path, paths: Iterable[str]) -> Found:
    """Look at artefacts, by their paths in a project. Nothing is opened but folders. Raises OSError."""
    missing: list[str] = []
    foreign: dict[str, str] = {}
    try:
        top = open_folder(folder, follow=True)
    except FileNotFoundError:
        return Found(tuple(paths), {})
    try:
        for path in paths:
            try:
                what = _wrong(top, path)
            except FileNotFoundError:
                missing.append(path)
            except NotADirectoryError:
                way, what = _on_the_way(top, path)
                foreign[way] = what
            else:
                if what is not None:
                    foreign[path] = what
    finally:
        os.close(top)
    return Found(tuple(missing), foreign)


def _wrong(top: int, path: str) -> str | None:
    """What is wrong with an artefact, if anything is. Raises OSError."""
    handle = open_below(top, path, os.O_PATH)
    try:
        status = os.fstat(handle)
        if stat.S_ISLNK(status.st_mode) and path.endswith(_MEDIUM):
            status = os.stat(path, dir_fd=top)
            return None if stat.S_ISREG(status.st_mode) else f"leads to {kind_of(status.st_mode)}"
    finally:
        os.close(handle)
    if not stat.S_ISREG(status.st_mode):
        return f"is {kind_of(status.st_mode)}, not a regular file"
    return "has another name, too (a hard link)" if status.st_nlink > 1 else None


def _on_the_way(top: int, path: str) -> tuple[str, str]:
    """Which folder on the way is none."""
    for each in reversed(PurePosixPath(path).parents[:-1]):
        mode = os.stat(each, dir_fd=top, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode):
            return str(each), f"is {kind_of(mode)}, not a folder"
    raise OSError(errno.EAGAIN, "it changes while it is looked at", path)
