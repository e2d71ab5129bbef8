"""Decode input files, and reject characters that no file or value may contain.

Each problem has a location, so that an editor can jump to the invalid byte.
"""

from __future__ import annotations

import codecs
import re

from kvmcompose.core.errors import InputError, Location, Problem

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 100
"""Nesting of lists and mappings; the dialect needs 7. Keeps recursion far from Python's limit."""

EMPTY = frozenset({"", "~", "null", "Null", "NULL"})
"""Plain scalars that mean null (YAML 1.2, section 10.3.2)."""

# Characters that YAML 1.2 (section 5.1) and XML 1.0 (section 2.2) forbid: no artefact could contain them.
# Surrogates can only come from JSON escapes.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_SAVE_AS_UTF8 = "save the file as UTF-8"


def refuse(code: str, message: str, location: Location, hint: str | None = None) -> InputError:
    """Return the error for a problem after which reading cannot continue."""
    return InputError([Problem(code=code, message=message, location=location, hint=hint)])


def decode(data: bytes, name: str) -> str:
    """Return the text of a file: UTF-8, with or without a byte order mark, without control characters.

    Raises InputError: ``too-large``, ``not-utf8``, ``control-character``.
    """
    if len(data) > MAX_BYTES:
        size = f"{len(data) / 1024 / 1024:.1f} MiB"
        raise refuse("too-large", f"the file is too large: {size}, at most 64 MiB", Location(name))
    if data.startswith(_UTF16):
        raise refuse("not-utf8", "the file is UTF-16, not UTF-8", Location(name, 1, 1), _SAVE_AS_UTF8)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        body = data.removeprefix(codecs.BOM_UTF8)
        location = place(body[: error.start].decode("utf-8", "replace"), name)
        message = f"byte 0x{body[error.start]:02x} is not UTF-8"
        raise refuse("not-utf8", message, location, _SAVE_AS_UTF8) from error
    if found := UNPRINTABLE.search(text):
        raise unprintable(found.group(), place(text[: found.start()], name))
    return text


def unprintable(character: str, location: Location) -> InputError:
    """Return the error for a character that ``UNPRINTABLE`` matched."""
    return refuse(
        "control-character",
        f"the character U+{ord(character):04X} is not allowed in a file or value",
        location,
    )


def place(before: str, name: str) -> Location:
    """Return the location that follows the text ``before``."""
    line, start = 1, 0
    for found in _LINE_BREAK.finditer(before):
        line, start = line + 1, found.end()
    return Location(name, line, len(before) - start + 1)
