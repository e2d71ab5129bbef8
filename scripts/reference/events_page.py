"""The reference of the events that a server streams, from the same types as its OpenAPI document."""

from __future__ import annotations

import json
from typing import Any, get_args

from markdown_text import document, prose, table

from kvmcompose.core.deployment_event import DeploymentEvent
from kvmcompose.server.api import asyncapi
from kvmcompose.server.api.openapi import COMPONENTS

Json = dict[str, Any]

_INTRO = """\
# Events

A server sends the events of a deployment over a WebSocket: what actions do, what they log, and what becomes
of guests. `up`, `logs -f` and `status --watch` show this stream.

    /api/deployments/NAME/events?after=N

Each text message is one event as a JSON object. `event` names its type, `number` its place in the stream. The
events of a deployment are numbered in order, across actions and restarts of the server. Times are in RFC 3339
format, UTC. The server describes the stream and its other WebSockets, such as consoles and screens of guests,
in `/asyncapi.json` ([as a file](asyncapi.json)), and the rest of the API in `/openapi.json`, both with the
types as JSON Schema.

- `after=N`: only events after number N, first those that are stored, then new ones. `after=0` begins with the
  oldest. Without it, the stream begins with the [current state](#current) and continues with new events.
- `action=UUID`: only events of this action, until it ends.
- `status=true`: the live [status](#status) as well, every 2 seconds or, on slow hosts, less often. It cannot
  be combined with `action`.

Users who may use the deployment may read its events: its owner and the administrators, with any token.

## Writing a client

- Keep the number of the last event. When the connection is lost, connect again with it as `after`: no event
  is lost, and none comes twice. The statuses 502, 503 and 504 mean that the server will soon be back.
- The server closes the stream with 1000 when the action has ended or the deployment was removed, with 1001
  when it stops, and with 1008 when the token or session is no longer valid or the client has sent a message.
  It pings every 20 seconds.
- A client may read slowly. It delays neither actions nor other clients.
- Ignore types of events, and fields, that you do not know: later versions add some.
- The events of an action are kept as long as the action (the latest 200 of a deployment), of the output of
  programs only the newest part. Of events that belong to no action, the latest 10,000 are kept. When some of
  the events that you ask for are no longer kept, or your number is higher than the last one, you receive
  [`missed`](#missed), then [`current`](#current), and then all that is kept. An event has a whole state, not
  a difference, so it does no harm to process one again.
- States of guests are reported while a stream of the deployment (not of an action) is open. When none was
  open for a while, the next one brings what has changed meanwhile.

With the package `websocket-client`, this prints what happens from now on:

```python
import json, socket, websocket

connection = socket.socket(socket.AF_UNIX)
connection.connect("/run/kvm-compose/server.sock")
url = "ws://localhost/api/deployments/lab/events"
stream = websocket.create_connection(url, socket=connection)
while message := stream.recv():
    event = json.loads(message)
    print(event["number"], event["event"])
```
"""


def page() -> str:
    """Return the page."""
    parts = [_INTRO, "## Types"]
    for kind in get_args(DeploymentEvent):
        schema = COMPONENTS[kind.__name__]
        rows = [
            [f"`{name}`", _type(part), "" if name in schema["required"] else "no"]
            for name, part in schema["properties"].items()
            if name != "event"
        ]
        parts += [
            f"### {kind.__struct_config__.tag}",
            prose(schema["description"].replace("``", "`")),
            table(["field", "type", "always present"], [[a, b, c or "yes"] for a, b, c in rows]),
        ]
    return document(parts)


def asyncapi_file() -> str:
    """Return the AsyncAPI document."""
    return json.dumps(asyncapi.document(), indent=2) + "\n"


def _type(part: Json) -> str:
    """Return the type of a field in words."""
    if "$ref" in part:
        return f"`{part['$ref'].rpartition('/')[2]}`"
    if "anyOf" in part:
        return " or ".join(_type(each) for each in part["anyOf"] if each != {"type": "null"})
    if part.get("type") == "array":
        return f"array of {_type(part['items'])}"
    return str(part["type"])
