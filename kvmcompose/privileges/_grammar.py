"""Compare XML with a list of what is known to be harmless."""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from kvmcompose.core.privilege import Privilege, PrivilegeKind
from kvmcompose.core.xml_parts import parse_xml

#: A name, number or word; never a path, an option or an address with a scheme.
TOKEN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9 _.,:+-]{0,200})?", re.ASCII)
_LIMIT, _DEPTH, _SHOWN = 16 << 20, 24, 120
#: Only UTF-8: libvirt's parser uses the encoding that a declaration names; ours does not.
_PROLOGUE = re.compile(r"""\s*(<\?xml version=["']1\.0["']( encoding=["'][Uu][Tt][Ff]-8["'])?\s*\?>)?""")

_PROGRAMS = (
    "emulator",
    "loader",
    "script",
    "commandline",
    "options",
    "bootloader",
    "init",
    "downscript",
    "binary",
)
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
        self.attributes = {name: _check(pattern or "@token") for name, _, pattern in pairs}
        self.text = _check(text) if text is not None else None
        # to libvirt, a name with blanks around it is another name
        self.exact = text is not None and text.startswith("@") and text != "@token"
        self.children = {**children, **others}


def _check(pattern: str) -> Check | str:
    """Return what checks a value, or its name in ``Checks``."""
    if pattern == "@token":
        return lambda value: TOKEN.fullmatch(value) is not None
    if pattern.startswith("@"):
        return pattern[1:]
    matches = re.compile(pattern, re.ASCII).fullmatch
    return lambda value: matches(value) is not None


class Xml:
    """Some XML, parsed once for all that is asked about it.

    ``root`` is None for XML that is invalid, too large, or that parsers may read differently.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.root = _parsed(text)


def privileges_in(xml: Xml, root: tuple[str, Element], checks: Checks, where: str) -> Iterator[Privilege]:
    """Yield everything in some XML that is not known to be harmless, each item once."""
    tree = xml.root
    if tree is None or tree.tag != root[0]:
        yield Privilege(PrivilegeKind.XML, f"that is no plain <{root[0]}>", where, _digest(xml.text))
        return
    found: list[Privilege] = []
    _walk(tree, root[1], _Walk(checks, where, found), tree.tag)
    yield from dict.fromkeys(found)


def _parsed(text: str) -> ET.Element | None:
    if len(text) > _LIMIT or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    prologue = _PROLOGUE.match(text)
    if "<?" in text[prologue.end() if prologue else 0 :]:
        return None
    try:
        tree = parse_xml(text)  # no entity is declared, and its size is bounded
    except ET.ParseError:
        return None
    return None if _is_deeper(tree, _DEPTH) else tree


def _is_deeper(tree: ET.Element, most: int) -> bool:
    """Return whether elements are nested deeper than ``most``: writing them out is recursive."""
    level = [tree]
    for _ in range(most):
        level = [child for element in level for child in element]
    return bool(level)


class _Walk(NamedTuple):
    """What is the same for all elements of some XML; ``found`` grows."""

    checks: Checks
    where: str
    found: list[Privilege]

    def fits(self, value: str, check: Check | str | None) -> bool:
        if check is None:
            return False
        return self.checks[check](value) if isinstance(check, str) else check(value)

    def report(self, path: str, what: str, value: str) -> None:
        self.found.append(Privilege(_kind(path, value), what, self.where, _digest(value)))


def _walk(element: ET.Element, allowed: Element, walk: _Walk, path: str) -> None:
    for name, value in element.items():
        if not walk.fits(value, allowed.attributes.get(name)):
            walk.report(path, f"<{path} {name}={_shown(value)}>", value)
    text = element.text or ""
    for child in element:
        text += child.tail or ""
        inside = f"{path}/{child.tag}"
        known = allowed.children.get(child.tag)
        if known is None:
            whole = ET.tostring(child, encoding="unicode").strip()
            walk.report(inside, f"<{inside}>: {_shown(whole)}", whole)
        else:
            _walk(child, known, walk, inside)
    if not allowed.exact:
        text = text.strip()
    if text and not walk.fits(text, allowed.text):
        walk.report(path, f"<{path}> {_shown(text)}", text)


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
