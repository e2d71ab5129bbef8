"""Cache of guest images, which root makes once per machine and recipe, outside the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hosts import prerequisites

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BUILD_SECONDS = 1800
PACKAGE = Path(__file__).resolve().parent


class ImageError(Exception):
    """An image could not be made."""


def cache_directory() -> Path:
    """Return the cache's folder. It is outside the checkout, so that a new one need not download Debian."""
    directory = Path(os.environ["TEST_IMAGES"])
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def digest(sources: Sequence[str]) -> str:
    """Return the digest of the files, in this package, that make an image."""
    texts = [(PACKAGE / name).read_bytes() for name in sorted(sources)]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file: a second run waits until the first has made the image."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def image(stem: str, recipe: str, sources: Sequence[str]) -> Path:
    """Return the image (qcow2) that the module ``recipe`` makes; make it if it is not in the cache.

    Raises ImageError or MissingPrograms.
    """
    cache = cache_directory()
    path = cache / f"{stem}-{digest(sources)}.qcow2"
    if path.exists():
        return path
    prerequisites.require(prerequisites.IMAGE_PROGRAMS)
    with locked(cache / f"{stem}.lock"):
        if not path.exists():
            build(path, recipe, cache / "debs")
    return path


def build(path: Path, recipe: str, packages: Path) -> None:
    """Run the recipe as root: `python -m hosts.<recipe> <file to write> <folder to keep packages in>`."""
    partial, log = path.with_suffix(".partial"), path.with_suffix(".log")
    packages.mkdir(exist_ok=True)
    partial.unlink(missing_ok=True)
    with (
        log.open("w") as output,
        subprocess.Popen(
            prerequisites.as_root([
                "env", f"PYTHONPATH={PACKAGE.parent}", "PYTHONDONTWRITEBYTECODE=1", "LC_ALL=C.UTF-8",
                f"PATH={prerequisites.SEARCH_PATH}",
                "timeout", "--kill-after=10", str(BUILD_SECONDS),
                "unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc",
                "tini", "--", sys.executable, "-m", recipe, str(partial), str(packages),
            ]),
            stdin=subprocess.PIPE,  # never written to: the build ends when this process closes it
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        status = process.wait()
    if status != 0:
        text = log.read_text(errors="replace").splitlines()[-25:]
        raise ImageError(f"building {path.name} failed with status {status}:\n" + "\n".join(text))
    partial.rename(path)
    log.unlink()
