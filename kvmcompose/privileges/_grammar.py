"""Compare XML with a list of what is known to be harmless."""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from kvmcompose.core.privilege import Privilege, PrivilegeKind

#: A name, number or word; never a path, an option or an address with a scheme.
TOKEN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9 _.,:+-]{0,200})?", re.ASCII)
_LIMIT, _DEPTH, _SHOWN = 16 << 20, 24, 120
#: Only UTF-8: libvirt's parser uses the encoding that a declaration names; ours does not.
_PROLOGUE = re.compile(r"""\s*(<\?xml version=["']1\.0["']( encoding=["'][Uu][Tt][Ff]-8["'])?\s*\?>)?""")

_PROGRAMS = ("emulator", "loader", "script", "commandline", "options", "bootloader", "init", "downscript")
_DEVICES = ("hostdev", "tpm", "redirdev", "input", "rng", "smartcard", "vsock", "lease", "panic", "crypto")

#: Whether a value is harmless.
Check = Callable[[str], bool]
#: Checks that depend on the project, by their names in a grammar.
Checks = Mapping[str, Check]


_NONE: Mapping[str, Element] = MappingProxyType({})


class Element:
    """A permitted element: its attributes and text, by patterns or names of ``Checks``, and its children.

    ``attributes`` is ``name=pattern``, separated by blanks; a name alone permits a token. ``others`` are
    children whose names are not valid in Python.
    """

    def __init__(
        self,
        attributes: str = "",
        /,
        *,
        text: str | None = None,
        others: Mapping[str, Element] = _NONE,
        **children: Element,
    ) -> None:
        pairs = (each.partition("=") for each in attributes.split())
        self.attributes = {name: pattern or "@token" for name, _, pattern in pairs}
        self.text = text
        self.children = {**children, **others}


def privileges_in(text: str, root: tuple[str, Element], checks: Checks, where: str) -> Iterator[Privilege]:
    """Yield everything in some XML that is not known to be harmless, each item once."""
    tree = parsed(text)
    if tree is None or tree.tag != root[0]:
        yield Privilege(PrivilegeKind.XML, f"that is no plain <{root[0]}>", where, _digest(text))
        return
    yield from dict.fromkeys(_walk(tree, root[1], checks, where, tree.tag))


def parsed(text: str) -> ET.Element | None:
    """Return the root, or None for XML that is invalid, too large, or that parsers may read differently."""
    if len(text) > _LIMIT or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    prologue = _PROLOGUE.match(text)
    if "<?" in text[prologue.end() if prologue else 0 :]:
        return None
    try:
        tree = ET.fromstring(text)  # noqa: S314 (no entity is declared, and its size is bounded)
    except ET.ParseError:
        return None
    return None if _is_deeper(tree, _DEPTH) else tree


def _is_deeper(tree: ET.Element, most: int) -> bool:
    """Return whether elements are nested deeper than ``most``: writing them out is recursive."""
    level = [tree]
    for _ in range(most):
        level = [child for element in level for child in element]
    return bool(level)


def _walk(
    element: ET.Element, allowed: Element, checks: Checks, where: str, path: str
) -> Iterator[Privilege]:
    for name, value in element.attrib.items():
        pattern = allowed.attributes.get(name)
        if pattern is None or not _fits(value, pattern, checks):
            yield Privilege(_kind(path, value), f"<{path} {name}={_shown(value)}>", where, _digest(value))
    text = "".join([element.text or "", *(child.tail or "" for child in element)])
    if not _is_exact(allowed.text):
        text = text.strip()
    if text and (allowed.text is None or not _fits(text, allowed.text, checks)):
        yield Privilege(_kind(path, text), f"<{path}> {_shown(text)}", where, _digest(text))
    for child in element:
        inside = f"{path}/{child.tag}"
        known = allowed.children.get(child.tag)
        if known is None:
            whole = ET.tostring(child, encoding="unicode").strip()
            yield Privilege(_kind(inside, whole), f"<{inside}>: {_shown(whole)}", where, _digest(whole))
        else:
            yield from _walk(child, known, checks, where, inside)


def _is_exact(pattern: str | None) -> bool:
    """Return whether blanks around the text matter: to libvirt, a name with blanks is another name."""
    return pattern is not None and pattern.startswith("@") and pattern != "@token"


def _fits(value: str, pattern: str, checks: Checks) -> bool:
    if pattern == "@token":
        return TOKEN.fullmatch(value) is not None
    if pattern.startswith("@"):
        return checks[pattern[1:]](value)
    return re.fullmatch(pattern, value, re.ASCII) is not None


def _kind(path: str, value: str) -> PrivilegeKind:
    steps = [step.rpartition("}")[2] for step in path.split("/")]
    if any(step in _PROGRAMS for step in steps):
        return PrivilegeKind.PROGRAM
    if any(step in _DEVICES for step in steps) or "/dev/" in value or 'type="direct"' in value:
        return PrivilegeKind.DEVICE
    return PrivilegeKind.FILE if "/" in value.replace("</", "").replace("/>", "") else PrivilegeKind.XML


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return f"'{text}'" if len(text) <= _SHOWN else f"'{text[:_SHOWN]}…'"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
