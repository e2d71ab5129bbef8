"""The reference of both input files, from the descriptions in ``schemas/``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from markdown_text import anchor, document, prose, table

from kvmcompose.effects.resources import schemas
from kvmcompose.images.store import read_catalogue
from kvmcompose.pipeline.schemas import DEFAULT_DIALECT
from kvmcompose.pipeline.wording import describe
from kvmcompose.placement import strategies

Schema = dict[str, Any]

_YAML_INTRO = """\
# kvm-compose.yaml

One YAML document that describes a testbed. Every key is in the tables below; any other key is an error.
In a heading, `[]` stands for each item of a list.

How a value is read is decided by what is wanted in its place, never by the look of it: where text is
wanted, `52:54:00:12:34:56`, `on` and `010` stay what they are. Where a number is wanted, write it in
decimal digits without quotes; for true and false, write `true` and `false`. A key that stands twice in one
mapping is an error. Anchors, aliases and `<<` work; tags do not. Empty values count as left out where a
mapping or a list is wanted.

Paths are relative to the project folder; `~` at the beginning is your home folder. Scripts, contexts, env
files and volumes have to lie in the project folder, links followed, or in a folder that `--allow-path`
names. Disk images may lie anywhere.

`kvm-compose schema` prints the same as JSON Schema, for editors; [problems](problems.md) lists what can be
wrong beyond what a schema can say.
"""

_CONFIG_INTRO = """\
# kvm-compose-config.json

The testbed hosts. Without this file there is one host, called `main`: this machine, with `virt_type` and
`datapath_type` found out by trying. With it, exactly one host has `is_main_host: true`.

When only one of the two keys at the top is given, the other is the same path with or without `.pub`. When
neither is given, the key pair is the one in the [data folder](environment.md#folders). Paths are relative
to the project folder; `~` at the beginning is your home folder.
"""

_CONFIG_EXAMPLE = """\
## Example

```json
{
  "testbed_host_ssh_config": {
    "one": {"ip": "192.0.2.11", "user": "nocloud", "testbed_nic": "enp1s0", "is_main_host": true},
    "two": {"ip": "192.0.2.12", "user": "nocloud", "testbed_nic": "enp1s0", "memory_mb": 16384}
  },
  "ssh_public_key_location": "~/.ssh/lab.pub",
  "ssh_private_key_location": "~/.ssh/lab"
}
```
"""


def yaml_page() -> str:
    """The page of ``kvm-compose.yaml``."""
    schema = schemas().testbed(DEFAULT_DIALECT)
    catalogue = read_catalogue()
    known = ((image.name, image.title) for image in (*catalogue.images, *catalogue.built))
    images = ([f"`{name}`", prose(title)] for name, title in known)
    chosen = ([f"`{name}`", prose(_strategy_text(name))] for name in strategies())
    return document(
        [
            _YAML_INTRO,
            *_sections(schema, ""),
            "## Placement strategies",
            table(["name", "what it does"], chosen),
            "## Images by name",
            "What `cloud_image.name` may be, besides names you gave with `kvm-compose cloud-images add`.",
            table(["name", "image"], images),
        ]
    )


def config_page() -> str:
    """The page of ``kvm-compose-config.json``."""
    return document([_CONFIG_INTRO, *_sections(schemas().config(), ""), _CONFIG_EXAMPLE])


def _strategy_text(name: str) -> str:
    module = importlib.import_module(f"kvmcompose.placement.{name}")
    return (inspect.getdoc(module) or "").replace("\n\n", " ").replace("\n", " ")


def _sections(schema: Schema, path: str) -> Iterator[str]:
    """A section for the mapping at ``path``, then one for each mapping in it."""
    properties = schema.get("properties", {})
    choice = [key for branch in schema.get("oneOf", ()) for key in branch.get("required", ())]
    if properties:
        yield f"## {f'`{path}`' if path else 'Top level'}"
        yield prose(schema.get("description", ""))
        rows = [
            [
                f"`{key}`",
                _value(each, f"{path}.{key}" if path else key),
                _presence(key, each, schema.get("required", ()), choice),
                prose(each.get("description", "")),
            ]
            for key, each in properties.items()
        ]
        yield table(["key", "value", "", "meaning"], rows)
    for key, each in properties.items():
        for inner, inner_path in _mappings(each, f"{path}.{key}" if path else key):
            yield from _sections(inner, inner_path)


def _mappings(schema: Schema, path: str) -> Iterator[tuple[Schema, str]]:
    """The mappings that are described in a section of their own."""
    if schema.get("properties"):
        yield schema, path
    items, others = schema.get("items"), schema.get("additionalProperties")
    if isinstance(items, dict):
        yield from _mappings({"description": schema.get("description", ""), **items}, f"{path}[]")
    if isinstance(others, dict):
        yield from _mappings(others, f"{path}.<name>")


def _value(schema: Schema, path: str) -> str:
    wanted = prose(describe(schema))
    items = schema.get("items")
    if schema.get("type") == "array" and isinstance(items, dict) and "x-wanted" not in schema:
        wanted = "a list"
        if "properties" not in items:
            wanted = f"a list of: {prose(describe(items))}"
    below = [inner for _, inner in _mappings(schema, path)]
    if below:
        return f"[{wanted}](#{anchor(below[0])})"
    examples = ", ".join(f"`{each}`" for each in schema.get("examples", ()))
    return f"{wanted} ({examples})" if examples and examples.strip("`") not in wanted else wanted


def _presence(key: str, schema: Schema, required: list[str], choice: list[str]) -> str:
    if key in choice:
        others = " or ".join(f"`{each}`" for each in choice if each != key)
        return f"this or {others}"
    if key in required:
        return "required"
    default = schema.get("default")
    if default in (None, [], {}):
        return ""
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    return f"default `{shown}`"
