"""The client gives its token to nobody who is not the server, or may not be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvmcompose.client.address import Address
from kvmcompose.client.connect import connect
from kvmcompose.client.errors import RefusedByServerError, ServerError
from kvmcompose.client.server_owner import check_port

_LISTEN = """
import os, socket, sys
kind, place, uid = sys.argv[1:]
os.setgid(int(uid)); os.setuid(int(uid))
if kind == "unix":
    listener = socket.socket(socket.AF_UNIX); listener.bind(place)
else:
    listener = socket.create_server(("" if kind == "any" else "127.0.0.1", 0))
    place = listener.getsockname()[1]
listener.listen(); print(place, flush=True)
while True:
    connection, _ = listener.accept()
    connection.settimeout(1)
    try:
        print(repr(connection.recv(4096)), flush=True)
    except OSError:
        print("nothing", flush=True)
    connection.close()
"""
_SECRET = "a-secret-token-of-tests"  # noqa: S105
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed to listen")


@pytest.fixture
def token(tmp_path: Path) -> str:
    file = tmp_path / "token"
    file.write_text(_SECRET)
    return str(file)


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for each in started:
        each.kill()
        each.communicate()


def listen(
    started: list[subprocess.Popen[str]], kind: str, place: str, uid: int
) -> tuple[str, subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _LISTEN, kind, place, str(uid)], stdout=subprocess.PIPE, text=True
    )
    started.append(process)
    assert process.stdout is not None
    return process.stdout.readline().strip(), process


def test_no_address_elsewhere_gets_the_token_in_clear(token: str) -> None:
    with pytest.raises(RefusedByServerError, match="refusing to send the token without TLS") as caught:
        connect("http://192.0.2.1:5040", token_file=token)
    assert "--insecure" in str(caught.value.hint)
    assert connect("http://192.0.2.1:5040", token_file=token, insecure=True)
    assert connect("https://192.0.2.1:5040", token_file=token)


@needs_root
@pytest.mark.parametrize("kind", ["any", "loopback"])
def test_another_user_who_holds_the_port_does_not_get_the_token(
    token: str, stranger: list[subprocess.Popen[str]], kind: str
) -> None:
    port, process = listen(stranger, kind, "-", 65534)
    for name in ("127.0.0.1", "localhost"):
        with pytest.raises(RefusedByServerError, match="belongs to another user"):
            connect(f"http://{name}:{port}", token_file=token).deployments()
    server = connect(f"http://127.0.0.1:{port}", token_file=token, insecure=True)
    with pytest.raises(ServerError):  # it is no server, and gets it as that was wished
        server.deployments()
    assert process.stdout is not None
    heard = ""
    while _SECRET not in heard:  # what it heard before that was nothing
        assert heard in ("", "nothing", "b''")
        heard = process.stdout.readline().strip()


def test_this_users_own_listener_is_known(stranger: list[subprocess.Popen[str]], token: str) -> None:
    port, process = listen(stranger, "loopback", "-", os.geteuid())
    assert check_port("127.0.0.1", int(port))
    with pytest.raises(ServerError) as caught:
        connect(f"http://127.0.0.1:{port}", token_file=token).deployments()
    assert not isinstance(caught.value, RefusedByServerError)
    assert process.stdout is not None
    assert _SECRET in process.stdout.readline()


def test_all_tables_are_read() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        assert check_port("::1", listener.getsockname()[1])
        assert not check_port("127.0.0.1", listener.getsockname()[1])
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        assert check_port("127.0.0.1", listener.getsockname()[1])


@needs_root
def test_another_users_socket_in_the_usual_place_is_refused(
    tmp_path: Path, stranger: list[subprocess.Popen[str]]
) -> None:
    tmp_path.chmod(0o777)
    path, _ = listen(stranger, "unix", f"/tmp/kc-{os.getpid()}.sock", 65534)  # noqa: S108 (open to another user)
    try:
        with pytest.raises(RefusedByServerError, match="belongs to another user"):
            Address(socket=Path(path), own=True).connect()
        Address(socket=Path(path)).connect().close()  # named by the user: theirs to know
    finally:
        Path(path).unlink()
