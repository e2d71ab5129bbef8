"""The API is as its OpenAPI document says, whatever it is asked (schemathesis)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from stub import TOKEN, StubServer

from kvmcompose.core.commands import Exec
from kvmcompose.core.deployment import NewDeployment
from kvmcompose.server.api import sessions
from random_cases import cases

pytestmark = pytest.mark.long

schemathesis.serializer.alias("application/x-tar", "application/octet-stream")
#: What is asked well and refused all the same, as a schema cannot say all: no such folder,
#: no WebSocket, no testbed, options beside a plan.
_MORE_THAN_A_SCHEMA = {
    "GET /api/deployments/{name}/actions/{uuid}/input",
    "GET /api/deployments/{name}/actions/{uuid}/logs",
    "GET /api/deployments/{name}/events",
    "GET /api/deployments/{name}/guests/{guest}/console",
    "GET /api/deployments/{name}/guests/{guest}/screen",
    "GET /api/deployments/{name}/guests/{guest}/shell",
    "GET /api/deployments/{name}/guests/{guest}/ssh",
    "POST /api/deployments",
    "POST /api/deployments/{name}/plan",
    "POST /api/session",
    "POST /api/deployments/{name}/project/up",
    "PUT /api/deployments/{name}",
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "WRONG_SECONDS", 0.0)


def _operations(server: StubServer) -> dict[str, Any]:
    schema = schemathesis.openapi.from_url(f"{server.tcp}/openapi.json")
    found = [result.ok() for result in schema.get_all_operations()]
    return {f"{each.method.upper()} {each.path}": each for each in found}


def _ask(operation: Any, mode: GenerationMode, **path: str) -> set[int]:
    """Ask what the description allows, or what it does not; the statuses that were answered."""
    statuses = set()
    name = f"{operation.method.upper()} {operation.path}"
    excluded = [positive_data_acceptance] if name in _MORE_THAN_A_SCHEMA else []

    @settings(
        cases(25),
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        for key, value in path.items():
            if key in (case.path_parameters or {}):
                case.path_parameters[key] = value
        answer = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
        statuses.add(answer.status_code)
        more = [negative_data_rejection] if answer.status_code == HTTPStatus.REQUEST_URI_TOO_LONG else []
        case.validate_response(answer, excluded_checks=[*excluded, *more])  # it does not expect that status

    ask()
    return statuses


def _no_faults(statuses: dict[str, set[int]]) -> None:
    assert not any(status >= 500 for each in statuses.values() for status in each), statuses


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_is_one_that_is_described(stub: StubServer, mode: GenerationMode) -> None:
    statuses = {}
    for name, operation in _operations(stub).items():
        try:
            statuses[name] = _ask(operation, mode)
        except Unsatisfiable:  # what has no parameters cannot have wrong ones
            assert mode is GenerationMode.NEGATIVE
            assert "{" not in name
    assert len(statuses) > 12
    _no_faults(statuses)
    assert stub.stub.ran == []
    assert stub.inside(stub.store.deployments) == []


def test_answers_about_what_there_is_are_as_described(stub: StubServer) -> None:
    new = NewDeployment("demo", str(stub.project("demo")))
    client = stub.client()
    client.put(new)
    uuid = client.act("demo", Exec(guest="web", argv=("say", "20", "fail")))
    statuses = {}
    for name, operation in _operations(stub).items():
        statuses[name] = _ask(operation, GenerationMode.POSITIVE, name="demo", uuid=uuid)
        client.put(new)
        if name.startswith("DELETE"):
            uuid = client.act("demo", Exec(guest="web", argv=("say", "20", "fail")))
    _no_faults(statuses)
    for name, found in statuses.items():
        if name.startswith("GET") and not name.endswith(
            (
                "/input",
                "/logs",
                "/events",
                "/ssh",
                "/snapshots",
                "/files",
                "/{guest}/console",
                "/screen",
                "/shell",
                "/links/{uuid}",
            )
        ):
            assert found == {200}, name
    assert statuses["GET /api/deployments/{name}/actions/{uuid}/logs"] == {426}
    assert statuses["GET /api/deployments/{name}/actions/{uuid}/input"] == {409}
    assert statuses["GET /api/deployments/{name}/guests/{guest}/ssh"] == {426}
    assert statuses["GET /api/links/{uuid}"] == {404}
    assert 202 in statuses["POST /api/deployments/{name}/action"]
    assert stub.stub.ran
