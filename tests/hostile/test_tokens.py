"""Named tokens by TCP: what each role may do, and that one is worthless once it is revoked or has expired."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "server"))

from stub import TOKEN, StubServer, running

from kvmcompose.cli.main import main
from kvmcompose.client.remote import RemoteServer
from kvmcompose.core.commands import Exec
from kvmcompose.core.deployment import NewDeployment
from kvmcompose.core.errors import RefusedError
from kvmcompose.server.people import Role
from kvmcompose.server.tokens import PREFIX, Tokens, expiry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")

#: Users that every Debian has.
ALICE, BOB = ("daemon", 1), ("bin", 2)


@pytest.fixture
def server(short_path: Path) -> Iterator[StubServer]:
    """It has a deployment of root's and one of Alice's."""
    with running(short_path) as made:
        for name, uid in (("roots", 0), ("alices", ALICE[1])):
            os.chown(made.project(name), uid, uid)
        made.client().put(NewDeployment("roots", str(made.project("roots"))))
        yield made


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="kc") as folder:
        yield Path(folder)


def tokens(server: StubServer) -> Tokens:
    return Tokens(server.folder / "state")


def ask(server: StubServer, token: str | None, method: str, path: str, **rest: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"http://127.0.0.1:{server.port}/api{path}"
    return requests.request(method, url, headers=headers, timeout=20, **rest)


def make(server: StubServer, name: str, role: Role, user: tuple[str, int] | None = None) -> str:
    return tokens(server).create(name, role, user, expiry("1h"))


def put(server: StubServer, token: str, name: str) -> int:
    body = {"name": name, "project_location": str(server.project(name))}
    return ask(server, token, "PUT", f"/deployments/{name}", json=body).status_code


def test_each_role_may_do_what_it_may(server: StubServer) -> None:
    admin, alice = make(server, "admin", Role.ADMIN), make(server, "alice", Role.USER, ALICE)
    looks, bob = make(server, "looks", Role.READ_ONLY, ALICE), make(server, "bob", Role.USER, BOB)
    assert put(server, looks, "alices") == 403
    assert put(server, bob, "alices") == 403
    assert put(server, alice, "alices") == 201
    up = {"command": "up"}
    for token, wanted in ((bob, 403), (looks, 403), (alice, 202), (None, 401), ("wrong", 401)):
        assert ask(server, token, "POST", "/deployments/alices/action", json=up).status_code == wanted
    (action,) = ask(server, looks, "GET", "/deployments/alices/actions").json()
    assert action["asked_by"] == "daemon (token alice)"
    for token, wanted in ((bob, 403), (looks, 200), (alice, 200), (admin, 200), (TOKEN, 200)):
        for path in ("state", "status", "access", "snapshots", "actions", f"actions/{action['uuid']}/lines"):
            assert ask(server, token, "GET", f"/deployments/alices/{path}").status_code == wanted, path
    for path in ("", "/status"):
        assert ask(server, alice, "GET", f"/deployments/roots{path}").status_code == (403 if path else 200)
    cancel = f"/deployments/alices/actions/{action['uuid']}/cancel"
    for token, wanted in ((bob, 403), (looks, 403), (alice, 202)):
        assert ask(server, token, "POST", cancel).status_code == wanted
    for token, wanted in ((bob, 403), (looks, 403)):
        assert ask(server, token, "DELETE", "/deployments/alices").status_code == wanted


def test_revoked_expired_and_of_a_user_who_is_gone(server: StubServer) -> None:
    token = make(server, "ci", Role.ADMIN)
    assert ask(server, token, "GET", "/deployments").status_code == 200
    tokens(server).revoke("ci")
    assert ask(server, token, "GET", "/deployments").status_code == 401
    old = tokens(server).create("old", Role.ADMIN, None, "2020-01-01T00:00:00Z")
    answer = ask(server, old, "GET", "/deployments")
    assert answer.status_code == 401
    assert "expired" in answer.text
    gone = tokens(server).create("gone", Role.USER, ("nobody-at-all", 61009), None)
    assert ask(server, gone, "GET", "/deployments").status_code == 401


def test_a_log_and_a_capture_end_soon_after_their_token(server: StubServer) -> None:
    admin = make(server, "admin", Role.ADMIN)
    client = RemoteServer(server.tcp, token=admin)
    client.act("roots", Exec(guest="web", argv=("wait",)))
    url = f"http://127.0.0.1:{server.port}/api/deployments/roots/capture?target=silent"
    capture = requests.get(url, headers={"Authorization": f"Bearer {admin}"}, stream=True, timeout=20)
    assert capture.status_code == 200
    assert server.stub.captures == ["silent"]
    uuid = client.actions("roots")[0].uuid
    with server.tcp.connect() as connection:
        connection.settimeout(10)
        connection.sendall(
            f"GET /api/deployments/roots/actions/{uuid}/logs HTTP/1.1\r\nHost: localhost\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {admin}\r\n\r\n".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 101")
        time.sleep(1.2)
        assert server.stub.captures == ["silent"]  # a good one goes on
        tokens(server).revoke("admin")
        said = b""
        while part := connection.recv(4096):
            said += part
            if b"\x03\xf0" in said:  # 1008, policy violation
                break
        assert b"no longer valid" in said
    for _ in range(100):
        if not server.stub.captures:
            break
        time.sleep(0.05)
    assert server.stub.captures == []
    with pytest.raises(requests.RequestException):
        list(capture.iter_content(1024))


def test_only_digests_are_kept_and_only_for_the_server(server: StubServer) -> None:
    token = make(server, "ci", Role.ADMIN)
    assert re.fullmatch(PREFIX + r"[A-Za-z0-9_-]{43}", token)
    assert ask(server, token, "GET", "/deployments").status_code == 200
    for path in (server.folder / "state").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert token.encode() not in path.read_bytes(), path
    (server.folder / "state" / "tokens.json").chmod(0o644)
    with pytest.raises(RefusedError, match="other users"):
        tokens(server).all()
    assert ask(server, token, "GET", "/deployments").status_code == 409
    assert ask(server, TOKEN, "GET", "/deployments").status_code == 200


def test_the_command_line(short_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--state-dir", str(short_path / "state")]
    create = ["server", "token", "create"]
    assert main([*create, "ci", "--role", "user", "--user", "daemon", *where]) == 0
    secret = capsys.readouterr().out.strip()
    assert main([*create, "ci", "--role", "admin", *where]) == 3
    assert main([*create, "x", "--role", "user", *where]) == 3
    assert main([*create, "x", "--role", "user", "--user", "root", *where]) == 3
    assert main([*create, "x", "--role", "read-only", "--user", "no-such-user", *where]) == 3
    assert main([*create, "x", "--role", "admin", "--expires", "soon", *where]) == 3
    assert main([*create, "a b", "--role", "admin", *where]) == 3
    assert main([*create, "for-ever", "--role", "admin", "--expires", "never", *where]) == 0
    capsys.readouterr()
    assert main(["server", "token", "list", "--json", *where]) == 0
    listed = capsys.readouterr().out
    assert secret not in listed
    assert "sha256" not in listed
    found = {each["name"]: each for each in json.loads(listed)}
    assert (found["ci"]["role"], found["ci"]["user"], found["ci"]["last_used"]) == ("user", "daemon", None)
    assert found["ci"]["expires"] > found["ci"]["created"]
    assert found["for-ever"]["expires"] is None
    assert main(["server", "token", "list", *where]) == 0
    assert "LAST USED" in capsys.readouterr().out
    assert main(["server", "token", "revoke", "ci", *where]) == 0
    assert main(["server", "token", "revoke", "ci", *where]) == 3
    said = [json.loads(line) for line in (short_path / "state" / "audit.log").read_text().splitlines()]
    assert [(each["outcome"], each["token"]) for each in said] == [
        ("created", "ci"), ("created", "for-ever"), ("revoked", "ci"),
    ]  # fmt: skip


def test_last_use_is_listed(server: StubServer) -> None:
    token = make(server, "ci", Role.ADMIN)
    ask(server, token, "GET", "/deployments")
    assert "ci" in tokens(server).last_used()


def test_metrics_show_what_a_token_may_see(server: StubServer) -> None:
    admin, alice = make(server, "admin", Role.ADMIN), make(server, "alice", Role.USER, ALICE)
    assert put(server, alice, "alices") == 201
    read_only = make(server, "prometheus", Role.READ_ONLY, ALICE)

    def scrape(token: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return requests.get(f"http://127.0.0.1:{server.port}/metrics", headers=headers, timeout=20)

    for token, names in ((admin, {"roots", "alices"}), (alice, {"alices"}), (read_only, {"alices"})):
        answer = scrape(token)
        assert answer.status_code == 200, answer.text
        assert set(re.findall(r'deployment_state{deployment="(\w+)"', answer.text)) == names
        assert ("roots" in answer.text) is ("roots" in names)
    tokens(server).revoke("prometheus")
    assert scrape(read_only).status_code == 401
