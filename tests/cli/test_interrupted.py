"""Builds that are killed, meet each other, or find no place to write."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from golden.bench import Bench, environment, new_bench, settle

MANY = 60

FILES = {
    "kvm-compose.yaml": """\
machines:
  - name: server
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12}}}
network: {bridges: [{name: br0}]}
""",
    "kvm-compose-config.json": """\
{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519.pub"}
""",
}


def many(root: Path, count: int = MANY) -> Bench:
    """A project whose build takes a moment."""
    machines = "".join(
        f"  - {{name: g{number}, interfaces: [{{bridge: br0}}], libvirt: {{cpus: 1, memory_mb: 64, "
        f"libvirt_type: {{cloud_image: {{name: debian_12, context: files}}}}}}}}\n"
        for number in range(count)
    )
    config = (
        '{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},'
    )
    config += '"ssh_public_key_location": "keys/id_ed25519.pub"}'
    bench = new_bench(
        root,
        "many",
        {
            "kvm-compose.yaml": f"machines:\n{machines}"
            "network: {bridges: [{name: br0}], external_bridge: br0}\n",
            "kvm-compose-config.json": config,
        },
    )
    (bench.folder / "files").mkdir()
    (bench.folder / "files/data").write_bytes(bytes(200_000))
    return bench


def start(bench: Bench, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        bench.argv("generate", *words),
        env=environment(bench.root),
        cwd=bench.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until(happened: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


def made(bench: Bench) -> int:
    return len(list((bench.folder / "artefacts").glob("g*-*")))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | str]:
    bench = many(tmp_path_factory.mktemp("expected"))
    bench.generate()
    return {path: content for path, content in bench.artefacts().items() if isinstance(content, bytes)}


def assert_clean(bench: Bench, expected: dict[str, bytes | str]) -> None:
    """Everything is there, nothing else, and there is nothing more to do."""
    found = {path: content for path, content in bench.artefacts().items() if isinstance(content, bytes)}
    assert found.keys() == expected.keys()
    assert found == expected
    assert bench.plan() == {}


#: When a build is killed, by the artefacts that it made, and its workers: in `make test-long` with the other
#: number of workers, too; at any moment in tests/truth/test_crash.py.
MOMENTS = [
    pytest.param(after, jobs, marks=() if jobs == usual else pytest.mark.long_only)
    for after, usual in ((1, "1"), (20, "2"), (100, "1"))
    for jobs in ("1", "2")
]


@pytest.mark.parametrize(("after", "jobs"), MOMENTS)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_the_next_build_comes_out_clean(
    tmp_path: Path, signum: signal.Signals, after: int, jobs: str, expected: dict[str, bytes | str]
) -> None:
    bench = many(tmp_path)
    process = start(bench, "--jobs", jobs)
    wait_until(lambda: made(bench) >= after or process.poll() is not None)
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    if signum != signal.SIGKILL and process.returncode != 0:  # 0: it was done before the signal came
        assert process.returncode == 130
        assert b"Traceback" not in err
        left = [path.name for path in (bench.folder / "artefacts").glob(".*")]
        assert left == [], "a build that is told to stop puts its things away"
    bench.generate()
    assert_clean(bench, expected)
    assert list((bench.folder / "artefacts").glob(".*")) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_large_build_that_is_killed_leaves_no_worker_behind(tmp_path: Path, signum: signal.Signals) -> None:
    bench = many(tmp_path, 150)
    process = start(bench, "--jobs", "2")
    wait_until(lambda: made(bench) >= 250 or process.poll() is not None)
    process.send_signal(signum)
    # a worker that lived on would keep the pipes open
    process.communicate(timeout=20)
    bench.generate("--jobs", "2")
    assert bench.plan() == {}
    assert made(bench) == 3 * 150
    assert list((bench.folder / "artefacts").glob(".*")) == []


def test_what_was_made_before_a_kill_is_not_made_again(tmp_path: Path) -> None:
    bench = many(tmp_path)
    process = start(bench)
    wait_until(lambda: made(bench) >= 60 or process.poll() is not None)
    process.kill()
    process.wait()
    process.stdout.close()  # type: ignore[union-attr]
    process.stderr.close()  # type: ignore[union-attr]
    before = made(bench)
    done = bench.generate()
    assert len(done) <= 3 * MANY + 2 - before + 2 + 1


def test_a_kill_does_not_turn_a_build_s_own_files_into_hand_edits(tmp_path: Path) -> None:
    bench = many(tmp_path)
    bench.generate()
    bench.yaml.write_text(bench.yaml.read_text().replace("memory_mb: 64", "memory_mb: 96"))
    before = {path.name: path.stat().st_ino for path in (bench.folder / "artefacts").glob("g*-domain.xml")}
    process = start(bench)

    def some() -> bool:
        now = {path.name: path.stat().st_ino for path in (bench.folder / "artefacts").glob("g*-domain.xml")}
        return sum(now[name] != before[name] for name in now) > 5 or process.poll() is not None

    wait_until(some)
    process.kill()
    process.communicate()
    bench.yaml.write_text(bench.yaml.read_text().replace("memory_mb: 96", "memory_mb: 128"))
    done = bench.generate()
    assert set(done.values()) == {"rebuild"}
    assert not list((bench.folder / "artefacts").glob("*.new"))
    assert not list((bench.folder / "artefacts").glob("*.orig"))


def test_a_kill_and_a_way_back_make_what_the_old_input_says(tmp_path: Path) -> None:
    bench = many(tmp_path)
    bench.generate()
    before = bench.artefacts()
    old = bench.yaml.read_text()
    bench.yaml.write_text(old.replace("memory_mb: 64", "memory_mb: 96"))
    process = start(bench)
    wait_until(lambda: b"96" in bench.path("g3-domain.xml").read_bytes() or process.poll() is not None)
    process.kill()
    process.communicate()
    bench.yaml.write_text(old)
    bench.generate()
    assert bench.artefacts() == before


def test_two_builds_at_once_come_out_as_one(tmp_path: Path, expected: dict[str, bytes | str]) -> None:
    bench = many(tmp_path)
    builds = [start(bench) for _ in range(3)]
    for build in builds:
        _, err = build.communicate(timeout=120)
        assert build.returncode == 0, err
    assert_clean(bench, expected)


def test_first_builds_that_begin_in_the_same_moment_come_out_well(tmp_path: Path) -> None:
    """Not one after the other by chance: all are forked with everything imported, and start together."""
    fork = multiprocessing.get_context("fork")
    failed = []
    for number in range(4):
        bench = new_bench(tmp_path / str(number), "small", FILES)
        together = fork.Barrier(4)
        answers = fork.SimpleQueue()

        def build(bench: Bench = bench, together: Barrier = together, answers: Any = answers) -> None:
            together.wait(30)
            ran = bench.run("generate")
            answers.put((ran.status, ran.said))

        builds = [fork.Process(target=build) for _ in range(4)]
        for each in builds:
            each.start()
        for each in builds:
            each.join(60)
        found = [answers.get() for _ in builds if not answers.empty()]
        failed += [said for status, said in found if status != 0] + ["it gave no answer"] * (4 - len(found))
        assert bench.plan() == {}
    assert failed == []


def test_a_second_build_that_will_not_wait_is_refused(tmp_path: Path) -> None:
    bench = many(tmp_path)
    first = start(bench)
    wait_until(lambda: made(bench) >= 1)
    first.send_signal(signal.SIGSTOP)  # so that it holds the lock for as long as we look
    try:
        ran = bench.spawn("generate", "--no-wait")
        assert ran.status == 3
        assert str(first.pid) in ran.err
        assert "another build" in ran.err
    finally:
        first.send_signal(signal.SIGCONT)
        first.communicate(timeout=60)
    assert first.returncode == 0


def test_a_second_build_says_that_it_waits(tmp_path: Path) -> None:
    bench = many(tmp_path)
    first = start(bench)
    wait_until(lambda: made(bench) >= 1)
    first.send_signal(signal.SIGSTOP)
    second = start(bench)
    assert second.stderr is not None
    line = second.stderr.readline()
    while b"waiting" not in line and line:
        line = second.stderr.readline()
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=60)
    second.communicate(timeout=60)
    assert str(first.pid).encode() in line
    assert (first.returncode, second.returncode) == (0, 0)


def test_a_plan_needs_no_lock(built: Bench) -> None:
    many_bench = many(built.root / "busy")
    first = start(many_bench)
    wait_until(lambda: made(many_bench) >= 1)
    first.send_signal(signal.SIGSTOP)
    try:
        assert many_bench.spawn("plan").status == 0
    finally:
        first.send_signal(signal.SIGCONT)
        first.communicate(timeout=60)


# --- no place to write ----------------------------------------------------------------------------------


def read_only(bench: Bench, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command that sees the project folder on a read-only file system; root may write anywhere else."""
    if os.getuid() != 0:
        return in_mode(bench, *words)
    program = shutil.which("unshare")
    assert program is not None
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    return subprocess.run(
        [program, "--mount", "/bin/sh", "-c", script, bench.folder, *bench.argv(*words)],
        env=environment(bench.root),
        cwd=bench.root,
        capture_output=True,
        check=False,
        timeout=60,
    )


def in_mode(bench: Bench, *words: str) -> subprocess.CompletedProcess[bytes]:
    folders = [bench.folder, *(path for path in bench.folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    try:
        return subprocess.run(
            bench.argv(*words),
            env=environment(bench.root),
            cwd=bench.root,
            capture_output=True,
            check=False,
            timeout=60,
        )
    finally:
        for path in folders:
            path.chmod(0o755)


@pytest.mark.parametrize("state", ["fresh", "built"])
def test_a_read_only_folder_is_said_plainly(bench: Bench, state: str) -> None:
    if state == "built":
        bench.generate()
        bench.edit("memory_mb: 512", "memory_mb: 768")
    before = bench.artefacts() if state == "built" else {}
    ran = read_only(bench, "generate")
    assert ran.returncode in (1, 3), ran.stderr
    assert b"Traceback" not in ran.stderr
    assert str(bench.folder).encode() in ran.stderr
    if before:
        assert bench.artefacts() == before


@pytest.mark.parametrize("state", ["fresh", "built"])
@pytest.mark.parametrize("command", ["plan", "validate", "list", "placement"])
def test_commands_that_only_look_work_in_a_read_only_folder(bench: Bench, command: str, state: str) -> None:
    if state == "built":
        bench.generate()
        bench.edit("memory_mb: 512", "memory_mb: 768")
    ran = read_only(bench, command)
    assert b"Traceback" not in ran.stderr
    assert ran.returncode == 0, ran.stderr
    if command == "plan" and state == "built":
        assert b"rebuild  artefacts/server-domain.xml" in ran.stdout


@pytest.mark.parametrize(
    "name", ["artefacts", ".kvm-compose", ".kvm-compose/ledger.sqlite", ".kvm-compose/lock"]
)
def test_something_in_the_way_is_said_plainly(bench: Bench, name: str) -> None:
    path = bench.folder / name
    path.parent.mkdir(exist_ok=True)
    if name in ("artefacts", ".kvm-compose"):
        path.write_text("in the way")
    else:
        (path / "in the way").mkdir(parents=True)
    ran = bench.spawn("generate")
    assert ran.status == 1
    assert "Traceback" not in ran.err
    assert name.partition("/")[0] in ran.err


def test_a_full_disk_is_said_plainly_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("mounting a small file system needs root")
    bench = many(tmp_path)
    program = shutil.which("unshare")
    assert program is not None
    script = (
        'mkdir -p "$0/artefacts" && mount -t tmpfs -o size=1536k tmpfs "$0/artefacts" && "$@"; status=$?; '
        'ls -A "$0/artefacts" >"$0/left"; exit $status'
    )
    ran = subprocess.run(
        [program, "--mount", "/bin/sh", "-c", script, bench.folder, *bench.argv("generate", "-k")],
        env=environment(bench.root),
        cwd=bench.root,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 1
    assert b"Traceback" not in ran.stderr
    assert b"No space left on device" in ran.stderr
    left = (bench.folder / "left").read_text().split()
    assert [name for name in left if name.startswith(".")] == []


def test_output_that_nobody_reads_is_no_error_worth_a_traceback(built: Bench) -> None:
    process = subprocess.Popen(
        built.argv("plan", "-v"),
        env=environment(built.root),
        cwd=built.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err


@pytest.mark.parametrize(
    ("shell", "status"),
    [('"$@" >/dev/full', 1), ('"$@" >&-', 0), ('"$@" 2>&-', 0), ('"$@" | true', 0)],
)
@pytest.mark.parametrize("state", ["fresh", "built"])
@pytest.mark.parametrize("words", [["list"], ["plan", "--json"], ["--help"]])
def test_output_that_nobody_gets_is_no_traceback(
    bench: Bench, words: list[str], state: str, shell: str, status: int
) -> None:
    if state == "built":
        settle()
        bench.generate()
    ran = subprocess.run(
        ["/bin/sh", "-c", shell, "sh", *bench.argv(*words)],
        env=environment(bench.root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in ran.stderr
    if words == ["--help"]:
        return  # whether argparse lets us know depends on its version
    assert ran.returncode == status
    if status:
        assert ran.stderr.endswith("error: cannot write to standard output: no space left on device\n")
