"""Whatever is edited, and wherever ``up`` is cut off: the next one reaches what a first ``up`` would have.

Random testbeds, edits, changes by hand, kills, cancellations and failures, all of them made from a number.
``KVM_COMPOSE_TEST_SEEDS=17-20`` tries these.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from edited import draw, edit, meddle
from test_failures import _cancel_at, _kill_at

from golden.bench import Bench, new_bench
from kvmcompose.core.commands import Up
from kvmcompose.core.deployment import Action, ActionState
from kvmcompose.hosts.fake import Failure
from kvmcompose.hosts.fake_world import World

if TYPE_CHECKING:
    from conftest import Lab

#: How many are tried: at each run, and under ``make test-long``.
_SOME, _MANY = 24, 600
#: What the server and the transfers note in a project: a first ``up`` has none of it.
_NOTES = ("golden.json", "sent.json", "known_hosts", "in-use.json")
#: Keys of a guest that its domain does not depend on, or that change while it runs.
_ALIVE = {"guest_id", "labels", "extra_info"}
_OF_SCRIPTS = {"setup_script", "run_script", "setup_scripts", "run_scripts", "environment"}
#: What a guest learns when it starts, and is told by ``status`` until then.
_AT_START = {"ip", "mtu", "gateway", "prefix_length"}
#: What happens to an ``up``.
_FATES = ("ends", "fails", "is cancelled", "is killed")
#: Why an ``up`` may be refused: data would have to move, or would be lost.
_DATA = (
    "has data here, and is placed on",
    "has to be set up again, and clones have data",
    "which is no host of the testbed any more",
)


def _seeds() -> list[int]:
    asked = os.environ.get("KVM_COMPOSE_TEST_SEEDS")
    if asked:
        first, _, last = asked.partition("-")
        return list(range(int(first), int(last or first) + 1))
    return list(range(_MANY if os.environ.get("KVM_COMPOSE_TEST_LONG") else _SOME))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A project without a testbed, and a store with an image."""
    return new_bench(tmp_path_factory.mktemp("edited"), "lab", {"keys/id_ed25519": "not a key\n"})


@pytest.mark.long
@pytest.mark.parametrize("seed", _seeds())
def test_edits_and_ups_that_are_cut_off(seed: int, empty: Bench, tmp_path: Path, new_lab: type[Lab]) -> None:
    with new_lab.copied(empty, tmp_path) as lab:
        _Story(lab, tmp_path, Random(seed), seed).run()  # noqa: S311 (to be repeated)


class _Story:
    """One testbed, its edits, and what is expected of them."""

    def __init__(self, lab: Lab, directory: Path, random: Random, seed: int) -> None:
        self.lab = lab
        self.random = random
        self.testbed = draw(random)
        self.said = [f"seed {seed}"]
        self._directory = directory
        self._good = self.testbed
        #: Guests that may start since the last ``up`` that succeeded.
        self._touched: set[str] = set()
        self._guests: dict[str, Any] = {}

    def run(self) -> None:
        self._build()
        for _ in range(self.random.randint(2, 4)):
            started = self._started()
            for _ in range(self.random.randint(1, 2)):
                self._cut_off()
                if self.random.random() < 0.3:
                    self._edit()
            self._up()
            self._check(started)
            self._edit()
            if self.random.random() < 0.4:
                done, guests = meddle(self.lab.drivers, self.random)
                self.said.append(f"by hand: {done} {sorted(guests)}")
                self._touched |= guests

    # -- what happens

    def _edit(self) -> None:
        before = deepcopy(self.testbed)
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            self.said.append(edit(self.testbed, self.random))
        self.testbed.names = max(self.testbed.names, before.names)
        self._build()

    def _build(self) -> None:
        for name, text in self.testbed.files().items():
            path = self.lab.folder / name
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
        ran = self.lab.bench.run("generate")
        assert ran.status == 0, (self.story, ran.said)
        guests = self.lab.bench.state()["testbed_guests"]
        known = {name: each for name, each in self._guests.items() if name in guests}
        self._touched |= guests.keys() - known.keys()  # one that was taken away and is back
        self._touched |= {name for name, each in known.items() if _may_restart(each, guests[name])}
        self._guests = guests

    def _cut_off(self) -> None:
        """An ``up`` that may end in any way."""
        fate = self.random.choice(_FATES)
        at = self.random.randint(1, self.random.choice((15, 40, 90)))
        self.said.append(f"up {fate} at {at}")
        if fate == "ends":
            self._up()
        elif fate == "fails":
            self._fail_at(at)
        elif fate == "is cancelled":
            self._cancel_at(at)
        else:
            self._kill_at(at)

    def _fail_at(self, at: int) -> None:
        """The call with this number fails, and is the only one."""
        lab = self.lab
        call, count = lab.drivers.call, 0

        async def counting(method: str, target: str = "") -> None:
            nonlocal count
            count += 1
            if count == at:
                name = f"{method}:{target}" if target else method
                lab.drivers.failures = [Failure(name.replace("[", "[[]"), 1)]
            await call(method, target)

        lab.drivers.call = counting  # type: ignore[method-assign]
        try:
            self._do()
        finally:
            del lab.drivers.call
            lab.drivers.failures = []

    def _cancel_at(self, at: int) -> None:
        try:
            _cancel_at(self.lab, Up(), at)
        except AssertionError:
            # it was refused, or ended before
            self._accept(self._last())

    def _kill_at(self, at: int) -> None:
        """In a process of its own, which ends there as if killed, or does all of it."""
        _kill_at(self.lab, Up(), at, may_end=True)

    def _do(self) -> None:
        self._accept(self.lab.do(Up()))

    def _last(self) -> Action:
        return self.lab.store.actions("lab")[0]

    def _accept(self, action: Action) -> None:
        """Check that an action ended in a way that was arranged."""
        faults = [fault.message for fault in action.faults]
        assert action.state is ActionState.SUCCEEDED or all(
            _is_of_data(each) or "was made to fail" in each or "did not come up" in each for each in faults
        ), (self.story, faults)

    def _up(self) -> None:
        """An ``up`` that succeeds; an edit that would move data is undone by the user."""
        action = self.lab.do(Up())
        if action.refused and all(_is_of_data(fault.message) for fault in action.faults):
            self.said.append("refused, undone")
            names = self.testbed.names
            self.testbed = deepcopy(self._good)
            self.testbed.names = names
            self._build()
            action = self.lab.do(Up())
        assert action.state is ActionState.SUCCEEDED, (self.story, action.faults)
        self._good = deepcopy(self.testbed)

    # -- what is expected

    @property
    def story(self) -> str:
        return "; ".join(self.said)

    def _started(self) -> dict[str, float]:
        return {
            domain.guest: domain.started
            for world in self.lab.drivers.worlds.values()
            for domain in world.domains.values()
        }

    def _check(self, started: dict[str, float]) -> None:
        """Compare with a first ``up`` of the same files; find who was restarted without need."""
        now = self._started()
        restarted = {name for name, when in started.items() if name in now and now[name] != when}
        assert restarted <= self._touched, (self.story, restarted - self._touched)
        self._touched = set()
        pending = self._pending()
        with self._fresh() as fresh:
            wanted = _seen(fresh.drivers.worlds, set(self.testbed.hosts), pending)
        seen = _seen(self.lab.drivers.worlds, set(self.testbed.hosts), pending)
        assert not [*_differences(seen, wanted)], self.story
        calls = len(self.lab.drivers.calls)
        again = self.lab.must(Up())
        assert "is up already" in self.lab.text(again), self.story
        made = self.lab.drivers.calls[calls:]
        assert not [each for each in made if changes(each)], self.story
        asked = {each.split("/")[0] for each in made if "/" in each.partition(":")[0]}
        assert asked <= set(self.testbed.hosts), (self.story, asked)

    def _pending(self) -> set[str]:
        """The guests that wait for their next start to be as wanted: each is named by ``status``."""
        found = set()
        for text in self.lab.status().differences:
            what, _, reasons = text.partition(": ")
            assert what.startswith(("guest ", "set-up of ")), (self.story, text)
            if what.startswith("guest "):
                assert set(re.findall(r"(\w+) of interface", reasons)) <= _AT_START, (self.story, text)
                found.add(what.removeprefix("guest "))
        return found

    @contextmanager
    def _fresh(self) -> Iterator[Lab]:
        """A first ``up`` of the same project by a server that knows nothing, on hosts with nothing."""
        private = self.lab.folder / ".kvm-compose"
        aside = self._directory / "aside"
        aside.mkdir()
        for name in _NOTES:
            if (private / name).exists():
                (private / name).rename(aside / name)
        elsewhere = self._directory / "fresh"
        elsewhere.mkdir()
        fresh = type(self.lab)(self.lab.bench, elsewhere)
        try:
            fresh.must(Up())
            yield fresh
        finally:
            fresh.store.close()
            shutil.rmtree(elsewhere)
            for name in _NOTES:
                (private / name).unlink(missing_ok=True)
                if (aside / name).exists():
                    (aside / name).rename(private / name)
            shutil.rmtree(aside)


def _is_of_data(message: str) -> bool:
    return any(each in message for each in _DATA)


def _may_restart(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether a guest may restart for an edit: its ports move alive, and its address waits for that."""
    if _lasting(before) != _lasting(after):
        return True
    known = {nic["mac"]: nic for nic in before["interfaces"]}
    return any(
        known[nic["mac"]]["source"] == nic["source"]
        and any(known[nic["mac"]].get(key) != nic.get(key) for key in _AT_START - {"mtu"})
        for nic in after["interfaces"]
    )


def _lasting(guest: dict[str, Any]) -> Any:
    """What of a guest in ``state.json`` makes it restart when it changes."""
    kept = {key: value for key, value in guest.items() if key not in _ALIVE}
    kept["interfaces"] = [
        {key: value for key, value in nic.items() if key not in {"bridge", "source"} | _AT_START}
        for nic in guest["interfaces"]
    ]
    return _without_scripts(kept)


def _without_scripts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_scripts(each) for key, each in value.items() if key not in _OF_SCRIPTS}
    return value


def changes(call: str) -> bool:
    verb = call.rpartition("/")[2].partition(":")[0]
    return verb.partition("_")[0] in {
        "start", "define", "stamp", "change", "apply", "remove", "destroy", "shut", "undefine", "update",
        "link", "run", "wait", "set", "reset", "store", "note", "resume", "forget", "open", "unlink", "grow",
        "put",
    } and verb != "linked_folder"  # fmt: skip


def _seen(worlds: dict[str, World], hosts: set[str], pending: set[str]) -> dict[str, Any]:
    """What exists on hosts, but for disks, files that may be left over, and times."""
    found = {}
    for name, world in worlds.items():
        domains = {
            key: {
                "guest": domain.guest,
                "runs": bool(domain.started),
                "paused": domain.paused,
                "taps": sorted(domain.taps),
                # as far as libvirt knows, a NIC whose port moved is where it was until the next start
                "hardware": msgspec.to_builtins(domain.next_hardware or domain.hardware),
                "made": None if domain.guest in pending else _made(domain.made),
            }
            for key, domain in world.domains.items()
        }
        one = {
            "domains": domains,
            "networks": world.networks,
            "definitions": world.network_definitions,
            "stopped": world.stopped_networks,
            "bridges": msgspec.to_builtins(world.bridges),
            "links": msgspec.to_builtins(world.links),
            "projects": world.projects,
        }
        if (name or "one") in hosts or any(one.values()):
            found[name or "one"] = one
    return found


def _differences(seen: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """What differs, by path, so that a failure can be read."""
    if isinstance(seen, dict) and isinstance(wanted, dict):
        for key in sorted(seen.keys() | wanted.keys()):
            yield from _differences(seen.get(key), wanted.get(key), f"{path}/{key}")
    elif seen != wanted:
        yield f"{path}: {seen!r}, not {wanted!r}"


def _made(text: str) -> Any:
    """What a domain says that it was made from, but for scripts and what they see."""
    spec = msgspec.json.decode(text)
    return {"xml": spec["xml"], "media": spec["media"], "guest": _lasting(spec["guest"])}
