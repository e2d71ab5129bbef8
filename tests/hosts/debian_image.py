"""A disk with Debian and its cloud-init, made once per machine and recipe, then kept.

python -m hosts.debian_image      prints the path of the image
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hosts import debian_recipe, prerequisites

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILD_SECONDS = 1800
PACKAGE_PARENT = Path(__file__).resolve().parent.parent


class ImageError(Exception):
    """The image could not be made."""


def cache_directory() -> Path:
    """Outside the checkout: a clean checkout need not download Debian again."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(home) / "kvm-compose-tests"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def recipe_digest() -> str:
    """What the image depends on: the text of the modules that make it."""
    folder = Path(__file__).parent
    texts = [(folder / name).read_bytes() for name in ("bootable.py", "debian_recipe.py")]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file; a second run waits here until the first has made the image."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def debian_image() -> Path:
    """The image (qcow2, bootable by BIOS), made now if this recipe's is not in the cache.

    For reading only: back an overlay with it. Raises ImageError or MissingPrograms.
    """
    cache = cache_directory()
    image = cache / f"debian-{debian_recipe.RELEASE}-{recipe_digest()}.qcow2"
    if image.exists():
        return image
    prerequisites.require(prerequisites.IMAGE_PROGRAMS)
    with locked(cache / "debian.lock"):
        if not image.exists():
            build(image, cache)
    return image


def build(image: Path, cache: Path) -> None:
    partial = image.with_suffix(".partial")
    packages = cache / "debs"
    packages.mkdir(exist_ok=True)
    partial.unlink(missing_ok=True)
    with image.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(
            prerequisites.as_root([
                "env", f"PYTHONPATH={PACKAGE_PARENT}", "PYTHONDONTWRITEBYTECODE=1", "LC_ALL=C.UTF-8",
                f"PATH={prerequisites.SEARCH_PATH}",
                "timeout", "--kill-after=10", str(BUILD_SECONDS),
                "unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc",
                "tini", "--", sys.executable, "-m", "hosts.debian_recipe", str(partial), str(packages),
            ]),
            stdin=subprocess.PIPE,  # never written to: its end tells the build that we are gone
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        with process:
            status = process.wait()
    if status != 0:
        text = Path(log.name).read_text(errors="replace").splitlines()[-25:]
        raise ImageError(f"building {image.name} failed with status {status}:\n" + "\n".join(text))
    partial.rename(image)
    Path(log.name).unlink()


if __name__ == "__main__":
    sys.stdout.write(f"{debian_image()}\n")
