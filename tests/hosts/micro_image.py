"""A disk with a guest of a few MiB that boots in seconds, for tests with many guests: the product's own.

python -m hosts.micro_image      prints the path of the image
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

import microimage
from hosts import image_cache
from kvmcompose.images.store import ImageStore

if TYPE_CHECKING:
    from pathlib import Path


def micro_image() -> Path:
    """The image (qcow2), bootable by BIOS and by UEFI; 128 MiB of memory are enough. For reading only."""
    store = ImageStore(image_cache.cache_directory() / "store")
    make = functools.partial(microimage.build, report=lambda _: None)
    return store.build(microimage.NAME, microimage.recipe_digest(), make).path


if __name__ == "__main__":
    sys.stdout.write(f"{micro_image()}\n")
