"""``/metrics`` as Prometheus asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import requests
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from stub import TOKEN, StubServer
from test_api import ask, assert_problem, run
from test_events import open_events

from kvmcompose.core.deployment import NewDeployment


@pytest.fixture
def server(stub: StubServer) -> StubServer:
    stub.client().put(NewDeployment("demo", str(stub.project("demo"))))
    return stub


def values(text: str) -> dict[str, float]:
    """Samples as ``name{label=value,…}``."""
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in plain(text)
        for sample in family.samples
    }


def scrape(server: StubServer, **headers: str) -> requests.Response:
    answer = ask(server, "GET", "/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def test_on_the_socket_and_with_a_token(server: StubServer) -> None:
    answer = scrape(server)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = values(answer.text)
    assert found["kvmcompose_deployment_state deployment=demo state=down"] == 1
    assert found["kvmcompose_build_info version=1"] == 1
    assert found["process_resident_memory_bytes"] > 1e6
    given = {"Authorization": f"Bearer {TOKEN}"}
    by_tcp = requests.get(f"{server.tcp}/metrics", headers=given, timeout=20)
    assert by_tcp.status_code == 200
    assert "kvmcompose_deployment_state" in by_tcp.text
    refused = requests.get(f"{server.tcp}/metrics", timeout=20)
    assert_problem(refused, 401)
    assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", "openmetrics"),
        ("text/plain;version=0.0.4", "plain"),
        ("application/openmetrics-text-not", "plain"),
        ("*/*;version=\\x00;;,,=", "plain"),
        ("text/plain;version=a.b.c;escaping=../..", "plain"),
    ],
)
def test_formats(server: StubServer, accept: str, format_: str) -> None:
    answer = scrape(server, Accept=accept)
    is_open = answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert is_open is (format_ == "openmetrics")
    families = list(openmetrics(answer.text) if is_open else plain(answer.text))
    assert "kvmcompose_deployment_state" in {each.name for each in families}


def test_parameters_and_other_methods_are_refused(server: StubServer) -> None:
    assert_problem(ask(server, "GET", "/metrics?name=x"), 422, "unknown parameter")
    assert_problem(ask(server, "POST", "/metrics"), 405)


def test_requests_are_counted_by_route(server: StubServer) -> None:
    for path in ("/api/deployments/demo", "/api/deployments/none", "/api/nothing", "/api/nothing-else"):
        ask(server, "GET", path)
    ask(server, "BREW", "/api/deployments")
    found = values(scrape(server).text)
    counted = "kvmcompose_http_requests_total method={} route={} status={}".format
    assert found[counted("GET", "/api/deployments/{name}", 200)] == 1
    assert found[counted("GET", "/api/deployments/{name}", 404)] == 1
    assert found[counted("GET", "other", 404)] == 2
    assert [name for name in found if "BREW" in name] == []
    assert found["kvmcompose_http_requests_in_progress"] == 1
    assert counted("GET", "/metrics", 200) not in found
    assert values(scrape(server).text)[counted("GET", "/metrics", 200)] == 1


@contextlib.contextmanager
def following(server: StubServer) -> Iterator[None]:
    with contextlib.closing(open_events(server)) as events:
        events.recv()
        yield


def test_event_sockets_are_counted_while_they_are_open(server: StubServer) -> None:
    with following(server), following(server):
        found = values(scrape(server).text)
        assert (found["kvmcompose_event_sockets"], found["kvmcompose_websockets"]) == (2, 2)


def test_actions_are_counted(server: StubServer) -> None:
    run(server, "demo", "say", "1")
    run(server, "demo", "fail")
    found = values(scrape(server).text)
    ended = "kvmcompose_actions_total command=exec deployment=demo result={}".format
    assert (found[ended("succeeded")], found[ended("failed")]) == (1, 1)
