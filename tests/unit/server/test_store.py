from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import msgspec
import pytest

from kvmcompose.core.commands import Exec, Up
from kvmcompose.core.deployment import (
    Action,
    ActionState,
    Fault,
    Level,
    NewDeployment,
    Phase,
    Step,
    StepState,
)
from kvmcompose.server.action_log import ActionLog
from kvmcompose.server.database import StoreError
from kvmcompose.server.store import HISTORY, Store


@pytest.fixture
def store() -> Store:
    made = Store(None)
    made.put_deployment(NewDeployment("demo", "/projects/demo"))
    return made


def begin(store: Store, *, exclusive: bool = True) -> Action:
    return store.begin_action("demo", Up(keep_going=True), "eve", exclusive=exclusive)


def test_deployments_are_known_by_name_and_may_move(store: Store) -> None:
    store.put_deployment(NewDeployment("alpha", "/projects/alpha"))
    assert [each.name for each in store.deployments()] == ["alpha", "demo"]
    assert store.put_deployment(NewDeployment("demo", "/elsewhere")).project_location == "/elsewhere"
    assert store.deployment("other") is None
    store.remove_deployment("alpha")
    assert store.deployment("alpha") is None


def test_an_action_that_has_the_deployment_to_itself_makes_it_running(store: Store) -> None:
    action = begin(store)
    assert action.options["keep_going"] is True
    assert not any(value for name, value in action.options.items() if name != "keep_going")
    deployment = store.deployment("demo")
    assert deployment is not None
    assert (deployment.state, deployment.last_action_uuid) == (Phase.RUNNING, action.uuid)
    store.end_action(
        action.uuid,
        ActionState.FAILED,
        faults=[Fault(step="start", message="no", hint="yes")],
        refused=True,
        phase=(Phase.FAILED, "up"),
    )
    ended = store.action(action.uuid)
    assert ended is not None
    assert (ended.state, ended.refused, ended.who) == (ActionState.FAILED, True, "eve")
    assert ended.faults == (Fault(step="start", message="no", hint="yes"),)
    assert ended.ended is not None
    deployment = store.deployment("demo")
    assert deployment is not None
    assert (deployment.state, deployment.failed_command) == (Phase.FAILED, "up")


def test_an_exec_leaves_the_deployment_as_it_is(store: Store) -> None:
    command = Exec(guest="web", argv=("id", "-u"), timeout=3)
    action = store.begin_action("demo", command, None, exclusive=False)
    kept = store.action(action.uuid)
    assert kept is not None
    assert kept.options == {"guest": "web", "argv": ["id", "-u"], "timeout": 3}
    deployment = store.deployment("demo")
    assert deployment is not None
    assert (deployment.state, deployment.last_action_uuid) == (Phase.DOWN, None)


def test_lines_are_numbered_from_one_in_each_action(store: Store) -> None:
    first, second = begin(store), begin(store)
    for action in (first, second, first):
        store.append(action.uuid, Level.INFO, "text", guest="web")
    assert [line.sequence for line in store.lines(first.uuid)] == [1, 2]
    assert [line.sequence for line in store.lines(second.uuid)] == [1]
    assert store.lines(first.uuid, after=1)[0].sequence == 2
    assert store.lines(first.uuid, after=2**63 - 1) == []
    assert len(store.lines(first.uuid, limit=1)) == 1


def test_text_of_any_kind_comes_back_as_it_was(store: Store) -> None:
    action = begin(store)
    for text in ("", "ä€😀", "'; DROP TABLE lines; --", "a\0b", "\t", "<x>&amp;"):
        store.append(action.uuid, Level.OUTPUT, text)
        assert store.lines(action.uuid)[-1].text == text


def test_steps_are_kept_in_the_order_they_began(store: Store) -> None:
    action = begin(store)
    for number, name in ((2, "b"), (1, "a"), (10, "c")):
        store.put_step(action.uuid, number, Step(name=name, stage="s", state=StepState.RUNNING, started="t"))
    store.put_step(action.uuid, 2, Step(name="b", stage="s", state=StepState.DONE, started="t", ended="u"))
    assert [(step.name, step.state) for step in store.steps(action.uuid)] == [
        ("a", StepState.RUNNING),
        ("b", StepState.DONE),
        ("c", StepState.RUNNING),
    ]


def test_only_the_latest_actions_are_remembered_and_their_lines_go_with_them(store: Store) -> None:
    first = begin(store)
    store.append(first.uuid, Level.INFO, "text")
    store.end_action(first.uuid, ActionState.SUCCEEDED)
    running = begin(store)
    for _ in range(HISTORY):
        store.end_action(begin(store).uuid, ActionState.SUCCEEDED)
    kept = [action.uuid for action in store.actions("demo")]
    assert first.uuid not in kept
    assert store.lines(first.uuid) == []
    assert running.uuid in kept  # whatever its age


def test_a_deployment_goes_with_all_that_belongs_to_it(store: Store) -> None:
    action = begin(store)
    store.append(action.uuid, Level.INFO, "text")
    store.keep_snapshots("demo", "web", [("a", "<a/>")])
    store.remove_deployment("demo")
    assert store.action(action.uuid) is None
    assert store.lines(action.uuid) == []
    assert store.snapshots("demo", "web") == []


def test_snapshots_keep_their_order(store: Store) -> None:
    store.keep_snapshots("demo", "web", [("b", "<b/>"), ("a", "<a/>")])
    assert store.snapshots("demo", "web") == [("b", "<b/>"), ("a", "<a/>")]
    store.keep_snapshots("demo", "web", [])
    assert store.snapshots("demo", "web") == []


def test_what_ran_when_the_server_died_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    store = Store(path)
    store.put_deployment(NewDeployment("demo", "/projects/demo"))
    up, execute = (
        begin(store),
        store.begin_action("demo", Exec(guest="a", argv=("b",)), None, exclusive=False),
    )
    store.append(up.uuid, Level.INFO, "text")
    store.put_step(up.uuid, 1, Step(name="a", stage="s", state=StepState.RUNNING, started="t"))
    store.set_deployed("demo", b"what is up")
    # it dies: nothing is closed
    again = Store(path)
    assert {action.uuid for action in again.interrupt()} == {up.uuid, execute.uuid}
    found = again.action(up.uuid)
    assert found is not None
    assert found.state is ActionState.INTERRUPTED
    assert found.faults[0].hint is not None
    assert again.steps(up.uuid)[0].state is StepState.CANCELLED
    assert [line.sequence for line in again.lines(up.uuid)] == [1, 2]
    deployment = again.deployment("demo")
    assert deployment is not None
    assert (deployment.state, deployment.failed_command) == (Phase.FAILED, "up")
    assert again.deployed("demo") == b"what is up"
    assert again.interrupt() == []


def test_an_exec_that_was_running_fails_no_deployment(tmp_path: Path) -> None:
    store = Store(tmp_path / "server.db")
    store.put_deployment(NewDeployment("demo", "/projects/demo"))
    store.set_phase("demo", Phase.UP)
    store.begin_action("demo", Exec(guest="a", argv=("b",)), None, exclusive=False)
    again = Store(tmp_path / "server.db")
    assert len(again.interrupt()) == 1
    deployment = again.deployment("demo")
    assert deployment is not None
    assert deployment.state is Phase.UP


def test_its_files_are_for_its_owner_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "state" / "server.db")
    store.put_deployment(NewDeployment("demo", "/projects/demo"))
    files = list((tmp_path / "state").iterdir())
    assert len(files) == 3  # with the write-ahead log
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_files_that_were_open_to_others_are_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    Store(path).close()
    path.chmod(0o644)
    store = Store(path)
    store.put_deployment(NewDeployment("demo", "/projects/demo"))
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}
    store.close()


def test_what_is_no_memory_of_ours_is_an_error_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    path.write_bytes(b"not a database " * 1000)
    with pytest.raises(StoreError, match=r"server\.db"):
        Store(path)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as memory:
        memory.execute("PRAGMA user_version = 7")
    memory.close()
    with pytest.raises(StoreError, match="version 7"):
        Store(other)
    (tmp_path / "link.db").symlink_to("/etc/passwd")
    with pytest.raises(StoreError):
        Store(tmp_path / "link.db")


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    store = Store(tmp_path / "server.sqlite")
    store.put_deployment(NewDeployment("demo", "/projects/demo"))
    action = begin(store)
    store._db.execute("PRAGMA max_page_count = 1")  # no less than there are
    with pytest.raises(StoreError, match="database: database or disk is full") as raised:
        store.append(action.uuid, Level.INFO, "x" * 1_000_000)
    assert "is the disk full" in str(raised.value.hint)
    with pytest.raises(StoreError, match="disk is full"):
        store.keep_snapshots("demo", "web", [("one", "x" * 1_000_000)])
    assert store.snapshots("demo", "web") == []
    store.close()


_VERSION_2 = """
CREATE TABLE deployments (
    name TEXT PRIMARY KEY, project_location TEXT NOT NULL, state TEXT NOT NULL,
    failed_command TEXT, last_action_uuid TEXT, deployed BLOB,
    owner_uid INTEGER NOT NULL, owner TEXT NOT NULL
) STRICT;
CREATE TABLE actions (
    uuid TEXT PRIMARY KEY,
    deployment TEXT NOT NULL REFERENCES deployments (name) ON DELETE CASCADE,
    command TEXT NOT NULL, options BLOB NOT NULL, state TEXT NOT NULL, started TEXT NOT NULL, ended TEXT,
    faults BLOB NOT NULL DEFAULT x'5b5d', refused INTEGER NOT NULL DEFAULT 0, exit_status INTEGER, who TEXT,
    asked_by TEXT
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
INSERT INTO deployments VALUES ('lab', '/lab', 'running', NULL, 'two', x'00', 0, 'root');
INSERT INTO actions (uuid, deployment, command, options, state, started) VALUES
    ('one', 'lab', 'up', x'7b7d', 'succeeded', 't'), ('two', 'lab', 'down', x'7b7d', 'running', 't');
INSERT INTO lines VALUES ('one', 1, 't', 'output', 'a "b"' || char(0) || 'ä', 's', NULL, 'web', 'main'),
    ('one', 7, 't', 'info', 'after dropped ones', NULL, NULL, NULL, NULL),
    ('two', 1, 't', 'info', 'stopping', NULL, NULL, NULL, NULL);
INSERT INTO steps VALUES ('one', 1, 'start', 'guests', 'done', 't', 'u', 'web', 'main'),
    ('two', 1, 'stop', 'guests', 'running', 't', NULL, 'web', 'main');
PRAGMA user_version = 2;
"""


def test_logs_of_version_2_become_events(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    db = sqlite3.connect(path)
    db.executescript(_VERSION_2)
    db.close()
    for _ in range(2):  # opening it again changes nothing
        store = Store(path)
        lines = store.lines("one")
        assert [(line.sequence, line.text) for line in lines] == [
            (1, 'a "b"\0ä'),
            (7, "after dropped ones"),
        ]
        assert (lines[0].level, lines[0].guest, lines[0].host) == (Level.OUTPUT, "web", "main")
        assert [(step.name, step.state, step.ended) for step in store.steps("one")] == [
            ("start", StepState.DONE, "u")
        ]
        assert [number for number, _ in store.events("lab", after=0)] == [1, 2, 3, 4, 5]
        store.close()
    store = Store(path)
    store.interrupt()
    assert [step.state for step in store.steps("two")] == [StepState.CANCELLED]
    assert store.append("one", Level.INFO, "more").sequence == 8
    numbers = [number for number, _ in store.events("lab", after=0)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert store.drop_output("one", up_to=7) == 1
    assert store.dropped("lab") == store.dropped("lab", "one") == 1


def test_what_is_rolled_back_leaves_no_gap_in_the_numbers(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = begin(store)
    before = store.last_number("demo")

    def full(_name: str) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "_drop_actions", full)
    with pytest.raises(StoreError):
        begin(store, exclusive=False)
    assert store.last_number("demo") == before
    store.append(action.uuid, Level.INFO, "text")
    assert [number for number, _ in store.events("demo", after=before)] == [before + 1]


def test_only_a_state_that_is_new_is_reported(store: Store) -> None:
    log = ActionLog(store, begin(store).uuid)
    before = store.last_number("demo")
    log.guest("web", "running", host="main")
    log.guest("web", "running", host="main")
    log.guest("web", "paused", host="main", reason="I/O error")
    log.guest("web", "paused", host="main")
    log.resource("create", "ovs-bridge", "br0", host="main")
    found = [msgspec.json.decode(document) for _, document in store.events("demo", after=before)]
    assert [(event["event"], event.get("state"), event.get("before")) for event in found] == [
        ("guest", "running", None),
        ("guest", "paused", "running"),
        ("resource", None, None),
    ]
    assert {event["action"] for event in found} == {log.uuid}
    assert (found[2]["verb"], found[2]["kind"], found[2]["name"]) == ("create", "ovs-bridge", "br0")


def test_what_is_up_moves_out_of_the_rows_of_deployments(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    store = Store(path)
    store.put_deployment(NewDeployment("demo", "/projects/demo"))
    store.put_deployment(NewDeployment("off", "/projects/off"))
    store.close()
    with sqlite3.connect(path) as memory:  # as version 3 had it
        memory.execute("DROP TABLE brought_up")
        memory.execute("ALTER TABLE deployments ADD COLUMN deployed BLOB")
        memory.execute("UPDATE deployments SET deployed = x'0102' WHERE name = 'demo'")
        memory.execute("PRAGMA user_version = 3")
    memory.close()
    store = Store(path)
    assert store.deployed("demo") == b"\1\2"
    assert store.deployed("off") is None
    store.remove_deployment("demo")
    assert store.deployed("demo") is None
    store.close()


def test_a_change_of_phase_does_not_write_what_is_up_again(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    store = Store(path)
    store.put_deployment(NewDeployment("demo", "/projects/demo"))
    store.set_deployed("demo", bytes(8 << 20))
    log = tmp_path / "server.db-wal"
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert log.stat().st_size == 0
    store.set_phase("demo", Phase.UP)
    assert 0 < log.stat().st_size < 1 << 20
    store.close()


def test_marks_of_a_guest_are_found_by_an_index(store: Store) -> None:
    rows = [("demo", kind, f"g{number}", "d") for kind in ("seed", "set-up") for number in range(100)]
    store._db.executemany("INSERT INTO marks VALUES (?, ?, ?, ?)", rows)
    statements: list[str] = []
    store._db.set_trace_callback(statements.append)
    store.forget_marks("demo", "g7")
    store._db.set_trace_callback(None)
    assert "g7" not in store.marks("demo", "set-up")
    assert len(store.marks("demo", "set-up")) == 99
    assert len(store.marks("demo", "seed")) == 100
    (plan,) = store._db.execute(f"EXPLAIN QUERY PLAN {statements[0]}").fetchall()
    assert "marks_of (deployment=? AND guest=?)" in plan["detail"]
