"""The entry point of the ``kvm-compose`` script: a fast path for builds with nothing to do, else ``main``."""

from __future__ import annotations

import os
import sys

from kvmcompose.build import stamp
from kvmcompose.effects.text_encoding import lose_no_output, use_utf8_names


def main() -> int:
    """Run the command line, and return the exit status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the parent process closed it; the next file would take its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
    use_utf8_names()
    lose_no_output()
    command, directory = _plain(sys.argv[1:])
    if command is not None and directory and _answer(command, directory):
        return 0
    try:
        from kvmcompose.cli.main import main as full

        return full()
    except KeyboardInterrupt:  # during the imports
        sys.stderr.write("error: interrupted\n")
        return 130


def _plain(words: list[str]) -> tuple[str | None, str]:
    """Return command and project folder of a ``generate`` or ``list`` without other options; else None."""
    directory = os.environ.get("KVM_COMPOSE_DIRECTORY", ".")
    command = None
    waiting = iter(words)
    for word in waiting:
        if word in ("-C", "--directory"):
            directory = next(waiting, "")
        elif word in ("generate", "generate-artefacts", "list") and command is None:
            command = "list" if word == "list" else "generate"
        elif word != "-q" and (command != "generate" or word not in ("-k", "--no-wait")):
            return None, directory
    return command, directory


def _clean(text: str) -> str:
    """Return the text as ``Console`` would print it. Most need no change, and the import takes time."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    from kvmcompose.core.plain import plain

    return plain(text, lines=True)


def _fits(text: str) -> bool:
    """Return whether no line has to be wrapped on a terminal."""
    if not sys.stdout.isatty():
        return True
    import shutil

    columns = shutil.get_terminal_size().columns
    return all(len(line) <= columns for line in text.split("\n"))


def _answer(command: str, directory: str) -> bool:
    """Print the answer that the last build has stored. Returns False when it is out of date."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(stamp.__file__)))  # noqa: PTH100, PTH120
    try:
        # not abspath, which ignores symbolic links; importing pathlib takes longer than all of this
        root = os.path.join(os.getcwd(), directory)  # noqa: PTH109, PTH118
        around = stamp.surroundings(package, root)
    except OSError:
        return False
    private = os.path.join(root, ".kvm-compose")  # noqa: PTH118
    if command == "list":
        overview = stamp.overview_if_unchanged(private, around)
        if overview is None or not _fits(overview):
            return False
        try:
            sys.stdout.write(_clean(overview))
            sys.stdout.flush()
        except OSError:  # the slow path reports that nobody reads the output
            return False
        return True
    summary = stamp.summary_if_unchanged(root, private, around)
    if summary is not None and "-q" not in sys.argv:
        sys.stderr.write(f"{_clean(summary)}\n")
    return summary is not None
