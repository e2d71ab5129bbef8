"""Snapshots, and a connection that is lost, with libvirt's own test driver."""

from __future__ import annotations

import functools
from typing import Any

import libvirt
import pytest
from libvirt_bench import Bench, fails_with, really_open

from kvmcompose.core.libvirt_uri import LibvirtUri
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.libvirt import connection as connection_module
from kvmcompose.providers.libvirt.driver import Libvirt

NO_SNAPSHOTS = ("qemu-img info", 0, b"{}", b"")


def snapshots_of(bench: Bench) -> list[tuple[str, str, bool]]:
    found = bench.run(lambda: bench.driver.snapshots.of("p-web"))
    return [(each.name, each.state, each.current) for each in found]


def test_snapshots_are_made_restored_and_deleted(bench: Bench) -> None:
    bench.start()
    assert snapshots_of(bench) == []
    bench.run(lambda: bench.driver.snapshots.create("p-web", "first"))
    bench.run(lambda: bench.driver.snapshots.create("p-web", "second"))
    assert sorted(snapshots_of(bench)) == [("first", "running", False), ("second", "running", True)]
    with pytest.raises(DriverError, match="p-web already has a snapshot first"):
        bench.run(lambda: bench.driver.snapshots.create("p-web", "first"))
    bench.domain().destroy()
    bench.machine.answers = (
        ("qemu-img info", 0, b'{"snapshots": [{"id": "1", "name": "first", "vm-state-size": 9}]}', b""),
    )
    bench.run(lambda: bench.driver.snapshots.restore("p-web", "first"))
    assert bench.states == {"p-web": "running"}
    assert ("first", "running", True) in snapshots_of(bench)
    bench.run(lambda: bench.driver.snapshots.delete("p-web", "first"))
    assert [name for name, _, _ in snapshots_of(bench)] == ["second"]


def test_a_guest_whose_memory_has_no_room_is_told_before_the_disk_is_full(bench: Bench) -> None:
    bench.start()
    memory = 1024 * bench.domain().info()[2]
    for free, refused in ((memory - 1, True), (memory, False)):
        bench.machine.answers = (("df --output", 0, f"    Avail\n{free:9}\n".encode(), b""), NO_SNAPSHOTS)
        if refused:
            with pytest.raises(DriverError, match="no room for a snapshot of p-web: its memory takes up to"):
                bench.run(lambda: bench.driver.snapshots.create("p-web", "first"))
        else:
            bench.run(lambda: bench.driver.snapshots.create("p-web", "first"))
    bench.domain().destroy()
    bench.machine.answers = (("df --output", 0, b"Avail\n0\n", b""), NO_SNAPSHOTS)
    bench.run(lambda: bench.driver.snapshots.create("p-web", "second"))


def test_what_qemu_would_confuse_is_put_right(bench: Bench) -> None:
    """A snapshot of a guest that is off, named as the ID of another one."""
    bench.start()
    bench.domain().destroy()
    bench.run(lambda: bench.driver.snapshots.create("p-web", "2"))
    table = b'{"snapshots": [{"id": "1", "name": "2"}, {"id": "2", "name": "later"}]}'
    bench.machine.answers = (("qemu-img info", 0, table, b""),)
    bench.run(lambda: bench.driver.snapshots.restore("p-web", "2"))
    assert bench.machine.commands[-1] == ["qemu-img", "snapshot", "-a", "1", "--", "/p/vda"]
    assert bench.machine.privileged[-1]


def test_a_guest_runs_on_if_a_file_of_then_is_gone(bench: Bench) -> None:
    """libvirt would have ended it before it noticed."""
    bench.start()
    bench.run(lambda: bench.driver.snapshots.create("p-web", "first"))
    bench.machine.answers = (("stat -L", 1, b"/p/vda\n", b"stat: cannot statx '/p/vdb': No such file"),)
    with pytest.raises(DriverError, match=r"snapshot first of p-web needs what is gone: /p/vdb$") as caught:
        bench.run(lambda: bench.driver.snapshots.restore("p-web", "first"))
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("kvm-compose snapshot delete first deletes the rest of the snapshot")
    assert bench.machine.commands[-1][0] == "stat"
    assert bench.states == {"p-web": "running"}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (
            "Failed to take snapshot: Error while writing VM state: Input/output error",
            "is the host's disk full?",
        ),
        ("Unable to write to file '/p/nvram.fd.new': No space left on device", "make room on the host"),
    ],
)
def test_a_full_disk_has_a_hint(text: str, hint: str) -> None:
    with pytest.raises(libvirt.libvirtError) as caught:
        fails_with(libvirt.VIR_ERR_OPERATION_FAILED, text)()
    assert (connection_module.failure("do it", caught.value).hint or "").startswith(hint)


def test_a_snapshot_that_is_not_there_is_an_error_that_names_what_is(bench: Bench) -> None:
    bench.start()
    for call in (bench.driver.snapshots.restore, bench.driver.snapshots.delete):
        with pytest.raises(DriverError, match="p-web has no snapshot frist") as caught:
            bench.run(functools.partial(call, "p-web", "frist"))
        assert caught.value.hint == "there are none"
    bench.run(lambda: bench.driver.snapshots.create("p-web", "first"))
    for name, hint in (("frist", "did you mean first?"), ("other", "there are: first")):
        with pytest.raises(DriverError) as caught:
            bench.run(functools.partial(bench.driver.snapshots.delete, "p-web", name))
        assert caught.value.hint == hint
    with pytest.raises(DriverError, match="there is no domain p-gone on main"):
        bench.run(lambda: bench.driver.snapshots.of("p-gone"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "raw"}, "cannot have snapshots: its disk vda is raw, and only qcow2"),
        ({"more": "<readonly/>"}, "p-web has no writable disk"),
    ],
)
def test_disks_that_hold_no_snapshots_are_named(bench: Bench, options: dict[str, str], message: str) -> None:
    bench.start(**options)
    with pytest.raises(DriverError, match=message):
        bench.run(lambda: bench.driver.snapshots.create("p-web", "first"))
    assert snapshots_of(bench) == []


def test_a_snapshot_is_made_known_to_a_domain_that_was_defined_anew(bench: Bench) -> None:
    bench.start()
    bench.run(lambda: bench.driver.snapshots.create("p-web", "first"))
    (kept,) = bench.run(lambda: bench.driver.snapshots.of("p-web"))
    bench.run(lambda: bench.driver.domains.destroy("p-web"), lambda: bench.driver.domains.undefine("p-web"))
    bench.start()
    assert snapshots_of(bench) == []
    for _ in range(2):
        bench.run(lambda: bench.driver.snapshots.redefine("p-web", kept.xml))
        assert [name for name, _, _ in snapshots_of(bench)] == ["first"]


def test_versions_are_dotted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt.virConnect, "getLibVersion", lambda _connection: 10_012_034)
    facts = bench.run(bench.driver.facts)
    assert facts.version.startswith("libvirt 10.12.34, TEST ")
    assert facts.cpus > 0
    assert facts.memory_mb > 0


# -- a connection that is lost


def lost(*_: object) -> None:
    fails_with(libvirt.VIR_ERR_RPC, "client socket is closed", libvirt.VIR_FROM_RPC)()


class Losing:
    """Something to do that loses the connection ``times`` times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.done = 0

    def __call__(self, _connection: Any) -> str:
        self.done += 1
        if self.done <= self.times:
            lost()
        return "done"


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(connection_module, "_COME_BACK_SECONDS", 0.3)


@pytest.mark.usefixtures("brief")
def test_what_can_be_repeated_is_when_the_connection_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = 0
    host = bench.connection.getURI()

    def again(_uri: str) -> Any:
        nonlocal opened
        opened += 1
        return really_open(host)

    monkeypatch.setattr(libvirt, "open", again)
    call = bench.driver._connection.call
    work = Losing(2)
    assert bench.run(lambda: call("do it", work)) == "done"
    assert (work.done, opened) == (3, 2)
    once = Losing(1)
    with pytest.raises(DriverError, match=r"cannot do it: the connection .* outcome is unknown"):
        bench.run(lambda: bench.driver._connection.call_once("do it", once))
    assert once.done == 1
    with pytest.raises(DriverError, match="cannot do it: libvirt does not answer"):
        bench.run(lambda: call("do it", Losing(10**6)))


@pytest.mark.usefixtures("brief")
def test_an_answer_that_is_no_is_not_asked_for_again(bench: Bench) -> None:
    call = bench.driver._connection.call
    asked = 0

    def refused(_connection: Any) -> None:
        nonlocal asked
        asked += 1
        fails_with(libvirt.VIR_ERR_OPERATION_INVALID, "Requested operation is not valid: domain is off")()

    with pytest.raises(DriverError, match=r"^cannot do it: domain is off$"):
        bench.run(lambda: call("do it", refused))
    assert asked == 1
    assert (
        not bench.connection.isAlive()
        or bench.run(lambda: call("do it", lambda found: found)) is bench.connection
    )


def test_a_libvirt_that_never_answered_is_not_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def refuse(_uri: str) -> None:
        nonlocal asked
        asked += 1
        lost()

    monkeypatch.setattr(libvirt, "open", refuse)
    with pytest.raises(DriverError, match="libvirt does not answer at qemu:///system") as caught:
        bench.run(Libvirt(LibvirtUri(), bench.machine).facts)
    assert asked == 1
    assert "systemctl enable --now libvirtd" in str(caught.value.hint)
    assert "there" not in str(caught.value.hint)
    with pytest.raises(DriverError, match="libvirt does not answer on two") as caught:
        bench.run(Libvirt(LibvirtUri(), bench.machine, "on two").facts)
    assert "group libvirt" in str(caught.value.hint)
