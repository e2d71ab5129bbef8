"""Work grows as the number of guests does, and the event loop is never held for long."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import pytest

from golden.bench import new_bench
from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import ActionState
from kvmcompose.effects import stat_cache
from kvmcompose.reconcile import difference as difference_module
from kvmcompose.server.actions import Actions
from kvmcompose.server.orchestrator import plan, stages
from kvmcompose.server.orchestrator.resources import providers
from kvmcompose.server.store import Store

if TYPE_CHECKING:
    from conftest import Lab

GUESTS = 150
MACHINE = """\
  - name: g{number}
    interfaces: [{{bridge: br{bridge}}}]
    libvirt: {{cpus: 1, memory_mb: 128, libvirt_type: {{cloud_image: {{name: debian_12}}}}}}
"""
NETWORK = """\
network:
  bridges: [{name: br0}, {name: br1}, {name: br2}]
  bridge_connections: {br0: br1, br1: br2}
  external_bridge: br0
"""
CONFIG = """\
{"testbed_host_ssh_config": {
   "one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "kvm"},
   "two": {"ip": "192.0.2.12", "user": "root", "virt_type": "kvm"},
   "three": {"ip": "192.0.2.13", "user": "root", "virt_type": "kvm"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""


@pytest.fixture
def lab_of(tmp_path_factory: pytest.TempPathFactory, new_lab: type[Lab]) -> Callable[[int], Lab]:
    """A testbed of so many guests on three hosts that is built."""

    def make(guests: int) -> Lab:
        machines = "".join(MACHINE.format(number=number, bridge=number % 3) for number in range(guests))
        files = {
            "kvm-compose.yaml": f"machines:\n{machines}{NETWORK}",
            "kvm-compose-config.json": CONFIG,
            "keys/id_ed25519": "not a key\n",
        }
        root = tmp_path_factory.mktemp("scale")
        bench = new_bench(root, "lab", files)
        bench.generate()
        return new_lab(bench, root)

    return make


def test_no_callback_works_on_all_guests(lab_of: Callable[[int], Lab]) -> None:
    """In calls of functions: a clock also counts what the kernel and a hypervisor do meanwhile."""
    most: dict[str, list[int]] = {}
    for guests in (GUESTS // 10, GUESTS):
        lab = lab_of(guests)

        async def run(lab: Lab, name: str) -> None:
            if name == "status":
                assert len((await lab.orchestrator.status(lab.deployment)).guests) >= GUESTS // 10
                return
            actions = Actions(lab.store, lab.orchestrator)
            action = actions.begin(lab.deployment, Down() if name == "down" else Up(), "a test")
            await actions.wait(action.uuid)
            found = lab.store.action(action.uuid)
            assert found is not None
            assert found.state is ActionState.SUCCEEDED, found.faults

        asyncio.run(run(lab, "up"))  # what is done once in a process is done
        asyncio.run(run(lab, "down"))
        for name in ("up", "up again", "status", "down"):
            with calls_of_callbacks() as calls:
                asyncio.run(run(lab, name))
            most.setdefault(name, []).append(max(calls))
        lab.store.close()
    # lists of all guests are gone through in up to 53 calls a guest; what is work on each takes hundreds
    each = {name: (many - few) / (GUESTS - GUESTS // 10) for name, (few, many) in most.items()}
    assert {name: calls for name, calls in each.items() if calls > 80} == {}


class Calls:
    """How many functions were called."""

    count = 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            self.count += 1


@contextmanager
def calls_of_callbacks() -> Iterator[list[int]]:
    """How many functions each callback of an event loop of this thread calls, from one await to the next.

    A round of the loop would count together what came at one moment by chance, which load changes.
    """
    calls, counts = Calls(), []

    def run(handle: asyncio.Handle) -> None:
        before = calls.count
        real(handle)  # type: ignore[arg-type]
        counts.append(calls.count - before)

    real = asyncio.Handle._run  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio.Handle, "_run", run)
        sys.setprofile(calls)
        try:
            yield counts
        finally:
            sys.setprofile(None)


def test_all_guests_are_compared_in_threads(
    lab_of: Callable[[int], Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of(3)
    seen: list[bool] = []

    def difference(*arguments: object, **options: object) -> object:
        seen.append(threading.current_thread() is threading.main_thread())
        return real(*arguments, **options)  # type: ignore[arg-type]

    real = difference_module.difference
    monkeypatch.setattr(plan, "difference", difference)
    lab.must(Up())
    lab.status()
    assert seen == [False, False, False]  # before, after, and for the status
    lab.store.close()


def test_a_guest_is_looked_at_as_often_among_many(
    lab_of: Callable[[int], Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each provider describes what is wanted once for each testbed, whatever the number of hosts."""
    calls: dict[int, int] = {}
    domains = providers()["libvirt-domain"]
    marks = providers()["reachable"]
    for guests in (3, 30):
        lab = lab_of(guests)
        lab.must(Up())
        count = 0
        for module in (domains, marks):
            real = module.wanted

            def wanted(testbed: object, real: Callable[..., object] = real) -> object:
                nonlocal count
                count += 1
                return real(testbed)

            monkeypatch.setattr(module, "wanted", wanted)
        lab.status()
        monkeypatch.undo()
        calls[guests] = count
        lab.store.close()
    assert calls[3] == calls[30] <= 4  # two providers, two testbeds: what is built and what is up


def test_starts_are_noted_host_by_host_and_requests_are_answered_between(
    lab_of: Callable[[int], Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of(30)
    noted: Counter[int] = Counter()
    turn = 0

    def put_mark(self: Store, project: str, kind: str, guest: str, value: str | None) -> None:
        if kind == "boot" and value is not None:
            noted[turn] += 1
        real(self, project, kind, guest, value)

    real = Store.put_mark
    monkeypatch.setattr(Store, "put_mark", put_mark)

    async def tick() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def run() -> None:
        ticker = asyncio.create_task(tick())
        actions = Actions(lab.store, lab.orchestrator)
        await actions.wait(actions.begin(lab.deployment, Up(), "a test").uuid)
        ticker.cancel()

    asyncio.run(run())
    assert sum(noted.values()) == 30
    assert len(noted) == 3  # as many as hosts
    lab.store.close()


def test_files_that_have_not_changed_are_not_read_again(
    lab_of: Callable[[int], Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of(4)
    lab.must(Up())
    time.sleep(0.05)  # a change within a tick of the clock of the file system would not show
    lab.status()
    read: list[str] = []
    real = stat_cache.StatMemo.get

    def get(self: stat_cache.StatMemo[object], path: str, handle: int | None = None) -> object:
        before = self._read

        def count(file: str | int) -> object:
            read.append(path.rpartition("/")[2])
            return before(file)

        self._read = count
        try:
            return real(self, path, handle)
        finally:
            self._read = before

    monkeypatch.setattr(stat_cache.StatMemo, "get", get)
    assert lab.status().differences == ()
    assert read == []
    xml = lab.folder / "artefacts/g1-domain.xml"
    xml.write_text(xml.read_text().replace("<vcpu>1<", "<vcpu>2<"))
    assert "artefacts/g1-domain.xml has changed" in " ".join(lab.status().differences)
    assert read == ["g1-domain.xml"]
    lab.store.close()


def test_jobs_begin_a_few_at_a_time_and_all_of_them_do() -> None:
    begun: list[int] = []
    rounds: list[int] = []

    async def job(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0)

    async def run() -> None:
        async def tick() -> None:
            while True:
                before = len(begun)
                await asyncio.sleep(0)
                rounds.append(len(begun) - before)

        ticker = asyncio.create_task(tick())
        jobs = [lambda number=number: job(number) for number in range(100)]
        assert await stages.together(jobs, limit=100) == [True] * 100
        ticker.cancel()

    asyncio.run(run())
    assert sorted(begun) == list(range(100))
    assert 0 < max(rounds) <= stages._BEGIN_AT_ONCE
