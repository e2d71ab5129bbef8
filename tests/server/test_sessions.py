"""Sessions of browsers: signing in by a link or a token, what a request needs, and how a session ends."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest
from stub import TOKEN, StubServer

from kvmcompose.server.api import sessions


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "WRONG_SECONDS", 0.05)


class Answer:
    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Browser:
    """Keeps the cookie and the key, and sends what a browser sends with requests of the page."""

    def __init__(self, server: StubServer) -> None:
        self.host = f"127.0.0.1:{server.port}"
        self.cookie: str | None = None
        self.key: str | None = None

    def ask(self, method: str, path: str, body: object = None, **headers: str | None) -> Answer:
        sent: dict[str, str | None] = {
            "Host": self.host,
            "Origin": f"http://{self.host}" if method != "GET" else None,
            "Sec-Fetch-Site": "same-origin",
            "Cookie": self.cookie,
            "X-Kvm-Compose-Key": self.key,
        }
        if body is not None:
            sent["Content-Type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = HTTPConnection(self.host, timeout=20)
        try:
            connection.request(
                method,
                path,
                None if body is None else json.dumps(body),
                {name: value for name, value in sent.items() if value is not None},
            )
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def sign_in(self, **secret: str) -> Answer:
        answer = self.ask("POST", "/api/session", secret)
        if answer.status == 201:
            self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
            self.key = answer.json["key"]
        return answer


def link(server: StubServer) -> str:
    """Return the code of a link that is made on the Unix socket."""
    body = b"{}"
    answer = server.raw(
        b"POST /api/links HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n" + body
    )
    assert answer.startswith(b"HTTP/1.1 201"), answer
    made = json.loads(answer.partition(b"\r\n\r\n")[2])
    address, _, code = made["address"].partition("#sign-in=")
    assert address == f"http://127.0.0.1:{server.port}/"
    return str(code)


def test_a_link_begins_a_session_once(shared_stub: StubServer) -> None:
    code, browser = link(shared_stub), Browser(shared_stub)
    answer = browser.sign_in(code=code)
    assert answer.status == 201
    assert answer.json["role"] == "admin"
    assert answer.json["drivers"] == "stub"
    port = shared_stub.port
    name, _, rest = answer.headers["Set-Cookie"].partition("=")
    assert name == f"kvm-compose-{port}"
    assert rest.partition(";")[2] == " Path=/; HttpOnly; SameSite=Strict"
    who = browser.ask("GET", "/api/session")
    assert who.status == 200
    assert {**who.json, "key": browser.key} == answer.json
    assert browser.ask("GET", "/api/deployments").status == 200
    assert Browser(shared_stub).sign_in(code=code).status == 401


def test_a_token_begins_a_session(shared_stub: StubServer) -> None:
    browser = Browser(shared_stub)
    assert browser.sign_in(token=TOKEN).json["name"] == "administrator"
    assert browser.ask("GET", "/api/deployments").status == 200


def test_a_request_needs_cookie_and_key(shared_stub: StubServer) -> None:
    browser, other = Browser(shared_stub), Browser(shared_stub)
    browser.sign_in(token=TOKEN)
    other.sign_in(token=TOKEN)
    assert browser.ask("GET", "/api/deployments", Cookie=None).status == 401
    assert browser.ask("GET", "/api/deployments", X_Kvm_Compose_Key=None).status == 401
    assert browser.ask("GET", "/api/deployments", X_Kvm_Compose_Key=other.key).status == 401
    assert browser.ask("GET", "/api/deployments", Cookie=f"{other.cookie}; {browser.cookie}").status == 200


def test_signing_out_ends_the_session(shared_stub: StubServer) -> None:
    browser = Browser(shared_stub)
    browser.sign_in(token=TOKEN)
    answer = browser.ask("DELETE", "/api/session")
    assert answer.status == 204
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert browser.ask("GET", "/api/deployments").status == 401
    assert browser.sign_in(token=TOKEN).status == 201  # with a key that is no longer valid
