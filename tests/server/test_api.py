"""What the API answers, asked by an ordinary HTTP client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests
from stub import SECRET_STATE, TOKEN, StubServer

from kvmcompose.client.unix import PlainAdapter
from kvmcompose.core.commands import Exec, Up
from kvmcompose.core.deployment import ActionState, NewDeployment, Phase, ProblemDetails


def session(server: StubServer) -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    made.mount("http://", PlainAdapter(server.address))
    return made


def ask(server: StubServer, method: str, path: str, **options: Any) -> requests.Response:
    with session(server) as asking:
        return asking.request(method, f"http://localhost{path}", timeout=20, **options)


def assert_problem(answer: requests.Response, status: int, *words: str) -> ProblemDetails:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status
    assert told["title"]
    assert "Traceback" not in answer.text
    for word in words:
        assert word in answer.text
    return ProblemDetails(**told)


def register(server: StubServer, name: str) -> None:
    server.client().put(NewDeployment(name, str(server.project(name))))


def run(server: StubServer, name: str, *argv: str) -> str:
    """An action that has ended."""
    client = server.client()
    uuid = client.act(name, Exec(guest="web", argv=argv))
    list(client.follow(name, uuid))
    return uuid


# -- deployments


def test_a_deployment_from_first_to_last(stub: StubServer) -> None:
    folder = stub.project("demo")
    client = stub.client()
    made = client.put(NewDeployment("demo", str(folder)))
    assert (made.name, made.project_location, made.state) == ("demo", str(folder), Phase.DOWN)
    assert client.deployments() == [made]
    assert client.put(NewDeployment("demo", str(folder))) == made
    uuid = client.act("demo", Up(keep_going=True))
    assert [line.text for line in client.follow("demo", uuid)] == ["done"]
    action = client.action("demo", uuid)
    assert action.state is ActionState.SUCCEEDED
    assert action.options == {
        "rerun_scripts": False,
        "rerun_guests": [],
        "recreate": [],
        "reset_clones": False,
        "keep_going": True,
        "provision": False,
        "restart": False,
        "no_repair": False,
        "no_restart": False,
        "guests": [],
        "abandon": [],
    }
    assert client.deployment("demo").state is Phase.UP
    assert [step.name for step in client.steps("demo", uuid)] == ["step"]
    assert client.status("demo").deployment.state is Phase.UP
    assert client.state("demo") == SECRET_STATE
    assert client.access("demo") == []
    assert client.snapshots("demo", "web") == []
    assert_problem(ask(stub, "DELETE", "/api/deployments/demo"), 409, "demo is up")
    stub.inside(lambda: stub.store.set_phase("demo", Phase.DOWN))
    client.remove("demo")
    assert client.deployments() == []


def test_an_action_is_accepted_with_its_place(stub: StubServer) -> None:
    register(stub, "demo")
    answer = ask(stub, "POST", "/api/deployments/demo/action", json={"command": "up"})
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/api/deployments/demo/actions/{answer.json()['uuid']}"
    assert ask(stub, "GET", answer.headers["location"]).json()["command"] == "up"


def test_one_action_at_a_time_and_who_runs_it(stub: StubServer) -> None:
    register(stub, "demo")
    wait = {"command": "exec", "guest": "web", "argv": ["wait"]}
    headers = {"X-Kvm-Compose-Who": "eve\x1b[31m@home" + "x" * 500}
    first = ask(stub, "POST", "/api/deployments/demo/action", json=wait, headers=headers).json()["uuid"]
    answer = ask(stub, "POST", "/api/deployments/demo/action", json={"command": "down"})
    told = assert_problem(answer, 409, first, r"eve\\x1b[31m@home")  # as JSON
    assert told.hint is not None
    assert len(stub.client().action("demo", first).who or "") == 200
    assert_problem(ask(stub, "DELETE", "/api/deployments/demo"), 409, first)
    other = stub.project("elsewhere")
    moved = {"name": "demo", "project_location": str(other)}
    assert_problem(ask(stub, "PUT", "/api/deployments/demo", json=moved), 409, first)
    stub.inside(stub.stub.go_on.set)
    list(stub.client().follow("demo", first))
    assert ask(stub, "PUT", "/api/deployments/demo", json=moved).json()["project_location"] == str(other)


def test_cancelled_actions_end_and_cancelling_again_is_no_error(stub: StubServer) -> None:
    register(stub, "demo")
    client = stub.client()
    uuid = client.act("demo", Exec(guest="web", argv=("wait",)))
    client.cancel("demo", uuid)
    lines = [line.text for line in client.follow("demo", uuid)]
    assert lines[-1] == "cancelled"
    assert client.action("demo", uuid).state is ActionState.CANCELLED
    client.cancel("demo", uuid)


@pytest.mark.parametrize("word", ["fail", "refuse", "crash"])
def test_actions_that_fail_say_why(stub: StubServer, word: str) -> None:
    register(stub, "demo")
    uuid = run(stub, "demo", word)
    action = stub.client().action("demo", uuid)
    assert action.state is ActionState.FAILED
    assert action.faults[0].message


def test_names_and_folders_belong_together(stub: StubServer) -> None:
    register(stub, "one")
    one, two = str(stub.project("one")), str(stub.project("two"))
    body = {"name": "two", "project_location": one}
    for method, path in (("POST", "/api/deployments"), ("PUT", "/api/deployments/two")):
        assert_problem(ask(stub, method, path, json=body), 409, "already deployed as 'one'")
    assert_problem(
        ask(stub, "POST", "/api/deployments", json={"name": "one", "project_location": two}), 409, "'one'"
    )
    stub.inside(lambda: stub.store.set_phase("one", Phase.UP))
    body = {"name": "one", "project_location": two}
    assert_problem(ask(stub, "PUT", "/api/deployments/one", json=body), 409, one, "is up")
    body = {"name": "two", "project_location": two}
    assert_problem(ask(stub, "PUT", "/api/deployments/one", json=body), 422, "'two'", "'one'")


# -- errors


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api"),
        ("GET", "/api/deployments/"),
        ("GET", "/api/deployments/nope"),
        ("GET", "/api/deployments/nope/status"),
        ("GET", "/api/deployments/demo/actions/nope"),
        ("GET", "/api/deployments/demo/actions/00000000-0000-0000-0000-000000000000"),
        ("GET", "/api/deployments/demo/actions/00000000-0000-0000-0000-000000000000/lines"),
        ("POST", "/api/deployments/demo/actions/00000000-0000-0000-0000-000000000000/cancel"),
        ("GET", "/api/deployments/../../etc/passwd"),
        ("GET", "/api/deployments/%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
        ("GET", "/api/deployments/demo%2fstatus"),
        ("GET", "/api/deployments/demo%00"),
        ("GET", "/api/deployments/demo%0a"),
        ("GET", "/api/deployments/$(id)"),
        ("GET", "/api/deployments/`id`"),
        ("GET", "/api/deployments/<a>&b;"),
        ("GET", "/api/deployments/'%20OR%201=1"),
        ("GET", "/api/deployments/demo/snapshots?guest=other"),
        ("DELETE", "/api/deployments/nope"),
    ],
)
def test_what_is_not_there_is_404(shared_stub: StubServer, method: str, path: str) -> None:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = shared_stub.raw(head.encode())
    assert answer.startswith(b"HTTP/1.1 404 "), answer
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("path", ["/api/health", "/api/deployments", "/api/deployments/demo/action"])
def test_a_wrong_method_is_405(shared_stub: StubServer, path: str) -> None:
    answer = ask(shared_stub, "PATCH", path)
    assert_problem(answer, 405, "method not allowed")
    assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"null", "object"),
        (b"[]", "object"),
        (b'"up"', "object"),
        (b"\xff\xfe", "body"),
        (b"[" * 100_000, "body"),
        (b"{}", "command"),
        (b'{"command":"reboot"}', "reboot"),
        (b'{"command":"up","force":true}', "force"),
        (b'{"command":"up","keep_going":1}', "bool"),
        (b'{"command":"up","keep_going":"true"}', "bool"),
        (b'{"command":"down","timeout":-1}', "timeout"),
        (b'{"command":"down","timeout":1e400}', "range"),
        (b'{"command":"exec","guest":"web","argv":[]}', "argv"),
        (b'{"command":"exec","guest":"web","argv":"id"}', "array"),
        (b'{"command":"exec","guest":"web","argv":["a\\u0000b"]}', "argv"),
        (b'{"command":"exec","guest":"web\\n","argv":["id"]}', "guest"),
        (b'{"command":"exec","guest":"$(id)","argv":["id"]}', "guest"),
        (b'{"command":"exec","guest":"<guest/>","argv":["id"]}', "guest"),
        (b'{"command":"exec","guest":"../web","argv":["id"]}', "guest"),
        (b'{"command":"snapshot","verb":"create","name":"; rm -rf /"}', "name"),
        (b'{"command":"snapshot","verb":"create","name":"a","guests":["A"]}', "guests"),
        (b'{"command":"snapshot","verb":"steal","name":"a"}', "verb"),
    ],
)
def test_commands_that_make_no_sense_are_422_and_not_run(
    shared_stub: StubServer, body: bytes, word: str
) -> None:
    before = len(shared_stub.stub.ran)
    headers = {"Content-Type": "application/json"}
    answer = ask(shared_stub, "POST", "/api/deployments/demo/action", data=body, headers=headers)
    assert_problem(answer, 422, word)
    assert len(shared_stub.stub.ran) == before


@pytest.mark.parametrize(
    "name",
    ["", "A", "1a", "a_b", "a.b", "..", "a/b", "a\n", "a\0", "-a", "a-", "a" * 60, "$(id)", "ä", "<a>"],
)
def test_projects_have_plain_names(shared_stub: StubServer, name: str) -> None:
    body = {"name": name, "project_location": str(shared_stub.projects)}
    assert_problem(ask(shared_stub, "POST", "/api/deployments", json=body), 422, "name")


@pytest.mark.parametrize(
    "content", ["text/plain", "application/x-www-form-urlencoded", "", "application/json5"]
)
def test_bodies_are_json_and_say_so(shared_stub: StubServer, content: str) -> None:
    headers = {"Content-Type": content}
    body = b'{"command":"up"}'
    answer = ask(shared_stub, "POST", "/api/deployments/demo/action", data=body, headers=headers)
    assert_problem(answer, 415, "application/json")
    assert (
        repr(content) in answer.json()["detail"] if content else "no content type" in answer.json()["detail"]
    )


def test_hosts_that_do_not_answer_are_502_and_faults_of_our_own_500_without_their_words(
    stub: StubServer,
) -> None:
    register(stub, "broken")
    register(stub, "crashing")
    assert_problem(ask(stub, "GET", "/api/deployments/broken/status"), 502, "libvirt does not answer")
    answer = ask(stub, "GET", "/api/deployments/crashing/status")
    assert_problem(answer, 500, "internal error")
    assert "secret" not in answer.text
    assert ask(stub, "GET", "/api/health").status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        "after=-1",
        "after=x",
        "after=1.5",
        "after=",
        f"after={2**63}",
        "limit=0",
        "limit=1001",
        "form=1",
        "AFTER=1",
    ],
)
def test_wrong_parameters_are_422(stub: StubServer, query: str) -> None:
    register(stub, "demo")
    uuid = run(stub, "demo", "say", "3")
    assert_problem(ask(stub, "GET", f"/api/deployments/demo/actions/{uuid}/lines?{query}"), 422)


def test_lines_by_the_portion(stub: StubServer) -> None:
    register(stub, "demo")
    uuid = run(stub, "demo", "say", "30")
    found = ask(stub, "GET", f"/api/deployments/demo/actions/{uuid}/lines?after=10&limit=5").json()
    assert [line["sequence"] for line in found] == [11, 12, 13, 14, 15]
    assert len(list(stub.client().lines("demo", uuid))) == 31
    answer = ask(stub, "GET", f"/api/deployments/demo/actions/{uuid}/logs")
    assert_problem(answer, 426, "WebSocket", "lines")


# -- folders


@pytest.mark.parametrize(
    "location",
    ["/", "/etc", "/projects/../..", "/projects/missing/../../..", "/projects-of-others", "/proc/self/root"],
)
def test_folders_outside_the_roots_are_forbidden(stub: StubServer, location: str) -> None:
    (stub.folder / "projects-of-others").mkdir()
    path = (
        location if location.startswith(("/etc", "/proc")) or location == "/" else f"{stub.folder}{location}"
    )
    body = {"name": "demo", "project_location": path}
    assert_problem(ask(stub, "POST", "/api/deployments", json=body), 403, "--project-root")


def test_links_are_followed_before_the_roots_are_looked_at(stub: StubServer) -> None:
    outside = stub.folder / "outside"
    outside.mkdir()
    (stub.projects / "link").symlink_to(outside)
    (stub.projects / "loop").symlink_to(stub.projects / "loop")
    body = {"name": "demo", "project_location": str(stub.projects / "link")}
    assert_problem(ask(stub, "POST", "/api/deployments", json=body), 403)
    body = {"name": "demo", "project_location": str(stub.projects / "loop")}
    assert_problem(ask(stub, "POST", "/api/deployments", json=body), 422)
    inside = stub.project("inside")
    (stub.projects / "good").symlink_to(inside)
    body = {"name": "demo", "project_location": str(stub.projects / "good")}
    assert ask(stub, "POST", "/api/deployments", json=body).json()["project_location"] == str(inside)


def test_a_folder_that_became_a_link_is_not_acted_on(stub: StubServer) -> None:
    register(stub, "demo")
    folder = stub.project("demo")
    folder.rmdir()
    outside = stub.folder / "outside"
    outside.mkdir()
    folder.symlink_to(outside)
    answer = ask(stub, "POST", "/api/deployments/demo/action", json={"command": "up"})
    assert_problem(answer, 403)
    folder.unlink()
    answer = ask(stub, "POST", "/api/deployments/demo/action", json={"command": "up"})
    assert_problem(answer, 422, "no such folder")
    assert stub.stub.ran == []


@pytest.mark.parametrize(
    "location", ["relative", "", "~", "/a\0b", "/" + "x" * 300, "/" + "x/" * 3000, 5, None]
)
def test_folders_that_cannot_be(shared_stub: StubServer, location: object) -> None:
    if isinstance(location, str) and location.startswith("/x"):
        location = f"{shared_stub.projects}{location}"
    body = {"name": "another", "project_location": location}
    assert_problem(ask(shared_stub, "POST", "/api/deployments", json=body), 422)


def test_a_file_is_no_folder(stub: StubServer) -> None:
    file = stub.projects / "file"
    file.touch()
    body = {"name": "demo", "project_location": str(file)}
    assert_problem(ask(stub, "POST", "/api/deployments", json=body), 422, "no such folder")


# -- the description


def test_the_description_has_all_schemas_and_errors(shared_stub: StubServer) -> None:
    document = ask(shared_stub, "GET", "/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method in ("post", "put") and not path.endswith("/cancel"):
                ((kind, content),) = operation["requestBody"]["content"].items()
                assert kind == ("application/x-tar" if path.endswith("/files") else "application/json")
                assert content["schema"]
            for status, response in operation["responses"].items():
                if status.startswith(("4", "5")):
                    assert list(response["content"]) == ["application/problem+json"]
            assert {"401", "422", "500"} <= operation["responses"].keys()
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    assert {
        "Up",
        "Down",
        "Exec",
        "Snapshot",
        "Action",
        "LogLine",
        "TestbedStatus",
        "Problem",
    } <= schemas.keys()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def _references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [each for value in part.values() for each in _references(value)]
    if isinstance(part, list):
        return [each for value in part for each in _references(value)]
    return []


def test_answers_are_neither_kept_nor_taken_for_pages(shared_stub: StubServer) -> None:
    for path in ("/openapi.json", "/asyncapi.json", "/nope"):
        headers = ask(shared_stub, "GET", path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_nothing_is_written_into_a_projects_folder(stub: StubServer) -> None:
    register(stub, "demo")
    run(stub, "demo", "say", "3")
    assert list(stub.project("demo").iterdir()) == []
    assert json.loads(json.dumps(TOKEN)) not in Path(stub.folder / "state/server.db").read_bytes().decode(
        "latin-1"
    )
