"""Find, download and unpack Debian packages with apt and dpkg, without root."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.process import ProcessError, run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_ENGLISH = {"LC_ALL": "C.UTF-8"}
_NEEDED = re.compile(r" +(?:Pre)?Depends: ([a-z0-9][a-z0-9.+-]*)")
#: Of a program's dependencies only shared libraries count: configuration tools have no use in the guest.
_LIBRARY = re.compile(r"lib|zlib")
_DOWNLOAD_SECONDS = 1800
_HINT = (
    "sudo apt-get update; the packages are Debian's: on another distribution build the image on Debian, "
    "and here: kvm-compose cloud-images add micro FILE"
)


def parse_dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """Parse the output of ``apt-cache depends`` to package -> packages that it depends on."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line.startswith((" ", "|", "<")):
            package = line.strip()
            found[package] = []
        elif match := _NEEDED.fullmatch(line):
            found[package].append(match[1])
    return {name: tuple(needed) for name, needed in found.items()}


def dependencies(packages: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Ask apt what packages depend on. Raises KvmComposeError for an unknown package."""
    wanted = sorted(packages)
    # apt says nothing about unknown names among known ones: the answer is compared with the names below
    argv = ["apt-cache", "--no-recommends", "--no-suggests", "depends", *wanted]
    try:
        found = parse_dependencies(run(argv, env=_ENGLISH, timeout=60).stdout.decode())
    except ProcessError as error:
        found = {}
        if "No packages found" not in error.stderr:
            raise
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise KvmComposeError(f"apt knows no package {', '.join(unknown)}", hint=_HINT)
    return found


def with_libraries(packages: Iterable[str]) -> tuple[str, ...]:
    """Return the packages and those of the shared libraries that they need, directly or indirectly."""
    found: set[str] = set()
    fresh = set(packages)
    while fresh:
        found |= fresh
        needed = {name for names in dependencies(fresh).values() for name in names if _LIBRARY.match(name)}
        fresh = needed - found
    return tuple(sorted(found))


def fetch(packages: Iterable[str], folder: Path) -> tuple[Path, ...]:
    """Download packages into a folder; apt verifies them. Raises KvmComposeError."""
    # apt's sandbox user cannot write to this folder
    argv = ["apt-get", "-o", "APT::Sandbox::User=root", "-q", "download", *packages]
    try:
        run(argv, cwd=folder, env=_ENGLISH, timeout=_DOWNLOAD_SECONDS)
    except ProcessError as error:
        error.hint = f"{_HINT} ({error.hint})"
        raise
    return tuple(sorted(folder.glob("*.deb")))


def unpack(package: Path, folder: Path) -> None:
    """Unpack the files of a package, without running its scripts."""
    run(["dpkg-deb", "-x", str(package), str(folder)], env=_ENGLISH)
