"""The templates that a project's artefacts are rendered from."""

from __future__ import annotations

import os
from pathlib import Path

from kvmcompose.build.confined_templates import ConfinedTemplates
from kvmcompose.build.steady_templates import SteadyTemplates
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.opening import read_regular
from kvmcompose.effects.resources import plugin_folders, shipped
from kvmcompose.render.templates import Templates

#: The largest template that is read, in bytes.
TEMPLATE_LIMIT = 1 << 20


def templates(project: Path) -> Templates:
    """All templates: ours, those of plug-ins, and before both those of the project's ``templates/``.

    Raises KvmComposeError for one that cannot be read.
    """
    texts: dict[str, str] = {}
    own: set[str] = set()
    plugins = (plugin / "templates" for plugin in plugin_folders())
    for folder in (shipped("templates"), *plugins, project / "templates"):
        for path in sorted(folder.glob("*.j2")):
            if folder.parent == project and not _is_inside(path, project):
                raise KvmComposeError(
                    f"the template {str(path)!r} is a link out of the project folder",
                    hint="put a copy of the file in its place",
                )
            if folder.parent == project:
                own.add(path.name)
            try:
                texts[path.name] = read_regular(path, limit=TEMPLATE_LIMIT).decode()
            except (OSError, UnicodeDecodeError) as error:
                raise KvmComposeError(f"cannot read the template {str(path)!r}: {error}") from error
    return ConfinedTemplates(texts, frozenset(own)) if own else SteadyTemplates(texts)


def _is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path, links resolved, is below a folder. A loop of links counts as inside."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
