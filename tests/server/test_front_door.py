"""Who gets in, and what: tokens, names, sizes, and bytes that are no HTTP."""

from __future__ import annotations

import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from stub import TOKEN, StubServer

from kvmcompose.server.limits import BODY_BYTES
from kvmcompose.server.rare_lines import MOST_LINES

_UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def head(path: str, *headers: str, method: str = "GET", host: str = "localhost") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


def assert_problem(answer: bytes, wanted: int, *words: str) -> None:
    assert status(answer) == wanted, answer
    assert b"application/problem+json" in answer
    for word in words:
        assert word.encode() in answer, answer


# -- tokens


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Authorization: Bearer wrong",
        f"Authorization: Bearer {TOKEN}x",
        f"Authorization: Bearer {TOKEN[:-1]}",
        "Authorization: Bearer",
        "Authorization:",
        f"Authorization: Basic {TOKEN}",
        f"Authorization: {TOKEN}",
        "Authorization: Bearer \xe4\xf6",
        f"Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer wrong",
        f"Cookie: token={TOKEN}",
        f"X-Token: {TOKEN}",
    ],
)
@pytest.mark.parametrize("websocket", [False, True])
def test_tcp_wants_the_token(shared_stub: StubServer, header: str | None, *, websocket: bool) -> None:
    before = len(shared_stub.stub.ran)
    path = "/api/deployments/demo/actions/00000000-0000-0000-0000-000000000000/logs"
    headers = [*(_UPGRADE if websocket else ()), *([header] if header else [])]
    request = head(path if websocket else "/api/deployments", *headers).replace(
        b"Connection: close\r\n", b"" if websocket else b"Connection: close\r\n"
    )
    answer = shared_stub.raw(request, tcp=True)
    assert_problem(answer, 401, "token")
    assert b"www-authenticate: Bearer" in answer or b"WWW-Authenticate: Bearer" in answer
    assert TOKEN.encode() not in answer
    body = b'{"command":"up"}'
    post = head(
        f"/api/deployments/demo/action?token={TOKEN}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *([header] if header else []),
        method="POST",
    )
    assert_problem(shared_stub.raw(post + body, tcp=True), 401)
    assert len(shared_stub.stub.ran) == before


def test_with_the_token_all_is_open(shared_stub: StubServer) -> None:
    answer = shared_stub.raw(head("/api/deployments", f"authorization: bearer {TOKEN}"), tcp=True)
    assert status(answer) == 200
    assert shared_stub.client(tcp=True).health().drivers == "stub"


def test_strangers_learn_only_that_somebody_listens(shared_stub: StubServer) -> None:
    answer = shared_stub.raw(head("/api/health"), tcp=True)
    assert answer.endswith(b'{"status":"ok"}')
    assert_problem(shared_stub.raw(head("/api/health", "Authorization: Bearer no"), tcp=True), 401)
    assert status(shared_stub.raw(head("/openapi.json"), tcp=True)) == 200
    assert status(shared_stub.raw(head("/asyncapi.json"), tcp=True)) == 200


def test_a_stranger_does_not_fill_the_log(shared_stub: StubServer, caplog: pytest.LogCaptureFixture) -> None:
    handshake = head("/api/health", *(each for each in _UPGRADE if "Key" not in each))
    with caplog.at_level(logging.INFO):
        for _ in range(3 * MOST_LINES):
            shared_stub.raw(handshake, tcp=True)  # without a key
            shared_stub.raw(b"no request\r\n\r\n", tcp=True)
    said = Counter(record.msg for record in caplog.records)
    assert {"connection rejected (%d %s)", "Invalid HTTP request received."} <= said.keys()
    assert max(said.values()) <= MOST_LINES


# -- names: DNS rebinding, pages from elsewhere


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("localhost", 200),
        ("LOCALHOST:5040", 200),
        ("127.0.0.1:1", 200),
        ("evil.example", 403),
        ("evil.example:5040", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost:80@evil.example", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_a_loopback_server_is_asked_for_by_its_own_names(
    shared_stub: StubServer, host: str, wanted: int
) -> None:
    request = head("/api/deployments", f"Authorization: Bearer {TOKEN}", host=host)
    assert status(shared_stub.raw(request, tcp=True)) == wanted


def test_two_host_headers_are_none(shared_stub: StubServer) -> None:
    answer = shared_stub.raw(head("/api/health", "Host: localhost"))
    assert_problem(answer, 400)


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        ("http://localhost", 200),
        ("http://evil.example", 403),
        ("http://localhost:81", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("file://", 403),
    ],
)
def test_pages_from_elsewhere_are_turned_away(shared_stub: StubServer, origin: str, wanted: int) -> None:
    assert status(shared_stub.raw(head("/api/health", f"Origin: {origin}"))) == wanted
    path = "/api/deployments/demo/actions/00000000-0000-0000-0000-000000000000/logs"
    request = head(path, *_UPGRADE, f"Origin: {origin}").replace(b"Connection: close\r\n", b"")
    assert_problem(shared_stub.raw(request), 404 if wanted == 200 else 403)


def test_there_is_no_cors(shared_stub: StubServer) -> None:
    answer = shared_stub.raw(
        head(
            "/api/deployments",
            "Origin: http://localhost",
            "Access-Control-Request-Method: POST",
            method="OPTIONS",
        )
    )
    assert status(answer) == 405
    assert b"access-control" not in answer.lower()


# -- sizes


def post(*headers: str) -> bytes:
    return head("/api/deployments/demo/action", "Content-Type: application/json", *headers, method="POST")


def test_a_body_that_is_announced_too_large_is_not_read(shared_stub: StubServer) -> None:
    answer = shared_stub.raw(post(f"Content-Length: {10 * 1024**3}", "Expect: 100-continue"))
    assert_problem(answer, 413)
    assert b"100 Continue" not in answer


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_413_and_its_sender_gets_to_read_it(
    shared_stub: StubServer, *, announced: bool
) -> None:
    before = len(shared_stub.stub.ran)
    body = b" " * (BODY_BYTES - 16) + b'{"command":"up"} '
    assert len(body) == BODY_BYTES + 1
    if announced:
        request = post(f"Content-Length: {len(body)}") + body
    else:
        chunks = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
        parts = [f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks]
        request = post("Transfer-Encoding: chunked") + b"".join(parts) + b"0\r\n\r\n"
    assert_problem(shared_stub.raw(request), 413)
    assert len(shared_stub.stub.ran) == before


def test_an_endless_chunked_body_is_cut_off(shared_stub: StubServer) -> None:
    with shared_stub.address.connect() as connection:
        connection.settimeout(20)
        connection.sendall(post("Transfer-Encoding: chunked"))
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        sent = 0
        with suppress(BrokenPipeError, ConnectionResetError):
            while sent < 1024**3:
                connection.sendall(chunk)
                sent += 65536
    assert sent < 64 * 1024**2


def test_the_largest_body_there_may_be_is_read(shared_stub: StubServer) -> None:
    body = b" " * (BODY_BYTES - 2) + b"{}"
    assert_problem(shared_stub.raw(post(f"Content-Length: {BODY_BYTES}") + body), 422, "command")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        head("/api/health", "Content-Length: -1"),
        head("/api/health", "Content-Length: 1", "Content-Length: 2"),
        head("/api/health", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("/api/health\x00"),
        head("/api/health", "X-Nul: a\x00b"),
        b"GET /api/health HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_400(shared_stub: StubServer, request_bytes: bytes) -> None:
    answer = shared_stub.raw(request_bytes + b"\r\n\r\n")
    assert_problem(answer, 400)
    assert shared_stub.client().health().version == "1"


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        (head("/api/health", "X-Large: " + "x" * 20_000), {431}),
        (head("/api/health", *(f"X-{number}: {'y' * 90}" for number in range(1000))), {400, 431}),
        (head("/" + "x" * 10_000), {414}),
        (head("/api/health?" + "x" * 10_000), {414}),
    ],
)
def test_heads_that_are_too_large(shared_stub: StubServer, request_bytes: bytes, statuses: set[int]) -> None:
    assert status(shared_stub.raw(request_bytes)) in statuses


def test_a_head_without_end_is_cut_off(shared_stub: StubServer) -> None:
    assert shared_stub.raw(head("/api/health", "X-Large: " + "x" * 10_000_000))[:10] in (b"", b"HTTP/1.1 4")


def test_slow_senders_keep_nobody_waiting(shared_stub: StubServer) -> None:
    """Many connections that send nothing, or half a request, do not stop others."""
    with ThreadPoolExecutor(1) as pool:
        idle = [shared_stub.address.connect() for _ in range(50)]
        for number, each in enumerate(idle):
            each.sendall(b"" if number % 2 else post("Content-Length: 10") + b"{")
        began = time.monotonic()
        assert pool.submit(shared_stub.client().deployments).result(14)
        assert time.monotonic() - began < 10
        for each in idle:
            each.close()


def test_a_head_that_does_not_come_is_not_waited_for(
    shared_stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmcompose.server.limits.HEAD_SECONDS", 0.3)
    for sent in (b"", b"GET / HTTP/1.1\r\n", b"GET /api/health HTTP/1.1\r\nHost: a\r\n\r\nGET /"):
        began = time.monotonic()
        shared_stub.raw(sent)
        assert 0.2 < time.monotonic() - began < 10  # the last one: as a connection kept alive


def test_a_body_that_does_not_come_is_not_waited_for(
    shared_stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmcompose.server.limits.BODY_SECONDS", 0.3)
    assert_problem(shared_stub.raw(post("Content-Length: 10") + b"{"), 408)


def test_nothing_is_answered_with_the_token_or_a_path_of_the_server(shared_stub: StubServer) -> None:
    for path in ("/openapi.json", "/asyncapi.json", "/api/health", "/nope"):
        answer = shared_stub.raw(head(path, f"Authorization: Bearer {TOKEN}"), tcp=True)
        assert TOKEN.encode() not in answer
        assert str(shared_stub.folder).encode() not in answer
