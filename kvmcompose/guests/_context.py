"""Variables, files and scripts that a guest is given, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import msgspec

from kvmcompose.core.errors import Complaint
from kvmcompose.core.project import ProjectFiles
from kvmcompose.guests import _files


class ContextSection(msgspec.Struct, frozen=True, omit_defaults=True):
    """A folder or file for the guest. ``modes`` are permission bits in octal digits, by paths in it."""

    path: str
    modes: dict[str, str] = {}


class GivenFiles:
    """A base of sections that have an ``environment`` and a ``context``."""

    __slots__ = ()
    environment: dict[str, str]
    context: str | ContextSection | None

    def __post_init__(self) -> None:
        """Sort the variables, so that the order of keys in the YAML affects neither state nor artefacts."""
        section = cast(msgspec.Struct, self)
        if self.environment:
            msgspec.structs.force_setattr(section, "environment", dict(sorted(self.environment.items())))
        if isinstance(self.context, ContextSection):
            modes = dict(sorted(self.context.modes.items()))
            context = ContextSection(self.context.path, modes) if modes else self.context.path
            msgspec.structs.force_setattr(section, "context", context)

    @property
    def context_path(self) -> str | None:
        """The path of the context."""
        return self.context.path if isinstance(self.context, ContextSection) else self.context

    @property
    def context_modes(self) -> dict[str, str]:
        """The modes of the context's members that the YAML gives."""
        return self.context.modes if isinstance(self.context, ContextSection) else {}


def check_context(
    context: str | ContextSection, at: tuple[str | int, ...], files: ProjectFiles
) -> Iterator[Complaint]:
    """Yield the problems of a context, which the key at the path ``at`` names."""
    if isinstance(context, ContextSection):
        yield from _files.context(files, at, context.path, context.modes, at_path=(*at, "path"))
    else:
        yield from _files.context(files, at, context, {}, at_path=at)
