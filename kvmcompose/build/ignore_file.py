"""``.kvmcomposeignore``: what a context leaves out, by patterns in the syntax of git (gitignore(5)).

pathspec translates patterns into regular expressions, which may take exponentially long for many wildcards.
A lab is not trusted, so the number of wildcards is limited.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.opening import TooLargeError, read_regular

if TYPE_CHECKING:
    from pathspec.pattern import RegexPattern

#: Its name; it is in the folder that is the context.
IGNORE_FILE = ".kvmcomposeignore"
#: The largest one, in bytes, and the number of patterns.
_LARGEST = 1 << 16
_MOST_PATTERNS = 1000
#: In a pattern: wildcards in one component of a path, and ``**`` components.
_MOST_WILDCARDS = 3
_WANTED = "put a file with a pattern on each line in its place; for the syntax see gitignore(5)"
#: The group in pathspec's regular expressions for the slash after a folder.
_FOLDER_MARK = "ps_d"
_ESCAPED = re.compile(r"\\.")


_T = TypeVar("_T", bound="Ignored")


class Ignored:
    """What the patterns of an ignore file match."""

    def __init__(self, patterns: Sequence[str]) -> None:
        compiled = _compile(patterns) if patterns else ()
        self.last_first = [each for each in reversed(compiled) if each.include is not None]

    @property
    def has_exceptions(self) -> bool:
        """Whether something below a folder that is left out may be carried all the same."""
        return False

    def matches(self, name: str, *, folder: bool) -> bool:
        """Return whether a path of the context is left out. Below a folder that is, nothing needs asking.

        With ``has_exceptions``, what is below it is to be asked for, too.
        """
        path = as_bytes(name)
        found = next((each for each in self.last_first if names(each, path, folder=folder)), None)
        return found is not None and bool(found.include)


def names(pattern: RegexPattern, path: str, *, folder: bool) -> bool:
    """Return whether a pattern matches a path itself, not only a folder above it.

    git asks on the way down, one folder after the other; pathspec asks once for the whole path, and so leaves
    out what ``*``, ``!*/``, ``!*.conf`` keep.
    """
    regex = pattern.regex
    if regex is None:
        return False
    plain = regex.search(path)
    if plain is not None and not plain.groupdict().get(_FOLDER_MARK):
        return True
    whole = f"{path}/"
    return folder and any(
        _FOLDER_MARK in each.groupdict() and each.end(_FOLDER_MARK) == len(whole)
        for each in regex.finditer(whole)
    )


def _compile(patterns: Sequence[str]) -> Sequence[RegexPattern]:
    # few contexts have such a file, and nothing else needs the library
    from pathspec import GitIgnoreSpec  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its regular expression for [[] has a future meaning
        return GitIgnoreSpec.from_lines(patterns).patterns


def as_bytes(name: str) -> str:
    """Return a name as patterns are compared with it: with a character for each byte."""
    return _text(os.fsencode(name))


def _text(data: bytes) -> str:
    """Return names or patterns with a character for each byte, as git compares them; none more is a blank."""
    return data.decode("ascii", "surrogateescape")


def _read(path: Path) -> bytes:
    """Return the content of an ignore file. Raises KvmComposeError, FileNotFoundError."""
    try:
        data = read_regular(path, limit=_LARGEST, follow=False)
    except FileNotFoundError:
        raise
    except TooLargeError as error:
        raise KvmComposeError(f"cannot be used: {error.strerror}", hint=_WANTED) from error
    except OSError as error:
        raise KvmComposeError(f"cannot be read: {error.strerror}", hint=_WANTED) from error
    if b"\0" in data:
        hint = f"if it is UTF-16, convert it: iconv -f UTF-16 -t UTF-8 {path.name}"
        raise KvmComposeError("is UTF-16 or binary, not text", hint=hint)
    return data


def read_patterns(path: Path) -> list[str]:
    """Return the lines of an ignore file, those without a pattern, too; none where there is no file.

    Raises KvmComposeError whose message continues the name of the file.
    """
    try:
        data = _read(path)
    except FileNotFoundError:
        return []
    # a file of patterns from Windows means the same
    lines = _text(data.removeprefix(b"\xef\xbb\xbf")).split("\n")
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
    return patterns


def read_ignore_file(folder: Path) -> Ignored:
    """Read the ignore file of a context; without one nothing is left out.

    Raises KvmComposeError whose message continues the name of the file.
    """
    return compiled(Ignored, read_patterns(folder / IGNORE_FILE))


def compiled(kind: type[_T], patterns: Sequence[str]) -> _T:
    """Return what patterns mean. Raises KvmComposeError, likewise, for one that is not valid."""
    try:
        return kind(patterns)
    except (ValueError, re.error) as error:
        raise KvmComposeError(f"has a pattern that is not valid: {error}", hint=_WANTED) from error


def _is_costly(pattern: str) -> bool:
    steps = _ESCAPED.sub("", pattern).strip().split("/")
    parts = [step.count("*") for step in steps if step != "**"]
    return max(parts, default=0) > _MOST_WILDCARDS or steps.count("**") > _MOST_WILDCARDS
