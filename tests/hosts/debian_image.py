"""A disk with Debian and its own cloud-init: the consumer of seeds that is not ours.

python -m hosts.debian_image      prints the path of the image
"""

from __future__ import annotations

import sys
from pathlib import Path

from hosts import debian_recipe, image_cache

SOURCES = ("bootable.py", "debian_recipe.py")


def debian_image() -> Path:
    """The image, bootable by BIOS and by UEFI. For reading only: back an overlay with it."""
    return image_cache.image(f"debian-{debian_recipe.RELEASE}", "hosts.debian_recipe", SOURCES)


if __name__ == "__main__":
    sys.stdout.write(f"{debian_image()}\n")
