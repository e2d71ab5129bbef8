"""In what order things of OVN are made and removed: a server that is killed between them leaves no orphan.

What `down` looks for, the note of a project, is made first and removed last.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from recorder import Recorder

from kvmcompose.core.ovn_hosts import ChassisSpec, Identity
from kvmcompose.hosts.command import Completed
from kvmcompose.providers.ovn.central import MARK_KEY, USER_KEY, OvnCentral
from kvmcompose.providers.ovn.session import DatabaseSession
from kvmcompose.providers.ovs.chassis import OvsChassis
from kvmcompose.providers.ovs.outside import OvsOutsides

SPEC = ChassisSpec(
    name="two",
    remote="ssl:192.0.2.1:6642",
    encap_ip="192.0.2.2",
    encap_type="geneve",
    bridge="br-int",
    datapath_type="system",
    keys=True,
)
OURS = {MARK_KEY: "yes", f"{USER_KEY}lab": "yes"}


class Database:
    """Notes transactions among the commands of a recorder. ``ours``: it has listener and keys already."""

    def __init__(self, runner: Recorder, *, ours: bool) -> None:
        self._runner = runner
        row = SimpleNamespace(uuid="1", external_ids=OURS, target="pssl:6642:192.0.2.1")
        rows = {"1": row} if ours else {}
        tables = {name: SimpleNamespace(rows=rows) for name in ("SSL", "Connection")}
        self._idl = SimpleNamespace(tables=tables)

    async def read(self, work: Callable[[Any], Any]) -> Any:
        return work(self._idl)

    async def transact(self, plan: Callable[[Any], Sequence[Any]], after: Callable[[Any], Any]) -> Any:
        self._runner.commands.append(["database", str(plan(self._idl))])
        return after(self._idl)


def central(runner: Recorder, *, ours: bool) -> OvnCentral:
    return OvnCentral(runner, cast("DatabaseSession", Database(runner, ours=ours)), "/keys")


def lines(runner: Recorder, *words: str) -> list[str]:
    """Return the first of the words that is in each command that has one."""
    found = []
    for command in runner.commands:
        line = " ".join(command)
        found += [next(word for word in words if word in line)] if any(word in line for word in words) else []
    return list(dict.fromkeys(found))


class Disk(Recorder):
    """A recorder that has the files that were stored."""

    def __init__(self, *answers: tuple[str, int, bytes, bytes]) -> None:
        super().__init__(*answers)
        self.files: dict[str, bytes] = {}

    async def run(self, argv: Sequence[str], *, stdin: bytes | None = None, **options: Any) -> Completed:
        if argv[0] == "sh" and stdin is not None:
            self.files[argv[-1]] = stdin
        done = await super().run(argv, stdin=stdin, **options)
        if argv[0] != "cat":
            return done
        return Completed(0 if argv[-1] in self.files else 1, self.files.get(argv[-1], b""), b"")


def test_a_database_is_noted_before_it_has_keys() -> None:
    runner = Disk()
    asyncio.run(central(runner, ours=False).open("lab", "192.0.2.1"))
    assert lines(runner, "listener", "sh -c", "private_key") == ["listener", "sh -c", "private_key"]


def test_the_note_of_a_database_is_the_last_to_go() -> None:
    runner = Recorder()
    asyncio.run(central(runner, ours=True).close("lab"))
    assert lines(runner, "'ssl'", "rm -rf", "'connections'") == ["'ssl'", "rm -rf", "'connections'"]


def chassis(**ids: str) -> Disk:
    columns = f'["external_ids","ssl"],"data":[[["map",{json.dumps([*ids.items()])}],["uuid","1"]]]'
    return Disk(
        ("list Open_vSwitch", 0, f'{{"headings":{columns}}}'.encode(), b""),
        ("list Port", 0, b'{"headings":["name","external_ids"],"data":[]}', b""),
    )


def test_a_host_is_noted_before_it_has_keys() -> None:
    runner = chassis(**{"kvm-compose-ovn-made": "ssl"})
    asyncio.run(OvsChassis(runner).join("lab", SPEC, Identity(key="k", certificate="c", ca="a")))
    assert lines(runner, "ovn-remote", "ovn-user-lab", "sh -c") == ["ovn-user-lab", "sh -c", "ovn-remote"]


def test_the_note_of_a_host_is_the_last_to_go() -> None:
    ids = {"kvm-compose-ovn-made": "ovn-remote ssl system-id", "kvm-compose-ovn-user-lab": "yes"}
    runner = chassis(**ids, **{"system-id": "two", "ovn-remote": SPEC.remote})
    asyncio.run(OvsChassis(runner).leave("lab"))
    steps = lines(runner, "del-ssl", "rm -rf", "ovn-user-lab")
    assert steps == ["del-ssl", "rm -rf", "ovn-user-lab"]
    (settings,) = (each for each in runner.commands if "del-ssl" in each)
    assert "ovn-remote" in settings
    assert "system-id" not in settings  # by it the rows of the host are found


def test_the_bridge_outside_goes_after_its_rules() -> None:
    runner = Recorder(("list Bridge", 0, b'{"headings":["name","external_ids"],"data":[]}', b""))
    asyncio.run(OvsOutsides(runner).remove("br-ex"))
    assert lines(runner, "nft", "del-br") == ["nft", "del-br"]
