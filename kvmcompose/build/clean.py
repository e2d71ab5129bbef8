"""Removes artefacts, but keeps what the user or a guest has changed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from kvmcompose.build.decide import is_behind_link
from kvmcompose.build.decision import Disposition
from kvmcompose.build.ledger import LedgerEntry
from kvmcompose.build.project import Project
from kvmcompose.core.plain import plain


def clean_file(
    project: Project, path: str, records: dict[str, LedgerEntry], *, dryrun: bool, force: bool
) -> None:
    """Remove one artefact and forget it; ``force`` removes even what was changed since it was built."""
    file = project.folder / path
    record = records.get(path)
    decision = None
    if is_behind_link(project.folder, path) or not os.path.lexists(file):
        return
    if file.is_dir() and not file.is_symlink():
        sys.stdout.write(f"{path}: kept, it is a folder\n")
        return
    if not force:
        if record is None:
            _say(f"{path}: kept, it is not known to be ours (--force removes it)")
            return
        decision = project.decider.left_over(record)
        if decision.action is not Disposition.REMOVE:
            _say(f"{path}: kept, {'; '.join(decision.reasons)}")
            return
        above = project.backing_files_in_use({path}, records).get(path)
        if above is not None:
            _say(f"{path}: kept, it is the backing file of {above}, whose guest has run")
            return
    if not dryrun:
        if decision is None:
            file.unlink()
        elif not project.maker.remove(decision):
            _say(f"{path}: kept, it was written to just now")
            return
        project.ledger.drop([path])
    _say(f"{path}: {'would be removed' if dryrun else 'removed'}")


def _say(text: str) -> None:
    sys.stdout.write(f"{plain(text)}\n")


def remove_leftovers(folder: Path) -> None:
    """Remove what only makes sense beside artefacts: links to images without overlays, then empty folders."""
    images = folder / "images"
    if not any(
        {".img", ".qcow2"} & set(entry.suffixes) for entry in folder.glob("*")
    ):  # also those kept as .orig
        for link in images.glob("*"):
            if link.is_symlink():
                link.unlink()
    for entry in (images, folder):
        with suppress(OSError):  # not empty, or not there
            entry.rmdir()
