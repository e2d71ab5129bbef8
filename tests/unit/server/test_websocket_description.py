"""``/asyncapi.json`` describes each WebSocket as it is served, and as ``/openapi.json`` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi import FastAPI
from fastapi.routing import APIWebSocketRoute
from jsonschema import Draft7Validator

from kvmcompose.server.api import asyncapi, create_app, openapi

#: Parameters of requests alone: a WebSocket looks without being asked.
_OF_REQUESTS = {"/api/deployments": {"look"}}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(Mock(), Mock())


def _routes(routes: Iterable[Any]) -> Iterator[Any]:
    """Yield all routes, of routers that are included, too."""
    for route in routes:
        included = getattr(route, "original_router", None)
        yield from _routes(included.routes) if included is not None else (route,)


def test_every_websocket_is_described(app: FastAPI) -> None:
    served = {route.path for route in _routes(app.routes) if isinstance(route, APIWebSocketRoute)}
    described = [channel["address"] for channel in asyncapi.document()["channels"].values()]
    assert sorted(described) == sorted(served)


def test_parameters_of_websockets_are_those_of_their_requests(app: FastAPI) -> None:
    paths = openapi.document(app)["paths"]
    for channel in asyncapi.document()["channels"].values():
        others = _OF_REQUESTS.get(channel["address"], set())
        of_request = paths[channel["address"]]["get"].get("parameters", [])
        assert others <= {each["name"] for each in of_request}
        given = [each for each in of_request if each["name"] not in others]
        named = {
            place: {each["name"] for each in given if each["in"] == place} for place in ("path", "query")
        }
        query = channel["bindings"]["ws"]["query"]["properties"]
        assert set(channel["parameters"]) == named["path"], channel["address"]
        assert set(query) == named["query"], channel["address"]
        for each in given:
            if each["in"] == "query":
                assert query[each["name"]]["description"] == each["description"]


def test_references_of_the_description_lead_somewhere() -> None:
    document = asyncapi.document()

    def check(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                found: Any = document
                for name in part["$ref"].removeprefix("#/").split("/"):
                    found = found[name]
            part = list(part.values())
        for each in part if isinstance(part, list) else ():
            check(each)

    check(document)
    for message in document["components"]["messages"].values():
        payload = message["payload"]
        Draft7Validator.check_schema(payload.get("schema", payload))
