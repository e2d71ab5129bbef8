"""The AsyncAPI 3.0 document of the stream of events; its schemas are those of the OpenAPI document."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from kvmcompose import __version__
from kvmcompose.core.commands import PROJECT_PATTERN
from kvmcompose.core.deployment_event import DeploymentEvent
from kvmcompose.server.api.openapi import COMPONENTS
from kvmcompose.server.api.streaming import MAX_SEQUENCE

Json = dict[str, Any]

_SCHEMA_FORMAT = "application/schema+json;version=draft-07"
_DESCRIPTION = """\
The events of a deployment, as a WebSocket: each text message is one event as JSON. Stored events come first,
then new ones. After a lost connection, connect again with the number of the last event as `after`: no event
is lost, and none comes twice. The server closes the stream with 1000 when the action has ended or the
deployment was removed, with 1001 when it stops. Clients send nothing, and ignore events of types that they do
not know.
`/openapi.json` describes the rest of the API, and who may use it.
"""
_QUERY: Json = {
    "type": "object",
    "properties": {
        "after": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_SEQUENCE,
            "description": "Only events after this number. Without it, the current state and what follows.",
        },
        "action": {
            "type": "string",
            "format": "uuid",
            "description": "Only events of this action, until it ends.",
        },
        "status": {
            "type": "boolean",
            "default": False,
            "description": "Also the live status, every few seconds. Excludes action.",
        },
    },
}


def document() -> Json:
    """Return the document."""
    names = [kind.__name__ for kind in get_args(DeploymentEvent)]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "kvm-compose server: events",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": {
                "address": "/api/deployments/{name}/events",
                "description": "The events of one deployment.",
                "parameters": {"name": {"description": f"The deployment: {PROJECT_PATTERN}"}},
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
                "bindings": {"ws": {"method": "GET", "query": _QUERY, "bindingVersion": "0.1.0"}},
            }
        },
        "operations": {
            "follow": {
                "action": "send",
                "channel": {"$ref": "#/channels/events"},
                "summary": "The server sends events as they happen.",
            }
        },
        "components": {
            "messages": {kind.__name__: _message(kind) for kind in get_args(DeploymentEvent)},
            "schemas": _needed(names),
        },
    }


def _message(kind: type[msgspec.Struct]) -> Json:
    schema = COMPONENTS[kind.__name__]
    return {
        "name": kind.__struct_config__.tag,
        "title": kind.__name__,
        "summary": schema["description"],
        "contentType": "application/json",
        "payload": {
            "schemaFormat": _SCHEMA_FORMAT,
            "schema": {"$ref": f"#/components/schemas/{kind.__name__}"},
        },
    }


def _needed(names: list[str]) -> Json:
    """Return the schemas of these names and of what they refer to."""
    found: Json = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found[name] = COMPONENTS[name]
            waiting += _references(COMPONENTS[name])
    return found


def _references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"].rpartition("/")[2]] if isinstance(part.get("$ref"), str) else []
        return own + [name for value in part.values() for name in _references(value)]
    if isinstance(part, list):
        return [name for value in part for name in _references(value)]
    return []
