"""``.dockerignore``: what the context of an image leaves out, as Docker and Podman read it.

Patterns are those of git but for three things: each begins at the context's top, a pattern for a folder is
one for all below it, and an exception (``!``) counts even there. So they are written as git has them, and
compared likewise. Source: Docker's reference of the Dockerfile, ".dockerignore file".
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from kvmcompose.build.ignore_file import Ignored, as_bytes, compiled, names, read_patterns
from kvmcompose.core.errors import KvmComposeError

#: Its name; it is in the folder that is the context.
DOCKER_IGNORE = ".dockerignore"
#: Two stars that are not a whole part of a path, which git takes for one star.
_STARS_IN_PART = re.compile(r"[^/!]\*\*|\*\*[^/]")


class DockerIgnored(Ignored):
    """What the patterns, as git has them, leave out."""

    def __init__(self, patterns: Sequence[str]) -> None:
        super().__init__(patterns)
        #: By folder: how many patterns, from the last one, come before the one that counts for it.
        self._before = {"": len(self.last_first)}

    @property
    def has_exceptions(self) -> bool:
        """Whether something below a folder that is left out may be carried all the same."""
        return any(not each.include for each in self.last_first)

    def matches(self, name: str, *, folder: bool) -> bool:
        """Return whether a path of the context is left out: the last pattern for it or a folder above it.

        Folders are to be asked for before what is in them.
        """
        path = as_bytes(name)
        before = self._before[path.rpartition("/")[0]]
        own = enumerate(self.last_first[:before])
        found = next((number for number, each in own if names(each, path, folder=True)), before)
        if folder:
            self._before[path] = found
        return found < len(self.last_first) and bool(self.last_first[found].include)


def read_docker_ignore(folder: Path) -> DockerIgnored:
    """Read the ignore file of a context; without one nothing is left out.

    Raises KvmComposeError whose message continues the name of the file.
    """
    return compiled(DockerIgnored, list(_as_in_git(read_patterns(folder / DOCKER_IGNORE))))


def _as_in_git(lines: list[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or line.startswith("#"):
            continue
        if _STARS_IN_PART.search(text):
            raise KvmComposeError(
                f"has ** beside other characters in line {number}", hint="write **/*.log for **.log"
            )
        pattern = posixpath.normpath(text.removeprefix("!").strip()).lstrip("/")
        if pattern and pattern != ".":  # Docker does not take that for everything either
            yield f"{'!' if text.startswith('!') else ''}/{pattern}"
