"""The reference of both input files, from the descriptions in ``schemas/``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from markdown_text import anchor, document, prose, table

from kvmcompose.effects.resources import schemas
from kvmcompose.images.store import read_catalogue
from kvmcompose.pipeline.messages import describe
from kvmcompose.pipeline.schemas import DEFAULT_DIALECT, DEFAULTS
from kvmcompose.placement import strategies

Schema = dict[str, Any]

_YAML_INTRO = """\
# kvm-compose.yaml

One YAML document that describes a testbed. The tables below list all keys; any other key is an error.
In a heading, `[]` means each item of a list.

The expected type determines how a value is read, not its form: where text is expected,
`52:54:00:12:34:56`, `on` and `010` are text. Write numbers in decimal digits without quotes, and booleans
as `true` and `false`. Duplicate keys in a mapping are errors. Anchors, aliases and `<<` are supported; tags
are not. An empty value counts as omitted where a mapping or a list is expected.

Paths are relative to the project folder; a leading `~` is your home folder. Scripts, contexts, environment
files and volumes must be in the project folder, after following links, or in a folder that `--allow-path`
names. Disk images may be anywhere.

`kvm-compose schema` prints the same information as JSON Schema, for editors. [Problems](problems.md)
lists all errors, including those that a schema cannot express.
"""

_CONFIG_INTRO = """\
# kvm-compose-config.json

The testbed hosts. Without this file there is one host, called `main`: this machine, with `virt_type` and
`datapath_type` detected. In the file, exactly one host must have `is_main_host: true`.

If only one of the two SSH keys at the top level is set, the other is the same path with or without `.pub`.
If neither is set, the key pair in the [data folder](environment.md#folders) is used. Paths are relative to
the project folder; a leading `~` is your home folder.
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
    """Return the page of ``kvm-compose.yaml``."""
    schema = schemas().testbed(DEFAULT_DIALECT)
    # its keys are those of machines
    schema["properties"][DEFAULTS] = {
        key: each for key, each in schema["properties"][DEFAULTS].items() if key != "properties"
    }
    catalogue = read_catalogue()
    known = ((image.name, image.title) for image in (*catalogue.images, *catalogue.built))
    images = ([f"`{name}`", prose(title)] for name, title in known)
    chosen = ([f"`{name}`", prose(_strategy_text(name))] for name in strategies())
    return document(
        [
            _YAML_INTRO,
            *_sections(schema, ""),
            *(part for dialect in schemas().dialects[1:] for part in _dialect(dialect, schema)),
            "## Placement strategies",
            table(["name", "description"], chosen),
            "## Images by name",
            "Values of `cloud_image.name`, in addition to those of `kvm-compose cloud-images add`.",
            table(["name", "image"], images),
        ]
    )


def _dialect(name: str, usual: Schema) -> Iterator[str]:
    """Yield the sections of another network dialect: what differs from the usual one."""
    schema = schemas().testbed(name)
    network, machine = schema["properties"]["network"], schema["properties"]["machines"]["items"]
    known = usual["properties"]["machines"]["items"]["properties"]
    yield f"## Networks with `{name}`"
    yield prose(network["description"])
    parts = {f"network.{key}": each for key, each in network["properties"].items()}
    parts |= {
        # one entry may be written without its list, which has no section of its own
        f"machines[].{key}": {one: other for one, other in each.items() if one != "properties"}
        for key, each in machine["properties"].items()
        if key not in known
    }
    scaling = machine["properties"]["libvirt"]["properties"]["scaling"]["properties"]
    parts["machines[].libvirt.scaling.interfaces"] = scaling["interfaces"]
    for path, part in parts.items():
        for inner, inner_path in _mappings(part, path):
            yield from _sections(inner, inner_path)


def config_page() -> str:
    """Return the page of ``kvm-compose-config.json``."""
    return document([_CONFIG_INTRO, *_sections(schemas().config(), ""), _CONFIG_EXAMPLE])


def _strategy_text(name: str) -> str:
    module = importlib.import_module(f"kvmcompose.placement.{name}")
    return (inspect.getdoc(module) or "").replace("\n\n", " ").replace("\n", " ")


def _sections(schema: Schema, path: str) -> Iterator[str]:
    """Yield a section for the mapping at ``path``, then one for each mapping in it."""
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
    """Yield the mappings that have their own section."""
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
