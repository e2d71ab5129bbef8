"""Make untrusted text safe to show on a terminal or in a log."""

from __future__ import annotations

import re

#: Characters that control a terminal, are invisible, or change the order of a line: control characters (C0
#: except the tab, DEL, C1), the soft hyphen and characters without width, the bidirectional controls (Unicode
#: Standard Annex 9, section 2), line and paragraph separators, byte order mark, annotations, tags,
#: surrogates, and what XML cannot hold (U+FFFE, U+FFFF). Joiners (U+200C, U+200D) and variation selectors are
#: permitted: some scripts and emoji need them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)


def plain(text: str, *, lines: bool = False) -> str:
    r"""Return the text with unsafe characters as ``\x1b`` or ``\u202e``; with ``lines``, line breaks stay.

    The function is idempotent: text without such characters is returned unchanged.
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_shown_in_lines if lines else _shown, text)


#: What terminals act on: control sequences (ECMA-48: CSI, OSC) as a whole, then what is left of them. No tab.
_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0a-\x1f\x7f-\x9f]"
)


def without_controls(line: str) -> str:
    """Return a line of a program's output without colours and other control sequences (see ``plain``)."""
    return plain(_CONTROL.sub("", line))


def plain_json(data: bytes) -> bytes:
    """Return JSON of the same meaning, with unsafe characters as JSON escapes."""
    if data.isascii() and b"\x7f" not in data:  # the other control characters are escaped in all JSON
        return data
    return _UNSAFE.sub(_in_json, data.decode(errors="replace")).encode()


def _in_json(found: re.Match[str]) -> str:
    if found[0] == "\n":  # between the values
        return "\n"
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def _shown_in_lines(found: re.Match[str]) -> str:
    return "\n" if found[0] == "\n" else _shown(found)


def _shown(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number <= 0xFF:  # noqa: PLR2004
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"  # noqa: PLR2004
