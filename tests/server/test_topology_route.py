"""``/topology``: the picture of a testbed, and whether it is still the one that a client has."""

from __future__ import annotations

from stub import StubServer
from test_api import ask, assert_problem, register

_PATH = "/api/deployments/demo/topology"


def test_a_picture_has_a_tag_and_is_sent_again_when_that_changes(stub: StubServer) -> None:
    register(stub, "demo")
    answer = ask(stub, "GET", _PATH)
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"tag"'
    assert answer.json()["svg"] == "<svg></svg>"
    for known in ('"tag"', 'W/"tag"', '"other", "tag"'):
        same = ask(stub, "GET", _PATH, headers={"If-None-Match": known})
        assert (same.status_code, same.content) == (304, b"")
    other = ask(stub, "GET", f"{_PATH}?open=a@h/br0&open=b,c", headers={"If-None-Match": '"tag"'})
    assert (other.status_code, other.headers["etag"]) == (200, '"tag-a@h/br0-b,c"')


def test_wrong_requests_are_refused(stub: StubServer) -> None:
    register(stub, "demo")
    assert_problem(ask(stub, "GET", f"{_PATH}?opened=a"), 422, "unknown parameter")
    assert_problem(ask(stub, "GET", f"{_PATH}?{'&'.join(['open=a'] * 201)}"), 422)
    assert_problem(ask(stub, "GET", "/api/deployments/none/topology"), 404)
