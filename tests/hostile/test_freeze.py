"""A deployment whose files do not answer: nobody else notices.

A FIFO in place of a file stands for a file system that hangs: whoever opens it for reading waits for ever.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "server"))

from daemon import Daemon, soonest

from kvmcompose.client.errors import ServerError
from kvmcompose.core.commands import Down, Up
from kvmcompose.core.deployment import NewDeployment, Phase
from kvmcompose.effects import process, threads
from kvmcompose.effects.threads import PER_DEPLOYMENT, Account, UnansweredError, account, in_thread

_YAML = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {existing_disk: {path: ./tiny.qcow2, driver_type: qcow2}}
network:
  bridges: [{name: br0}]
  external_bridge: br0
"""
#: What is read of a project, and when.
_READ = ("state.json", ".kvm-compose/golden.json", ".kvm-compose/sent.json", "artefacts/lab-network.xml")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "lab"
    folder.mkdir()
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", "tiny.qcow2", "1M"], cwd=folder)
    (folder / "kvm-compose.yaml").write_text(_YAML)
    return folder


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kc") as folder:
        yield Path(folder)


@pytest.fixture
def project(template: Path, place: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        folder = place / name
        shutil.copytree(template, folder, symlinks=True)
        process.run([sys.executable, "-m", "kvmcompose", "-q", "-C", str(folder), "generate"])
        return folder

    return make


@pytest.fixture
def daemon(place: Path) -> Iterator[Daemon]:
    made = Daemon(place / "state", place)
    made.start()
    yield made
    made.kill()


def hang(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def let_go(path: Path) -> None:
    """Whoever has it open is given its end."""
    handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.close(handle)


@pytest.mark.parametrize("file", ["state.json", ".kvm-compose/sent.json"])
def test_a_project_that_does_not_answer_keeps_nobody_else_waiting(
    project: Callable[[str], Path], daemon: Daemon, file: str
) -> None:
    bad, good = project("bad"), project("good")
    client = daemon.client()
    for folder in (bad, good):
        client.put(NewDeployment(folder.name, str(folder)))
    (bad / ".kvm-compose").mkdir(exist_ok=True)
    hang(bad / file.rstrip("/"))
    asked: list[Callable[[], object]] = [
        lambda: daemon.client().status("bad"),
        lambda: daemon.client().state("bad"),
        lambda: daemon.client().access("bad"),
        lambda: daemon.client().snapshots("bad"),
        lambda: daemon.client().act("bad", Up()),
    ] * 5
    pool = ThreadPoolExecutor(len(asked))
    answers = [pool.submit(each) for each in asked]
    try:
        time.sleep(0.5)
        assert soonest(client.health) < 1
        client.act("good", Up())
        deadline = time.monotonic() + 8
        while client.deployment("good").state is not Phase.UP:
            assert time.monotonic() < deadline, client.actions("good")[0]
            time.sleep(0.05)
        client.act("good", Down())
        assert daemon.process is not None
        assert _threads(daemon.process.pid) < 40
    finally:
        for answer in answers:
            error = answer.exception(60)
            assert error is None or isinstance(error, ServerError), error
        pool.shutdown()


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_a_server_ends_although_a_read_hangs(project: Callable[[str], Path], daemon: Daemon) -> None:
    bad = project("bad")
    client = daemon.client()
    client.put(NewDeployment("bad", str(bad)))
    hang(bad / "state.json")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: daemon.client().status("bad"))
        time.sleep(0.3)
        assert daemon.stop() == 0
        assert answer.exception(30) is not None


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_file_of_a_project_is_touched_on_the_event_loop(
    project: Callable[[str], Path], place: Path
) -> None:
    """The main thread makes no system call that names anything in a project folder."""
    lab = project("lab")
    server = Daemon(place / "state", place)
    trace = place / "trace"
    server._argv = ["strace", "-f", "-qq", "-e", "trace=%file", "-o", str(trace), *server._argv]
    server.spawn()
    try:
        server.wait_for("listening on unix:")
        client = server.client()
        client.put(NewDeployment("lab", str(lab)))
        for command in (Up(), Up(provision=False, rerun_scripts=True), Down(purge=True)):
            uuid = client.act("lab", command)
            for _line in client.follow("lab", uuid):
                pass
            client.status("lab"), client.access("lab"), client.snapshots("lab"), client.state("lab")
    finally:
        assert server.process is not None
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), 9)
        server.process.wait(20)
    lines = trace.read_text(errors="replace").splitlines()
    main = lines[0].split()[0]
    touched = [line for line in lines if line.split()[0] == main and f'"{lab}' in line]
    assert [line for line in lines if line.split()[0] != main and f'"{lab}/state.json' in line]
    assert touched == []


def test_hung_reads_of_one_deployment_leave_threads_to_others() -> None:
    release = threading.Event()

    async def run() -> None:
        account.set(Account("bad", 1, 0.3))
        hung = [asyncio.create_task(in_thread(release.wait)) for _ in range(4 * PER_DEPLOYMENT)]
        await asyncio.sleep(0.1)
        account.set(Account("good", 1, 5.0))
        assert await in_thread(lambda: 42) == 42
        results = await asyncio.gather(*hung, return_exceptions=True)
        assert all(isinstance(each, UnansweredError) for each in results)
        names = [each.name for each in threading.enumerate()]
        assert names.count("files of bad") == PER_DEPLOYMENT
        account.set(Account("bad", 1, 0.3))
        with pytest.raises(UnansweredError, match="files of 'bad' do not answer"):
            await in_thread(lambda: 42)
        release.set()  # the file system is back
        await asyncio.sleep(0.1)
        assert await in_thread(lambda: 42) == 42

    asyncio.run(run())


def test_what_computes_is_not_taken_for_files_that_do_not_answer() -> None:
    """It has as long as it takes, and so has what waits for one of its threads; what hangs then has not."""
    release = threading.Event()

    def compute() -> int:
        until = time.thread_time() + 0.5
        while time.thread_time() < until:
            pass
        return 42

    async def run() -> None:
        account.set(Account("large", 1, 0.2))
        work = [in_thread(compute) for _ in range(PER_DEPLOYMENT + 1)]
        assert await asyncio.gather(*work) == [42] * len(work)
        with pytest.raises(UnansweredError, match="files of 'large' do not answer"):
            await in_thread(release.wait)
        with pytest.raises(TimeoutError):  # of the work itself
            await in_thread(_time_out)

    try:
        asyncio.run(run())
    finally:
        release.set()


def _time_out() -> None:
    raise TimeoutError(errno.ETIMEDOUT, "a file server")


def test_one_owner_has_not_all_threads() -> None:
    release = threading.Event()

    async def run() -> None:
        for number in range(40):
            account.set(Account(f"bad{number}", 1, 0.3))
            task = asyncio.create_task(in_thread(release.wait))
            tasks.append(task)
        await asyncio.sleep(0.1)
        account.set(Account("good", 2, 5.0))
        assert await in_thread(lambda: 42) == 42
        assert (
            sum(each.name.startswith("files of bad") for each in threading.enumerate()) == threads.PER_OWNER
        )
        await asyncio.gather(*tasks, return_exceptions=True)

    tasks: list[asyncio.Task[bool]] = []
    try:
        asyncio.run(run())
    finally:
        release.set()
