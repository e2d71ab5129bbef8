"""The OpenAPI 3.1 document: routes from FastAPI, schemas of requests and responses from msgspec."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from kvmcompose import __version__
from kvmcompose.core.access import (
    ConsoleOpened,
    ConsolePart,
    GuestAccess,
    GuestTerminals,
    ShellEnded,
    TerminalSize,
)
from kvmcompose.core.command_output import CommandEvent
from kvmcompose.core.commands import Command
from kvmcompose.core.deployment import (
    Action,
    ActionAccepted,
    Deployment,
    Health,
    LogLine,
    NewDeployment,
    ProblemDetails,
    SnapshotStatus,
    Step,
    TestbedStatus,
)
from kvmcompose.core.deployment_event import DeploymentEvent
from kvmcompose.core.explained import Explanation
from kvmcompose.core.picture import TestbedPicture
from kvmcompose.core.planned import PlanDocument, PlanRequest, TestbedPlan
from kvmcompose.core.project_file import (
    CheckedFile,
    NewText,
    ProjectFile,
    ProjectOptions,
    ProjectUp,
    SavedText,
)
from kvmcompose.core.session import LinkUse, NewLink, NewSession, SignedIn, SignIn, SignInLink
from kvmcompose.server.api.byte_reply import NDJSON
from kvmcompose.server.api.problems import MEDIA_TYPE

Json = dict[str, Any]

_DESCRIPTION = """\
The API of `kvm-compose server`. On its Unix socket the kernel identifies the user; on TCP every request
carries a token (`Authorization: Bearer ...`) or, from a browser, the cookie and the key of a session
(`X-Kvm-Compose-Key`). A deployment has an owner: other users, unless they are
administrators, may not access its parts (403). Errors are problem details (RFC 9457).
"""
_REFERENCE = "#/components/schemas/{name}"
_JSON = "application/json"
_BYTES = {"type": "string", "format": "binary"}
#: Errors that any request can get.
_ALWAYS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_URI_TOO_LONG,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
)


class Alive(msgspec.Struct, frozen=True, tag_field="status", tag="ok"):
    """The server is running. This is all that a client without a token gets."""


_TYPES: dict[str, Any] = {
    "known": Health,
    "alive": Alive,
    "new": NewDeployment,
    "deployment": Deployment,
    "deployments": list[Deployment],
    "command": Command,
    "accepted": ActionAccepted,
    "action": Action,
    "actions": list[Action],
    "steps": list[Step],
    "lines": list[LogLine],
    "status": TestbedStatus,
    "planned": PlanRequest,
    "plan": TestbedPlan,
    "picture": TestbedPicture,
    "access": list[GuestAccess],
    "snapshots": list[SnapshotStatus],
    "console": ConsolePart,
    "terminals": GuestTerminals,
    "console_opened": ConsoleOpened,
    "terminal_size": TerminalSize,
    "shell_ended": ShellEnded,
    "project_file": ProjectFile,
    "saved_text": SavedText,
    "new_text": NewText,
    "checked_file": CheckedFile,
    "project_options": ProjectOptions,
    "project_plan": PlanDocument,
    "project_up": ProjectUp,
    "explained": tuple[Explanation, ...],
    "command_event": CommandEvent,
    "problem": ProblemDetails,
    "signed-in": SignedIn,
    "sign-in": SignIn,
    "session": NewSession,
    "new-link": NewLink,
    "link": SignInLink,
    "link-use": LinkUse,
    "event": DeploymentEvent,
    "line": LogLine,
}


def _all_schemas() -> tuple[dict[str, Json], Json]:
    found, components = msgspec.json.schema_components(_TYPES.values(), ref_template=_REFERENCE)
    # a problem of an input; that of a request has had its name since 0.2
    found, components = _renamed((found, components), "Problem", "InputProblem")
    components["InputProblem"] = {**components.pop("Problem"), "title": "InputProblem"}
    by_name = dict(zip(_TYPES, found, strict=True))
    # published under this name since 0.2
    components["Problem"] = {**components.pop("ProblemDetails"), "title": "Problem"}
    by_name["problem"] = {"$ref": _REFERENCE.format(name="Problem")}
    report = components["StatusReport"]["properties"]
    report["problem"] = {"anyOf": [{"type": "null"}, by_name["problem"]], "default": None}
    components["DeploymentEvent"] = {"title": "DeploymentEvent", **by_name["event"]}
    by_name["event"] = {"$ref": _REFERENCE.format(name="DeploymentEvent")}
    by_name["health"] = {"anyOf": [by_name["known"], by_name["alive"]]}
    by_name["state"] = {"type": "object", "description": "state.json"}
    by_name["schema"] = {"type": "object", "description": "a JSON Schema (2020-12)"}
    return by_name, components


def _renamed(document: Any, old: str, new: str) -> Any:
    """Return a document whose references to one schema are to another."""
    if isinstance(document, dict):
        return {key: _renamed(value, old, new) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_renamed(each, old, new) for each in document]
    return _REFERENCE.format(name=new) if document == _REFERENCE.format(name=old) else document


#: ``COMPONENTS``: the schemas of all types, by name.
_SCHEMAS, COMPONENTS = _all_schemas()


def described(
    answer: str | None,
    *errors: HTTPStatus,
    status: HTTPStatus = HTTPStatus.OK,
    also: HTTPStatus | None = None,
    body: str | None = None,
    stream: str | None = None,
    sent: str | None = None,
    messages: str | None = None,
    unchanged: bool = False,
    lines: bool = False,
) -> Json:
    """Return the keywords that describe a route: request and response, by the names above, and errors.

    ``also`` is a second status with the same response; ``stream`` is the media type of a response of bytes,
    ``sent`` that of a request of bytes.
    ``unchanged``: it may answer 304.
    ``messages`` is what a WebSocket sends, for which OpenAPI has no word of its own. ``lines``: the response
    is a stream of such answers, a line each.
    """
    extra: Json = {}
    if body is not None or sent is not None:
        errors = (
            *errors,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
        content = {_JSON: {"schema": _SCHEMAS[body]}} if body is not None else {sent: {"schema": _BYTES}}
        extra = {"requestBody": {"required": True, "content": content}}
    responses: dict[int | str, Json] = {}
    for good in (status, also):
        if good is not None:
            responses[good.value] = {"description": good.phrase}
            if messages is not None:
                responses[good.value]["x-websocket-message"] = _SCHEMAS[messages]
            if answer is not None:
                kind = NDJSON if lines else _JSON
                responses[good.value]["content"] = {kind: {"schema": _SCHEMAS[answer]}}
            elif stream is not None:
                responses[good.value]["content"] = {stream: {"schema": _BYTES}}
    if unchanged:
        responses[HTTPStatus.NOT_MODIFIED.value] = {"description": HTTPStatus.NOT_MODIFIED.phrase}
    details = {MEDIA_TYPE: {"schema": _SCHEMAS["problem"]}}
    usual = (*_ALWAYS, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.INTERNAL_SERVER_ERROR)
    for each in sorted({*usual, *errors}):
        responses[each.value] = {"description": each.phrase, "content": details}
    return {
        "status_code": status.value,
        "responses": responses,
        "openapi_extra": extra,
        "response_model": None,
    }


def document(app: FastAPI) -> Json:
    """Return the document, which is generated once."""
    if app.openapi_schema is None:
        made = get_openapi(
            title="kvm-compose server",
            version=__version__,
            description=_DESCRIPTION,
            routes=app.routes,
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        )
        parts = made.setdefault("components", {})
        parts["schemas"] = COMPONENTS
        parts["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer", "description": "On TCP; not on the Unix socket."},
            "key": {
                "type": "apiKey",
                "in": "header",
                "name": "X-Kvm-Compose-Key",
                "description": "Of a session, beside its cookie (see `POST /api/session`).",
            },
        }
        made["security"] = [{}, {"token": []}, {"key": []}]
        app.openapi_schema = made
    return app.openapi_schema
