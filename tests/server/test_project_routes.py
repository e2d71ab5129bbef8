"""The project of a deployment through the API, with a real command line and simulated hosts."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon import Daemon

from kvmcompose.core.deployment import NewDeployment


class Lab:
    """A project known to a server of its own."""

    def __init__(self, root: Path, built: Path) -> None:
        self.root = root
        self.folder = root / "demo"
        shutil.copytree(built, self.folder, symlinks=True)
        self.yaml = self.folder / "kvm-compose.yaml"
        environment = {
            "KVM_COMPOSE_STATE_DIR": str(root / "consents"),
            "KVM_COMPOSE_TRUST": "1", "KVM_COMPOSE_INPUT": "other.yaml", "SECRET_OF_SERVER": "mellon",
        }  # fmt: skip
        self.daemon = Daemon(root / "s", root, environment=environment)
        self.daemon.start()
        self.daemon.client().put(NewDeployment("demo", str(self.folder)))

    def connection(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(self.daemon.socket))
        return connection

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = self.connection()
        headers = {"Content-Type": "application/json"}
        text = None if body is None else json.dumps(body)
        connection.request(method, f"/api/deployments/demo/project{path}", text, headers)
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        if answer.headers["content-type"] == "application/x-ndjson":
            return answer.status, [json.loads(line) for line in said.splitlines()]
        return answer.status, json.loads(said)

    def children(self) -> list[str]:
        """The commands that the server runs, by their command lines."""
        found = []
        process = self.daemon.process
        assert process is not None
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = path.joinpath("stat").read_text().rpartition(")")[2].split()[1]
                words = path.joinpath("cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if int(parent) == process.pid:
                found.append(" ".join(words))
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, built_project: Path) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("p"), built_project)
    yield made
    made.daemon.stop()


def test_the_file_comes_with_its_digest_and_problems(lab: Lab) -> None:
    status, found = lab.ask("GET", "/file")
    assert (status, found["valid"], found["problems"]) == (200, True, [])
    assert found["text"] == lab.yaml.read_text()
    assert found["digest"] == hashlib.sha256(lab.yaml.read_bytes()).hexdigest()
    assert found["path"] == str(lab.yaml)


def test_a_text_is_checked_and_not_saved(lab: Lab) -> None:
    before = lab.yaml.read_bytes()
    status, found = lab.ask("POST", "/check", {"text": "machines:\n  - nam: x\n"})
    assert (status, found["valid"]) == (200, False)
    first = found["problems"][0]
    assert first["location"] == {"file": "kvm-compose.yaml", "line": 2, "column": 5}
    assert first["hint"] or first["message"]
    assert lab.yaml.read_bytes() == before


def test_a_file_that_does_not_parse_is_shown_with_the_place(lab: Lab) -> None:
    before = lab.yaml.read_bytes()
    try:
        lab.yaml.write_text("machines: [\n")
        status, found = lab.ask("GET", "/file")
    finally:
        lab.yaml.write_bytes(before)
    assert (status, found["valid"], found["text"]) == (200, False, "machines: [\n")
    assert found["problems"][0]["location"]["line"] > 0


def test_what_is_valid_is_saved_with_its_mode(lab: Lab) -> None:
    before = lab.yaml.read_bytes()
    lab.yaml.chmod(0o640)
    text = before.decode() + "# saved\n"
    digest = hashlib.sha256(before).hexdigest()
    try:
        status, found = lab.ask("PUT", "/file", {"text": text, "digest": digest})
        assert (status, found["valid"]) == (200, True)
        assert lab.yaml.read_text() == text
        assert lab.yaml.stat().st_mode & 0o777 == 0o640
        assert found["digest"] == hashlib.sha256(text.encode()).hexdigest()
        status, found = lab.ask("PUT", "/file", {"text": text + "# more\n", "digest": digest})
        assert status == 409, found
        assert "changed since" in found["detail"]
        assert lab.yaml.read_text() == text
    finally:
        lab.yaml.write_bytes(before)


def test_what_is_not_valid_is_not_saved(lab: Lab) -> None:
    before = lab.yaml.read_bytes()
    digest = hashlib.sha256(before).hexdigest()
    status, found = lab.ask("PUT", "/file", {"text": "machines: 7\n", "digest": digest})
    assert status == 422, found
    assert "1 error" in found["detail"]
    assert lab.yaml.read_bytes() == before


def test_why_names_all_that_a_guest_is_made_of(lab: Lab) -> None:
    status, found = lab.ask("GET", "/why?guest=one")
    assert status == 200, found
    assert "artefacts/one-domain.xml" in [each["path"] for each in found]
    status, found = lab.ask("GET", "/why?guest=three")
    assert status == 422, found
    assert "there is no guest" in found["detail"]


def test_a_plan_is_carried_out_as_it_was_reviewed_or_not_at_all(lab: Lab) -> None:
    before = lab.yaml.read_bytes()
    try:
        status, plan = lab.ask("POST", "/plan", {})
        assert status == 200, plan
        assert {each["verb"] for each in plan["testbed"]["changes"]} == {"create"}
        lab.yaml.write_bytes(before.replace(b"memory_mb: 64", b"memory_mb: 80", 1))
        status, events = lab.ask("POST", "/up", {"plan": plan})
        assert status == 200
        assert events[-1] == {"event": "ended", "status": 3}
        assert "something has changed since the plan was made" in events[-2]["message"]
        status, plan = lab.ask("POST", "/plan", {"options": {"command": "up"}, "diff": True})
        assert [each["path"] for each in plan["files"] if "diff" in each] != []
        status, events = lab.ask("POST", "/up", {"plan": plan})
        assert events[-1] == {"event": "ended", "status": 0}, events
        assert {"done", "finished", "action"} <= {each["event"] for each in events}
        uuid = next(each["uuid"] for each in events if each["event"] == "action")
        action = wait_for(lab, uuid)
        assert action["state"] == "succeeded"
    finally:
        lab.yaml.write_bytes(before)


def test_what_a_request_expects_is_not_left_out_in_silence(lab: Lab) -> None:
    status, found = lab.ask("POST", "/up", {"options": {"command": "up", "expected": "0" * 64}})
    assert (status, found["detail"].partition(":")[0]) == (422, "expected")


@pytest.mark.parametrize("field", ["guests", "rerun_guests", "recreate", "abandon"])
def test_no_name_is_an_option_of_the_command(lab: Lab, field: str) -> None:
    for name in ("--trust", "-C/", "--consent=x", "\n", ""):
        for path in ("/plan", "/up"):
            status, found = lab.ask("POST", path, {"options": {"command": "up", field: [name]}})
            assert status == 422, (path, name, found)


def wait_for(lab: Lab, uuid: str) -> Any:
    for _ in range(300):
        action = next(each for each in lab.daemon.client().actions("demo") if each.uuid == uuid)
        if action.ended is not None:
            return {"state": action.state.value, "asked_by": action.asked_by}
        time.sleep(0.05)
    raise AssertionError(uuid)


def test_consent_is_asked_and_given_for_one_list(lab: Lab) -> None:
    before = lab.yaml.read_bytes()
    template = lab.folder / "templates" / "domain.xml.j2"
    template.parent.mkdir()
    shutil.copy(Path(__file__).resolve().parents[2] / "templates" / "domain.xml.j2", template)
    try:
        _, plan = lab.ask("POST", "/plan", {})
        assert [each["kind"] for each in plan["consent"]["privileges"]] == ["template"]
        _, events = lab.ask("POST", "/up", {})
        assert events[-1] == {"event": "ended", "status": 3}  # KVM_COMPOSE_TRUST of the server does not count
        asked = events[-2]["consent"]
        assert asked == plan["consent"]
        _, events = lab.ask("POST", "/up", {"consent": ["0" * 64]})
        assert events[-1] == {"event": "ended", "status": 3}
        _, events = lab.ask("POST", "/up", {"consent": [asked["digest"]]})
        assert events[-1] == {"event": "ended", "status": 0}, events
        wait_for(lab, next(each["uuid"] for each in events if each["event"] == "action"))
    finally:
        shutil.rmtree(template.parent)
        lab.yaml.write_bytes(before)


def test_a_command_ends_with_its_client(lab: Lab) -> None:
    """Here it waits for the lock of another build."""
    lock = os.open(lab.folder / ".kvm-compose" / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    before = lab.yaml.read_bytes()
    try:
        lab.yaml.write_bytes(before.replace(b"memory_mb: 64", b"memory_mb: 96", 1))
        connection = lab.connection()
        body = json.dumps({})
        connection.request(
            "POST", "/api/deployments/demo/project/up", body, {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        line = answer.readline()
        while b"waiting for another build" not in line:
            assert line, "it ended"
            line = answer.readline()
        assert len(lab.children()) == 1
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        deadline = time.monotonic() + 10
        while lab.children():
            assert time.monotonic() < deadline, lab.children()
            time.sleep(0.05)
    finally:
        os.close(lock)
        lab.yaml.write_bytes(before)
