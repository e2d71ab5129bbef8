"""Names of files are bytes, which mean the same whatever the locale.

Python decodes names of files, arguments and the environment as the locale says. The files of a project are
UTF-8, and so are the names in them; under ISO 8859-1 they would name other files, and a context would carry
other names into a guest. In its UTF-8 mode (PEP 540) Python decodes all names as UTF-8, and keeps bytes that
are not ("surrogateescape"). A running process cannot enter that mode.
"""

from __future__ import annotations

import os
import sys

#: How output shows a character that its encoding does not have: as ``\u2026``.
_ERRORS = "backslashreplace"


def names_are_utf8() -> bool:
    """Return whether this process decodes names of files as UTF-8."""
    return sys.getfilesystemencoding() == "utf-8"


def use_utf8_names() -> None:
    """Start this program again in UTF-8 mode unless names are UTF-8; its output keeps its encoding."""
    if names_are_utf8() or not sys.executable:
        return
    from kvmcompose.effects.process import restart  # noqa: PLC0415 (rarely needed, and takes long to import)

    usual = getattr(sys.stdout, "encoding", None) or "utf-8"
    os.environ.setdefault("PYTHONIOENCODING", f"{usual}:{_ERRORS}")
    restart(["-X", "utf8"])


def lose_no_output() -> None:
    """Let standard output show a character that its encoding does not have as an escape, not fail."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a program that calls us may have replaced it
        if reconfigure is not None:
            reconfigure(errors=_ERRORS)


def escaped(text: str) -> str:
    """Return a text as one that is valid Unicode: bytes of a name that are not UTF-8 become escapes."""
    return text.encode(errors=_ERRORS).decode()
