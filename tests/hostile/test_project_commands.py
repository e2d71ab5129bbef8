"""Root's server runs the command line for members: with their rights, in their folder, within limits."""

from __future__ import annotations

import fcntl
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from people import Answer, Shared, ask, give, new

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can have members")

_YAML = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {existing_disk: {path: ./disk.raw, driver_type: raw}}}
network: {bridges: [{name: br0}], external_bridge: br0}
"""
#: Accounts that every Debian has. Neither can log in, nor write to its home folder.
_ALICE, _BOB = "games", "news"
_ASK_UP = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from people import ask
ask(Path(sys.argv[2]), int(sys.argv[3]), "POST", "/deployments/environment/project/up", body={})
"""


class Members(Shared):
    """Such a server, with accounts of the machine as members."""

    def ask(self, name: str, method: str, target: str, body: object = None) -> Answer:
        return ask(self.socket, pwd.getpwnam(name).pw_uid, method, target, body=body)

    def lab(self, name: str, owner: str) -> Path:
        folder = self.root / name
        folder.mkdir(mode=0o700)
        (folder / "kvm-compose.yaml").write_text(_YAML)
        (folder / "disk.raw").write_bytes(bytes(1 << 20))
        give(folder, pwd.getpwnam(owner).pw_uid)
        assert self.ask(owner, "PUT", f"/deployments/{name}", new(name, folder)).status in (200, 201)
        return folder


@pytest.fixture(scope="module")
def server() -> Iterator[Members]:
    with tempfile.TemporaryDirectory(prefix="kc", dir="/tmp") as folder:
        root = Path(folder)
        root.chmod(0o711)
        made = Members(root)
        made.daemon._environment["OF_SERVER"] = "mellon"
        made.daemon._argv = [*_reachable(root / "python"), *made.daemon._argv]
        made.start()
        made.socket.chmod(0o666)  # the accounts are in no group of the socket
        yield made
        made.daemon.stop()


def _reachable(kept: Path) -> list[str]:
    """Return a command that runs another one where members can run this Python: root's home may hold it."""
    kept.mkdir()
    python = Path(sys.executable).resolve()
    closed = [each for each in python.parents if not each.stat().st_mode & 0o001]
    if not closed:
        return []
    top, inside = closed[-1], python.parents[1]
    script = (
        'set -e; mount --bind "$2" "$3"; mount -t tmpfs -o mode=755 tmpfs "$1";'
        ' mkdir -p "$2"; mount --bind "$3" "$2"; shift 3; exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-c", script, "sh", str(top), str(inside), str(kept)]


def problems_of(answer: Answer) -> list[dict[str, Any]]:
    assert answer.status == 200, answer.text
    found: list[dict[str, Any]] = answer.json["problems"]
    return found


def test_a_command_runs_as_the_owner(server: Members) -> None:
    folder = server.lab("asowner", _ALICE)
    found = server.ask(_ALICE, "GET", "/deployments/asowner/project/file")
    assert found.status == 200, found.text
    assert (found.json["text"], found.json["valid"]) == (_YAML, True)
    text = _YAML + "# by the page\n"
    saved = server.ask(
        _ALICE, "PUT", "/deployments/asowner/project/file", {"text": text, "digest": found.json["digest"]}
    )
    assert saved.status == 200, saved.text
    status = (folder / "kvm-compose.yaml").stat()
    assert status.st_uid == pwd.getpwnam(_ALICE).pw_uid
    assert (folder / "kvm-compose.yaml").read_text() == text
    # root asks, and the owner's rights apply
    found = ask(server.socket, 0, "GET", "/deployments/asowner/project/file")
    assert found.json["text"] == text


def test_what_the_owner_cannot_read_is_not_shown(server: Members) -> None:
    folder = server.lab("links", _ALICE)
    secret = server.root / "secret.yaml"
    secret.write_text("root: mellon\n")
    secret.chmod(0o600)
    yaml = folder / "kvm-compose.yaml"
    yaml.unlink()
    yaml.symlink_to(secret)
    found = server.ask(_ALICE, "GET", "/deployments/links/project/file")
    assert found.status == 200, found.text
    assert found.json["text"] is None
    assert "mellon" not in found.text
    assert "permission denied" in found.json["unread"]


def test_nothing_is_written_through_a_link(server: Members) -> None:
    folder = server.lab("through", _ALICE)
    other = server.root / "other.yaml"
    other.write_text(_YAML)
    os.chown(other, pwd.getpwnam(_ALICE).pw_uid, -1)
    yaml = folder / "kvm-compose.yaml"
    yaml.unlink()
    yaml.symlink_to(other)
    found = server.ask(_ALICE, "GET", "/deployments/through/project/file").json
    body = {"text": _YAML + "# more\n", "digest": found["digest"]}
    saved = server.ask(_ALICE, "PUT", "/deployments/through/project/file", body)
    assert saved.status == 409, saved.text
    assert "is a link" in saved.json["detail"]
    assert other.read_text() == _YAML


def test_a_pipe_or_a_huge_file_in_place_of_the_yaml(server: Members) -> None:
    folder = server.lab("pipe", _ALICE)
    yaml = folder / "kvm-compose.yaml"
    yaml.unlink()
    os.mkfifo(yaml)
    began = time.monotonic()
    found = server.ask(_ALICE, "GET", "/deployments/pipe/project/file")
    assert found.status == 200, found.text
    assert "regular" in found.json["unread"]
    yaml.unlink()
    with yaml.open("wb") as file:
        file.truncate(1 << 40)
    found = server.ask(_ALICE, "GET", "/deployments/pipe/project/file")
    assert "larger" in found.json["unread"]
    assert time.monotonic() - began < 60


def test_members_have_nothing_to_do_with_others(server: Members) -> None:
    server.lab("private", _ALICE)
    for method, target, body in (
        ("GET", "/project/file", None),
        ("GET", "/project/why?guest=one", None),
        ("POST", "/project/plan", {}),
        ("POST", "/project/up", {}),
        ("POST", "/project/check", {"text": ""}),
        ("PUT", "/project/file", {"text": "", "digest": "0" * 64}),
    ):
        refused = server.ask(_BOB, method, f"/deployments/private{target}", body)
        assert refused.status == 403, (target, refused.text)


def test_a_folder_that_is_exchanged_is_not_entered(server: Members) -> None:
    folder = server.lab("swapped", _ALICE)
    folder.rename(server.root / "was-swapped")
    folder.symlink_to(server.root)
    refused = server.ask(_ALICE, "POST", "/deployments/swapped/project/check", {"text": _YAML})
    assert refused.status == 403, refused.text


def test_the_environment_of_the_server_stays_there(server: Members) -> None:
    """A command waits for a lock, and can be looked at meanwhile."""
    folder, alice = server.lab("environment", _ALICE), pwd.getpwnam(_ALICE).pw_uid
    private = folder / ".kvm-compose"
    private.mkdir(mode=0o700)
    lock = private / "lock"
    lock.touch()
    give(folder, pwd.getpwnam(_ALICE).pw_uid)
    holder = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        asking = subprocess.Popen(
            [sys.executable, "-c", _ASK_UP, str(Path(__file__).parent), str(server.socket), str(alice)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process = _command_of(server, pwd.getpwnam(_ALICE).pw_uid)
            environment = (process / "environ").read_bytes()
            assert b"mellon" not in environment
            assert b"KVM_COMPOSE_SERVER=unix:" in environment
            status = (process / "status").read_text()
            assert f"Uid:\t{pwd.getpwnam(_ALICE).pw_uid}\t" in status
            assert f"Groups:\t{pwd.getpwnam(_ALICE).pw_gid} " in status
            assert "CapEff:\t0000000000000000" in status
            names = {path.readlink().name for path in (process / "fd").iterdir()}
            assert not [name for name in names if "server" in name or name.endswith((".db", ".db-wal"))]
        finally:
            os.killpg(asking.pid, signal.SIGKILL)  # with the process that became the user
            asking.wait()
        _wait_for_the_end(process)
    finally:
        os.close(holder)


def _wait_for_the_end(process: Path) -> None:
    deadline = time.monotonic() + 20
    while process.exists():
        assert time.monotonic() < deadline, "it outlives its client"
        time.sleep(0.1)


def _command_of(server: Members, uid: int) -> Path:
    """Return the folder in /proc of the command that the server runs as a user, once it waits."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes().split(b"\0")
                if path.stat().st_uid == uid and b"--detach" in words and b"sh" not in words:
                    time.sleep(1)
                    return path
            except OSError:
                continue
        time.sleep(0.05)
    raise AssertionError(server.daemon.said)


def test_people_without_an_account_get_an_answer(server: Members) -> None:
    folder = server.root / "nobodys"
    folder.mkdir(mode=0o700)
    (folder / "kvm-compose.yaml").write_text(_YAML)
    give(folder, 61001)
    assert ask(server.socket, 61001, "PUT", "/deployments/nobodys", body=new("nobodys", folder)).status == 201
    refused = ask(server.socket, 61001, "GET", "/deployments/nobodys/project/file")
    assert refused.status == 409, refused.text
    assert "no account" in refused.json["detail"]
