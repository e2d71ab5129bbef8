"""The audit log: who asked for what, from where, and what came of it; not for the asker to write."""

from __future__ import annotations

import json
import os
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from people import ALICE, BOB, Shared, ask, new

from kvmcompose.server import audit
from kvmcompose.server.api.request_audit import RequestAudit
from kvmcompose.server.audit import Audit, AuditRecord
from kvmcompose.server.clock import now

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")

SECRET = "correct-horse-battery"  # noqa: S105


def log_of(shared: Shared) -> list[dict[str, Any]]:
    path = shared.daemon.state / "audit.log"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_changes_or_is_refused_is_in_it(shared: Shared) -> None:
    assert [each["event"] for each in log_of(shared)] == ["server", "request"]
    made = log_of(shared)[1]
    assert made["time"]
    assert made["pid"] > 0
    wanted = {
        "outcome": "allowed", "status": 201, "method": "PUT", "path": "/api/deployments/alices",
        "person": f"uid {ALICE}", "role": "user", "uid": ALICE, "peer_uid": ALICE, "deployment": "alices",
        "folder": str(shared.root / "alices"),
    }  # fmt: skip
    assert {key: made.get(key) for key in wanted} == wanted
    ask(shared.socket, ALICE, "GET", "/deployments/alices/status")
    assert len(log_of(shared)) == 2  # one's own is only looked at
    pretending = {"X-Kvm-Compose-Who": "root@here"}
    ask(shared.socket, BOB, "DELETE", "/deployments/alices", headers=pretending)
    refused = log_of(shared)[-1]
    wanted = {
        "outcome": "refused", "status": 403, "method": "DELETE", "person": f"uid {BOB}", "peer_uid": BOB,
        "remark": "root@here", "deployment": "alices", "owner": f"uid {ALICE}",
    }  # fmt: skip
    assert {key: refused.get(key) for key in wanted} == wanted
    assert "only that user and administrators" in refused["reason"]
    ask(shared.socket, 0, "GET", "/deployments/alices/actions")
    read = log_of(shared)[-1]
    assert (read["outcome"], read["method"], read["person"]) == ("allowed", "GET", "root")
    target = "/deployments/alices/guests/web/files?path=/etc/shadow"
    ask(shared.socket, ALICE, "GET", target)  # one's own, but copied out of a guest
    copied = log_of(shared)[-1]
    assert (copied["method"], copied["status"], copied["command"]) == (
        "GET",
        409,
        {"name": "cp", "guest": "web", "from": "/etc/shadow"},
    )
    ask(shared.socket, BOB, "GET", target)
    assert (log_of(shared)[-1]["status"], log_of(shared)[-1]["person"]) == (403, f"uid {BOB}")
    ask(shared.socket, ALICE, "GET", "/deployments/alices/guests/web/shell", websocket=True)
    shell = log_of(shared)[-1]
    assert (shell["method"], shell["command"]) == ("WEBSOCKET", {"name": "shell", "guest": "web"})
    target = "/deployments/alices/actions/00000000-0000-0000-0000-000000000000/logs"
    ask(shared.socket, BOB, "GET", target, websocket=True)
    assert (log_of(shared)[-1]["method"], log_of(shared)[-1]["outcome"]) == ("WEBSOCKET", "refused")


def test_an_action_and_its_refusal_are_in_it_and_no_secret(shared: Shared) -> None:
    body = {"command": "exec", "guest": "web", "argv": ["login", SECRET]}
    headers = {"Authorization": f"Bearer {SECRET}"}
    answer = ask(shared.socket, ALICE, "POST", "/deployments/alices/action", body=body, headers=headers)
    uuid = answer.json["uuid"]
    for _ in range(100):
        entries = log_of(shared)
        if entries[-1]["event"] == "action":
            break
        ask(shared.socket, ALICE, "GET", f"/deployments/alices/actions/{uuid}")
    begun, ended = entries[-2:]
    assert (begun["action"], begun["status"]) == (uuid, 202)
    assert (begun["command"]["name"], begun["command"]["guest"], begun["command"]["words"]) == (
        "exec",
        "web",
        2,
    )
    assert (ended["action"], ended["outcome"], ended["person"]) == (uuid, "refused", f"uid {ALICE}")
    assert ended["reason"]
    ask(shared.socket, ALICE, "POST", f"/deployments/alices/actions/{uuid}/cancel")
    cancel = log_of(shared)[-1]
    assert (cancel["method"], cancel["action"], cancel["person"]) == ("POST", uuid, f"uid {ALICE}")
    assert SECRET not in (shared.daemon.state / "audit.log").read_text()


def test_the_asker_cannot_write_it(shared: Shared) -> None:
    path = shared.daemon.state / "audit.log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_uid == 0
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    before = log_of(shared)
    ask(shared.socket, BOB, "DELETE", "/deployments/x", headers={"X-Kvm-Compose-Who": 'a","event":"b'})
    after = log_of(shared)
    assert after[: len(before)] == before
    assert after[-1]["remark"] == 'a","event":"b'


def test_a_flood_of_refusals_is_bounded_and_what_is_allowed_is_written(
    shared: Shared, tmp_path: Path
) -> None:
    log = Audit(tmp_path)
    for number in range(5000):
        log.write_bounded(AuditRecord(time=now(), event="request", reason=str(number)), "uid 1")
        if number % 1000 == 0:
            log.write(AuditRecord(time=now(), event="request", reason="allowed"))
    log.write_bounded(AuditRecord(time=now(), event="request", reason="other"), "uid 2")
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert len(lines) < 150
    assert sum(each.get("reason") == "allowed" for each in lines) == 5
    assert lines[-1]["reason"] == "other"
    assert [each["source"] for each in lines if each["event"] == "left-out"][:1] == ["uid 1"]
    assert shared.socket.exists()


def test_how_many_were_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    log = Audit(tmp_path)
    for _ in range(110):
        log.write_bounded(AuditRecord(time=now(), event="request"), "uid 1")
    clock = 10.0
    log.write_bounded(AuditRecord(time=now(), event="request"), "uid 1")
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert lines[-2]["count"] == 10
    assert lines[-1]["event"] == "request"


def test_it_is_rotated_and_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_BYTES", 1000)
    log = Audit(tmp_path)
    for number in range(200):
        log.write(AuditRecord(time=now(), event="request", reason=str(number)))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 10
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert json.loads((tmp_path / "audit.log").read_text().splitlines()[-1])["reason"] == "199"
    (tmp_path / "audit.log").unlink()
    (tmp_path / "target").write_text("")
    (tmp_path / "audit.log").symlink_to(tmp_path / "target")
    log.write(AuditRecord(time=now(), event="request"))
    assert (tmp_path / "target").read_text() == ""


def test_a_folder_of_others_that_is_asked_for_is_in_it(shared: Shared) -> None:
    ask(shared.socket, BOB, "PUT", "/deployments/b", body=new("b", shared.root / "alices"))
    last = log_of(shared)[-1]
    assert (last["outcome"], last["folder"]) == ("refused", str(shared.root / "alices"))


@pytest.mark.parametrize("status", [200, 500])
def test_of_a_long_answer_it_keeps_nothing_or_the_beginning(status: int) -> None:
    """What was copied from a guest, or captured, was kept whole, and copied for each piece."""
    record = RequestAudit({"type": "http"}, None if status < 400 else _Deaf())  # type: ignore[arg-type]
    record.message({"type": "http.response.start", "status": status})
    piece = bytes(1 << 16)
    tracemalloc.start()
    try:
        for _ in range(200):
            record.message({"type": "http.response.body", "body": piece, "more_body": True})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 20


class _Deaf:
    """A log in which nothing is written."""
