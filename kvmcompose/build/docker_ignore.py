"""``.dockerignore``: what the context of an image leaves out, as Docker and Podman read it.

Patterns are those of git but for three things: each begins at the context's top, a pattern for a folder is
one for all below it, and an exception (``!``) counts even there. So they are written as git has them, and
compared likewise. Source: Docker's reference of the Dockerfile, ".dockerignore file".
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from kvmcompose.build.ignore_file import Ignored, as_bytes, compiled, names, read_patterns
from kvmcompose.core.errors import KvmComposeError

#: Its name; it is in the folder that is the context.
DOCKER_IGNORE = ".dockerignore"
#: Two stars that are not a whole part of a path, which git takes for one star.
_STARS_IN_PART = re.compile(r"[^/!]\*\*|\*\*[^/]")


class DockerIgnored(Ignored):
    """What the patterns, as git has them, leave out."""

    @property
    def has_exceptions(self) -> bool:
        """Whether something below a folder that is left out may be carried all the same."""
        return any(not each.include for each in self.last_first)

    def matches(self, name: str, *, folder: bool) -> bool:  # noqa: ARG002 (a pattern does not ask)
        """Return whether a path of the context is left out: the last pattern for it or a folder above it."""
        path = as_bytes(name)
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        for pattern in self.last_first:
            if any(names(pattern, each, folder=True) for each in above):
                return bool(pattern.include)
        return False


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
