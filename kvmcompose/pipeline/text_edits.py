"""Edits the text of a YAML file at the places of its nodes, so that comments and layout stay."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from kvmcompose.core.document import Path

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: Text that needs no quotes, within ``[…]`` and ``{…}`` either.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._-]*|[0-9]+(\.[0-9]+){3}(/[0-9]+)?")
_ALIAS = re.compile(r"[ \t]*\*[^\s,\]}]+")
#: What YAML 1.1 or 1.2 take for something else than text.
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


class SharedError(Exception):
    """A part of the file is to be changed in two ways: an alias repeats it."""

    def __init__(self, line: int, column: int) -> None:
        """Take the place, counted from 1."""
        super().__init__(f"{line}:{column}")
        self.line, self.column = line, column


class TextEdits:
    """The edits of a valid file. A place that aliases repeat is changed once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._root = yaml.compose(text, Loader=_LOADER)
        self._break = "\r\n" if "\r\n" in text else "\n"
        #: Replacements by start and end.
        self._edits: dict[tuple[int, int], str] = {}

    def find(self, path: Path) -> yaml.Node | None:
        """Return the node at a path, with ``<<`` merged; None for none."""
        node = self._root
        for step in path:
            found = _pair(node, step) if isinstance(step, str) else None
            if found is not None:
                node = found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
            else:
                return None
        return node

    def rename(self, path: Path, key: str) -> None:
        """Give the last key of a path another name."""
        pair = _pair(self.find(path[:-1]), str(path[-1]))
        if pair is not None:
            self._replace(pair[0].start_mark.index, pair[0].end_mark.index, key)

    def replace(self, path: Path, value: Any) -> None:
        """Replace a value by plain data, in blocks where the value is one or begins a line of its own."""
        parent, node = self.find(path[:-1]), self.find(path)
        pair = _pair(parent, path[-1]) if isinstance(path[-1], str) else None
        if node is None:
            return
        start, end = node.start_mark.index, end_of(node)
        if pair is None or _is_flow(parent) or not isinstance(value, dict):
            self._replace(start, end, flow(value))
            return
        column = pair[0].start_mark.column + 2
        lines = self._break.join(block(value, " " * column))
        after_key = self._text.index(":", pair[0].end_mark.index) + 1
        alias = _ALIAS.match(self._text, after_key)
        end = alias.end() if alias is not None else end
        self._replace(after_key, end, self._break + lines)

    def insert(self, path: Path, key: str, value: Any) -> None:
        """Add a pair after the pair at a path."""
        parent = self.find(path[:-1])
        pair = _pair(parent, str(path[-1]))
        if pair is None:
            return
        end = end_of(pair[1])
        if _is_flow(parent):
            self._replace(end, end, f", {key}: {flow(value)}")
            return
        rest = re.compile(r"[ \t]*(#[^\r\n]*)?").match(self._text, end)
        end = rest.end() if rest is not None else end
        indent = " " * pair[0].start_mark.column
        self._replace(end, end, f"{self._break}{indent}{key}: {flow(value)}")

    def _replace(self, start: int, end: int, text: str) -> None:
        if start == end:  # pairs that are inserted at one place follow each other
            known = self._edits.get((start, end), "")
            self._edits[start, end] = known if text in known else known + text
        elif self._edits.setdefault((start, end), text) != text:
            line = self._text.count("\n", 0, start) + 1
            raise SharedError(line, start - (self._text.rfind("\n", 0, start) + 1) + 1)

    def result(self) -> str:
        """Return the edited text."""
        parts, at = [], 0
        for (start, end), text in sorted(self._edits.items()):
            parts += [self._text[at:start], text]
            at = end
        return "".join([*parts, self._text[at:]])


def end_of(node: yaml.Node) -> int:
    """Return where a node ends; that of a block does at its last value, before comments."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return end_of(last[1] if isinstance(last, tuple) else last)
    end: int = node.end_mark.index
    return end


def _is_flow(node: yaml.Node | None) -> bool:
    return isinstance(node, yaml.CollectionNode) and bool(node.flow_style)


def _pair(node: yaml.Node | None, key: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """Return a key and its value: a mapping's own, or of the first mapping that it merges."""
    if not isinstance(node, yaml.MappingNode):
        return None
    for each, value in node.value:
        if isinstance(each, yaml.ScalarNode) and each.value == key:
            return each, value
    for each, value in node.value:
        if isinstance(each, yaml.ScalarNode) and each.value == "<<" and each.style is None:
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                found = _pair(source, key)
                if found is not None:
                    return found
    return None


def flow(value: Any) -> str:
    """Return plain data in YAML's flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and (not _PLAIN.fullmatch(value) or value.lower() in _WORDS):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def block(value: dict[str, Any], indent: str) -> list[str]:
    """Return a mapping as lines in block style; lists of mappings have a line each, what is short is flow."""
    lines: list[str] = []
    for key, each in value.items():
        if (
            isinstance(each, dict)
            and each
            and any(isinstance(inner, (dict, list)) for inner in each.values())
        ):
            lines += [f"{indent}{key}:", *block(each, indent + "  ")]
        elif isinstance(each, list) and each and isinstance(each[0], dict):
            lines += [f"{indent}{key}:", *(f"{indent}  - {flow(item)}" for item in each)]
        else:
            lines.append(f"{indent}{key}: {flow(each)}")
    return lines
