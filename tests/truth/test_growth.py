"""A disk that becomes larger keeps its data; one that would become smaller is kept as it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from golden.bench import Bench, environment, new_bench
from kvmcompose.hosts.transfer_plan import Sent, note_sent

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {cloud_image: {path: disks/base.qcow2, expand_gigabytes: 10}}
  - name: herd
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {cloud_image: {path: disks/base.qcow2, expand_gigabytes: 3}}
      scaling: {count: 2, interfaces: [{bridge: br0, clones: [0, 1]}]}
  - name: media
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {iso_guest: {path: disks/install.iso, expand_gigabytes: 7}}
network: {bridges: [{name: br0}], external_bridge: br0}
"""
CONFIG = (
    '{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},'
    '"ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}'
)
GIB = 1 << 30
#: The size of disks/base.qcow2, in bytes.
BASE = 8 << 20
WEB, MEDIA, GOLDEN = (f"artefacts/{name}-cloud-init.img" for name in ("web", "media", "herd"))
CLONE, SIBLING = (f"artefacts/herd-{number}-linked-clone.qcow2" for number in (0, 1))


@pytest.fixture
def built(memory_root: Path, tmp_path: Path) -> Bench:
    files = {"kvm-compose.yaml": YAML, "kvm-compose-config.json": CONFIG, "keys/id_ed25519": ""}
    bench = new_bench(memory_root / tmp_path.name, "lab", files)
    bench.generate()
    return bench


def program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None
    return found


def info(bench: Bench, path: str) -> dict[str, object]:
    argv = [program("qemu-img"), "info", "-U", "--output=json", str(bench.folder / path)]
    found = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
    assert isinstance(found, dict)
    return found


def size(bench: Bench, path: str) -> object:
    return info(bench, path)["virtual-size"]


def qemu_io(bench: Bench, path: str, command: str) -> str:
    ran = subprocess.run(
        [program("qemu-io"), "-c", command, str(bench.folder / path)],
        check=True,
        capture_output=True,
        text=True,
    )
    return ran.stdout


def use(bench: Bench, *paths: str) -> None:
    for path in paths:
        qemu_io(bench, path, "write -P 7 1M 64k")


def assert_data_kept(bench: Bench, *paths: str) -> None:
    for path in paths:
        assert "Pattern verification failed" not in qemu_io(bench, path, "read -P 7 1M 64k")
        subprocess.run([program("qemu-img"), "check", "-q", str(bench.folder / path)], check=True)


def grow(bench: Bench, before: int, after: int) -> None:
    bench.edit(f"expand_gigabytes: {before}}}", f"expand_gigabytes: {after}}}")


@contextmanager
def running(bench: Bench, path: str) -> Iterator[None]:
    """QEMU has the disk open for writing, as a guest that runs has."""
    with subprocess.Popen(
        [program("qemu-io"), str(bench.folder / path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"length\n")
        process.stdin.flush()
        process.stdout.readline()
        try:
            yield
        finally:
            process.stdin.close()


def test_a_used_disk_grows_and_keeps_its_data(built: Bench) -> None:
    use(built, WEB)
    inode = (built.folder / WEB).stat().st_ino
    grow(built, 10, 20)
    shown = built.run("plan").out
    assert f"grow     {WEB}  (grows from 10.01 GiB to 20.01 GiB, data kept)" in shown
    why = built.run("why", "disk:web").out
    assert "generate would grow it: grows from 10.01 GiB to 20.01 GiB, data kept" in why
    assert "grows from 10.01 GiB to 20.01 GiB, data kept" in built.run("why", "--json", "disk:web").out
    assert built.generate()[WEB] == "grow"
    assert size(built, WEB) == BASE + 20 * GIB
    assert (built.folder / WEB).stat().st_ino == inode
    assert_data_kept(built, WEB)
    # and that was all: neither a second growth nor a rebuild
    assert built.plan() == {}
    assert "up to date" in built.run("generate").said
    assert built.generate("--verify") == {}


def test_an_unused_disk_is_what_a_clean_build_makes(built: Bench) -> None:
    grow(built, 10, 20)
    assert built.generate()[WEB] == "rebuild"
    found = (built.folder / WEB).read_bytes()
    (built.folder / WEB).unlink()
    built.generate()
    assert (built.folder / WEB).read_bytes() == found


def test_what_becomes_of_a_disk_on_another_host_is_said(built: Bench) -> None:
    note_sent(built.folder, "two", Sent(files={WEB: "0" * 64}))
    grow(built, 10, 20)
    said = "the one on two grows by 10 GiB at the next up, data kept"
    assert said in built.run("plan").out
    assert said in built.run("why", "--json", "disk:web").out
    grow(built, 20, 4)
    assert "grows" not in built.run("plan", "-v").out


def test_an_empty_disk_of_an_installation_grows(built: Bench) -> None:
    use(built, MEDIA)
    grow(built, 7, 9)
    assert built.generate()[MEDIA] == "grow"
    assert size(built, MEDIA) == 9 * GIB
    assert_data_kept(built, MEDIA)


@pytest.mark.parametrize("path", [WEB, CLONE])
def test_a_used_disk_does_not_shrink(built: Bench, path: str) -> None:
    use(built, path)
    before, after = (10, 4) if path == WEB else (3, 2)
    data = (built.folder / path).read_bytes()
    grow(built, before, after)
    assert built.plan()[path] == "refuse"
    ran = built.run("generate", "-k")
    assert ran.status == 1
    assert f"disks with data do not shrink: {before}.01 GiB -> {after}.01 GiB" in ran.err
    assert f"hint: expand_gigabytes: {before} keeps it; --provision makes a new disk" in ran.err
    assert (built.folder / path).read_bytes() == data
    grow(built, after, before)
    assert built.run("generate").status == 0
    assert built.plan() == {}


def test_another_image_and_another_size_are_no_growth(built: Bench) -> None:
    use(built, WEB)
    built.edit("path: disks/base.qcow2, expand_gigabytes: 10", "name: debian_12, expand_gigabytes: 20")
    assert built.plan()[WEB] == "refuse"


def test_clones_grow_above_a_golden_image_that_was_set_up(built: Bench) -> None:
    use(built, GOLDEN)
    (built.folder / GOLDEN).chmod(0o444)  # frozen
    frozen = (built.folder / GOLDEN).read_bytes(), (built.folder / GOLDEN).stat().st_mtime_ns
    qemu_io(built, CLONE, "write -P 9 4M 64k")
    grow(built, 3, 5)
    done = built.generate()
    assert (done[GOLDEN], done[CLONE], done[SIBLING]) == ("grow", "grow", "rebuild")
    # the server knows a golden image by these, and other hosts by its content
    assert ((built.folder / GOLDEN).read_bytes(), (built.folder / GOLDEN).stat().st_mtime_ns) == frozen
    for clone in (CLONE, SIBLING):
        assert size(built, clone) == BASE + 5 * GIB
        assert_data_kept(built, clone)
    assert "failed" not in qemu_io(built, CLONE, "read -P 9 4M 64k")
    # nothing of the golden image is visible where it ends
    assert "failed" not in qemu_io(built, CLONE, f"read -P 0 {BASE + 3 * GIB} 64k")
    assert built.plan() == {}
    # a new clone is of the new size, too
    built.edit("count: 2, interfaces: [{bridge: br0, clones: [0, 1]}]",
               "count: 3, interfaces: [{bridge: br0, clones: [0, 1, 2]}]")  # fmt: skip
    built.generate()
    assert size(built, "artefacts/herd-2-linked-clone.qcow2") == BASE + 5 * GIB


def test_clones_grow_above_a_golden_image_that_never_ran(built: Bench) -> None:
    use(built, CLONE)
    grow(built, 3, 5)
    done = built.generate()
    assert (done[GOLDEN], done[CLONE], done[SIBLING]) == ("rebuild", "grow", "rebuild")
    assert size(built, CLONE) == size(built, GOLDEN) == BASE + 5 * GIB
    assert_data_kept(built, CLONE)
    assert built.plan() == {}


def test_killed_between_the_golden_image_and_its_clones(built: Bench) -> None:
    use(built, GOLDEN, CLONE)
    grow(built, 3, 5)
    built.generate("golden:herd") if "golden:herd" in built.run("list", "--all").out else built.generate(
        GOLDEN
    )
    assert built.plan()[CLONE] == "grow"
    built.generate()
    assert size(built, CLONE) == BASE + 5 * GIB
    assert built.plan() == {}


def test_a_disk_that_has_grown_already_is_only_recorded(built: Bench) -> None:
    """As after a build that was killed between the two."""
    use(built, WEB)
    grow(built, 10, 20)
    path = built.folder / WEB
    subprocess.run([program("qemu-img"), "resize", "-q", str(path), str(BASE + 20 * GIB)], check=True)
    data = path.read_bytes()
    assert "has 20.01 GiB already" in built.run("plan").out
    assert built.generate()[WEB] == "grow"
    assert path.read_bytes() == data
    assert built.plan() == {}


@pytest.mark.parametrize("seconds", [0.2, 0.3, 0.4, 0.5])
def test_killed_while_disks_grow(built: Bench, seconds: float) -> None:
    use(built, WEB, MEDIA, CLONE, SIBLING)
    grow(built, 10, 20)
    grow(built, 7, 9)
    grow(built, 3, 5)
    with subprocess.Popen(
        built.argv("generate"), env=environment(built.root), cwd=built.root, start_new_session=True
    ) as process:
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
    assert "refuse" not in built.plan().values()
    built.generate()
    assert [size(built, path) for path in (WEB, MEDIA, CLONE)] == [BASE + 20 * GIB, 9 * GIB, BASE + 5 * GIB]
    assert_data_kept(built, WEB, MEDIA, CLONE, SIBLING)
    assert built.plan() == {}


def test_a_disk_in_use_grows_once_its_guest_is_off(built: Bench) -> None:
    use(built, WEB)
    grow(built, 10, 20)
    data = (built.folder / WEB).read_bytes()
    with running(built, WEB):
        ran = built.run("generate")
        assert ran.status == 0, ran.said
        said = f"{WEB} grows from 10.01 GiB to 20.01 GiB, data kept, while its guest runs: kvm-compose up"
        assert said in ran.err
        assert (built.folder / WEB).read_bytes() == data
        assert said in built.run("generate").err  # it is not forgotten
    assert built.generate()[WEB] == "grow"
    assert_data_kept(built, WEB)
    assert built.plan() == {}


def test_snapshots_survive_and_a_disk_that_one_made_smaller_grows_again(built: Bench) -> None:
    use(built, WEB)
    path = str(built.folder / WEB)
    subprocess.run([program("qemu-img"), "snapshot", "-c", "before", path], check=True)
    grow(built, 10, 20)
    built.generate()
    snapshots = info(built, WEB)["snapshots"]
    assert isinstance(snapshots, list)
    assert [each["name"] for each in snapshots] == ["before"]
    subprocess.run([program("qemu-img"), "snapshot", "-a", "before", path], check=True)
    assert size(built, WEB) == BASE + 10 * GIB
    assert built.generate()[WEB] == "grow"
    assert size(built, WEB) == BASE + 20 * GIB
    assert_data_kept(built, WEB)
    assert built.plan() == {}


def test_a_disk_without_a_ledger_grows(built: Bench) -> None:
    use(built, WEB)
    shutil.rmtree(built.folder / ".kvm-compose")
    grow(built, 10, 20)
    assert built.plan()[WEB] == "grow"
    built.generate()
    assert size(built, WEB) == BASE + 20 * GIB
    assert_data_kept(built, WEB)
    assert built.plan() == {}


def test_provision_makes_a_new_disk_of_the_new_size(built: Bench) -> None:
    use(built, WEB)
    grow(built, 10, 20)
    assert built.generate("--provision")[WEB] == "rebuild"
    assert size(built, WEB) == BASE + 20 * GIB
    assert "failed" not in qemu_io(built, WEB, "read -P 0 1M 64k")


def test_a_disk_with_data_elsewhere_does_not_grow(built: Bench) -> None:
    """Its external data file would be written to, whatever that is."""
    victim = built.root / "victim"
    victim.write_bytes(bytes(1 << 20))
    path = built.folder / WEB
    path.unlink()
    options = ["-f", "qcow2", "-o", f"data_file={victim}"]
    subprocess.run([program("qemu-img"), "create", "-q", *options, str(path), "8M"], check=True)
    before = victim.stat()
    assert built.plan()[WEB] in ("refuse", "rebuild")
    built.run("generate", "-k")
    assert (victim.stat().st_size, victim.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


# --- disks that are left over, by name ------------------------------------------------------------------


@pytest.fixture
def left_over(built: Bench) -> Bench:
    """The disks of guests that the YAML no longer has; two of them have data."""
    use(built, WEB, CLONE)
    text = built.yaml.read_text()
    built.yaml.write_text(text[: text.index("  - name: web")] + text[text.index("  - name: media") :])
    built.generate()
    return built


@pytest.mark.parametrize("name", ["web", "disk:web", WEB, "web-cloud-init.img"])
def test_a_left_over_disk_is_dropped_by_name(left_over: Bench, name: str) -> None:
    assert "kvm-compose clean --left-over web removes it" in left_over.run("generate").out
    would = left_over.run("clean", "--left-over", name, "--dry-run").out
    assert would == f"{WEB}: would be removed\n"
    assert (left_over.folder / WEB).exists()
    ran = left_over.run("clean", "--left-over", name)
    assert (ran.status, ran.out) == (0, f"{WEB}: removed\n")
    assert not (left_over.folder / WEB).exists()
    assert (left_over.folder / CLONE).exists()
    assert left_over.plan() == {CLONE: "left over", GOLDEN: "left over"}


def test_a_golden_image_goes_with_its_clones_only(left_over: Bench) -> None:
    ran = left_over.run("clean", "--left-over", GOLDEN)
    assert ran.status == 3
    assert f"{GOLDEN} is the backing file of {CLONE}, which has data" in ran.err
    assert (left_over.folder / GOLDEN).exists()
    assert left_over.run("clean", "--left-over", GOLDEN, CLONE).status == 0
    assert left_over.plan() == {WEB: "left over"}


def test_what_is_in_use_or_part_of_the_testbed_is_not_dropped(left_over: Bench) -> None:
    with running(left_over, WEB):
        ran = left_over.run("clean", "--left-over", CLONE, "web")
    assert ran.status == 3
    assert f"{WEB} is in use: a guest has it" in ran.err
    assert (left_over.folder / CLONE).exists(), "nothing is removed then"
    for name in ("media", MEDIA):
        ran = left_over.run("clean", "--left-over", name)
        assert ran.status == 2
        assert f"{name!r} is part of the testbed, not left over" in ran.err
    ran = left_over.run("clean", "--left-over", "wbe")
    assert ran.status == 2
    assert "did you mean" in ran.err
    assert left_over.run("clean", "--force", "--left-over", "web").status == 2
    assert (left_over.folder / WEB).exists()


def test_a_link_in_the_place_of_a_left_over_disk_is_removed_not_followed(left_over: Bench) -> None:
    victim = left_over.write("../victim", "precious")
    (left_over.folder / WEB).unlink()
    (left_over.folder / WEB).symlink_to(victim)
    assert left_over.run("clean", "--left-over", "web").status == 0
    assert victim.read_text() == "precious"
    assert not (left_over.folder / WEB).is_symlink()
