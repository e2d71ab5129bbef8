"""The AsyncAPI 3.0 document of all WebSockets; its schemas are those of the OpenAPI document."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, get_args

import msgspec

from kvmcompose import __version__
from kvmcompose.core.access import MOST_CHARACTERS
from kvmcompose.core.commands import PROJECT_PATTERN
from kvmcompose.core.deployment_event import DeploymentEvent
from kvmcompose.server.api import routes
from kvmcompose.server.api.deployment_list import follow_deployments
from kvmcompose.server.api.guest_shell import COLUMNS, ROWS
from kvmcompose.server.api.openapi import COMPONENTS
from kvmcompose.server.api.streaming import MAX_SEQUENCE
from kvmcompose.server.api.terminal_stream import LEAST_WINDOW, MOST_WINDOW

Json = dict[str, Any]

_SCHEMA_FORMAT = "application/schema+json;version=draft-07"
_DESCRIPTION = """\
What a server sends and takes over WebSockets: the list of deployments, the events of a deployment, the log
and the input of an action, the console and the screen of a guest, a shell in it, and a connection to its SSH
server.
A WebSocket is refused by an HTTP response with problem details. It is closed with 1008 when the token or
session is no longer valid, or when the client sends what it must not.
`/openapi.json` describes the rest of the API, and who may use it.
"""
_EVENTS = """\
The events of one deployment: each text message is one event as JSON. Stored events come first, then new ones.
After a lost connection, connect again with the number of the last event as `after`: no event
is lost, and none comes twice. The server closes the stream with 1000 when the action has ended or the
deployment was removed, with 1001 when it stops. Clients send nothing, and ignore events of types that they do
not know.
"""
_AFTER: Json = {"type": "integer", "minimum": 0, "maximum": MAX_SEQUENCE}
_FLAG: Json = {"type": "boolean", "default": False}
_WINDOW: Json = {
    "type": "integer",
    "minimum": LEAST_WINDOW,
    "maximum": MOST_WINDOW,
    "description": "Send at most so many bytes more than the client has taken, which it reports.",
}
_CHARACTERS: Json = {"type": "integer", "minimum": 1, "maximum": MOST_CHARACTERS}
_PARAMETERS = MappingProxyType(
    {
        "name": f"The deployment: {PROJECT_PATTERN}",
        "uuid": "The UUID of the action.",
        "guest": "The name of the guest.",
    }
)
#: Messages that are no objects: the bytes of a stream, how many of them were taken, and a list.
_BYTES, _TAKEN, _DEPLOYMENTS = "Bytes", "Taken", "Deployments"
_PLAIN = MappingProxyType(
    {
        _BYTES: {
            "name": "bytes",
            "title": _BYTES,
            "summary": "A binary message: the next bytes.",
            "contentType": "application/octet-stream",
            "payload": {"type": "string", "format": "binary"},
        },
        _TAKEN: {
            "name": "taken",
            "title": _TAKEN,
            "summary": "A text message: how many bytes were taken so far, as a decimal number.",
            "contentType": "text/plain",
            "payload": {"type": "integer", "minimum": 0},
        },
        _DEPLOYMENTS: {
            "name": "deployments",
            "title": _DEPLOYMENTS,
            "summary": "All deployments, by name.",
            "contentType": "application/json",
            "payload": {
                "schemaFormat": _SCHEMA_FORMAT,
                "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Deployment"}},
            },
        },
    }
)


class _Socket(msgspec.Struct, frozen=True):
    """A WebSocket: its address below ``/api/deployments``, what it is, its query, and its messages."""

    address: str
    description: str
    query: Mapping[str, Json] = MappingProxyType({})
    sent: tuple[str, ...] = ()
    received: tuple[str, ...] = ()


def _said(handler: Callable[..., object]) -> str:
    """Return what the OpenAPI document says of a WebSocket."""
    return inspect.cleandoc(handler.__doc__ or "")


_SOCKETS = MappingProxyType(
    {
        "deployments": _Socket("", _said(follow_deployments), sent=(_DEPLOYMENTS,)),
        "events": _Socket(
            "/{name}/events",
            _EVENTS,
            {
                "after": {
                    **_AFTER,
                    "description": "Only events after this number; "
                    "without it, the current state and what follows.",
                },
                "action": {
                    "type": "string",
                    "format": "uuid",
                    "description": "Only events of this action, until it ends.",
                },
                "status": {
                    **_FLAG,
                    "description": "Also the live status, every few seconds. Excludes `action`.",
                },
            },
            sent=tuple(kind.__name__ for kind in get_args(DeploymentEvent)),
        ),
        "log": _Socket(
            "/{name}/actions/{uuid}/logs",
            _said(routes.get_log),
            {"after": {**_AFTER, "default": 0, "description": "Only lines after this one."}},
            sent=("LogLine",),
        ),
        "input": _Socket(
            "/{name}/actions/{uuid}/input", _said(routes.get_input), sent=(_TAKEN,), received=(_BYTES,)
        ),
        "console": _Socket(
            "/{name}/guests/{guest}/console",
            _said(routes.get_guest_console),
            {
                "force": {**_FLAG, "description": "Take the console from another user."},
                "watch": {**_FLAG, "description": "Only what the guest prints; any number of clients may."},
                "window": _WINDOW,
            },
            sent=("ConsoleOpened", _BYTES),
            received=(_BYTES, _TAKEN),
        ),
        "shell": _Socket(
            "/{name}/guests/{guest}/shell",
            _said(routes.get_shell),
            {
                "columns": {**_CHARACTERS, "default": COLUMNS, "description": "The width of the terminal."},
                "rows": {**_CHARACTERS, "default": ROWS, "description": "Its height."},
                "window": _WINDOW,
            },
            sent=(_BYTES, "ShellEnded"),
            received=(_BYTES, "TerminalSize", _TAKEN),
        ),
        "screen": _Socket(
            "/{name}/guests/{guest}/screen", _said(routes.get_screen), sent=(_BYTES,), received=(_BYTES,)
        ),
        "ssh": _Socket(
            "/{name}/guests/{guest}/ssh", _said(routes.get_ssh), sent=(_BYTES,), received=(_BYTES,)
        ),
    }
)


def document() -> Json:
    """Return the document."""
    used = dict.fromkeys(name for each in _SOCKETS.values() for name in (*each.sent, *each.received))
    operations = {
        (f"{name}.{action}"): {
            "action": action,
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": f"The server {verb} messages.",
            "messages": [{"$ref": f"#/channels/{name}/messages/{each}"} for each in messages],
        }
        for name, socket in _SOCKETS.items()
        for action, verb, messages in (
            ("send", "sends", socket.sent),
            ("receive", "takes", socket.received),
        )
        if messages
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "kvm-compose server: WebSockets",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {name: _channel(socket) for name, socket in _SOCKETS.items()},
        "operations": operations,
        "components": {
            "messages": {name: _message(name) for name in used},
            "schemas": _needed(["Deployment", *(name for name in used if name not in _PLAIN)]),
        },
    }


def _channel(socket: _Socket) -> Json:
    address = f"/api/deployments{socket.address}"
    query = {"type": "object", "properties": dict(socket.query), "additionalProperties": False}
    return {
        "address": address,
        "description": socket.description,
        "parameters": {
            name: {"description": _PARAMETERS[name]} for name in re.findall(r"{([a-z]+)}", address)
        },
        "messages": {
            name: {"$ref": f"#/components/messages/{name}"}
            for name in dict.fromkeys((*socket.sent, *socket.received))
        },
        "bindings": {"ws": {"method": "GET", "query": query, "bindingVersion": "0.1.0"}},
    }


#: What events are called in their messages.
_TAGS = {kind.__name__: kind.__struct_config__.tag for kind in get_args(DeploymentEvent)}


def _message(name: str) -> Json:
    if name in _PLAIN:
        return dict(_PLAIN[name])
    return {
        "name": _TAGS.get(name, name),
        "title": name,
        "summary": COMPONENTS[name]["description"],
        "contentType": "application/json",
        "payload": {
            "schemaFormat": _SCHEMA_FORMAT,
            "schema": {"$ref": f"#/components/schemas/{name}"},
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
