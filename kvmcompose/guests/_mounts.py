"""Files of the project that guests see where they are: volumes of containers, shares of domains."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from typing import Protocol

from kvmcompose.core.errors import Complaint
from kvmcompose.core.project import ProjectFiles
from kvmcompose.guests import _files

#: What separates paths in options of container engines and of virtiofsd.
_SEPARATORS = frozenset(',"')


class Mounted(Protocol):
    """A file or folder of the project, and where the guest sees it."""

    @property
    def source(self) -> str:
        """The path in the project, or an absolute one."""

    @property
    def target(self) -> str:
        """The path in the guest."""


def check_mounts(
    at: tuple[str | int, ...], noun: str, mounts: Sequence[Mounted], files: ProjectFiles
) -> Iterator[Complaint]:
    """Yield the problems of a guest's mounts, the value at ``at``; ``noun`` is what one is called."""
    seen: dict[str, int] = {}
    for index, mount in enumerate(mounts):
        here = (*at, index)
        wrong = list(_files.mounted(files, (*here, "source"), mount.source))
        if not wrong and posixpath.normpath(mount.source).split("/")[0] in ("..", "~"):
            wrong = [
                Complaint(
                    code="bad-value",
                    path=(*here, "source"),
                    message=f"the source of a {noun} outside the project is the same on all hosts",
                    found=repr(mount.source),
                    wanted="an absolute path",
                )
            ]
        yield from wrong
        for key in ("source", "target"):
            if _SEPARATORS & set(getattr(mount, key)):
                yield Complaint(
                    code="bad-value",
                    path=(*here, key),
                    message=f"the {key} of a {noun} has a comma or a quotation mark",
                    hint="programs on the host use these to separate paths: choose another name",
                )
        target = posixpath.normpath(mount.target)
        if target in seen:
            yield Complaint(
                code="bad-value",
                path=(*here, "target"),
                message=f"{at[-1]}[{seen[target]}] has the same target",
                found=repr(mount.target),
            )
        seen.setdefault(target, index)
