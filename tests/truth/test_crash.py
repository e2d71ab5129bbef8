"""Builds that are killed or find the world out of order: the next one makes what a clean build makes."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from golden.bench import Bench, environment, new_bench, settle

_LONG = bool(os.environ.get("KVM_COMPOSE_TEST_LONG"))
KILLS = 200 if _LONG else 20
#: So many times bytes of a file are changed at random.
_DAMAGES = 20 if _LONG else 5
#: So many kills hit the same project, one after the other.
_TOGETHER = 10
_GUESTS = 24
_SECONDS = 60


def yaml_of(guests: int, memory: int = 64) -> str:
    machines = "".join(
        f"  - {{name: g{number}, interfaces: [{{bridge: br0}}], libvirt: {{cpus: 1, memory_mb: {memory}, "
        f"libvirt_type: {{cloud_image: {{name: debian_12, context: files}}}}}}}}\n"
        for number in range(guests)
    )
    return f"machines:\n{machines}network: {{bridges: [{{name: br0}}], external_bridge: br0}}\n"


EDITED = "{name: g1, interfaces: [{bridge: br0}], libvirt: {cpus: 2"
CONFIG = (
    '{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},'
    '"ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}'
)


def project(root: Path, guests: int = _GUESTS) -> Bench:
    return new_bench(
        root,
        "lab",
        {
            "kvm-compose.yaml": yaml_of(guests),
            "kvm-compose-config.json": CONFIG,
            "files/data": "x" * 20_000,
            "keys/id_ed25519": "not a key\n",
        },
    )


def start(bench: Bench, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        bench.argv("generate", *words),
        env=environment(bench.root),
        cwd=bench.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that its workers can be found
    )


def workers_of(session: int) -> list[int]:
    """The processes of a session that are left: a build's workers are in the session of the build."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def assert_nobody_left(session: int) -> None:
    end = time.monotonic() + 5
    while workers_of(session):
        assert time.monotonic() < end, "workers outlived their build"
        time.sleep(0.005)


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + _SECONDS
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.001)


def made(bench: Bench) -> int:
    return len(list((bench.folder / "artefacts").glob("g*-*")))


def clean_build(bench: Bench, elsewhere: Path) -> dict[str, bytes | str]:
    other = Bench(bench.root, elsewhere / bench.folder.name)
    shutil.copytree(
        bench.folder, other.folder, symlinks=True,
        ignore=shutil.ignore_patterns("artefacts", "state.json*", ".kvm-*"),
    )  # fmt: skip
    other.generate()
    found = other.artefacts()
    shutil.rmtree(elsewhere)
    return found


def assert_as_clean(bench: Bench, expected: dict[str, bytes | str]) -> None:
    """What a clean build makes is there and nothing else, and it counts as up to date."""
    found = bench.artefacts()
    assert found.keys() == expected.keys()
    assert [path for path in found if found[path] != expected[path]] == []
    assert bench.plan() == {}


@pytest.fixture
def lab(memory_root: Path, tmp_path: Path) -> Bench:
    root = memory_root / tmp_path.name
    root.mkdir()
    return project(root, 3)


# --- killed ---------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("first", range(0, KILLS // 2, _TOGETHER))
def test_after_a_kill_at_any_moment_the_next_build_comes_out_clean(
    memory_root: Path, first: int, jobs: str
) -> None:
    """Builds from nothing, and builds after an edit of all guests; now and then killed twice in a row."""
    chance = random.Random(f"{first} {jobs}")  # noqa: S311 (moments, not secrets)
    root = memory_root / f"killed-{first}-{jobs}"
    root.mkdir()
    bench = project(root)
    memory = 64
    expected = clean_build(bench, root / "clean")
    for kill in range(_TOGETHER):
        if chance.random() < 0.5:
            shutil.rmtree(bench.folder / "artefacts", ignore_errors=True)
            shutil.rmtree(bench.folder / ".kvm-compose", ignore_errors=True)
            (bench.folder / "state.json").unlink(missing_ok=True)
        else:
            memory += 1
            bench.yaml.write_text(yaml_of(_GUESTS, memory))
            expected = clean_build(bench, root / "clean")
        for _ in range(chance.choice((1, 1, 2))):
            process = start(bench, "--jobs", jobs)
            if chance.random() < 0.3:
                time.sleep(chance.uniform(0.01, 0.3))
            else:  # while it writes
                goal = chance.randint(1, 3 * _GUESTS)
                wait_until(
                    lambda process=process, goal=goal: process.poll() is not None or made(bench) >= goal
                )
                time.sleep(chance.uniform(0, 0.02))
            process.kill()
            process.communicate(timeout=_SECONDS)
            assert_nobody_left(process.pid)
        torn = {
            path: text for path, text in bench.plan().items() if text in ("conflict", "refuse", "blocked")
        }
        assert torn == {}, f"kill {kill}: a file of the build is taken for the user's"
        ran = bench.run("generate")
        assert ran.status == 0, ran.said
        assert "Traceback" not in ran.err
        assert_as_clean(bench, expected)
        assert not list(bench.folder.rglob(".kvm-compose-staged-*"))
        assert not list(bench.folder.rglob("*.orig*"))
    shutil.rmtree(root)


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_told_to_stop_keeps_what_it_made(
    memory_root: Path, tmp_path: Path, signum: signal.Signals, jobs: str
) -> None:
    bench = project(memory_root / f"stopped-{signum}-{jobs}", 150)
    expected = clean_build(bench, tmp_path / "clean")
    process = start(bench, "--jobs", jobs)
    wait_until(lambda: process.poll() is not None or made(bench) >= 3)
    process.send_signal(signum)
    _, err = process.communicate(timeout=_SECONDS)
    assert_nobody_left(process.pid)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert list(bench.folder.rglob(".kvm-compose-staged-*")) == []
    here = made(bench)
    assert here < 450
    done = bench.generate()
    again = [path for path in done if path.startswith("artefacts/g")]
    assert len(again) == 450 - here, "what was made before is not made again"
    assert_as_clean(bench, expected)


def test_a_killed_worker_fails_the_build_and_does_not_hang_it(memory_root: Path) -> None:
    bench = project(memory_root / "worker", 300)
    process = start(bench, "--jobs", "2")
    wait_until(lambda: process.poll() is not None or len(workers_of(process.pid)) > 1)
    workers = [worker for worker in workers_of(process.pid) if worker != process.pid]
    assert workers, "the build was over before it had a worker"
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=_SECONDS)
    assert process.returncode == 1, err
    assert b"a worker process was killed" in err
    assert b"Traceback" not in err
    assert_nobody_left(process.pid)
    assert bench.run("generate").status == 0
    assert bench.plan() == {}


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_worker_that_is_killed_early_is_told_alike(
    memory_root: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before all batches were handed out: there is nobody left to hand them to."""
    bench = project(memory_root / f"early-{number}", 300)
    submit = ProcessPoolExecutor.submit
    submitted = itertools.count()

    def broken(pool: ProcessPoolExecutor, *call: Any) -> Any:
        if next(submitted) >= number:
            raise BrokenProcessPool
        return submit(pool, *call)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", broken)
    ran = bench.run("generate", "--jobs", "2")
    assert ran.status == 1
    assert "a worker process was killed" in ran.err
    monkeypatch.undo()
    assert bench.run("generate").status == 0
    assert bench.plan() == {}


# --- two at once ----------------------------------------------------------------------------------------


def test_two_builds_at_once_come_out_as_one(memory_root: Path, tmp_path: Path) -> None:
    bench = project(memory_root / "two")
    expected = clean_build(bench, tmp_path / "clean")
    builds = [start(bench), start(bench)]
    for build in builds:
        _, err = build.communicate(timeout=_SECONDS)
        assert build.returncode == 0, err
    assert_as_clean(bench, expected)


def test_a_build_that_will_not_wait_is_refused_and_told_by_whom(memory_root: Path) -> None:
    bench = project(memory_root / "refused")
    first = start(bench)
    wait_until(lambda: made(bench) >= 1)
    first.send_signal(signal.SIGSTOP)  # so that it holds the lock for as long as we look
    try:
        ran = bench.spawn("generate", "--no-wait")
    finally:
        first.send_signal(signal.SIGCONT)
        first.communicate(timeout=_SECONDS)
    assert ran.status == 3
    assert f"process {first.pid}" in ran.err


def test_the_lock_of_a_dead_build_is_no_lock(lab: Bench) -> None:
    process = start(lab)
    wait_until((lab.folder / ".kvm-compose/lock").exists)
    process.kill()
    process.communicate(timeout=_SECONDS)
    assert (lab.folder / ".kvm-compose/lock").exists()
    assert lab.run("generate", "--no-wait").status == 0
    # and so with any number in it, even that of a process that lives
    (lab.folder / ".kvm-compose/lock").write_text(f"{os.getppid()}\n")
    lab.write("files/data", "another")
    assert lab.run("generate", "--no-wait").status == 0


# --- the store ------------------------------------------------------------------------------------------


def scramble(data: bytes, seed: int) -> bytes:
    """Some bytes changed anywhere."""
    chance = random.Random(seed)  # noqa: S311 (damage, not secrets)
    changed = bytearray(data)
    for _ in range(chance.randint(1, 40)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def flipped(seed: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(scramble(path.read_bytes(), seed)) and None


def cut(part: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * part))


def other_version(number: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        ledger = sqlite3.connect(path)
        ledger.execute(f"PRAGMA user_version = {number}")
        ledger.close()

    return change


def without_table(path: Path) -> None:
    ledger = sqlite3.connect(path)
    ledger.execute("DROP TABLE artefacts")
    ledger.close()


def other_columns(path: Path) -> None:
    ledger = sqlite3.connect(path)
    ledger.execute("ALTER TABLE artefacts RENAME COLUMN content TO contents")
    ledger.close()


LEDGERS: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no database\n" * 1000),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "first page only": lambda path: os.truncate(path, 4096),
    "cut in half": cut(0.5),
    "cut short": cut(0.95),
    "an older version": other_version(-1),
    "a newer version": other_version(99),
    "without a table": without_table,
    "with other columns": other_columns,
    **{f"with changed bytes ({seed})": flipped(seed) for seed in range(_DAMAGES)},
}


@pytest.mark.long
@pytest.mark.parametrize("how", LEDGERS)
def test_a_broken_ledger_costs_a_line_and_at_most_a_rebuild(lab: Bench, how: str) -> None:
    settle()
    lab.generate()
    lab.generate()
    before = lab.artefacts()
    ledger = lab.folder / ".kvm-compose/ledger.sqlite"
    LEDGERS[how](ledger)
    for words in (("plan",), ("list", "--all", "--status"), ("why", "state")):
        ran = lab.run(*words)
        assert "Traceback" not in ran.said, ran.said
        assert ran.status == 0, ran.said
    ran = lab.spawn("generate")
    assert "Traceback" not in ran.said, ran.said
    assert ran.status == 0, ran.said
    assert lab.artefacts() == before
    # and a change is not overlooked afterwards
    lab.edit("{name: g1, interfaces: [{bridge: br0}], libvirt: {cpus: 1", EDITED)
    ran = lab.run("generate")
    assert ran.status == 0, ran.said
    assert "rebuild  artefacts/g1-domain.xml" in ran.out
    assert lab.artefacts() == clean_build(lab, lab.root / "clean")


@pytest.mark.parametrize("how", ["text", "a newer version", "an older version", "without a table"])
def test_a_ledger_that_cannot_be_read_is_said_in_one_line(lab: Bench, how: str) -> None:
    lab.generate()
    LEDGERS[how](lab.folder / ".kvm-compose/ledger.sqlite")
    lab.write("files/data", "y")
    ran = lab.run("generate")
    assert ran.status == 0
    lines = [line for line in ran.err.splitlines() if "ledger" in line]
    assert len(lines) == 1, ran.err


DAMAGED_STAMPS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("nothing of ours"),
    "a huge length": lambda path: path.write_bytes(b"99999999999999999\n{}"),
    "a negative length": lambda path: path.write_bytes(b"-1\n{}"),
    "other JSON": lambda path: path.write_bytes(b"2\n[]"),
    "a number": lambda path: path.write_bytes(b"1\n7"),
    "cut in half": cut(0.5),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "another version": lambda path: path.write_bytes(
        path.read_bytes().replace(b'"version": ', b'"version": 9', 1)
    ),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    **{f"with changed bytes ({seed})": flipped(seed) for seed in range(_DAMAGES)},
}


@pytest.mark.long
@pytest.mark.parametrize("how", DAMAGED_STAMPS)
def test_a_damaged_stamp_is_not_used(lab: Bench, how: str) -> None:
    settle()
    lab.generate()
    lab.generate()
    stamp = lab.folder / ".kvm-compose/standing"
    assert stamp.exists()
    DAMAGED_STAMPS[how](stamp)
    lab.path("g1-domain.xml").unlink()
    ran = lab.run("generate")
    assert "Traceback" not in ran.said, ran.said
    assert ran.status == 0, ran.said
    assert "create   artefacts/g1-domain.xml" in ran.out
    assert_as_clean(lab, clean_build(lab, lab.root / "clean"))


# --- places and clocks ----------------------------------------------------------------------------------


SUDO = () if os.getuid() == 0 else ("sudo", "-n")


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of 5,000 KiB."""
    place.mkdir()
    subprocess.run([*SUDO, "mount", "-t", "tmpfs", "-o", "size=5000k,mode=777", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run([*SUDO, "umount", place], check=True)


@pytest.mark.real
def test_a_full_disk_leaves_nothing_torn(tmp_path: Path) -> None:
    """On a small file system of its own, which then grows."""
    bench = project(tmp_path, 40)
    expected = clean_build(bench, tmp_path / "clean")
    with small_disk(tmp_path / "small") as small:
        there = Bench(tmp_path, small / "lab")
        shutil.copytree(bench.folder, there.folder, symlinks=True)
        ran = there.spawn("generate", "-k")
        assert ran.status == 1
        assert "Traceback" not in ran.err
        assert "No space left on device" in ran.err
        assert not list(there.folder.rglob(".kvm-compose-staged-*"))
        whole = {
            path: data for path, data in there.artefacts().items() if not path.startswith("artefacts/images")
        }
        assert {path for path in whole if whole[path] != expected[path]} == set()
        subprocess.run([*SUDO, "mount", "-o", "remount,size=64m", small], check=True)
        assert there.spawn("generate").status == 0
        assert there.artefacts() == expected


@pytest.mark.real
@pytest.mark.parametrize("room", [0, 8, 24, 40, 64, 80, 100, 120, 160, 200])
def test_hardly_any_room_is_told_in_lines(tmp_path: Path, room: int) -> None:
    """``room`` is what is free before the first build, in KiB: not enough for the ledger, or what follows."""
    bench = project(tmp_path, 3)
    expected = clean_build(bench, tmp_path / "clean")
    with small_disk(tmp_path / "small") as small:
        there = Bench(tmp_path, small / "lab")
        shutil.copytree(bench.folder, there.folder, symlinks=True)
        fill = small / "fill"
        fill.write_bytes(bytes(shutil.disk_usage(small).free - room * 1024))
        ran = there.spawn("generate")
        assert ran.status in (1, 3)
        assert "Traceback" not in ran.err
        assert re.search("no space left|disk is full|disk I/O error", ran.err, re.IGNORECASE)
        assert "Traceback" not in there.run("list").err
        assert not list(there.folder.rglob(".kvm-compose-staged-*"))
        assert not list(there.folder.rglob("*.new*"))
        fill.unlink()
        assert there.run("generate").status == 0
        assert there.artefacts() == expected


@pytest.mark.parametrize("hours", [-24, -1, 1, 24])
def test_a_clock_that_was_set_hides_no_change(lab: Bench, hours: int) -> None:
    """Times of all files jump, as if built under another clock; then inputs and outputs change."""
    settle()
    lab.generate()
    lab.generate()
    for path in [lab.folder, *lab.folder.rglob("*")]:
        if not path.is_symlink() and "ledger" not in path.name:
            status = path.stat()
            shifted = status.st_mtime_ns + hours * 3600 * 10**9
            os.utime(path, ns=(shifted, shifted))
    assert lab.generate() == {}
    path = lab.write("files/data", "z" * 20_000)
    shifted = path.stat().st_mtime_ns + hours * 3600 * 10**9
    os.utime(path, ns=(shifted, shifted))
    assert set(lab.generate()) == {f"artefacts/g{number}-cloud-init.iso" for number in range(3)}
    lab.path("g1-cloud-init.iso").write_bytes(b"short")
    assert set(lab.generate()) == {"artefacts/g1-cloud-init.iso"}
    assert_as_clean(lab, clean_build(lab, lab.root / "clean"))


def test_other_content_of_the_same_size_at_the_same_moment_is_seen(lab: Bench) -> None:
    """Twenty edits as fast as they come, size and time as before: no stamp of a second's tick can tell."""
    lab.generate()
    data = lab.folder / "files/data"
    for number in range(20):
        status = data.stat()
        data.write_text(f"{number:020000}")
        os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert len(lab.generate()) == 3, number
        iso = lab.path("g0-cloud-init.iso")
        status = iso.stat()
        changed = bytearray(iso.read_bytes())
        changed[-1] ^= 0xFF
        iso.write_bytes(changed)
        os.utime(iso, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert lab.generate() == {"artefacts/g0-cloud-init.iso": "rebuild"}, number
    assert_as_clean(lab, clean_build(lab, lab.root / "clean"))


def test_a_folder_in_the_place_of_a_file_is_said_and_nothing_else_suffers(lab: Bench) -> None:
    expected = clean_build(lab, lab.root / "clean")
    for name in ("g0-domain.xml", "g1-cloud-init.iso", "g2-cloud-init.img"):
        (lab.path(name) / "mine").mkdir(parents=True)
    ran = lab.run("generate", "-k")
    assert ran.status == 1
    for name in ("g0-domain.xml", "g1-cloud-init.iso", "g2-cloud-init.img"):
        assert f"artefacts/{name} is kept as it is" in ran.err
        assert (lab.path(name) / "mine").is_dir()
        (lab.path(name) / "mine").rmdir()
        lab.path(name).rmdir()
    assert lab.run("generate").status == 0
    assert_as_clean(lab, expected)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_said(lab: Bench) -> None:
    lab.generate()
    before = lab.artefacts()
    lab.yaml.write_text(yaml_of(3, 96))
    lab.path("").chmod(0o555)
    try:
        ran = lab.run("generate", "-k")
    finally:
        lab.path("").chmod(0o755)
    assert ran.status == 1
    assert "Traceback" not in ran.err
    assert {path for path, data in lab.artefacts().items() if data != before[path]} == {"state.json"}
    assert lab.run("generate").status == 0
    assert_as_clean(lab, clean_build(lab, lab.root / "clean"))
