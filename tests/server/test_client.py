"""The client: addresses, tokens, and errors that say what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stub import TOKEN, StubServer

from kvmcompose.client.address import Address
from kvmcompose.client.connect import connect
from kvmcompose.client.errors import RefusedByServerError, ServerError, WrongInputError
from kvmcompose.client.remote import RemoteServer, read_token
from kvmcompose.core.commands import Exec, Up
from kvmcompose.core.deployment import NewDeployment
from kvmcompose.core.errors import RefusedError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("unix:/run/s", Address(socket=Path("/run/s"))),
        ("unix:///run/s", Address(socket=Path("/run/s"))),
        ("http://localhost:5040", Address(host="localhost", port=5040)),
        ("http://[::1]:5040/", Address(host="::1", port=5040)),
        ("https://host.example", Address(host="host.example", port=443, tls=True)),
    ],
)
def test_addresses(text: str, wanted: Address) -> None:
    assert Address.parse(text) == wanted
    assert Address.parse(str(wanted)) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "", "unix:", "unix:relative", "localhost:5040", "ftp://host", "http://", "http://host:0",
        "http://host:99999", "http://user@host", "http://host/path", "http://host?x", "http://[::1", "/run/s",
        "unix:/a\0b", "http://host:port",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(RefusedByServerError) as caught:
        Address.parse(text)
    assert "unix:/path" in (caught.value.hint or "")


def test_errors_ask_for_the_right_reaction(stub: StubServer) -> None:
    client = stub.client()
    with pytest.raises(ServerError) as not_found:
        client.deployment("nope")
    assert (not_found.value.status, not_found.value.exit_code) == (404, 1)
    with pytest.raises(WrongInputError) as wrong:
        client.put(NewDeployment("demo", "/" + str(stub.projects) + "/missing"))
    assert (wrong.value.status, wrong.value.exit_code) == (422, 2)
    with pytest.raises(RefusedByServerError) as forbidden:
        client.put(NewDeployment("demo", "/etc"))
    assert (forbidden.value.status, forbidden.value.exit_code) == (403, 3)
    client.put(NewDeployment("demo", str(stub.project("demo"))))
    client.act("demo", Exec(guest="web", argv=("wait",)))
    with pytest.raises(RefusedError) as busy:
        client.act("demo", Up())
    assert isinstance(busy.value, ServerError)
    assert (busy.value.status, busy.value.exit_code) == (409, 3)
    assert busy.value.hint


def test_many_requests_at_a_time_are_no_warning(stub: StubServer, caplog: pytest.LogCaptureFixture) -> None:
    """urllib3 warns of each connection that it cannot keep, and exec --label has one per guest."""
    client = stub.client()
    ready = threading.Barrier(32)
    with ThreadPoolExecutor(32) as workers:
        list(workers.map(lambda _: (ready.wait(10), client.health()), range(64)))
    assert [record for record in caplog.records if record.name.startswith("urllib3")] == []


def test_names_of_any_kind_stay_names(stub: StubServer) -> None:
    for name in ("../health", "a/b", "a?b", "a#b", "%2e", "ä", "a b"):
        with pytest.raises(ServerError) as caught:
            stub.client().deployment(name)
        assert caught.value.status == 404


def test_nobody_there(short_path: Path) -> None:
    with pytest.raises(ServerError, match="cannot reach a server") as caught:
        RemoteServer(Address(socket=short_path / "s")).health()
    assert caught.value.exit_code == 1
    with pytest.raises(ServerError):
        RemoteServer(Address(host="127.0.0.1", port=1)).health()


def test_the_token_comes_from_a_file(stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{stub.port}"
    monkeypatch.setenv("KVM_COMPOSE_STATE_DIR", str(stub.folder / "nowhere"))
    with pytest.raises(RefusedByServerError) as caught:
        connect(address).health()
    assert "KVM_COMPOSE_TOKEN_FILE" in (caught.value.hint or "")
    file = stub.folder / "token"
    file.write_text(f"{TOKEN}\n")
    assert connect(address, token_file=str(file)).health().version == "1"
    monkeypatch.setenv("KVM_COMPOSE_TOKEN_FILE", str(file))
    assert connect(address).health().version == "1"
    monkeypatch.setenv("KVM_COMPOSE_SERVER", address)
    assert connect().health().version == "1"
    monkeypatch.delenv("KVM_COMPOSE_TOKEN_FILE")
    monkeypatch.setenv("KVM_COMPOSE_STATE_DIR", str(stub.folder))
    assert connect().health().version == "1"
    with pytest.raises(RefusedByServerError, match="cannot read the token"):
        connect(address, token_file="/no/such/file")  # noqa: S106


def test_proxies_and_netrc_are_not_for_testbed_servers(
    stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = stub.folder / "netrc"
    netrc.write_text("machine 127.0.0.1 login eve password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    client = stub.client(tcp=True)
    client.put(NewDeployment("demo", str(stub.project("demo"))))
    uuid = client.act("demo", Exec(guest="web", argv=("say", "3")))
    assert len(list(client.follow("demo", uuid))) == 4


def test_who_asks_is_noted(stub: StubServer) -> None:
    client = RemoteServer(stub.address, who="eve")
    client.put(NewDeployment("demo", str(stub.project("demo"))))
    uuid = client.act("demo", Exec(guest="web", argv=("say", "1")))
    assert client.action("demo", uuid).who == "eve"
    uuid = stub.client().act("demo", Exec(guest="web", argv=("say", "1")))
    assert "@" in (client.action("demo", uuid).who or "")


def test_answers_that_are_none_are_errors(stub: StubServer) -> None:
    client = stub.client()
    with pytest.raises(ServerError, match="invalid response"):
        client._get("/api/health", list[int])


def test_commands_import_neither_requests_nor_anything_of_a_server_before_they_ask_one() -> None:
    code = (
        "import sys, kvmcompose.client.action; from kvmcompose.cli.main import _commands; _commands();"
        "print([m for m in ('requests', 'urllib3', 'websocket', 'fastapi', 'uvicorn', 'ssl')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_imports_nothing_of_a_server() -> None:
    code = (
        "import sys, kvmcompose.client.remote, kvmcompose.client.stream, kvmcompose.client.embedded;"
        "print([m for m in ('fastapi', 'uvicorn', 'starlette', 'pydantic', 'asyncssh', 'sqlite3')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_token_comes_from_a_pipe_that_the_shell_has_opened() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a-token-of-some-length\n")
    os.close(writing)
    try:
        assert read_token(f"/dev/fd/{reading}") == "a-token-of-some-length"
    finally:
        os.close(reading)
