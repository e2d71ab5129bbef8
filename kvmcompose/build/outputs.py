"""What builds put into a project folder: no context carries it into a guest.

A seed that carried the artefacts would carry the last one of itself, and never be up to date.
"""

from __future__ import annotations

import re
from pathlib import Path

from kvmcompose.effects.files import STAGED_PREFIX
from kvmcompose.pipeline.compile import ARTEFACTS, STATE_PATH

#: What kvm-compose keeps for itself in a project folder.
PRIVATE_FOLDER = ".kvm-compose"

_FOLDERS = (ARTEFACTS, PRIVATE_FOLDER)
#: The state, its new version beside one that was edited by hand, and what was kept of such (see ``replace``),
#: and files that are still being written.
_FILES = re.compile(
    rf"{re.escape(STATE_PATH)}(?:\.new)?(?:\.orig(?:\.\d+)?)?|{re.escape(STAGED_PREFIX)}.*", re.DOTALL
)


class Outputs:
    """The places in a project ``folder`` that builds write to."""

    def __init__(self, folder: Path) -> None:
        root = folder.resolve()
        self._root = str(root)
        # both may be links, within the project
        self._folders = {str(root / name) for name in _FOLDERS}
        targets = [(root / name).resolve() for name in _FOLDERS if (root / name).exists()]
        self._folders |= {str(target) for target in targets if not root.is_relative_to(target)}

    def include(self, path: Path) -> bool:
        """Return whether builds make a file or folder; ``path`` has no links in it."""
        text = str(path)
        if any(text == folder or text.startswith(f"{folder}/") for folder in self._folders):
            return True
        parent, _, name = text.rpartition("/")
        return parent == self._root and _FILES.fullmatch(name) is not None
