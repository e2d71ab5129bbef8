"""What doit does not notice by itself, or gets wrong, and what kvm-compose has to make of it.

Each test is about one weakness that was measured in doit 0.37, and says which. None of them may come
back through the fact that doit runs our tasks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from counters import counted

from golden.bench import PUBLIC_KEY, Bench, environment, new_bench, settle

YAML = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type:
        cloud_image: {name: debian_12, setup_script: setup.sh, context: files}
  - name: two
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {path: disks/base.qcow2}}}
  - name: herd
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {cloud_image: {path: disks/base.qcow2}}
      scaling:
        count: 3
        interfaces: [{bridge: br0, clones: [0, 1, 2]}]
network: {bridges: [{name: br0}], external_bridge: br0}
"""
CONFIG = (
    '{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},'
    '"ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}'
)
DODO = """\
import time
from pathlib import Path
from kvmcompose.build.dodo import doit_config, project_tasks
DOIT_CONFIG = doit_config()

def task_testbed():
    yield from project_tasks()

def task_own():
    def act(targets, dependencies):
        with open("order.txt", "a") as log:
            for name in sorted(dependencies):
                log.write(f"{name} {Path(name).stat().st_size}\\n")
        Path(targets[0]).write_text("".join(Path(name).read_text() for name in sorted(dependencies)))
    return {
        "actions": [act],
        "file_dep": ["artefacts/one-domain.xml", "%s"],
        "targets": ["own.txt"],
    }
"""

ONE_XML = "artefacts/one-domain.xml"
ONE_ISO = "artefacts/one-cloud-init.iso"
ONE_DISK = "artefacts/one-cloud-init.img"


@pytest.fixture
def lab(memory_root: Path, tmp_path: Path) -> Bench:
    root = memory_root / tmp_path.name
    root.mkdir()
    return new_bench(
        root,
        "lab",
        {
            "kvm-compose.yaml": YAML,
            "kvm-compose-config.json": CONFIG,
            "setup.sh": "#!/bin/sh\ntrue\n",
            "files/data": "data\n",
            "keys/id_ed25519": "not a key\n",
        },
    )


@pytest.fixture
def built(lab: Bench) -> Bench:
    settle()
    lab.generate()
    settle()
    assert lab.generate() == {}
    return lab


def doit(bench: Bench, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "doit", *words],
        cwd=bench.folder,
        env=environment(bench.root),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# --- targets --------------------------------------------------------------------------------------------


def test_its_records_can_be_printed(lab: Bench) -> None:
    nothing = doit(lab, "dumpdb")
    assert (nothing.returncode, nothing.stderr) == (3, "ERROR: no task has been recorded yet\n")
    lab.write("dodo.py", DODO % "setup.sh")
    assert doit(lab, "generate", "own").returncode == 0
    printed = doit(lab, "dumpdb")
    assert printed.returncode == 0
    assert "domain-xml:one -> {" in printed.stdout
    (own,) = [line for line in printed.stdout.splitlines() if line.startswith("own -> {")]
    assert '"checker:": "MD5Checker"' in own, "of a task of the user's all is kept"


def in_place_of(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("path", [ONE_XML, ONE_ISO, ONE_DISK, "state.json"])
def test_a_deleted_target_is_made_again(built: Bench, path: str) -> None:
    """The one change of a target that doit notices; the short way out must notice it too."""
    before = built.artefacts()
    (built.folder / path).unlink()
    assert built.generate() == {path: "create"}
    assert built.artefacts() == before


@pytest.mark.parametrize(
    ("path", "change", "action"),
    [
        (ONE_XML, lambda path: path.write_bytes(path.read_bytes() + b"\n"), "keep customised"),
        (ONE_XML, lambda path: path.write_bytes(b""), "rebuild"),
        (ONE_XML, in_place_of, "blocked"),
        (ONE_ISO, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"), "rebuild"),
        (ONE_ISO, lambda path: path.write_bytes(b""), "rebuild"),
        (ONE_ISO, in_place_of, "blocked"),
        (ONE_DISK, lambda path: path.write_bytes(b""), "rebuild"),
        (ONE_DISK, lambda path: os.truncate(path, 100_000), "rebuild"),
        (ONE_DISK, in_place_of, "blocked"),
    ],
)
def test_a_changed_target_is_seen(
    built: Bench, path: str, change: Callable[[Path], object], action: str
) -> None:
    """doit only asks whether a target exists: edited, truncated or a folder, it is up to date."""
    change(built.folder / path)
    assert built.plan() == {path: action}
    listed = built.run("list", "--all", "--status").out
    task = {ONE_XML: "domain-xml:one", ONE_ISO: "seed-iso:one", ONE_DISK: "disk:one"}[path]
    settled = action == "keep customised"
    assert f"\n{'U' if settled else 'R'} {task} " in listed.replace("\t", " "), listed


# --- inputs ---------------------------------------------------------------------------------------------


def test_the_code_that_makes_an_artefact_is_an_input(built: Bench, tmp_path: Path) -> None:
    """doit does not see that an action's code is another one: here a copy of kvmcompose is changed."""
    package = Path(sys.modules["kvmcompose"].__file__ or "").parent
    copy = tmp_path / "code"
    copy.mkdir()
    shutil.copytree(package, copy / "kvmcompose", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("schemas", "templates"):
        if not (copy / "kvmcompose" / name).is_dir():
            shutil.copytree(package.parent / name, copy / name)
    command = [sys.executable, "-c", "import sys; from kvmcompose.cli._entry import main; sys.exit(main())"]
    env = environment(built.root) | {"PYTHONPATH": str(copy)}

    def plan() -> str:
        ran = subprocess.run(
            [*command, "-C", built.folder, "plan"],
            env=env, cwd=copy, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return ran.stdout

    assert plan() == ""
    renderer = copy / "kvmcompose/render/seed_image.py"
    renderer.write_text(renderer.read_text() + "\n# changed\n")
    assert [line.split()[1] for line in plan().splitlines()] == [
        f"artefacts/{name}-cloud-init.iso" for name in ("one", "two", "herd", "herd-0", "herd-1", "herd-2")
    ]


def test_a_template_is_an_input(built: Bench) -> None:
    """As above, for what is not Python."""
    built.write("templates/meta-data.j2", "instance-id: {{ instance_id }}\n")
    done = built.generate()
    assert set(done.values()) == {"rebuild"}
    assert all(path.endswith(".iso") for path in done)


def test_a_changed_list_of_inputs_is_seen(built: Bench) -> None:
    """A context that has one file more or less; a script that is no longer named. doit sees this, too."""
    built.write("files/more", "more\n")
    assert built.generate() == {ONE_ISO: "rebuild"}
    (built.folder / "files/more").unlink()
    assert built.generate() == {ONE_ISO: "rebuild"}
    built.edit("setup_script: setup.sh, ", "")
    assert built.generate() == {ONE_ISO: "rebuild", "state.json": "rebuild"}


@pytest.mark.parametrize("text", ["#!/bin/sh\nTRUE\n", "#!/bin/sh\nanother size\n"])
def test_an_edited_input_whose_time_was_put_back_is_seen(built: Bench, text: str) -> None:
    """cp -p, rsync, touch -r: equal mtime ends doit's test, even when the size is another one."""
    script = built.folder / "setup.sh"
    status = script.stat()
    script.write_text(text)
    os.utime(script, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert built.generate() == {ONE_ISO: "rebuild"}


def test_a_touched_input_costs_one_look_once(built: Bench) -> None:
    """doit hashes a touched file anew in every later run, for every task that names it."""
    image = built.folder / "disks/base.qcow2"
    os.utime(image)
    settle()
    with counted() as first:
        assert built.run("generate").status == 0
    assert first.read[str(image.resolve())] >= 1
    settle()
    # the second may already take the short way; a plan never does, so it shows what is remembered
    with counted() as second:
        assert built.plan() == {}
    headers = second.read[str(image.resolve())]
    assert headers <= 5, "the image's header is read, its content is not"
    with counted() as third:
        assert built.generate() == {}
    assert third.read[str(image.resolve())] == 0


def test_a_shared_image_is_read_through_once(memory_root: Path, tmp_path: Path) -> None:
    """doit hashes a shared file once per task: 20 clones of one image read it 20 times."""
    image = ("disks/base.qcow2",)

    def reads(guests: int) -> int:
        machines = "".join(
            f"  - {{name: g{number}, interfaces: [{{bridge: br0}}], libvirt: {{cpus: 1, memory_mb: 64, "
            f"libvirt_type: {{cloud_image: {{path: {image[0]}}}}}}}}}\n"
            for number in range(guests)
        )
        root = memory_root / f"{tmp_path.name}-{guests}"
        root.mkdir()
        text = f"machines:\n{machines}network: {{bridges: [{{name: br0}}], external_bridge: br0}}\n"
        files = {"kvm-compose.yaml": text, "kvm-compose-config.json": CONFIG, "keys/id_ed25519": ""}
        bench = new_bench(root, "lab", files)
        with counted() as counts:
            bench.generate()
        return counts.read[str((bench.folder / image[0]).resolve())]

    assert reads(20) == reads(2)


def test_an_input_edited_during_its_task_is_not_called_fresh(lab: Bench) -> None:
    """doit takes the state of inputs after the action, so what was built of an older one counts as fresh.

    A build is stopped somewhere, an input is edited, and the build goes on: whatever got into the
    artefact then, what the ledger says it is made of is that, or the next build makes it again.
    """
    for attempt in range(12):
        shutil.rmtree(lab.folder / "artefacts", ignore_errors=True)
        lab.write("setup.sh", "#!/bin/sh\nold\n")
        process = subprocess.Popen(
            lab.argv("generate"), env=environment(lab.root), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        time.sleep(0.08 + 0.025 * attempt)
        process.send_signal(signal.SIGSTOP)
        lab.write("setup.sh", "#!/bin/sh\nnew\n")
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
        lab.generate()
        assert b"#!/bin/sh\nnew\n" in lab.path("one-cloud-init.iso").read_bytes()
        assert b"#!/bin/sh\nold\n" not in lab.path("one-cloud-init.iso").read_bytes()
        assert lab.plan() == {}


# --- failures and kills ---------------------------------------------------------------------------------


def test_an_action_that_fails_leaves_no_target(lab: Bench) -> None:
    """doit leaves what an action had written when it failed, and the next task uses it."""
    lab.write(
        "templates/domain.xml.j2", "<domain>{% if name is defined %}{{ nothing_of_that_name }}{% endif %}"
    )
    ran = lab.run("generate", "-k")
    assert ran.status == 1
    assert not list((lab.folder / "artefacts").glob("*.xml*"))[1:], "only the network's"
    assert not list(lab.folder.rglob(".kvm-compose-staged-*"))
    shutil.rmtree(lab.folder / "templates")
    assert lab.run("generate").status == 0
    assert lab.plan() == {}


def test_a_failed_golden_image_makes_no_clones(lab: Bench) -> None:
    """Nor is anything made on top of what failed."""
    (lab.path("herd-cloud-init.img") / "in the way").mkdir(parents=True)
    ran = lab.run("generate", "-k")
    assert ran.status == 1
    assert not list((lab.folder / "artefacts").glob("*.qcow2"))
    assert lab.path("herd-0-domain.xml").exists(), "-k goes on with what does not need it"


def test_killed_after_building_from_an_edit_that_is_then_taken_back(lab: Bench) -> None:
    """doit does not rebuild: its record is of input A, the target of B, and nobody looks at the target."""
    lab.generate()
    before = lab.artefacts()
    for _ in range(5):
        lab.write("setup.sh", "#!/bin/sh\nanother\n")
        process = subprocess.Popen(
            lab.argv("generate", "-q"), env=environment(lab.root), stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 30
        while process.poll() is None and lab.path("one-cloud-init.iso").read_bytes() == before[ONE_ISO]:
            assert time.monotonic() < end
        process.kill()
        process.wait()
        lab.write("setup.sh", "#!/bin/sh\ntrue\n")
        lab.generate()
        assert lab.artefacts() == before


def test_one_of_many_fails(lab: Bench) -> None:
    """Without -k the build stops and the finished ones count; with it, all that can be made is made."""
    lab.path("one-domain.xml").mkdir(parents=True)
    assert lab.run("generate", "--jobs", "2").status == 1
    assert lab.run("generate", "--jobs", "2", "-k").status == 1
    assert lab.plan() == {ONE_XML: "blocked"}


def test_output_and_exit_status_are_right_after_many_tasks(memory_root: Path, tmp_path: Path) -> None:
    """Python actions in doit's threads leave sys.stdout wrapped once per task; the end is status 120."""
    machines = "".join(
        f"  - {{name: g{number}, interfaces: [{{bridge: br0}}], libvirt: {{cpus: 1, memory_mb: 64, "
        "libvirt_type: {existing_disk: {path: disks/base.raw, driver_type: raw}}}}\n"
        for number in range(1500)
    )
    root = memory_root / tmp_path.name
    root.mkdir()
    text = f"machines:\n{machines}network: {{bridges: [{{name: br0}}], external_bridge: br0}}\n"
    files = {
        "kvm-compose.yaml": text,
        "kvm-compose-config.json": CONFIG,
        "keys/id_ed25519": "",
        "dodo.py": DODO,
    }
    bench = new_bench(root, "lab", files)
    bench.write("dodo.py", DODO.partition("def task_own")[0])
    ran = doit(bench, "-n", "2", "-P", "thread", "generate")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert bench.plan() == {}
    assert doit(bench, "-n", "2", "generate").returncode == 0


# --- the whole ------------------------------------------------------------------------------------------


def test_files_of_a_task_that_is_gone_are_removed(built: Bench) -> None:
    """doit forgets neither the row nor the file of a task that is no more."""
    built.edit("name: two", "name: three")
    done = built.generate()
    for kind in ("domain.xml", "cloud-init.iso", "cloud-init.img"):
        assert done[f"artefacts/two-{kind}"] == "remove"
        assert not (built.folder / f"artefacts/two-{kind}").exists()
    assert "two" not in built.run("list", "--all").out.replace("network", "")
    assert built.generate() == {}


@pytest.mark.parametrize("spelling", ["setup.sh", "./setup.sh", ".//setup.sh", "files/../setup.sh"])
def test_one_file_in_several_spellings_is_one_file(lab: Bench, spelling: str) -> None:
    """To doit 'o' and './o' are two files."""
    lab.edit("setup_script: setup.sh", f"setup_script: {spelling}")
    settle()
    lab.generate()
    settle()
    lab.write("setup.sh", "#!/bin/sh\nfalse\n")
    assert lab.generate() == {ONE_ISO: "rebuild"}


def test_a_project_in_several_spellings_is_one_project(built: Bench) -> None:
    """As above, for the folder: each way of naming it finds the same ledger and targets."""
    link = built.root / "link"
    link.symlink_to(built.folder)
    cwd = Path.cwd()
    try:
        os.chdir(built.folder)
        for folder in (Path(), Path("../lab"), built.folder / "files/..", built.folder.resolve()):
            assert Bench(built.root, folder).plan() == {}, folder
    finally:
        os.chdir(cwd)
    assert Bench(built.root, link, ("--project-name", "lab")).plan() == {}


@pytest.mark.parametrize("spelling", ["artefacts/two-domain.xml", "./artefacts/two-domain.xml"])
@pytest.mark.parametrize("jobs", [(), ("-n", "2")])
def test_tasks_of_the_user_come_after_ours_that_they_need(
    lab: Bench, jobs: tuple[str, ...], spelling: str
) -> None:
    """Under doit itself, also with workers: a file_dep that is our target orders the tasks.

    doit compares names as text: './x' is a file that no task makes, so such a task runs too early.
    """
    lab.write("dodo.py", DODO % spelling)
    ran = doit(lab, *jobs, "own")
    if spelling.startswith("./"):
        assert ran.returncode != 0, "doit now knows that ./x is x: say so in the documentation"
        return
    assert ran.returncode == 0, ran.stderr
    assert (lab.folder / "own.txt").read_text().count("<domain") == 2
    assert " 0\n" not in (lab.folder / "order.txt").read_text()
    assert doit(lab, *jobs, "own").returncode == 0
    assert len((lab.folder / "order.txt").read_text().splitlines()) == 2, "it ran once"
    lab.yaml.write_text(lab.yaml.read_text().replace("cpus: 1", "cpus: 2", 1))
    assert doit(lab, *jobs, "own").returncode == 0
    assert len((lab.folder / "order.txt").read_text().splitlines()) == 4, "and again after a change"
    assert lab.run("plan", "--json", "one").status == 0


def test_doit_and_the_command_share_one_truth(lab: Bench) -> None:
    """What one built the other finds up to date, and what one forgets the other makes again."""
    lab.write("dodo.py", DODO.partition("def task_own")[0])
    assert doit(lab, "generate").returncode == 0
    assert lab.generate() == {}
    assert doit(lab, "forget", "domain-xml:one").returncode == 0
    assert lab.generate() == {ONE_XML: "rebuild"}
    assert lab.run("forget", "domain-xml:two").status == 0
    ran = doit(lab, "generate")
    assert ".  domain-xml:two" in ran.stdout
    assert ".  domain-xml:one" not in ran.stdout
    assert PUBLIC_KEY.encode().strip() in lab.path("one-cloud-init.iso").read_bytes()


@pytest.mark.parametrize("name", ["domain-xml:one", "domain-xml", "generate"])
def test_doit_does_not_ignore_our_tasks(built: Bench, name: str) -> None:
    """Ignored, an artefact would be left as it is, and the build after that would find nothing to do."""
    built.write("dodo.py", DODO % ONE_ISO)
    ran = doit(built, "ignore", name)
    assert ran.returncode == 3
    assert f"{name!r} cannot be ignored" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert doit(built, "ignore", "own").returncode == 0
    built.edit(
        "memory_mb: 64\n      libvirt_type:\n        cloud",
        "memory_mb: 65\n      libvirt_type:\n        cloud",
    )
    assert built.generate() == {"state.json": "rebuild", ONE_XML: "rebuild"}
    assert "!! own" in doit(built, "own").stdout, "a task of the user's may be ignored"


def test_a_task_that_an_earlier_version_let_be_ignored_is_built(built: Bench) -> None:
    built.write("dodo.py", DODO.partition("def task_own")[0])
    with contextlib.closing(sqlite3.connect(built.folder / ".kvm-compose/ledger.sqlite")) as ledger:
        ledger.execute("INSERT OR REPLACE INTO doit VALUES ('domain-xml:one', '{\"ignore:\": \"1\"}')")
        ledger.commit()
    built.path("one-domain.xml").unlink()
    assert built.generate() == {ONE_XML: "create"}
    built.path("one-domain.xml").unlink()
    assert ".  domain-xml:one" in doit(built, "generate").stdout
    assert built.plan() == {}


def test_another_way_to_compare_files_forgets_nothing(built: Bench) -> None:
    """doit forgets a task whose files were compared in another way; ours has none, and a disk in use."""
    built.write("dodo.py", DODO.partition("def task_own")[0])
    with (built.folder / ONE_DISK).open("r+b") as disk:
        disk.seek(0, os.SEEK_END)
        disk.write(bytes(65536))
    for checker in ("md5", "timestamp", "md5"):
        ran = doit(built, "run", "--check_file_uptodate", checker)
        assert ran.returncode == 0, ran.stderr
        assert built.plan() == {}
        (built.folder / ONE_XML).unlink()


def test_the_ledger_is_not_written_elsewhere(built: Bench) -> None:
    """A ledger's folder is closed to other users, which that of the user must not be."""
    built.write("dodo.py", DODO.partition("def task_own")[0])
    mode = built.folder.stat().st_mode
    before = sorted(built.folder.iterdir())
    ran = doit(built, "run", "--db-file", "other.db")
    assert ran.returncode == 3
    assert "leave out --db-file" in ran.stderr
    assert built.folder.stat().st_mode == mode
    assert [path for path in sorted(built.folder.iterdir()) if path.name != "__pycache__"] == before


def test_the_project_s_tasks_can_be_had_in_workers(lab: Bench) -> None:
    """Closures cannot be handed to doit's processes; ours run in threads unless one asks for processes."""
    lab.write("dodo.py", DODO.partition("def task_own")[0])
    for kind in ("thread", "process"):
        shutil.rmtree(lab.folder / "artefacts", ignore_errors=True)
        ran = doit(lab, "-n", "2", "-P", kind, "generate")
        assert ran.returncode == 0, (kind, ran.stdout, ran.stderr)
        assert lab.plan() == {}
