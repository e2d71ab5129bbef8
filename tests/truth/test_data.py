"""No build gives up what a guest or the user wrote: cases that random edits found, kept one by one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from golden.bench import Bench, new_bench, tiny_qcow2

YAML = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {name: debian_12, expand_gigabytes: 1}}}
  - name: herd
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {cloud_image: {path: disks/base.qcow2}}
      scaling:
        count: 2
        interfaces: [{bridge: br0, clones: [0, 1]}]
  - name: copy
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {existing_disk: {path: disks/base.raw, driver_type: raw, create_deep_copy: true}}
  - name: media
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {iso_guest: {path: disks/install.iso, expand_gigabytes: 1}}
network: {bridges: [{name: br0}], external_bridge: br0}
"""
CONFIG = (
    '{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},'
    '"ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}'
)
GOLDEN = "artefacts/herd-cloud-init.img"
CLONE = "artefacts/herd-0-linked-clone.qcow2"
SIBLING = "artefacts/herd-1-linked-clone.qcow2"


@pytest.fixture
def built(tmp_path: Path) -> Bench:
    files = {"kvm-compose.yaml": YAML, "kvm-compose-config.json": CONFIG, "keys/id_ed25519": ""}
    bench = new_bench(tmp_path, "lab", files)
    bench.generate()
    return bench


def use(bench: Bench, path: str) -> bytes:
    """What a guest does to its disk: it grows."""
    file = bench.folder / path
    with file.open("ab") as disk:
        disk.write(b"precious" * 512)
    return file.read_bytes()


def lose_ledger(bench: Bench) -> None:
    for path in (bench.folder / ".kvm-compose").iterdir():
        path.unlink()


def without(bench: Bench, machine: str) -> None:
    head, _, rest = bench.yaml.read_text().partition(f"  - name: {machine}\n")
    ends = [at for at in (rest.find("  - name:"), rest.find("network:")) if at >= 0]
    bench.yaml.write_text(head + rest[min(ends) :])


def replace_base_image(bench: Bench) -> None:
    (bench.folder / "disks/base.qcow2").write_bytes(tiny_qcow2().ljust(2**18 + 4096, b"\7"))


# --- clones lie on their golden image -------------------------------------------------------------------


def test_a_golden_image_stays_while_a_clone_with_data_lies_on_it(built: Bench) -> None:
    data = use(built, CLONE)
    golden = (built.folder / GOLDEN).read_bytes()
    replace_base_image(built)
    plan = built.plan()
    assert (plan[GOLDEN], plan[CLONE]) == ("refuse", "refuse")
    ran = built.run("generate", "-k")
    assert ran.status == 1
    assert f"it is the backing file of {CLONE}" in ran.err
    assert (built.folder / GOLDEN).read_bytes() == golden
    assert (built.folder / CLONE).read_bytes() == data
    # the other clone, which nobody used, does not go ahead without it
    assert built.plan()[SIBLING] == "rebuild"
    built.generate("--provision")
    assert built.plan() == {}


def test_setting_up_one_clone_anew_does_not_ruin_the_other(built: Bench) -> None:
    use(built, CLONE)
    data = use(built, SIBLING)
    golden = (built.folder / GOLDEN).read_bytes()
    replace_base_image(built)
    assert built.run("generate", "-k", "--provision", "herd-0").status == 1
    assert (built.folder / GOLDEN).read_bytes() == golden
    assert (built.folder / SIBLING).read_bytes() == data


def test_a_removed_golden_image_stays_while_a_clone_with_data_lies_on_it(built: Bench) -> None:
    data = use(built, CLONE)
    without(built, "herd")
    done = built.generate()
    assert (done[GOLDEN], done[CLONE]) == ("left over", "left over")
    assert done[SIBLING] == "remove"
    assert (built.folder / GOLDEN).exists()
    assert (built.folder / CLONE).read_bytes() == data
    done = built.generate("--provision")
    assert (done[GOLDEN], done[CLONE]) == ("remove", "remove")


def test_clean_keeps_a_golden_image_while_a_clone_with_data_lies_on_it(built: Bench) -> None:
    data = use(built, CLONE)
    ran = built.run("clean")
    assert f"{GOLDEN}: kept, it is the backing file of {CLONE}" in ran.out
    assert (built.folder / GOLDEN).exists()
    assert (built.folder / CLONE).read_bytes() == data


# --- disks that the ledger does not know ----------------------------------------------------------------


@pytest.mark.parametrize("guest", ["one", "copy", "media"])
def test_a_disk_taken_in_without_a_ledger_counts_as_used(built: Bench, guest: str) -> None:
    path = f"artefacts/{guest}-cloud-init.img"
    data = use(built, path)
    lose_ledger(built)
    assert built.plan()[path] == "adopt"
    assert path not in built.generate()
    assert built.plan() == {}
    without(built, guest)
    assert built.generate()[path] == "left over"
    assert (built.folder / path).read_bytes() == data


def test_a_disk_taken_in_without_a_ledger_is_not_replaced(built: Bench) -> None:
    path = "artefacts/one-cloud-init.img"
    data = use(built, path)
    lose_ledger(built)
    built.generate()
    built.edit(
        "name: debian_12, expand_gigabytes: 1}}}\n", "path: disks/base.qcow2, expand_gigabytes: 1}}}\n"
    )
    assert built.plan()[path] == "refuse"
    assert built.run("generate", "-k").status == 1
    assert (built.folder / path).read_bytes() == data


def test_a_touched_disk_that_is_then_cut_short_is_damaged(built: Bench) -> None:
    path = built.folder / "artefacts/one-cloud-init.img"
    before = path.read_bytes()
    os.utime(path)
    assert built.generate() == {}
    os.truncate(path, len(before) // 2)
    assert built.plan() == {"artefacts/one-cloud-init.img": "rebuild"}
    built.generate()
    assert path.read_bytes() == before


# --- what lies where a file of a guest that is gone was -------------------------------------------------


@pytest.mark.parametrize("name", ["one-domain.xml", "one-cloud-init.iso", "one-cloud-init.img"])
@pytest.mark.parametrize("kind", ["folder", "link to nothing", "link to the same", "pipe"])
@pytest.mark.parametrize("words", [(), ("--provision",)])
@pytest.mark.timeout(60)  # nobody writes to the pipe: who reads from it waits for ever
def test_what_took_the_place_of_a_left_over_file_is_left(
    built: Bench, name: str, kind: str, words: tuple[str, ...]
) -> None:
    path = built.path(name)
    kept = path.rename(built.root / "kept")
    match kind:
        case "folder":
            path.mkdir()
        case "link to nothing":
            path.symlink_to("nowhere")
        case "link to the same":
            path.symlink_to(kept)
        case _:
            os.mkfifo(path)
    without(built, "one")
    ran = built.run("generate", *words)
    assert ran.status == 0, ran.said
    assert f"artefacts/{name}" in ran.out
    assert "left over" in ran.out
    assert path.is_symlink() or path.exists()
