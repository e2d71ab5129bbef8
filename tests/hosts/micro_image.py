"""A disk with a guest of a few MiB that boots in seconds, for tests with many guests.

python -m hosts.micro_image      prints the path of the image
"""

from __future__ import annotations

import sys
from pathlib import Path

from hosts import image_cache

PARTS = sorted(path.name for path in (image_cache.PACKAGE / "micro").iterdir())
SOURCES = ("bootable.py", "micro_recipe.py", *(f"micro/{name}" for name in PARTS))


def micro_image() -> Path:
    """The image, bootable by BIOS; 128 MiB of memory are enough. For reading only.

    It understands of a seed what micro/rc says; for the rest there is debian_image.
    """
    return image_cache.image("micro", "hosts.micro_recipe", SOURCES)


if __name__ == "__main__":
    sys.stdout.write(f"{micro_image()}\n")
