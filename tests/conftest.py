"""What all tests share: unit tests stay in their process, no test reads or writes the user's own data."""

from __future__ import annotations

import ipaddress
import os
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

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

UNIT = Path(__file__).parent / "unit"

# No deadlines: how long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("desk", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "desk")

# -- unit tests start no process and reach no network ------------------------------------------------

_PROCESS_EVENTS = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "pty.spawn"}
)
_NETWORK_EVENTS = frozenset({"socket.connect", "socket.sendto", "socket.getaddrinfo"})
_guarded = False


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook (PEP 578): nothing that starts a process or connects can get round it."""
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


sys.addaudithook(_guard)  # for the life of the process: it cannot be taken away, only told to be still


@pytest.fixture(autouse=True)
def _unit_tests_stay_inside(request: pytest.FixtureRequest) -> Iterator[None]:
    global _guarded  # noqa: PLW0603 (what the hook asks)
    _guarded = request.path.is_relative_to(UNIT)
    yield
    _guarded = False


# -- tests leave the user's images, keys and settings alone ------------------------------------------


@pytest.fixture(autouse=True, scope="session")
def _nothing_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A store and keys of this run; the cache stays the user's: what it keeps took long to find out."""
    home = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("KVM_COMPOSE_") or name in ("SOURCE_DATE_EPOCH", "NO_COLOR"):
                patch.delenv(name)
        patch.setenv("KVM_COMPOSE_STORE", str(home / "images"))
        patch.setenv("XDG_DATA_HOME", str(home / "data"))
        yield


# -- servers that start when needed end by themselves, later than the test that needed them ------------


@pytest.fixture
def state_place() -> Iterator[Path]:
    """A place for the state of servers, not there yet, its path short enough for a socket's name.

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
        while _servers_of(place):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _servers_of(place: Path) -> list[int]:
    """The processes that were told to use that folder, which no other test has."""
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
    """A module that is skipped as a whole does not tell which marks its tests would have had."""
    report = yield
    if report.skipped:
        _refuse_skip(collector.config, report)
    return report


def _refuse_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    if config.getoption("--require-real"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"a test that must run was skipped: {reason}"
