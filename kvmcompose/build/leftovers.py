"""Removes what a build that was killed or interrupted had staged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kvmcompose.effects.files import STAGED_PREFIX


def sweep(folder: Path) -> None:
    """Remove staged files from a project folder and wherever artefacts may be. Raises OSError."""
    images = folder / "artefacts" / "images"
    _sweep(folder, below=False)
    _sweep(folder / "artefacts", below=True)  # artefacts of plug-ins may be in folders of their own
    if images.is_symlink():
        _sweep(images, below=False)


def _sweep(folder: Path, *, below: bool) -> None:
    """Remove staged files and folders from a folder, and from those ``below`` it; follows no link."""
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if not entry.name.startswith(STAGED_PREFIX):
                if below and entry.is_dir(follow_symlinks=False):
                    _sweep(Path(entry.path), below=True)
            elif entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)
