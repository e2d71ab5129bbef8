"""Rows of the northbound database: the operations of a change to what exists."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from kvmcompose.core.northbound import Row, RowRef, normal
from kvmcompose.core.resource import Found, Ref, Resource
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovn.central import is_open
from kvmcompose.providers.ovn.interface import RowChange, RowOwner
from kvmcompose.providers.ovn.rows import found_rows, operations
from kvmcompose.server.orchestrator.resources import ovn_row

MARK = RowOwner("lab", "here")
SWITCH = RowRef("Logical_Switch", "sw")


class Key(msgspec.Struct):
    ref_table: Any = None
    ref_type: str | None = None


class Type(msgspec.Struct):
    key: Key
    n_min: int = 0
    a_map: bool = False

    def is_map(self) -> bool:
        return self.a_map


class Column(msgspec.Struct):
    name: str
    type: Type


class Table(msgspec.Struct):
    name: str
    is_root: bool
    columns: dict[str, Column] = {}
    rows: dict[uuid.UUID, Any] = {}


class Datum(msgspec.Struct):
    value: Any

    def to_python(self, _uuid_to_row: object) -> Any:
        return self.value


class Replica:
    """A replica with switches, ports and rules, as ``ovs.db.idl.Idl`` shows one."""

    def __init__(self) -> None:
        ports, acls = Table("Logical_Switch_Port", is_root=False), Table("ACL", is_root=False)
        switches, top = Table("Logical_Switch", is_root=True), Table("NB_Global", is_root=True)
        self.tables = {each.name: each for each in (switches, ports, acls, top)}
        for table in (switches, ports, acls):
            table.columns["name"] = Column("name", Type(Key()))
            table.columns["external_ids"] = Column("external_ids", Type(Key(), a_map=True))
        for column, table in (("ports", ports), ("acls", acls)):
            switches.columns[column] = Column(column, Type(Key(table, "strong")))
        ports.columns["addresses"] = Column("addresses", Type(Key()))
        ports.columns["up"] = Column("up", Type(Key()))
        acls.columns["action"] = Column("action", Type(Key()))

    def add(self, ref: RowRef, owner: str = "here", **columns: Any) -> Any:
        ids = {"kvm-compose-project": "lab", "kvm-compose-owner": owner, "kvm-compose-row": ref.name}
        table = self.tables[ref.table]
        values = {name: [] for name in table.columns} | {"name": "", "external_ids": ids} | columns
        data = {name: Datum(value) for name, value in values.items()}
        more = {"uuid": ref.uuid("lab"), "_table": table, "_data": data, "_uuid_to_row": None}
        row = type("Row", (), {**values, **more})()
        table.rows[row.uuid] = row
        return row


def port(name: str, *addresses: str) -> Row:
    ref = RowRef("Logical_Switch_Port", name)
    return Row(ref=ref, columns={"addresses": addresses}, parent=SWITCH, parent_column="ports")


def put(replica: Replica, *rows: Row, removed: tuple[RowRef, ...] = ()) -> list[dict[str, Any]]:
    return operations(replica, RowChange(mark=MARK, put=rows, removed=removed))


def named(found: list[Mapping[str, Any]] | list[dict[str, Any]]) -> list[str]:
    return [f"{each['op']} {each.get('table', '')}".strip() for each in found]


def test_new_rows_refer_to_each_other_and_are_held_by_one_mutation() -> None:
    switch = Row(ref=SWITCH, columns={"name": "lab-sw"})
    found = put(Replica(), switch, port("a", "x"), port("b", "y", "z"))
    assert named(found) == [
        "insert Logical_Switch", "insert Logical_Switch_Port", "insert Logical_Switch_Port",
        "mutate Logical_Switch", "mutate NB_Global", "comment",
    ]  # fmt: skip
    assert found[0]["uuid"] == str(SWITCH.uuid("lab"))
    assert found[1]["row"]["addresses"] == "x"
    assert found[2]["row"]["addresses"] == ["set", ["y", "z"]]
    ports = [["uuid", str(RowRef("Logical_Switch_Port", each).uuid("lab"))] for each in ("a", "b")]
    assert found[3]["mutations"] == [["ports", "insert", ["set", ports]]]
    assert found[4]["mutations"] == [["nb_cfg", "+=", 1]]


def test_what_is_there_is_seen_as_it_would_be_wanted() -> None:
    replica = Replica()
    one = replica.add(RowRef("Logical_Switch_Port", "a"), addresses=["y", "x"], up=[True])
    replica.add(SWITCH, name="lab-sw", ports=[one])
    replica.add(RowRef("ACL", "other"), owner="elsewhere")
    found = found_rows(replica, MARK)
    assert found.foreign == {"elsewhere"}
    assert found.rows == {
        SWITCH: Row(ref=SWITCH, columns={"name": "lab-sw"}),
        one_ref(): Row(
            ref=one_ref(), columns={"addresses": ("x", "y")}, parent=SWITCH, parent_column="ports"
        ),
    }
    assert put(replica, *found.rows.values()) == []


def one_ref() -> RowRef:
    return RowRef("Logical_Switch_Port", "a")


def test_only_what_differs_is_written_and_what_is_not_wanted_is_reset() -> None:
    replica = Replica()
    one = replica.add(one_ref(), addresses=["x"], name="by hand")
    replica.add(SWITCH, name="lab-sw", ports=[one])
    found = put(replica, Row(ref=SWITCH, columns={"name": "lab-sw"}), port("a", "y"))
    assert named(found) == ["update Logical_Switch_Port", "mutate NB_Global", "comment"]
    assert found[0]["row"] == {"addresses": "y", "name": ["set", []]}


def test_a_row_moves_from_one_parent_to_another() -> None:
    replica = Replica()
    one = replica.add(one_ref(), addresses=["x"])
    replica.add(SWITCH, ports=[one])
    replica.add(RowRef("Logical_Switch", "new"))
    moved = msgspec.structs.replace(port("a", "x"), parent=RowRef("Logical_Switch", "new"))
    found = put(replica, moved)
    assert named(found) == ["mutate Logical_Switch", "mutate Logical_Switch", "mutate NB_Global", "comment"]
    assert [each["mutations"][0][:2] for each in found[:2]] == [["ports", "delete"], ["ports", "insert"]]


def test_removed_rows_leave_their_parent_unless_that_goes() -> None:
    replica = Replica()
    one = replica.add(one_ref(), addresses=["x"])
    replica.add(SWITCH, ports=[one])
    assert named(put(replica, removed=(one_ref(),)))[:2] == [
        "mutate Logical_Switch",
        "delete Logical_Switch_Port",
    ]
    assert named(put(replica, removed=(one_ref(), SWITCH)))[:2] == [
        "delete Logical_Switch_Port", "delete Logical_Switch",
    ]  # fmt: skip
    assert put(Replica(), removed=(one_ref(),)) == []


def test_what_cannot_be_done_is_refused_before_anything_is() -> None:
    replica = Replica()
    with pytest.raises(DriverError, match="port a needs switch sw, which is not there"):
        put(replica, port("a", "x"))
    replica.add(SWITCH, owner="elsewhere")
    with pytest.raises(DriverError, match="switch sw belongs to the project lab of another main host"):
        put(replica, Row(ref=SWITCH, columns={}))
    with pytest.raises(DriverError, match="this OVN has no table Load_Balancer"):
        put(replica, Row(ref=RowRef("Load_Balancer", "x"), columns={}))


def test_sets_and_maps_have_one_form() -> None:
    columns = {"a": ("y", "x", "y"), "b": ("x",), "c": (), "d": {"z": "1", "y": "2"}, "e": {}, "f": True}
    assert normal(columns) == {"a": ("x", "y"), "b": "x", "d": {"y": "2", "z": "1"}, "f": True}  # type: ignore[arg-type]


def test_a_value_that_is_the_default_is_as_if_it_were_not_given() -> None:
    """As the priority of the rules of ``apply_deny_all``: the server does not send what is a default."""
    assert normal({"priority": 0, "log": False, "name": "", "action": "drop"}) == {"action": "drop"}
    replica = Replica()
    ref = RowRef("ACL", "sw apply_deny_all to-lport drop")
    rule = replica.add(ref, action="drop")
    replica.add(SWITCH, name="lab-sw", acls=[rule])
    wanted = Row(ref=ref, columns={"action": "drop", "priority": 0}, parent=SWITCH, parent_column="acls")
    assert put(replica, Row(ref=SWITCH, columns={"name": "lab-sw"}), wanted) == []
    found = Found(ref=Ref("ovn-row", str(ref), "one"), spec=found_rows(replica, MARK).rows[ref])
    assert ovn_row.compare(Resource(ref=found.ref, spec=wanted), found) is None


@pytest.mark.parametrize(
    ("target", "is_it"),
    [
        ("ptcp:6642", True),
        ("ptcp:6642:192.0.2.1", True),
        ("ptcp:6642:[::]", True),
        ("ptcp:6642:127.0.0.1", False),
        ("pssl:6642", False),
        ("ptcp:6642:[::1]", False),
    ],
)
def test_listeners_without_keys_are_known(target: str, is_it: bool) -> None:
    assert is_open(target) is is_it
