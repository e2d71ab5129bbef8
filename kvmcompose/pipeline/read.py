"""Read YAML and JSON into a ``Document``, whose nodes have a line and a column. Types are not decided here.

A plain scalar stays the text that the user wrote; ``kvmcompose.pipeline.shape`` gives it the type that the
schema requires. So the meaning of YAML does not depend on the YAML version that a parser implements.
"""

from __future__ import annotations

from kvmcompose.core.document import Document
from kvmcompose.pipeline.json_nodes import parse_json
from kvmcompose.pipeline.text import decode
from kvmcompose.pipeline.yaml_nodes import compose_yaml


def read_document(data: bytes, name: str) -> Document:
    """Read a file, as JSON when its name ends in ``.json``, otherwise as YAML.

    Raises InputError with a location for each problem.
    """
    return read_json(data, name) if name.lower().endswith(".json") else read_yaml(data, name)


def read_yaml(data: bytes, name: str) -> Document:
    """Read one YAML document. Anchors, aliases and ``<<`` are supported; keys are scalars, each used once.

    Raises InputError: ``yaml-syntax``, ``duplicate-key``, ``bad-key``, ``bad-merge``, ``bad-tag``,
    ``unknown-alias``, ``recursive-alias``, ``alias-bomb``, ``too-deep``, ``several-documents``,
    ``too-large``, ``not-utf8``, ``control-character``.
    """
    return Document(name, compose_yaml(decode(data, name), name))


def read_json(data: bytes, name: str) -> Document:
    """Read one JSON value (RFC 8259), with or without a byte order mark; strings are quoted scalars.

    Raises InputError: ``json-syntax``, ``duplicate-key``, ``too-deep``, ``too-large``, ``not-utf8``,
    ``control-character``.
    """
    return Document(name, parse_json(decode(data, name), name))
