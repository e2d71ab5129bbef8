"""Two users and an administrator on one server: who sees and changes what."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from people import ALICE, BOB, Shared, ask, give, new

from kvmcompose.cli.main import main
from kvmcompose.core.commands import Exec, Up
from kvmcompose.core.deployment import Health, NewDeployment, Phase
from kvmcompose.core.errors import RefusedError
from kvmcompose.providers.fake import FakeDrivers
from kvmcompose.server.actions import Actions
from kvmcompose.server.api import project_routes
from kvmcompose.server.api import service as api
from kvmcompose.server.api.routes import router
from kvmcompose.server.orchestrator import Orchestrator, Outcome
from kvmcompose.server.people import Asker, Peer, People, Person, Role
from kvmcompose.server.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")

NOWHERE = "00000000-0000-0000-0000-000000000000"
UP = {"command": "up"}


#: Every route below a deployment: method, target, body.
ROUTES: list[tuple[str, str, object]] = [
    ("GET", "/deployments/alices/state", None),
    ("GET", "/deployments/alices/status", None),
    ("GET", "/deployments/alices/topology", None),
    ("GET", "/deployments/alices/access", None),
    ("GET", "/deployments/alices/snapshots", None),
    ("GET", "/deployments/alices/console?guest=a", None),
    ("GET", "/deployments/alices/capture?target=br0", None),
    ("GET", "/deployments/alices/guests/a/ssh", None),
    ("GET", "/deployments/alices/guests/a/terminals", None),
    ("GET", "/deployments/alices/guests/a/console", None),
    ("GET", "/deployments/alices/guests/a/screen", None),
    ("GET", "/deployments/alices/guests/a/shell", None),
    ("GET", "/deployments/alices/project/file", None),
    ("PUT", "/deployments/alices/project/file", {"text": "", "digest": "0" * 64}),
    ("POST", "/deployments/alices/project/check", {"text": ""}),
    ("POST", "/deployments/alices/project/plan", {}),
    ("GET", "/deployments/alices/project/why?guest=a", None),
    ("POST", "/deployments/alices/project/up", {}),
    ("GET", "/deployments/alices/events", None),
    ("GET", "/deployments/alices/events?after=0&status=true", None),
    ("GET", "/deployments/alices/actions", None),
    ("GET", f"/deployments/alices/actions/{NOWHERE}", None),
    ("GET", f"/deployments/alices/actions/{NOWHERE}/steps", None),
    ("GET", f"/deployments/alices/actions/{NOWHERE}/lines", None),
    ("GET", f"/deployments/alices/actions/{NOWHERE}/logs", None),
    ("GET", f"/deployments/alices/actions/{NOWHERE}/input", None),
    ("POST", f"/deployments/alices/actions/{NOWHERE}/cancel", None),
    ("POST", "/deployments/alices/action", UP),
    ("POST", "/deployments/alices/action", {"command": "down", "purge": True}),
    ("POST", "/deployments/alices/action", {"command": "exec", "guest": "a", "argv": ["id"]}),
    ("POST", "/deployments/alices/plan", {"state": None}),
    ("DELETE", "/deployments/alices", None),
]


@pytest.mark.parametrize(("method", "target", "body"), ROUTES)
def test_anothers_deployment_is_closed(shared: Shared, method: str, target: str, body: object) -> None:
    answer = ask(shared.socket, BOB, method, target, body=body)
    assert answer.status == 403, answer
    assert f"alices belongs to uid {ALICE}" in answer.json["detail"]
    assert answer.json["hint"]
    assert str(shared.root) not in answer.text
    pretending = {"X-Kvm-Compose-Who": "root@here", "X-Forwarded-For": "127.0.0.1"}
    assert ask(shared.socket, BOB, method, target, body=body, headers=pretending).status == 403
    assert ask(shared.socket, ALICE, method, target, body=body).status != 403
    assert ask(shared.socket, 0, method, target, body=body).status != 403


def test_no_route_is_left_out() -> None:
    routes = [*router.routes, *project_routes.router.routes]
    known = {
        (method, route.path)
        for route in routes
        if isinstance(route, APIRoute) and "{name}" in route.path
        for method in route.methods
    }
    tried = {
        (
            method,
            "/api"
            + target.partition("?")[0]
            .replace("alices", "{name}")
            .replace(str(NOWHERE), "{uuid}")
            .replace("guests/a/", "guests/{guest}/"),
        )
        for method, target, _body in ROUTES
    }
    # what everybody may see of a deployment, and the names that it has, have tests of their own
    assert known - tried == {("GET", "/api/deployments/{name}"), ("PUT", "/api/deployments/{name}")}


def test_so_are_the_logs_and_events_as_websockets(shared: Shared) -> None:
    uuid = ask(shared.socket, ALICE, "POST", "/deployments/alices/action", body=UP).json["uuid"]
    for target in (
        f"/deployments/alices/actions/{uuid}/logs",
        "/deployments/alices/events",
        f"/deployments/alices/events?after=0&action={uuid}",
    ):
        assert ask(shared.socket, BOB, "GET", target, websocket=True).status == 403
        assert ask(shared.socket, ALICE, "GET", target, websocket=True).status == 101
        assert ask(shared.socket, 0, "GET", target, websocket=True).status == 101


def test_an_action_of_a_deployment_of_ones_own_is_no_way_to_anothers(shared: Shared) -> None:
    uuid = ask(shared.socket, ALICE, "POST", "/deployments/alices/action", body=UP).json["uuid"]
    bobs = shared.project("bobs", BOB)
    assert ask(shared.socket, BOB, "PUT", "/deployments/bobs", body=new("bobs", bobs)).status == 201
    target = f"/deployments/bobs/events?after=0&action={uuid}"
    assert ask(shared.socket, BOB, "GET", target, websocket=True).status == 404


def test_that_a_deployment_exists_is_all_that_others_see(shared: Shared) -> None:
    ask(shared.socket, ALICE, "POST", "/deployments/alices/action", body=UP)
    for target in ("/deployments", "/deployments/alices"):
        seen = ask(shared.socket, BOB, "GET", target).json
        seen = seen[0] if isinstance(seen, list) else seen
        assert seen.pop("state") in ("running", "failed", "down")
        assert seen == {
            "name": "alices", "owner": f"uid {ALICE}", "project_location": "",
            "failed_command": None, "last_action_uuid": None, "condition": None,
            "drift": 0,
        }  # fmt: skip
    assert ask(shared.socket, ALICE, "GET", "/deployments/alices").json["project_location"]
    assert ask(shared.socket, 0, "GET", "/deployments/alices").json["project_location"]


def test_the_name_says_who_it_was_whatever_they_call_themselves(shared: Shared) -> None:
    who = {"X-Kvm-Compose-Who": "root@here"}
    ask(shared.socket, ALICE, "POST", "/deployments/alices/action", body=UP, headers=who)
    (action,) = ask(shared.socket, 0, "GET", "/deployments/alices/actions").json
    assert (action["asked_by"], action["who"]) == (f"uid {ALICE}", "root@here")


def test_a_folder_belongs_to_whoever_registers_it(shared: Shared) -> None:
    """Not one of others, nor by a link, nor one that can only be guessed at: always the same words."""
    bobs = shared.project("bobs", BOB)
    link = bobs / "link"
    link.symlink_to(shared.root / "alices")
    gone = shared.root / "alices" / "private"
    (shared.root / "alices" / "there").mkdir()
    there = shared.root / "alices" / "there"
    texts = []
    for folder in (shared.root / "alices", link, gone, there, Path("/etc"), Path("/root/x")):
        for method, target in (("PUT", "/deployments/mine"), ("POST", "/deployments")):
            answer = ask(shared.socket, BOB, method, target, body=new("mine", folder))
            assert answer.status == 403, (folder, answer)
            texts.append(answer.text.replace(str(folder), "FOLDER"))
    assert len(set(texts)) == 1
    assert ask(shared.socket, BOB, "PUT", "/deployments/alices", body=new("alices", bobs)).status == 403
    assert ask(shared.socket, BOB, "PUT", "/deployments/bobs", body=new("bobs", bobs)).status == 201
    assert ask(shared.socket, BOB, "PUT", "/deployments/bobs", body=new("bobs", bobs)).status == 200
    found = {each["name"]: each["owner"] for each in ask(shared.socket, 0, "GET", "/deployments").json}
    assert found == {"alices": f"uid {ALICE}", "bobs": f"uid {BOB}"}


def test_nobody_takes_all_names_and_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MOST_DEPLOYMENTS", 2)
    monkeypatch.setattr(api, "MOST_ACTIONS", 3)
    mallory = Person(name=f"uid {BOB}", role=Role.USER, uid=BOB)
    root = People().of(0)

    class Slow(Orchestrator):
        async def run(self, *_given: object) -> Outcome:
            await asyncio.sleep(60)
            return Outcome()

    async def attack() -> None:
        store = Store(tmp_path / "server.db")
        orchestrator = Slow(FakeDrivers(), store)
        actions = Actions(store, orchestrator)
        health = Health(version="", drivers="fake", embedded=False, pid=1)
        service = api.Service(store, actions, orchestrator, project_roots=(tmp_path,), health=health)
        for person, most in ((mallory, 2), (root, 5)):
            for number in range(6):
                folder = tmp_path / f"{person.role}{number}"
                folder.mkdir()
                give(folder, person.uid)
                wanted = NewDeployment(f"{person.role}{number}", str(folder))
                if number < most:
                    await service.put(Asker(person=person), wanted)
                elif person is mallory:
                    with pytest.raises(RefusedError, match="which is the limit"):
                        await service.put(Asker(person=person), wanted)
        command = Exec(guest="a", argv=("yes",))
        for person in (mallory, root):
            for number in range(3):
                await service.act(Asker(person=person), f"{person.role}{number % 2}", command)
        # whoever asks: they are the member's
        for person in (mallory, root):
            with pytest.raises(RefusedError, match="which is the limit"):
                await service.act(Asker(person=person), "user0", command)
        await service.act(Asker(person=root), "admin0", command)
        await actions.stop()
        store.close()

    asyncio.run(attack())


def test_a_folder_that_has_become_anothers_is_used_no_more(shared: Shared) -> None:
    folder = shared.root / "alices"
    folder.rename(shared.root / "elsewhere")
    shared.project("alices", BOB)
    answer = ask(shared.socket, ALICE, "POST", "/deployments/alices/action", body=UP)
    assert answer.status == 403, answer
    shutil.rmtree(folder)
    folder.symlink_to(shared.root / "elsewhere")
    answer = ask(shared.socket, ALICE, "POST", "/deployments/alices/action", body=UP)
    assert answer.status == 403, answer


def test_an_administrator_gives_a_user_no_folder_of_others(shared: Shared) -> None:
    bobs = shared.project("bobs", BOB)
    answer = ask(shared.socket, 0, "PUT", "/deployments/alices", body=new("alices", bobs))
    assert answer.status == 403
    again = shared.project("again", ALICE)
    assert ask(shared.socket, 0, "PUT", "/deployments/alices", body=new("alices", again)).status == 200
    assert ask(shared.socket, 0, "GET", "/deployments/alices").json["owner"] == f"uid {ALICE}"
    assert ask(shared.socket, 0, "PUT", "/deployments/any", body=new("any", bobs)).status == 201


def test_who_is_an_administrator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grp.getgrnam", lambda _: type("group", (), {"gr_gid": 777}))
    entry = type("entry", (), {"pw_name": "daemon", "pw_gid": 1})
    monkeypatch.setattr("pwd.getpwuid", lambda _: entry)
    monkeypatch.setattr("os.getgrouplist", lambda _name, own: [own, 777])
    assert People().of(0).role is Role.ADMIN
    assert People().of(ALICE).role is Role.USER
    assert People("admins").of(ALICE).role is Role.ADMIN
    assert People("admins").owner(ALICE, "alice").role is Role.ADMIN
    monkeypatch.setattr("os.getgrouplist", lambda _name, own: [own])
    assert People("admins").of(ALICE).role is Role.USER
    assert People().of(65534).role is Role.READ_ONLY  # everybody of another user namespace
    monkeypatch.setattr("os.geteuid", lambda: BOB)
    assert People().of(BOB).role is Role.ADMIN
    assert People().of(0).role is Role.ADMIN  # on anybody's server
    assert People().of(ALICE).role is Role.READ_ONLY  # their rights cannot be taken on


def test_an_account_that_does_not_exist_is_in_no_group() -> None:
    assert People("root").of(ALICE).role is Role.USER
    assert Peer(pid=1, uid=2).uid == 2


_VERSION_1 = """
CREATE TABLE deployments (
    name TEXT PRIMARY KEY, project_location TEXT NOT NULL, state TEXT NOT NULL,
    failed_command TEXT, last_action_uuid TEXT, deployed BLOB
) STRICT;
CREATE TABLE actions (
    uuid TEXT PRIMARY KEY,
    deployment TEXT NOT NULL REFERENCES deployments (name) ON DELETE CASCADE,
    command TEXT NOT NULL, options BLOB NOT NULL, state TEXT NOT NULL, started TEXT NOT NULL, ended TEXT,
    faults BLOB NOT NULL DEFAULT x'5b5d', refused INTEGER NOT NULL DEFAULT 0, exit_status INTEGER, who TEXT
) STRICT;
CREATE INDEX actions_of ON actions (deployment);
CREATE TABLE steps (
    action TEXT NOT NULL REFERENCES actions (uuid) ON DELETE CASCADE,
    number INTEGER NOT NULL, name TEXT NOT NULL, stage TEXT NOT NULL, state TEXT NOT NULL,
    started TEXT NOT NULL, ended TEXT, guest TEXT, host TEXT,
    PRIMARY KEY (action, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE lines (
    action TEXT NOT NULL REFERENCES actions (uuid) ON DELETE CASCADE,
    sequence INTEGER NOT NULL, time TEXT NOT NULL, level TEXT NOT NULL, text TEXT NOT NULL,
    stage TEXT, step TEXT, guest TEXT, host TEXT,
    PRIMARY KEY (action, sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE snapshots (
    deployment TEXT NOT NULL REFERENCES deployments (name) ON DELETE CASCADE,
    guest TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL, xml TEXT NOT NULL,
    PRIMARY KEY (deployment, guest, name)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
"""


def version_1(path: Path, *deployments: tuple[str, Path, str | None]) -> None:
    """A memory as 0.1 left it, of deployments (name, folder, who) that are up."""
    db = sqlite3.connect(path)
    db.executescript(_VERSION_1)
    for name, folder, who in deployments:
        db.execute(
            "INSERT INTO deployments VALUES (?, ?, 'up', NULL, ?, ?)",
            (name, str(folder), name, b"what is up"),
        )
        db.execute(
            "INSERT INTO actions (uuid, deployment, command, options, state, started, who)"
            " VALUES (?, ?, 'up', x'7b7d', 'succeeded', '2026-01-01T00:00:00.000Z', ?)",
            (name, name, who),
        )
        db.execute(
            "INSERT INTO lines (action, sequence, time, level, text)"
            " VALUES (?, 1, '2026-01-01T00:00:00.000Z', 'info', 'said')",
            (name,),
        )
    db.commit()
    db.close()


def test_a_memory_of_0_1_gets_owners_and_keeps_what_is_up(place: Path) -> None:
    folders = {}
    for name, uid in (("alices", ALICE), ("roots", 0), ("sudos", BOB)):
        folders[name] = place / name
        folders[name].mkdir()
        os.chown(folders[name], uid, uid)
    version_1(
        place / "server.db",
        ("alices", folders["alices"], "alice@here"),
        ("roots", folders["roots"], "alice@here"),
        ("sudos", folders["sudos"], "root@here"),
        ("gone", place / "gone", None),
    )
    for _ in range(2):
        store = Store(place / "server.db")
        owners = {each.name: store.owner(each.name) for each in store.deployments()}
        assert owners == {
            "alices": (ALICE, f"uid {ALICE}"), "roots": (0, "root"),
            "sudos": (0, "root"), "gone": (0, "root"),
        }  # fmt: skip
        found = store.deployment("alices")
        assert found is not None
        assert (found.state, found.owner) == (Phase.UP, f"uid {ALICE}")
        assert store.deployed("alices") == b"what is up"
        assert [line.text for line in store.lines("alices")] == ["said"]
        (action,) = store.actions("alices")[-1:]
        assert (action.who, action.asked_by) == ("alice@here", None)
        store.begin_action("alices", Up(), None, exclusive=True, asked_by="alice")
        assert store.actions("alices")[0].asked_by == "alice"
        store.set_phase("alices", Phase.UP)
        store.close()


def test_a_memory_of_0_1_of_a_user_is_that_users(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "lab").mkdir()
    version_1(place / "server.db", ("lab", place / "lab", "alice@here"))
    monkeypatch.setattr("os.geteuid", lambda: BOB)
    store = Store(place / "server.db")
    assert store.owner("lab") == (BOB, f"uid {BOB}")
    store.close()


def test_a_migration_that_fails_leaves_version_1(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version_1(place / "server.db", ("lab", place / "lab", None))

    def broken(_uid: int) -> str:
        raise RuntimeError

    monkeypatch.setattr("kvmcompose.server.schema.login_name", broken)
    with pytest.raises(RuntimeError):
        Store(place / "server.db")
    db = sqlite3.connect(place / "server.db")
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert "owner" not in [row[1] for row in db.execute("PRAGMA table_info(deployments)")]
    db.close()


def test_a_server_that_is_not_root_shows_others_only_that_deployments_exist(place: Path) -> None:
    """It cannot act with their rights."""
    made = Shared(place)
    made.daemon._argv = [
        "setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups",
        "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",  # to where Python is
        *made.daemon._argv,
    ]  # fmt: skip
    (place / "state").mkdir(mode=0o700)
    give(place / "run", ALICE)
    give(place / "state", ALICE)
    try:
        made.start()
        folder = made.project("alices", ALICE)
        body = new("alices", folder)
        assert ask(made.socket, ALICE, "PUT", "/deployments/alices", body=body).status == 201
        refused = ask(made.socket, BOB, "PUT", "/deployments/mine", body=new("mine", folder))
        assert refused.status == 403
        assert "cannot act with the rights" in refused.json["detail"]
        assert "--admin-group" in refused.json["hint"]
        assert [each["name"] for each in ask(made.socket, BOB, "GET", "/deployments").json] == ["alices"]
        for method, target, each in ROUTES:
            assert ask(made.socket, BOB, method, target, body=each).status == 403
    finally:
        made.daemon.kill()


def test_deployments_shows_owners(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVM_COMPOSE_SERVER", f"unix:{shared.socket}")
    assert main(["deployments"]) == 0
    shared.daemon.client().put(NewDeployment("roots", str(shared.project("roots", 0))))
    (found,) = [each for each in shared.daemon.client().deployments() if each.name == "roots"]
    assert found.owner == "root"
    assert json.loads(ask(shared.socket, BOB, "GET", "/deployments").text)[1]["project_location"] == ""
