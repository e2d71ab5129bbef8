"""A server as a process: its start, its files, its end, however it comes."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from certificate import write_certificate
from daemon import Daemon

from kvmcompose.client.address import Address
from kvmcompose.client.errors import RefusedByServerError, ServerError
from kvmcompose.client.remote import RemoteServer, read_token
from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import ActionState, LogLine, NewDeployment, Phase

Start = Callable[..., Daemon]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def port_of(daemon: Daemon) -> int:
    line = next(line for line in daemon.said.splitlines() if "listening on http" in line)
    return int(line.rpartition(":")[2])


def test_an_ipv6_address_is_logged_as_clients_take_it(daemon: Start) -> None:
    server = daemon("--host", "::1", "--port", "0")
    port = port_of(server)
    assert f"listening on http://[::1]:{port}\n" in server.said
    address = Address.parse(f"http://[::1]:{port}")
    assert RemoteServer(address, token=(server.state / "token").read_text().strip()).health().version


# -- files


def test_its_files_are_for_its_owner_only(daemon: Start) -> None:
    server = daemon("--port", "0", "-v")
    assert mode(server.socket) == 0o600
    for path in server.state.iterdir():
        assert mode(path) == 0o600, path
    assert mode(server.state) == 0o700
    token = (server.state / "token").read_text().strip()
    client = RemoteServer(Address(host="127.0.0.1", port=port_of(server)), token=token)
    assert client.deployments() == []
    with pytest.raises(RefusedByServerError):
        RemoteServer(Address(host="127.0.0.1", port=port_of(server)), token="wrong").deployments()  # noqa: S106
    assert "GET /api/deployments" in server.said
    assert token not in server.said
    assert server.stop() == 0
    assert token not in server.said
    assert not server.socket.exists()


def test_the_token_stays_the_same(daemon: Start) -> None:
    server = daemon("--port", "0")
    token = read_token(server.state / "token")
    server.stop()
    daemon("--port", "0")
    assert read_token(server.state / "token") == token


def test_requests_are_noted_only_with_v(daemon: Start) -> None:
    server = daemon()
    server.client().deployments()
    assert "/api/deployments" not in server.said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to any group")
def test_a_group_may_connect_if_named(daemon: Start, short_path: Path) -> None:
    place = short_path / "open" / "server.sock"
    server = daemon("--socket-group", "daemon", "--socket", str(place))
    assert mode(place) == 0o660
    assert place.group() == "daemon"
    assert mode(server.state) == 0o700


# -- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], ["0.0.0.0", "--insecure", "--tls-cert"]),  # noqa: S104
        (["--host", "::", "--port", "0"], ["--insecure"]),
        (["--host", "192.0.2.1"], ["--insecure"]),
        (["--tls-cert", "/nowhere.pem"], ["given together"]),
        (["--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.pem"], ["/nowhere.pem"]),
        (["--socket-group", "no-such-group"], ["no-such-group"]),
        (["--socket-group", "daemon"], ["daemon", "cannot reach", "--socket"]),
        (["--port", "70000"], ["70000"]),
        (["--port", "-1"], ["-1"]),
        (["--project-root", "/no/such/folder"], ["/no/such/folder"]),
        (["--socket", f"/tmp/{'x' * 120}"], ["must not exceed", "--socket"]),  # noqa: S108
        (["--socket", "/proc/server.sock"], ["/proc/server.sock"]),
    ],
)
def test_what_cannot_be_or_is_not_safe_is_refused(
    short_path: Path, options: list[str], words: list[str]
) -> None:
    server = Daemon(short_path / "state", short_path, tuple(options))
    server.spawn()
    assert server.wait() == 3
    for word in words:
        assert word in server.said
    assert "Traceback" not in server.said


def test_an_open_address_with_tls_or_on_ones_own_risk(daemon: Start, short_path: Path) -> None:
    write_certificate(short_path)
    options = ["--tls-cert", str(short_path / "cert.pem"), "--tls-key", str(short_path / "key.pem")]
    server = daemon("--host", "0.0.0.0", "--port", "0", *options)  # noqa: S104
    token = read_token(server.state / "token")
    address = Address(host="localhost", port=port_of(server), tls=True)
    client = RemoteServer(address, token=token, ca_file=str(short_path / "cert.pem"))
    assert client.health().drivers == "fake"
    client.put(NewDeployment("demo", str(short_path)))
    with pytest.raises(ServerError) as caught:
        list(client.follow("demo", "00000000-0000-0000-0000-000000000000"))
    assert caught.value.status == 404
    with pytest.raises(ServerError, match="cannot verify the server"):
        RemoteServer(address, token=token).health()
    server.stop()
    insecure = daemon("--host", "0.0.0.0", "--port", "0", "--insecure")  # noqa: S104
    assert insecure.client().health().drivers == "fake"


@pytest.mark.parametrize("content", ["", "short", "a token with spaces in it"])
def test_a_token_that_is_none_is_refused(short_path: Path, content: str) -> None:
    token = short_path / "token"
    token.write_text(content)
    token.chmod(0o600)
    server = Daemon(short_path / "state", short_path, ("--port", "0", "--token-file", str(token)))
    server.spawn()
    assert server.wait() == 3
    assert str(token) in server.said


def test_a_token_that_others_can_read_is_refused(short_path: Path) -> None:
    token = short_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o640)
    server = Daemon(short_path / "state", short_path, ("--port", "0", "--token-file", str(token)))
    server.spawn()
    assert server.wait() == 3
    assert "chmod 600" in server.said


def test_a_port_that_is_taken(short_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        server = Daemon(short_path / "state", short_path, ("--port", port))
        server.spawn()
        assert server.wait() == 3
    assert port in server.said


# -- one at a time


def test_a_second_server_of_a_state_folder_is_refused_and_told_who_has_it(
    daemon: Start, short_path: Path
) -> None:
    first = daemon()
    second = Daemon(first.state, short_path, ("--socket", str(short_path / "other.sock")))
    second.log = short_path / "second.log"
    second.spawn()
    assert second.wait() == 3
    assert first.process is not None
    assert f"process {first.process.pid}" in second.said
    assert str(first.socket) in second.said
    assert first.client().deployments() == []


def test_a_socket_that_somebody_else_listens_on_is_left_to_them(daemon: Start, short_path: Path) -> None:
    first = daemon()
    second = Daemon(short_path / "other", short_path, ("--socket", str(first.socket)))
    second.log = short_path / "second.log"
    second.spawn()
    assert second.wait() == 3
    assert "address already in use" in second.said
    assert first.client().deployments() == []


def test_the_socket_of_a_killed_server_is_replaced(daemon: Start) -> None:
    first = daemon()
    first.kill()
    assert first.socket.exists()
    assert daemon().client().deployments() == []


def test_a_file_in_the_sockets_place_is_not_removed(short_path: Path) -> None:
    place = short_path / "precious"
    place.write_text("data")
    server = Daemon(short_path / "state", short_path, ("--socket", str(place)))
    server.spawn()
    assert server.wait() == 3
    assert place.read_text() == "data"


# -- the end


def begin_up(server: Daemon, project: Path) -> str:
    """An ``up`` that is in the middle of its work."""
    client = server.client()
    client.put(NewDeployment("demo", str(project)))
    uuid = client.act("demo", Up())
    deadline = time.monotonic() + 20
    while len(client.steps("demo", uuid)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return uuid


class Follower(threading.Thread):
    """Follows an action meanwhile."""

    def __init__(self, client: RemoteServer, uuid: str) -> None:
        super().__init__()
        self.lines: list[LogLine] = []
        self.error: ServerError | None = None
        self._client, self._uuid = client, uuid
        self.start()

    def run(self) -> None:
        try:
            for line in self._client.follow("demo", self._uuid):
                self.lines.append(line)
        except ServerError as error:
            self.error = error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_stop_it_brings_actions_to_a_safe_point(
    daemon: Start, project: Path, number: signal.Signals
) -> None:
    server = daemon("--delay", "0.2")
    uuid = begin_up(server, project)
    follower = Follower(server.client(), uuid)
    time.sleep(0.2)
    assert server.stop(number) == 0
    follower.join(20)
    assert follower.error is None
    assert [line.sequence for line in follower.lines] == list(range(1, len(follower.lines) + 1))
    assert follower.lines[-1].text == "cancelled"
    assert not server.socket.exists()
    again = daemon()
    assert again.client().action("demo", uuid).state is ActionState.CANCELLED
    assert again.client().deployment("demo").failed_command == "up"


def test_a_second_signal_stops_it_at_once(daemon: Start, project: Path) -> None:
    server = daemon("--delay", "30")
    client = server.client()
    client.put(NewDeployment("demo", str(project)))
    uuid = client.act("demo", Up())
    time.sleep(0.3)
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    server.wait_for("stopping: ")
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 15
    assert daemon().client().action("demo", uuid).state in (ActionState.INTERRUPTED, ActionState.CANCELLED)


def test_killed_in_mid_action_it_knows_what_was_running_and_goes_on(daemon: Start, project: Path) -> None:
    server = daemon("--delay", "0.2")
    uuid = begin_up(server, project)
    follower = Follower(server.client(), uuid)
    time.sleep(0.2)
    server.kill()
    again = daemon()
    client = again.client()
    follower.join(40)
    assert follower.error is None
    assert [line.sequence for line in follower.lines] == list(range(1, len(follower.lines) + 1))
    assert "killed" in follower.lines[-1].text
    action = client.action("demo", uuid)
    assert action.state is ActionState.INTERRUPTED
    assert action.ended is not None
    assert action.faults[0].hint is not None
    deployment = client.deployment("demo")
    assert (deployment.state, deployment.failed_command) == (Phase.FAILED, "up")
    assert "running" not in {step.state for step in client.steps("demo", uuid)}
    assert uuid in again.said
    for command, phase in ((Up(), Phase.UP), (Down(purge=True), Phase.DOWN)):
        done = client.act("demo", command)
        list(client.follow("demo", done))
        assert client.action("demo", done).state is ActionState.SUCCEEDED, client.action("demo", done)
        assert client.deployment("demo").state is phase
    client.remove("demo")


def test_nothing_new_is_begun_while_it_stops(daemon: Start, project: Path) -> None:
    server = daemon("--delay", "1")
    begin_up(server, project)
    assert server.process is not None
    client = server.client()
    client.deployments()  # a connection that is kept
    server.process.send_signal(signal.SIGTERM)
    server.wait_for("stopping: ")
    with pytest.raises(ServerError) as caught:
        client.act("demo", Down())
    assert caught.value.status in (503, None)
    assert server.wait() == 0


def test_a_memory_of_another_version_is_not_touched(daemon: Start, short_path: Path) -> None:
    import sqlite3  # noqa: PLC0415

    server = daemon()
    server.stop()
    with sqlite3.connect(server.state / "fake-server.db") as memory:
        memory.execute("PRAGMA user_version = 99")
    memory.close()
    other = Daemon(server.state, short_path)
    other.spawn()
    assert other.wait() == 1
    assert "version 99" in other.said
    assert "Traceback" not in other.said
