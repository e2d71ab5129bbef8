"""The server that starts when none is there, and ends by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kvmcompose.client import embedded
from kvmcompose.client.connect import connect
from kvmcompose.client.errors import RefusedByServerError, ServerError
from kvmcompose.core.commands import Up
from kvmcompose.core.deployment import ActionState, NewDeployment, Phase
from kvmcompose.effects import server_places


def alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_it_is_there_when_needed_and_goes_when_not(own_place: Path) -> None:
    server = connect()
    health = server.health()
    assert health.embedded
    assert connect().health().pid == health.pid
    assert gone(health.pid, 15)
    assert not (own_place / "server.sock").exists()
    assert "stopping: no requests" in (own_place / "embedded.log").read_text()
    # the same client goes on with a new one
    assert server.health().pid != health.pid


def test_several_who_need_one_at_once_get_the_same(own_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVM_COMPOSE_SERVER_IDLE", "60")  # the last of them may begin late
    code = "from kvmcompose.client.connect import connect; print(connect().health().pid)"
    starting = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    ends = [each.communicate(timeout=60) for each in starting]
    assert [stderr for _, stderr in ends] == [b""] * 4
    assert len({stdout for stdout, _ in ends}) == 1


def test_threads_that_need_one_at_once_get_the_same(own_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVM_COMPOSE_SERVER_IDLE", "60")  # the last of them may begin late
    pids: list[int] = []
    threads = [threading.Thread(target=lambda: pids.append(connect().health().pid)) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert len(pids) == 3
    assert len(set(pids)) == 1


_BEGIN_UP = """
import sys
from kvmcompose.client.connect import connect
from kvmcompose.core.commands import Up
from kvmcompose.core.deployment import NewDeployment
server = connect()
server.put(NewDeployment("demo", sys.argv[1]))
uuid = server.act("demo", Up())
print(uuid, server.health().pid, flush=True)
for line in server.follow("demo", uuid): pass
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGHUP])
def test_it_finishes_its_work_though_its_client_ends(
    own_place: Path, project: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("KVM_COMPOSE_SERVER_DELAY", "0.1")
    client = subprocess.Popen(
        [sys.executable, "-c", _BEGIN_UP, str(project)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    assert client.stdout is not None
    uuid, pid = client.stdout.readline().split()
    os.killpg(client.pid, number)  # as a terminal does
    client.wait(20)
    client.stdout.close()
    assert alive(int(pid))
    server = connect()
    list(server.follow("demo", uuid))
    assert server.action("demo", uuid).state is ActionState.SUCCEEDED
    assert gone(int(pid), 15)


def test_killed_in_mid_action_another_tells_what_happened(
    own_place: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVM_COMPOSE_SERVER_DELAY", "0.2")
    server = connect()
    server.put(NewDeployment("demo", str(project)))
    uuid = server.act("demo", Up())
    pid = server.health().pid
    threading.Timer(0.7, lambda: os.kill(pid, signal.SIGKILL)).start()
    lines = list(server.follow("demo", uuid))
    assert "killed" in lines[-1].text
    assert [line.sequence for line in lines] == list(range(1, len(lines) + 1))
    assert server.action("demo", uuid).state is ActionState.INTERRUPTED
    assert server.deployment("demo").state is Phase.FAILED
    assert server.health().pid != pid


def test_one_that_cannot_start_says_why(own_place: Path) -> None:
    own_place.mkdir(mode=0o700)
    (own_place / "fake-server.db").write_bytes(
        b"this is no database, but long enough to be taken for one" * 100
    )
    with pytest.raises(ServerError) as caught:
        connect()
    assert "file is not a database" in caught.value.message
    assert str(own_place / "embedded.log") in (caught.value.hint or "")


def test_a_server_elsewhere_on_the_same_state_is_named(
    own_place: Path, monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    monkeypatch.setattr(embedded, "START_SECONDS", 3.0)
    argv = [sys.executable, "-m", "kvmcompose", "server", "--socket", str(short_path / "elsewhere")]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as other:
        while not (short_path / "elsewhere").exists():
            time.sleep(0.05)
        with pytest.raises(ServerError) as caught:
            connect()
        other.terminate()
    assert f"process {other.pid}" in caught.value.message
    assert str(short_path / "elsewhere") in caught.value.message


def test_without_the_servers_part_it_says_what_to_install(
    own_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_places, "_MODULES", ("no_such_module_at_all",))
    with pytest.raises(RefusedByServerError) as caught:
        connect()
    assert "pip install 'kvmcompose[server]'" in (caught.value.hint or "")
    assert caught.value.exit_code == 3
    assert not own_place.exists()


def test_a_server_that_is_named_is_not_started(own_place: Path) -> None:
    with pytest.raises(ServerError, match="cannot reach a server"):
        connect(f"unix:{own_place}/server.sock").health()
    assert not own_place.exists()


def test_a_package_in_the_project_folder_is_not_run(
    own_place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a project brings along must not become the server."""
    for name in ("kvmcompose", "fastapi", "uvicorn"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('evil')")
    monkeypatch.chdir(tmp_path)
    assert connect().health().embedded
