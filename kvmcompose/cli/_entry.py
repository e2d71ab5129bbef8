"""What the ``kvm-compose`` script calls: the short way out when there is nothing to do, else ``main``."""

from __future__ import annotations

import os
import sys

from kvmcompose.effects import standing


def main() -> int:
    """Run the command line; the exit status."""
    directory = _plain_generate(sys.argv[1:])
    if directory is not None:
        root = os.path.abspath(directory)  # noqa: PTH100 (pathlib takes longer to import than all of this)
        private = os.path.join(root, ".kvm-compose")  # noqa: PTH118
        package = os.path.dirname(os.path.dirname(os.path.abspath(standing.__file__)))  # noqa: PTH100, PTH120
        summary = standing.still_standing(root, private, standing.surroundings(package))
        if summary is not None:
            if "-q" not in sys.argv:
                sys.stderr.write(f"{summary}\n")
            return 0
    try:
        from kvmcompose.cli.main import main as full

        return full()
    except KeyboardInterrupt:  # while all of this was still being imported
        sys.stderr.write("error: interrupted\n")
        return 130


def _plain_generate(words: list[str]) -> str | None:
    """The project folder, when the command line is a ``generate`` of everything without more ado."""
    directory = os.environ.get("KVM_COMPOSE_DIRECTORY", ".")
    generate = False
    waiting = iter(words)
    for word in waiting:
        if word in ("-C", "--directory"):
            directory = next(waiting, "")
        elif word in ("generate", "generate-artefacts") and not generate:
            generate = True
        elif word not in ("-q", "-k", "--no-wait"):
            return None
    return directory if generate and directory else None
