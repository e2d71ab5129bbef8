"""Bytes to located nodes: YAML and JSON in, ``Document`` out. Types are not decided here.

A plain scalar stays the text that the user wrote; ``kvmcompose.pipeline.shape`` gives it the type
that the schema asks for. So YAML has one meaning here, whichever version of it a parser implements.
"""

from __future__ import annotations

from kvmcompose.core.document import Document
from kvmcompose.pipeline.json_nodes import parse_json
from kvmcompose.pipeline.text import decode
from kvmcompose.pipeline.yaml_nodes import compose_yaml


def read_document(data: bytes, name: str) -> Document:
    """The file as nodes, read as JSON when its name ends in ``.json``, else as YAML.

    Raises InputError with a place for everything that is wrong.
    """
    return read_json(data, name) if name.lower().endswith(".json") else read_yaml(data, name)


def read_yaml(data: bytes, name: str) -> Document:
    """One YAML document: anchors, aliases and ``<<`` work; keys are scalars and appear once.

    Raises InputError: ``yaml-syntax``, ``duplicate-key``, ``bad-key``, ``bad-merge``, ``bad-tag``,
    ``unknown-alias``, ``recursive-alias``, ``alias-bomb``, ``too-deep``, ``several-documents``,
    ``too-large``, ``not-utf8``, ``control-character``.
    """
    return Document(name, compose_yaml(decode(data, name), name))


def read_json(data: bytes, name: str) -> Document:
    """One JSON value (RFC 8259), a byte order mark tolerated; strings are quoted scalars.

    Raises InputError: ``json-syntax``, ``duplicate-key``, ``too-deep``, ``too-large``, ``not-utf8``,
    ``control-character``.
    """
    return Document(name, parse_json(decode(data, name), name))
