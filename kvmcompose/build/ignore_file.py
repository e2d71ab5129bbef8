"""``.kvmcomposeignore``: what a context leaves out, by patterns in the syntax of git (gitignore(5)).

pathspec translates patterns into regular expressions, which may take exponentially long for many wildcards.
A lab is not trusted, so the number of wildcards is limited.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.opening import TooLargeError, read_regular

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

#: Its name; it is in the folder that is the context.
IGNORE_FILE = ".kvmcomposeignore"
#: The largest one, in bytes, and the number of patterns.
_LARGEST = 1 << 16
_MOST_PATTERNS = 1000
#: In a pattern: wildcards in one component of a path, and ``**`` components.
_MOST_WILDCARDS = 3
_WANTED = "put a file with a pattern on each line in its place; for the syntax see gitignore(5)"
_ESCAPED = re.compile(r"\\.")


class Ignored:
    """What the patterns of an ignore file match."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._spec = _compile(patterns) if patterns else None

    def matches(self, name: str, *, folder: bool) -> bool:
        """Return whether a path of the context is left out. Below a folder that is, nothing needs asking."""
        return self._spec is not None and self._spec.match_file(f"{name}/" if folder else name)


def _compile(patterns: Sequence[str]) -> GitIgnoreSpec:
    # few contexts have such a file, and nothing else needs the library
    from pathspec import GitIgnoreSpec  # noqa: PLC0415

    return GitIgnoreSpec.from_lines(patterns)


def read_ignore_file(folder: Path) -> Ignored:
    """Read the ignore file of a context; without one nothing is left out.

    Raises KvmComposeError whose message continues the name of the file.
    """
    try:
        data = read_regular(folder / IGNORE_FILE, limit=_LARGEST, follow=False)
    except FileNotFoundError:
        return Ignored(())
    except TooLargeError as error:
        raise KvmComposeError(f"cannot be used: {error.strerror}", hint=_WANTED) from error
    except OSError as error:
        raise KvmComposeError(f"cannot be read: {error.strerror}", hint=_WANTED) from error
    # names are bytes; a file of patterns from Windows means the same
    lines = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape").split("\n")
    patterns = [line.removesuffix("\r") for line in lines]
    used = [line for line in patterns if line.strip() and not line.startswith("#")]
    if len(used) > _MOST_PATTERNS:
        raise KvmComposeError(f"has {len(used)} patterns: at most {_MOST_PATTERNS} are allowed", hint=_WANTED)
    for number, line in enumerate(patterns, 1):
        if line.startswith("#"):
            continue
        if _is_costly(line):
            raise KvmComposeError(
                f"has too many wildcards in line {number}",
                hint=f"use at most {_MOST_WILDCARDS} in each part of a path, and {_MOST_WILDCARDS} times **",
            )
        if "[[:" in line:  # pathspec would take it for something else
            raise KvmComposeError(f"has a class of characters in line {number}", hint="write [a-z] for it")
    try:
        return Ignored(patterns)
    except (ValueError, re.error) as error:
        raise KvmComposeError(f"has a pattern that is not valid: {error}", hint=_WANTED) from error


def _is_costly(pattern: str) -> bool:
    steps = _ESCAPED.sub("", pattern).strip().split("/")
    parts = [step.count("*") for step in steps if step != "**"]
    return max(parts, default=0) > _MOST_WILDCARDS or steps.count("**") > _MOST_WILDCARDS
