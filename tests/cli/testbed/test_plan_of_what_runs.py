"""``plan`` with a server: what ``up`` would change on hosts, and why."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

from kvmcompose.client.address import Address
from kvmcompose.client.remote import RemoteServer
from kvmcompose.core.commands import Up

if TYPE_CHECKING:
    from conftest import Lab

DOWN = {"web": "absent", "db": "absent"}
MEMORY = "memory_mb: 128\n      libvirt_type"
MORE_MEMORY = "memory_mb: 256\n      libvirt_type"


def lines(lab: Lab, *words: str, status: int = 0) -> list[str]:
    """What a plan says of hosts, and not of files."""
    out = lab.must("plan", *words, status=status).out.splitlines()
    return [line for line in out if "artefacts/" not in line and "state.json" not in line]


def due(lab: Lab, *words: str) -> list[tuple[str, str]]:
    """The changes that are not part of others: what, and of what."""
    changes = lab.must("plan", "--json", *words).json["testbed"]["changes"]
    return [(each["verb"], each["subject"]) for each in changes if not (each["pending"] or each["follows"])]


def files(folder: Path) -> dict[str, Any]:
    """Every file with its content and times, but for what the server keeps there."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".kvm-compose" not in path.parts
    }


def fake_hosts(lab: Lab) -> dict[str, bytes]:
    """What the fake hosts have stored."""
    found = {each.name: each.read_bytes() for each in (lab.bench.root / "state").glob("fake-host*")}
    assert found
    return found


def test_nothing_differs(running: Lab) -> None:
    ran = running.must("plan", "--detailed-exitcode")
    assert ran.out == ""
    assert ran.err.splitlines()[-1] == "on hosts: nothing to do"


def test_an_edit_restarts_that_guest_and_says_why(up: Lab) -> None:
    up.bench.edit(MEMORY, MORE_MEMORY)
    before, world = files(up.folder), fake_hosts(up)
    ran = up.must("plan", "--detailed-exitcode", status=2)
    assert ran.out.splitlines()[-1] == "restart  guest web  (memory_mb: 128 -> 256)"
    assert "on hosts: 1 to restart, 1 guest boots\nmain: memory 256 -> 384 of " in ran.err
    assert files(up.folder) == before
    assert fake_hosts(up) == world

    said = up.must("up").err.splitlines()
    assert [line.split("(")[0].strip() for line in said if line.startswith("done")] == [
        "done     check", "done     stop web", "done     start web", "done     wait web", "done     verify",
    ]  # fmt: skip
    assert lines(up, "--detailed-exitcode") == []


def test_a_plan_of_some_guests_and_one_without_restarts(up: Lab) -> None:
    up.bench.edit(MEMORY, MORE_MEMORY)
    assert due(up, "db") == []
    assert due(up, "web") == [("restart", "guest web")]
    assert lines(up, "--no-restart") == [
        "pending  restart of guest web, left as it is  (memory_mb: 128 -> 256)"
    ]
    assert "domain-xml selects files, not guests" in up.must("plan", "domain-xml").err


def test_a_changed_setup_script_waits_to_be_asked_for(up: Lab) -> None:
    up.bench.write("setup.sh", "#!/bin/sh\nexit 0\n")
    why = "(setup script setup.sh has changed)"
    assert lines(up) == [f"pending  update of set-up of web, waits for up --rerun-scripts  {why}"]
    assert lines(up, "--detailed-exitcode", status=2) == lines(up)  # the seed is to be built
    assert lines(up, "--rerun-scripts") == ["update   set-up of web  (up --rerun-scripts)"]
    up.must("generate")
    *table, differs = up.must("status").out.splitlines()
    assert differs == "differs: set-up of web is out of date: setup script setup.sh has changed"
    assert max(map(len, table)) < 80


def test_scripts_that_are_gone_from_the_yaml_change_nothing_on_hosts(up: Lab) -> None:
    up.bench.edit(", setup_script: setup.sh", "")
    ran = up.must("plan")
    assert "set-up" not in ran.out
    assert "on hosts: nothing to do" in ran.err
    assert "set-up" not in up.must("up").err
    assert lines(up) == []


def test_options_that_contradict_each_other_are_refused(idle: Lab) -> None:
    said = idle.must("plan", "--no-restart", "--restart", status=2).err
    assert "argument --restart: not allowed with argument --no-restart" in said
    assert "[usage]" in idle.must("up", "--dry-run", "--watch", status=2).err


def test_a_host_that_cannot_be_abandoned_is_named_beforehand(up: Lab) -> None:
    said = up.must("plan", "--abandon", "nowhere").err
    assert "up would refuse: only hosts that have left the testbed can be abandoned" in said


def test_a_host_that_does_not_answer_is_not_a_host_with_nothing_to_do(up: Lab) -> None:
    up.serve("--fail", "observe:lab")
    said = up.must("plan").err
    assert "on hosts: not all is known of main" in said
    assert "on hosts: nothing to do" not in said
    assert "up would refuse: main: " in said


def test_a_build_that_changes_nothing_is_no_change_of_what_runs(up: Lab) -> None:
    """Seeds that have to be built again have the same bytes."""
    seed = up.bench.path("web-cloud-init.iso")
    seed.unlink()
    ran = up.must("plan")
    assert "create   artefacts/web-cloud-init.iso" in ran.out
    assert "on hosts: nothing to do" in ran.err


def test_what_is_down_is_created_but_is_no_difference(lab: Lab) -> None:
    lab.must("generate")
    assert "what runs is not seen: the server has no deployment 'lab'" in lab.must("plan", "-v").err
    assert "what runs" not in lab.must("plan").err
    lab.must("up")
    lab.must("down")
    assert ("create", "guest web") in due(lab)
    lab.must("plan", "--detailed-exitcode")


def test_without_a_server_only_files_are_planned_and_none_is_started(idle: Lab) -> None:
    ran = idle.must("plan")
    assert "create   artefacts/web-domain.xml" in ran.out
    assert "what runs is not seen: cannot reach a server on unix:" in ran.err
    ran = idle.bench.run("plan", "--json", KVM_COMPOSE_STATE_DIR=str(idle.bench.root / "none"))
    assert ran.json["unseen"] == "no server has run for this user"
    assert ran.json["testbed"] is None
    assert not (idle.bench.root / "none").exists()


def test_what_up_would_refuse_is_said(up: Lab) -> None:
    (up.folder / "keys/id_ed25519").unlink()
    up.bench.edit(MEMORY, MORE_MEMORY)
    ran = up.must("plan")
    assert ran.out.splitlines()[-1].startswith("restart  guest web")
    assert "up would refuse: the guests' private key is not there" in ran.err
    assert "the guests' private key is not there" in up.must("up", status=3).err


def test_the_json_is_that_of_the_api(running: Lab) -> None:
    ran = running.must("plan", "--json")
    found = json.loads(ran.out)
    assert {"version", "project", "options", "files", "testbed", "unseen"} <= set(found)
    jsonschema.validate(found, running.must("schema", "--of", "plan").json)
    assert found["testbed"]["deployment"]["state"] == "up"
    (host,) = found["testbed"]["hosts"]
    assert (host["memory_mb_before"], host["memory_mb_after"], host["cpus_after"]) == (256, 256, 2)


def test_up_carries_out_a_plan_that_was_stored(up: Lab) -> None:
    up.bench.edit(MEMORY, MORE_MEMORY)
    stored = up.bench.root / "lab.plan"
    up.must("plan", "--out", str(stored))
    assert stored.stat().st_mode & 0o777 == 0o600
    ran = up.must("up", "--plan", str(stored))
    assert "done     start web" in ran.err
    assert lines(up) == []
    refused = up.must("up", "--plan", str(stored), status=3).err
    assert "  no longer planned: restart guest web: memory_mb: 128 -> 256\n" in refused
    assert "hint: make another plan: kvm-compose plan --out FILE" in refused


def test_a_plan_is_refused_when_files_or_hosts_differ_from_then(up: Lab) -> None:
    stored = up.bench.root / "lab.plan"
    up.bench.edit(MEMORY, MORE_MEMORY)
    up.must("plan", "--out", str(stored))
    up.bench.write("setup.sh", "#!/bin/sh\nexit 0\n")
    assert (
        "now planned: rebuild artefacts/web-cloud-init.iso"
        in up.must("up", "--plan", str(stored), status=3).err
    )
    up.bench.write("setup.sh", "#!/bin/sh\ntrue\n")
    up.must("plan", "--out", str(stored))
    up.must("down")
    assert (
        "now planned: create network lab-network: new" in up.must("up", "--plan", str(stored), status=3).err
    )
    assert up.guests() == DOWN


def test_what_is_no_plan_is_refused(up: Lab) -> None:
    up.bench.write("other", '{"version": 1}')
    for name in ("other", "none"):
        assert "error" in up.must("up", "--plan", str(up.folder / name), status=2).err
    up.must("plan", "--out", str(up.folder / "lab.plan"), "--no-restart")
    assert "--plan excludes" in up.must("up", "web", "--plan", str(up.folder / "lab.plan"), status=2).err
    assert "no plan is written" in up.must("plan", "domain-xml", "--out", "x", status=1).err


def test_the_server_checks_the_plan_again(up: Lab) -> None:
    """Between the check of the client and the action, hosts may change."""
    server = RemoteServer(Address.parse(f"unix:{up.bench.root}/state/server.sock"))
    uuid = server.act("lab", Up(expected="0" * 64))
    while (action := next(each for each in server.actions("lab") if each.uuid == uuid)).state == "running":
        time.sleep(0.05)
    assert action.refused
    assert action.faults[0].message == "what runs has changed since the plan was made"


def test_a_dry_run_is_a_plan(up: Lab) -> None:
    up.bench.edit(MEMORY, MORE_MEMORY)
    assert up.must("up", "--dry-run").out == up.must("plan").out
    assert up.must("up", "db", "--dry-run").out == up.must("plan", "db").out
    assert up.must("up", "--dry-run", "--json").json["testbed"]["changes"]
    assert lines(up) == ["restart  guest web  (memory_mb: 128 -> 256)"]
