"""In what order things of OVN are made and removed: a server that is killed between them leaves no orphan.

What `down` looks for, the note of a project, is made first and removed last.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from recorder import Recorder
from test_ovn_chassis import SPEC

from kvmcompose.core.ovn_hosts import Identity, Outside
from kvmcompose.hosts.command import Completed
from kvmcompose.providers.ovn import keys
from kvmcompose.providers.ovn.central import MARK_KEY, USER_KEY, OvnCentral
from kvmcompose.providers.ovn.session import DatabaseSession
from kvmcompose.providers.ovs.chassis import OvsChassis
from kvmcompose.providers.ovs.outside import OvsOutsides

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
        if argv[0] == "rm":
            gone = tuple(each for each in argv if each.startswith("/"))
            self.files = {path: each for path, each in self.files.items() if not path.startswith(gone)}
        done = await super().run(argv, stdin=stdin, **options)
        if argv[0] != "cat":
            return done
        return Completed(0 if argv[-1] in self.files else 1, self.files.get(argv[-1], b""), b"")


def test_a_database_is_noted_before_it_has_keys() -> None:
    runner = Disk()
    asyncio.run(central(runner, ours=False).open("lab", "192.0.2.1"))
    assert lines(runner, "listener", "sh -c", "private_key") == ["listener", "sh -c", "private_key"]


def test_keys_that_end_soon_are_made_again_with_their_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Disk()
    monkeypatch.setattr(keys, "_LIFE", dt.timedelta(days=80))
    asyncio.run(central(runner, ours=False).open("lab", "192.0.2.1"))
    monkeypatch.undo()
    before = dict(runner.files)
    asyncio.run(central(runner, ours=True).open("lab", "192.0.2.1"))
    assert runner.files.keys() == before.keys()
    assert all(runner.files[path] != text for path, text in before.items())
    assert runner.files["/keys/central/ca.pem"] == runner.files["/keys/authority/certificate.pem"]
    (note,) = (
        each[1] for each in runner.commands if each[0] == "database" and "kvm-compose-expires" in each[1]
    )
    assert keys.expiry(runner.files["/keys/central/certificate.pem"].decode()) in note
    # and those that do not are left alone
    before = dict(runner.files)
    asyncio.run(central(runner, ours=True).open("lab", "192.0.2.1"))
    assert runner.files == before


def test_the_note_of_a_database_is_the_last_to_go() -> None:
    runner = Recorder()
    asyncio.run(central(runner, ours=True).close("lab"))
    assert lines(runner, "'ssl'", "rm -rf", "'connections'") == ["'ssl'", "rm -rf", "'connections'"]


#: The ports of a host: a guest's, a tunnel, and both ends of the patch to a provider network.
PORTS = {
    "vnet0": {},
    "ovn-two-0": {"ovn-chassis-id": "two@192.0.2.2"},
    "patch-br-int-to-lab-out": {"ovn-localnet-port": "lab-out"},
    "patch-lab-out-to-br-int": {"ovn-localnet-port": "lab-out"},
}


def chassis(**ids: str) -> Disk:
    ports = [[name, ["map", [*keys.items()]]] for name, keys in PORTS.items()]
    columns = f'["external_ids","ssl"],"data":[[["map",{json.dumps([*ids.items()])}],["uuid","1"]]]'
    return Disk(
        ("list Open_vSwitch", 0, f'{{"headings":{columns}}}'.encode(), b""),
        ("list Port", 0, json.dumps({"headings": ["name", "external_ids"], "data": ports}).encode(), b""),
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


def removed_ports(runner: Recorder) -> set[str]:
    return {
        command[index + 1]
        for command in runner.commands
        for index, word in enumerate(command)
        if word == "del-port"
    }


def test_what_ovn_controller_made_goes_with_the_settings_that_it_was_made_by() -> None:
    ids = {"kvm-compose-ovn-made": "ovn-remote", "kvm-compose-ovn-user-lab": "yes"}
    runner = chassis(**ids, **{"system-id": "two", "ovn-remote": SPEC.remote})
    asyncio.run(OvsChassis(runner).leave("lab"))
    assert removed_ports(runner) == PORTS.keys() - {"vnet0"}


def test_the_tunnels_of_an_ovn_that_was_there_stay() -> None:
    runner = chassis(**{"kvm-compose-ovn-user-lab": "yes", "system-id": "two", "ovn-remote": SPEC.remote})
    asyncio.run(OvsChassis(runner).leave("lab"))
    assert removed_ports(runner) == set()


def outside(mappings: str = "public:br-ex", **ids: str) -> Recorder:
    """Return a host with a bridge of a provider network, which has these notes."""
    bridge = f'["br-ex",["map",{json.dumps([*ids.items()])}],"system"]'
    settings = json.dumps([["ovn-bridge-mappings", mappings]])
    answer = (
        f'{{"headings":["name","external_ids","datapath_type"],"data":[{bridge}]}}\n'
        f'{{"headings":["external_ids"],"data":[[["map",{settings}]]]}}\n'
    )
    return Recorder(("list Bridge", 0, answer.encode(), b""), ("address show", 0, b"[]", b""))


def test_the_bridge_outside_goes_after_its_rules() -> None:
    runner = outside(**{"kvm-compose-outside-user-lab": "public 172.16.1.1/24"})
    asyncio.run(OvsOutsides(runner).remove("lab", "br-ex"))
    assert lines(runner, "nft", "del-br") == ["nft", "del-br"]


USER = "kvm-compose-outside-user-"
OUTSIDE = Outside(network="public", bridge="br-ex", address="172.16.1.1/24", datapath_type="system")


def test_a_bridge_outside_stays_for_the_other_projects() -> None:
    note = "public 172.16.1.1/24"
    runner = outside(**{f"{USER}lab": note, f"{USER}other": note, "kvm-compose-outside-mapped": "public"})
    asyncio.run(OvsOutsides(runner).remove("lab", "br-ex"))
    (change,) = lines(runner, "remove bridge", "nft", "del-br")
    assert change == "remove bridge"
    (command,) = (each for each in runner.commands if "remove" in each)
    assert f"{USER}lab" in command
    assert not any("ovn-bridge-mappings" in word for word in command)
    # and what 0.1 has noted is a note of one project
    runner = outside(**{"kvm-compose-outside": "lab", "kvm-compose-network": "public", f"{USER}other": note})
    asyncio.run(OvsOutsides(runner).create("third", OUTSIDE))
    (command,) = (each for each in runner.commands if "add-br" in each)
    assert f'external_ids:{USER}third="public 172.16.1.1/24"' in command
    assert "kvm-compose-outside" not in command
    runner = outside(**{"kvm-compose-outside": "lab", "kvm-compose-network": "public"})
    asyncio.run(OvsOutsides(runner).create("lab", OUTSIDE))
    (command,) = (each for each in runner.commands if "add-br" in each)
    assert {"kvm-compose-outside", "kvm-compose-network"} <= {*command}


def test_a_mapping_that_others_have_made_stays() -> None:
    kept = {"kvm-compose-kept": "yes", f"{USER}lab": "uplink 172.16.1.1/24"}
    runner = outside("uplink:br-ex,other:br-2", **kept)
    asyncio.run(OvsOutsides(runner).remove("lab", "br-ex"))
    assert lines(runner, "ovn-bridge-mappings", "del-br", "nft") == []
    runner = outside("uplink:br-ex,other:br-2", **kept, **{"kvm-compose-outside-mapped": "uplink"})
    asyncio.run(OvsOutsides(runner).remove("lab", "br-ex"))
    assert any('external_ids:ovn-bridge-mappings="other:br-2"' in each for each in runner.commands)
