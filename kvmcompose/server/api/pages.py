"""The API's reference as one page: no script, nothing from elsewhere, so that it works anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any

Json = dict[str, Any]

_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}"
    "code,pre{font-family:monospace;background:#f3f3f3}h2{border-bottom:1px solid #ccc;margin-top:2em}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;"
    "vertical-align:top}"
)


def reference(document: Json) -> str:
    """The OpenAPI document for reading, as HTML."""
    info = document["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{_prose(info['description'])}</p>",
        "<p>The same for programs: <a href=/openapi.json>/openapi.json</a> (OpenAPI 3.1).</p>",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method.upper(), path, operation)
    parts.append("<h1>Values</h1>")
    for name, schema in document["components"]["schemas"].items():
        parts += _schema(name, schema)
    return "\n".join(parts)


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield f"<h2><code>{method} {escape(path)}</code></h2><p>{_prose(operation.get('description', ''))}</p>"
    rows = [
        (each["name"], f"in the {each['in']}", _type(each["schema"]))
        for each in operation.get("parameters", ())
    ]
    if "requestBody" in operation:
        rows.append(("body", "JSON", _content(operation["requestBody"])))
    errors = []
    for status, response in operation["responses"].items():
        if status.startswith(("4", "5")):
            errors.append(f"{status} {escape(response['description'])}")
        else:
            rows.append((status, escape(response["description"]), _content(response)))
    yield "<table>"
    yield from (f"<tr><th>{escape(a)}<td>{b}<td>{c}" for a, b, c in rows)
    yield f"</table><p>Errors: {', '.join(errors)}</p>"


def _content(part: Json) -> str:
    return ", ".join(_type(each["schema"]) for each in part.get("content", {}).values()) or "nothing"


def _schema(name: str, schema: Json) -> Iterator[str]:
    yield f"<h2 id={escape(name)}>{escape(name)}</h2><p>{_prose(schema.get('description', ''))}</p>"
    if "properties" not in schema:
        yield f"<p>{_type(schema)}</p>"
        return
    required = schema.get("required", ())
    yield "<table>"
    for key, value in schema["properties"].items():
        need = "required" if key in required else "optional"
        yield f"<tr><th>{escape(key)}<td>{need}<td>{_type(value)} {_prose(value.get('description', ''))}"
    yield "</table>"


def _type(schema: Json) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href=#{name}>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if schema.get("items") else "list"
    limits = [
        f"{word} <code>{escape(str(schema[key]))}</code>"
        for key, word in (("pattern", "like"), ("minimum", "from"), ("maximum", "to"), ("default", "default"))
        if schema.get(key) is not None
    ]
    return " ".join([escape(str(schema.get("type", "any"))), *limits])


def _prose(text: str) -> str:
    """The few marks of our docstrings as HTML."""
    return re.sub(r"`{1,2}([^`]+)`{1,2}", r"<code>\1</code>", escape(text))
