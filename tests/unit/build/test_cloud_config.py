"""What a schema of cloud-init's says, by paths."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from kvmcompose.build import cloud_config
from kvmcompose.build.cloud_config import CloudConfigSchema

_SCHEMA = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "properties": {
        "ntp": {"properties": {"servers": {"type": "array"}}, "additionalProperties": False},
        "users": {
            "items": {
                "oneOf": [{"type": "string"}, {"type": "object", "properties": {"name": {"type": "string"}}}]
            }
        },
        "day": {"type": "string", "format": "ipv4"},
    },
}


@pytest.fixture
def schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CloudConfigSchema:
    place = tmp_path / "python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(_SCHEMA))
    monkeypatch.setattr(cloud_config, "_LIBRARIES", (tmp_path / "none", tmp_path))
    return CloudConfigSchema()


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("ntp: {servers: SECRET}", [(("ntp", "servers"), 'is not of type "array"')]),
        (
            "users: [a, {name: {SECRET: 1}}]",
            [(("users", 1), "is not valid under any of the schemas listed in")],
        ),
        ("ntp: {new: SECRET}", [(("ntp",), "Additional properties are not allowed ('new' was unexpected)")]),
        (f"ntp: {{{'k' * 1000}: 1}}", [(("ntp",), "Additional properties are not allowed ('kkk")]),
        ("day: 2026-01-01\n1: x", []),
        ("? [a]\n: b", []),
        ("users: [a", []),
    ],
)
def test_errors_have_their_path_and_show_no_value(
    schema: CloudConfigSchema, text: str, errors: list[tuple[tuple[str | int, ...], str]]
) -> None:
    found = list(schema.errors(text.encode()))
    assert [path for path, _ in found] == [path for path, _ in errors]
    for (_, message), (_, said) in zip(found, errors, strict=True):
        assert message.startswith(said)
        assert "SECRET" not in message
        assert len(message) <= 301


@pytest.mark.parametrize(
    "value", ["!!bool x", "!!int ''", "!!float ''", "!!timestamp x", "9e99999", f"1{':59' * 20}.5"]
)
def test_values_that_pyyaml_cannot_build_are_no_crash(schema: CloudConfigSchema, value: str) -> None:
    assert list(schema.errors(f"a: {value}".encode())) == []


def test_long_numbers_take_no_time_of_the_square_of_their_length(schema: CloudConfigSchema) -> None:
    began = time.process_time()
    assert list(schema.errors(f"ntp: {{}}\na: 1{':59' * 300_000}\nb: 1{':59' * 300}.5\n".encode())) == []
    assert time.process_time() - began < 5


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"type": 5}'])
def test_without_a_schema_nothing_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        place = tmp_path / "python3.11/site-packages/cloudinit/config/schemas/schema-cloud-config-v2.json"
        place.parent.mkdir(parents=True)
        place.write_text(content)
    monkeypatch.setattr(cloud_config, "_LIBRARIES", (tmp_path,))
    assert list(CloudConfigSchema().errors(b"ntp: 5")) == []
