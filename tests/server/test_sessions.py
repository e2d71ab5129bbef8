"""Sessions of browsers: signing in by a link or a token, what a request needs, and how a session ends."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from signed_in import Browser, rest
from stub import TOKEN, StubServer

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.session import LinkUse
from kvmcompose.server.api import sessions
from kvmcompose.server.people import Role
from kvmcompose.server.sessions import MOST_LINKS, MOST_SESSIONS
from kvmcompose.server.tokens import Tokens, expiry

_EVENTS = "/api/deployments/demo/events"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "WRONG_SECONDS", 0.05)


def code(server: StubServer) -> str:
    """Return the code of a link that is made on the Unix socket."""
    address, _, found = server.client().make_link().address.partition("#sign-in=")
    assert address == f"http://127.0.0.1:{server.port}/"
    return found


def signed_in(server: StubServer) -> Browser:
    browser = Browser(server.port)
    assert browser.sign_in(token=TOKEN).status == 201
    return browser


# -- signing in


def test_a_link_begins_a_session_once(shared_stub: StubServer) -> None:
    given, browser = code(shared_stub), Browser(shared_stub.port)
    answer = browser.sign_in(code=given)
    assert (answer.status, answer.json["role"], answer.json["drivers"]) == (201, "admin", "stub")
    name, _, value = answer.headers["Set-Cookie"].partition("=")
    assert name == f"kvm-compose-{shared_stub.port}"
    assert value.partition(";")[2] == " Path=/; HttpOnly; SameSite=Strict"
    assert answer.headers["Cache-Control"] == "no-store"
    who = browser.ask("GET", "/api/session")
    assert (who.status, {**who.json, "key": browser.key}) == (200, answer.json)
    assert browser.ask("GET", "/api/deployments").status == 200
    for wrong in (given, given[:-1], "x"):
        assert Browser(shared_stub.port).sign_in(code=wrong).status == 401


def test_a_link_is_used_by_one_of_many(shared_stub: StubServer) -> None:
    given = code(shared_stub)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: Browser(shared_stub.port).sign_in(code=given).status, range(8)))
    assert sorted(answers) == [201] + [401] * 7


def test_a_token_begins_a_session(shared_stub: StubServer) -> None:
    browser = signed_in(shared_stub)
    assert browser.ask("GET", "/api/session").json["name"] == "administrator"
    for wrong in ("", "wrong", TOKEN[:-1]):
        assert Browser(shared_stub.port).sign_in(token=wrong).status in (401, 422)


@pytest.mark.parametrize(
    "body", [{}, {"code": "x", "token": "y"}, {"code": "ä b"}, {"user": "root"}, [], None]
)
def test_what_signs_nobody_in(shared_stub: StubServer, body: object) -> None:
    answer = Browser(shared_stub.port).ask("POST", "/api/session", body, Content_Type="application/json")
    assert answer.status == 422
    assert "Set-Cookie" not in answer.headers


def test_wrong_answers_take_long_and_right_ones_do_not(
    shared_stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "WRONG_SECONDS", 3.0)
    with ThreadPoolExecutor(20) as pool:
        began = time.monotonic()
        wrong = [pool.submit(Browser(shared_stub.port).sign_in, code="wrong") for _ in range(19)]
        signed_in(shared_stub)
        assert not any(each.done() for each in wrong)
        assert {each.result().content for each in wrong} == {wrong[0].result().content}
        assert time.monotonic() - began >= 3.0


def test_on_the_unix_socket_the_kernel_says_who_it_is(shared_stub: StubServer) -> None:
    with pytest.raises(RefusedError, match="Unix socket"):
        shared_stub.client()._ask("POST", "/api/session", body={"token": TOKEN})
    with pytest.raises(RefusedError, match="no session"):
        shared_stub.client()._ask("DELETE", "/api/session")
    assert b'"role":"admin"' in shared_stub.client()._ask("GET", "/api/session")


# -- what a request needs


def test_a_request_needs_cookie_and_key(shared_stub: StubServer) -> None:
    browser, other = signed_in(shared_stub), signed_in(shared_stub)
    for lacking in (
        {"Cookie": None},
        {"X_Kvm_Compose_Key": None},
        {"X_Kvm_Compose_Key": other.key},
        {"Cookie": other.cookie},
        {"Cookie": f"kvm-compose-1={(browser.cookie or '').partition('=')[2]}"},
        {"Cookie": "; ".join([other.cookie or ""] * 8 + [browser.cookie or ""])},
    ):
        assert browser.ask("GET", "/api/deployments", **lacking).status == 401
        assert browser.ask("POST", "/api/deployments", {}, **lacking).status == 401
    # another server on this host name has set a cookie of the same name, for a longer path
    assert browser.ask("GET", "/api/deployments", Cookie=f"{other.cookie}; {browser.cookie}").status == 200
    # no session is named by its key alone, nor by the cookie as a token
    assert browser.ask("GET", "/api/deployments", Authorization=f"Bearer {browser.key}").status == 401


def test_a_websocket_needs_cookie_key_and_origin(shared_stub: StubServer) -> None:
    browser, other = signed_in(shared_stub), signed_in(shared_stub)
    head, connection = browser.open_stream(_EVENTS)
    connection.close()
    assert head.startswith(b"HTTP/1.1 101")
    assert b"sec-websocket-protocol: kvm-compose\r\n" in head.lower()
    assert (browser.key or "").encode() not in head
    for protocol in (None, "kvm-compose", f"key.{other.key}", f"key.{browser.key}, key.{browser.key}"):
        assert browser.stream_status(_EVENTS, Sec_WebSocket_Protocol=protocol) == 401
    assert browser.stream_status(_EVENTS, Cookie=None) == 401
    assert browser.stream_status(_EVENTS, Origin=None) == 403
    assert browser.stream_status(_EVENTS, Origin="http://127.0.0.1:1") == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Host": "rebound.example", "Origin": None},
    ],
)
def test_other_pages_send_nothing(shared_stub: StubServer, headers: dict[str, str | None]) -> None:
    browser = signed_in(shared_stub)
    assert browser.ask("GET", "/api/deployments", **headers).status == 403
    assert browser.ask("DELETE", "/api/session", **headers).status == 403
    assert Browser(shared_stub.port).ask("POST", "/api/session", {"token": TOKEN}, **headers).status == 403
    assert browser.ask("GET", "/api/session").status == 200


def test_nobody_is_signed_in_as_someone_else_by_a_link(stub: StubServer) -> None:
    tokens = Tokens(stub.folder / "state")
    other = tokens.create("other", Role.ADMIN, None, expiry("1h"))
    browser = signed_in(stub)
    before = browser.cookie, browser.key
    assert browser.sign_in(token=other).status == 409
    assert (browser.cookie, browser.key) == before
    assert browser.ask("GET", "/api/session").json["token"] is None
    assert browser.sign_in(token=TOKEN).status == 201  # as the same person: another session
    assert browser.cookie != before[0]
    assert browser.ask("GET", "/api/session", Cookie=before[0], X_Kvm_Compose_Key=before[1]).status == 401


# -- how a session ends


def test_signing_out_ends_the_session_and_its_streams(shared_stub: StubServer) -> None:
    browser = signed_in(shared_stub)
    _, connection = browser.open_stream(_EVENTS)
    answer = browser.ask("DELETE", "/api/session")
    assert (answer.status, "Max-Age=0" in answer.headers["Set-Cookie"]) == (204, True)
    assert b"no longer valid" in rest(connection)
    assert browser.ask("GET", "/api/deployments").status == 401
    assert browser.sign_in(token=TOKEN).status == 201  # with a key that is no longer valid


def test_a_token_takes_its_sessions_and_their_streams_with_it(stub: StubServer) -> None:
    tokens, browser = Tokens(stub.folder / "state"), Browser(stub.port)
    (stub.projects / "demo").mkdir()
    browser.sign_in(token=tokens.create("admin", Role.ADMIN, None, expiry("1h")))
    body = {"name": "demo", "project_location": str(stub.projects / "demo")}
    assert browser.ask("PUT", "/api/deployments/demo", body).status == 201
    head, connection = browser.open_stream(_EVENTS)
    assert head.startswith(b"HTTP/1.1 101")
    tokens.revoke("admin")
    assert browser.ask("GET", "/api/deployments").status == 401
    assert b"no longer valid" in rest(connection)


def test_a_read_only_token_only_looks(stub: StubServer) -> None:
    browser = Browser(stub.port)
    secret = Tokens(stub.folder / "state").create("looks", Role.READ_ONLY, ("daemon", 1), expiry("1h"))
    answer = browser.sign_in(token=secret)
    assert (answer.json["role"], answer.json["token"]) == ("read-only", "looks")
    body = {"name": "demo", "project_location": str(stub.projects)}
    assert browser.ask("PUT", "/api/deployments/demo", body).status == 403


def test_a_session_too_many_ends_the_one_that_was_used_least_recently(stub: StubServer) -> None:
    first, second = signed_in(stub), signed_in(stub)
    others = [signed_in(stub) for _ in range(MOST_SESSIONS - 2)]
    assert first.ask("GET", "/api/session").status == 200
    assert signed_in(stub).ask("GET", "/api/session").status == 200
    assert second.ask("GET", "/api/session").status == 401
    assert {each.ask("GET", "/api/session").status for each in (first, *others)} == {200}


# -- links


def test_a_link_says_when_it_was_used(shared_stub: StubServer) -> None:
    client = shared_stub.client()
    link = client.make_link()
    assert client.link_use(link.uuid) == LinkUse(state="open")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.link_use, link.uuid, 20)
        Browser(shared_stub.port).sign_in(code=link.address.partition("=")[2])
        assert waiting.result(10) == LinkUse(state="used")
    with pytest.raises(KvmComposeError, match="no such link"):
        shared_stub.client(tcp=True).link_use(link.uuid)  # it is that of someone else


def test_a_link_too_many_replaces_the_oldest(stub: StubServer) -> None:
    codes = [code(stub) for _ in range(MOST_LINKS + 1)]
    statuses = [Browser(stub.port).sign_in(code=each).status for each in codes]
    assert statuses == [401] + [201] * MOST_LINKS


def test_a_session_makes_no_links(shared_stub: StubServer) -> None:
    assert signed_in(shared_stub).ask("POST", "/api/links", {}).status == 403


def test_a_client_by_tcp_gets_a_link_to_the_address_that_it_uses(shared_stub: StubServer) -> None:
    link = shared_stub.client(tcp=True).make_link()
    assert link.address.startswith(f"http://127.0.0.1:{shared_stub.port}/#sign-in=")
    browser = Browser(shared_stub.port)
    assert browser.sign_in(code=link.address.partition("=")[2]).json["name"] == "administrator"
