"""Free space in the image store."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.effects.files import list_folder
from kvmcompose.images.index import image_lock, locked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kvmcompose.images.index import Index
    from kvmcompose.images.uses import Doubt, Uses


class Pruned(msgspec.Struct, frozen=True):
    """The removed paths, how many bytes they took, and images kept because a project may still use them."""

    paths: tuple[Path, ...]
    freed: int
    kept: tuple[tuple[Path, Doubt], ...]


def prune(root: Path, index: Index, uses: Uses) -> Pruned:
    """Remove unfinished images, and images without a name in the index or a project's link. Raises OSError.

    Images of projects that cannot be inspected are kept.
    """
    removed: list[tuple[Path, int]] = []
    for folder in list_folder(root / "partial"):
        with locked(image_lock(root, folder.name), wait=False) as unused:
            if unused:
                removed.append((folder, sum(file.stat().st_blocks * 512 for file in list_folder(folder))))
                shutil.rmtree(folder)
    kept: list[tuple[Path, Doubt]] = []
    with index.changing() as images:  # nothing is added, removed or linked meanwhile
        used, doubts = uses.inspect()
        needed = {facts.sha256 for facts in images.values()} | used
        for image in _images(root):
            status = image.stat()
            if image.name in needed or status.st_nlink > 1:  # a hard link elsewhere: nothing would be freed
                continue
            doubt = next((each for each in doubts if image.name.startswith(each.digest)), None)
            if doubt is not None:
                kept.append((image, doubt))
                continue
            removed.append((image, status.st_blocks * 512))
            image.unlink()
    return Pruned(tuple(path for path, _ in removed), sum(size for _, size in removed), tuple(kept))


def _images(root: Path) -> Iterator[Path]:
    for folder in list_folder(root / "sha256"):
        yield from list_folder(folder)
