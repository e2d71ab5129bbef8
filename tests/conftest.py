"""Shared by all tests: unit tests stay in their process, and no test reads or writes the user's data."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from xdist.workermanage import WorkerController

UNIT = Path(__file__).parent / "unit"

# No deadlines: the time of an example depends more on the machine than on the code.
hypothesis.settings.register_profile("desk", deadline=None)
# In CI the same cases each time: few, as more of the same would find no more; `make test-long` tries others.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=40, print_blob=True)
hypothesis.settings.register_profile("long", deadline=None, max_examples=1000, print_blob=True)
_LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))
hypothesis.settings.load_profile("long" if _LONG else "ci" if os.environ.get("CI") else "desk")

# A shell makes programs started with "&" ignore SIGINT, which every process that a test starts would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The only cache that outlives a run: images of guests, named by the recipes that they were built with.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("TEST_IMAGES", str(_CACHE / "kvm-compose-tests"))

# -- unit tests start no process and reach no network ------------------------------------------------

_PROCESS_EVENTS = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "pty.spawn"}
)
_NETWORK_EVENTS = frozenset({"socket.connect", "socket.sendto", "socket.getaddrinfo"})
_guarded = False


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook (PEP 578), which no code that starts a process or connects can bypass."""
    if not _guarded:
        return
    if event in _PROCESS_EVENTS:
        pytest.fail(f"a unit test may not start a process: {event} {arguments[:2]}")
    if event in _NETWORK_EVENTS and not _is_local(event, arguments):
        pytest.fail(f"a unit test may not use the network: {event} {arguments[1:]}")


def _is_local(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        connection, address = arguments[:2]
        if connection.family == socket.AF_UNIX:
            return True
        host = address[0] if isinstance(address, tuple) else address
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


sys.addaudithook(_guard)  # an audit hook cannot be removed, only disabled


@pytest.fixture(autouse=True)
def _unit_tests_stay_inside(request: pytest.FixtureRequest) -> Iterator[None]:
    global _guarded  # noqa: PLW0603 (what the hook asks)
    _guarded = request.path.is_relative_to(UNIT)
    yield
    _guarded = False


# -- tests leave the user's images, keys, settings and caches alone ------------------------------------


@pytest.fixture(autouse=True, scope="session")
def _nothing_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home folder for this run, empty except for the result of the KVM probe: the probe takes seconds, the
    first command to run it prints a line, and tests must pass with and without KVM."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("KVM_COMPOSE_", "XDG_")) or name in ("SOURCE_DATE_EPOCH", "NO_COLOR"):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("KVM_COMPOSE_STORE", str(home / "images"))
        _answer_for_kvm(home / ".cache" / "kvm-compose")
        yield


def _answer_for_kvm(cache: Path) -> None:
    """Return what ``kvmcompose.effects.capabilities`` stores for this boot of the machine and this QEMU."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is not None:
        answer = {
            "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
            "qemu": qemu,
            "qemu_mtime_ns": Path(qemu).stat().st_mtime_ns,
            "probe": {"works": False, "reason": "tests emulate"},
        }
        cache.mkdir(parents=True)
        (cache / "kvm.json").write_text(json.dumps(answer))


# -- embedded servers exit by themselves, after the test that needed them ------------------------------


@pytest.fixture
def state_place() -> Iterator[Path]:
    """A folder for the state of servers, not yet created, with a path short enough for a socket.

    Servers that are left are ended: of several that begin at once all but one end by themselves, a moment
    later, and write there until then.
    """
    with tempfile.TemporaryDirectory(prefix="kc") as folder:
        place = Path(folder) / "own"
        yield place
        for pid in _servers_of(place):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while left := _servers_of(place):
            assert time.monotonic() < deadline, f"killed, and not gone: {left}"
            time.sleep(0.01)


def _servers_of(place: Path) -> list[int]:
    """Return the processes that use that folder, which belongs to one test."""
    pids = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"\0{place}\0" in (each / "cmdline").read_text():
                pids.append(int(each.name))
    return pids


# -- tests marked `real` are run, not skipped --------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-real",
        action="store_true",
        default=bool(os.environ.get("CI")),
        help="a test marked `real` that is skipped has failed (always so where CI is set)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Real tests come first, the longest files before the others: what is short fills in at the end."""
    if not _LONG:
        left_out = [item for item in items if item.get_closest_marker("long_only")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("long_only")]
    for item in items:
        if item.get_closest_marker("long_only"):
            item.add_marker(pytest.mark.long)
        if getattr(getattr(item, "function", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.long)
        if item.get_closest_marker("real"):
            item.add_marker(pytest.mark.timeout(1800))
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    path = item.nodeid.partition("::")[0]
    if path in _LONGEST:
        return _LONGEST.index(path)
    return len(_LONGEST) + (item.get_closest_marker("real") is None)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Distribute tests one by one to the next free process, except those of files with slow fixtures.

    xdist's own scheduler does not serve: pytest 9 loses the group names that xdist appends to test names.
    """
    config.option.loadscopereorder = False  # the order is that of the collection
    return _Scheduling(config, log)


class _Scheduling(LoadScopeScheduling):
    """Two processes may boot guests, which keep two processors busy; the others do what is left.

    When nothing else is left, a third one may, too: then those two wait for guests now and then.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if nodeid.startswith(_TOGETHER) else nodeid

    def _reschedule(self, node: WorkerController) -> None:
        scope = self._next(node)
        if self.workqueue and scope is None:
            node.shutdown()  # when it has done what it has
        # a file not before it is due: another process may be free sooner than two tests of minutes are done
        elif not (scope or "").startswith(_TOGETHER) or self._pending_of(self.assigned_work[node]) <= 1:
            super()._reschedule(node)

    def _assign_work_unit(self, node: WorkerController) -> None:
        scope = self._next(node)
        if scope is not None:
            self.workqueue.move_to_end(scope, last=False)
            super()._assign_work_unit(node)

    def _next(self, node: WorkerController) -> str | None:
        other = next((scope for scope in self.workqueue if not _boots_guests(scope)), None)
        if node in self.nodes[: 3 if other is None else 2]:
            return next(iter(self.workqueue), None)
        return other


def _boots_guests(scope: str) -> bool:
    return scope.startswith(_GUESTS) and scope not in _WITHOUT_GUESTS


#: Whose tests share hosts and guests, built packages, schemas of other programs, a browser.
_TOGETHER = (
    "tests/real/",
    "tests/hostile/test_members.py",
    "tests/packaging/",
    "tests/judges/",
    "tests/page/",
)
#: Whose tests boot guests.
_GUESTS = ("tests/real/", "tests/hostile/test_members.py")
#: Real tests with hosts, networks and containers alone, which any process may do.
_WITHOUT_GUESTS = (
    "tests/real/test_container_images_real.py",
    "tests/real/test_containers_engines.py",
    "tests/real/test_containers_nics.py",
    "tests/real/test_containers_up.py",
    "tests/real/test_ovn_drivers.py",
    "tests/real/test_remote_host.py",
    "tests/real/test_tunnel_mtu.py",
    "tests/real/test_volumes_elsewhere.py",
)
#: Files with minutes of work, the longest first: begun late, one of them would end alone.
_LONGEST = (
    "tests/real/test_several_hosts.py",
    "tests/real/test_converge_hosts.py",
    "tests/real/test_up.py",
    "tests/real/test_cloud_init.py",
    "tests/real/test_containers_up.py",
    "tests/real/test_containers_engines.py",
    "tests/real/test_micro.py",
    "tests/real/test_converge.py",
    "tests/real/test_remote_host.py",
    "tests/hostile/test_members.py",
    "tests/real/test_ovn_up.py",
    "tests/real/test_drift_real.py",
    "tests/real/test_drivers_libvirt.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("real"):
        _refuse_skip(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Refuse the skip of a whole module, too: it does not show which marks its tests have."""
    report = yield
    if report.skipped:
        _refuse_skip(collector.config, report)
    return report


def _refuse_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    if config.getoption("--require-real"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"a test that must run was skipped: {reason}"
