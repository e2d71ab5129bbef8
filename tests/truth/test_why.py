"""``why`` shows what the digest was taken of, all of it: one walk makes both, so they cannot drift."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from edits import Editor, shipped_template
from oracle import Oracle, rows

from golden.bench import PUBLIC_KEY, Bench, lay_out, new_bench, tiny_qcow2, tiny_raw

SEEDS = 12

YAML = """\
machines:
  - name: one
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type:
        cloud_image:
          name: debian_12
          setup_script: setup.sh
          run_script: run.sh
          context: files
          environment: {A: b}
          expand_gigabytes: 1
  - name: herd
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {cloud_image: {path: disks/base.qcow2}}
      scaling:
        count: 2
        interfaces: [{bridge: br0, clones: [0, 1]}]
  - name: disk
    interfaces: [{bridge: br1}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type:
        existing_disk: {path: disks/base.raw, driver_type: raw, create_deep_copy: true}
  - name: media
    interfaces: [{bridge: br1}]
    libvirt:
      cpus: 1
      memory_mb: 64
      libvirt_type: {iso_guest: {path: disks/install.iso, expand_gigabytes: 1}}
network: {bridges: [{name: br0}, {name: br1}], external_bridge: br0}
"""
CONFIG = (
    '{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},'
    '"ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}'
)


def leaves(document: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document by its path; written anew, so that it is no copy of a mistake."""
    if isinstance(document, dict) and document:
        for key, value in document.items():
            yield from leaves(value, f"{prefix}.{key}".lstrip("."))
    elif isinstance(document, list) and document:
        for index, value in enumerate(document):
            yield from leaves(value, f"{prefix}[{index}]")
    else:
        yield prefix, document


def built_project(root: Path) -> Bench:
    files = {
        "kvm-compose.yaml": YAML,
        "kvm-compose-config.json": CONFIG,
        "setup.sh": "#!/bin/sh\ntrue\n",
        "run.sh": "#!/bin/sh\ntrue\n",
        "files/data": "data\n",
        "keys/id_ed25519": "not a key\n",
    }
    bench = new_bench(root, "lab", files)
    bench.generate()
    return bench


@pytest.fixture(scope="module")
def built(memory_root: Path) -> Bench:
    return built_project(memory_root)


@pytest.fixture
def lab(built: Bench, tmp_path: Path) -> Iterator[Bench]:
    """A copy of the built project, for one edit. It is built again, as a ledger does not travel."""
    folder = built.root / tmp_path.name / "lab"
    shutil.copytree(built.folder, folder, symlinks=True)
    bench = Bench(built.root, folder)
    bench.generate()
    yield bench
    shutil.rmtree(folder.parent)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_shown_is_what_the_digest_was_taken_of(memory_root: Path, seed: int) -> None:
    new_bench(memory_root, "unused")
    bench = Bench(memory_root, memory_root / f"why-{seed}" / "lab")
    lay_out(bench.folder)
    editor = Editor(bench, Oracle(bench.folder), seed)
    for _ in range(5):
        editor.add()
    editor.write()
    bench.generate()
    for path, task, _policy, recipe, inputs in rows(bench.folder):
        assert hashlib.sha256(inputs).hexdigest() == recipe, path
        answer = bench.run("why", "--json", path).json
        assert answer["recipe"] == answer["built_from"] == recipe, path
        assert answer["changed"] == []
        assert answer["task"] == task
        if path == "state.json":  # its one input is the state, and that is what is shown
            assert json.loads(inputs) == {
                "content": hashlib.sha256((bench.folder / path).read_bytes()).hexdigest()
            }
            inputs = (bench.folder / path).read_bytes()  # noqa: PLW2901
        assert answer["inputs"] == dict(leaves(json.loads(inputs))), path


def yaml(before: str, after: str) -> Callable[[Bench], object]:
    return lambda bench: bench.yaml.write_text(bench.yaml.read_text().replace(before, after, 1))


def template(name: str) -> Callable[[Bench], object]:
    return lambda bench: bench.write(f"templates/{name}", shipped_template(name) + "\n")


def write(name: str, data: bytes | str) -> Callable[[Bench], object]:
    text = data.encode() if isinstance(data, str) else data
    return lambda bench: (bench.folder / name).write_bytes(text)


def config(before: str, after: str) -> Callable[[Bench], object]:
    return lambda bench: bench.config.write_text(bench.config.read_text().replace(before, after, 1))


def other_name(old: str, new: str) -> Callable[[Bench], object]:
    """A file of the same content under another name."""

    def change(bench: Bench) -> None:
        shutil.copy(bench.folder / old, bench.folder / new)
        for file in (bench.yaml, bench.config):
            file.write_text(file.read_text().replace(old, new, 1))

    return change


RAW = tiny_raw()[:-1] + b"\7"
QCOW2 = tiny_qcow2().ljust(2**18 + 4096, b"\7")
ONE = "cpus: 1\n      memory_mb: 64\n      libvirt_type:\n        cloud_image"

#: An edit, and all that ``why`` may name as changed of one artefact after it.
EDITS: list[tuple[str, Callable[[Bench], object], str, set[str]]] = [
    ("cpus", yaml(ONE, ONE.replace("cpus: 1", "cpus: 2")), "domain-xml:one", {"values.cpus"}),
    ("memory", yaml(ONE, ONE.replace("64", "65")), "domain-xml:one", {"values.memory_mb"}),
    ("most cpus", yaml(ONE, f"max_cpus: 2\n      {ONE}"), "domain-xml:one", {"values.max_cpus"}),
    ("most memory", yaml(ONE, f"max_memory_mb: 65\n      {ONE}"), "domain-xml:one", {"values.max_memory_mb"}),
    ("username", yaml(ONE, f"username: ops\n      {ONE}"), "seed-iso:one", {"values.username"}),
    ("environment", yaml("{A: b}", "{A: c}"), "seed-iso:one", {"values.environment.A"}),
    ("variable added", yaml("{A: b}", "{A: b, C: d}"), "seed-iso:one", {"values.environment.C"}),
    ("setup script", write("setup.sh", "another"), "seed-iso:one", {"files.setup/00-setup.sh.content"}),
    ("run script", write("run.sh", "another"), "seed-iso:one", {"files.run/00-run.sh.content"}),
    ("context", write("files/data", "another"), "seed-iso:one", {"files.context.content"}),
    ("file in context", write("files/more", ""), "seed-iso:one", {"files.context.content"}),
    (
        "public key",
        write("keys/id_ed25519.pub", PUBLIC_KEY.replace("tests", "other")),
        "seed-iso:one",
        {"files.ssh_public_key.content"},
    ),
    (
        "key's name",
        other_name("keys/id_ed25519.pub", "keys/k.pub"),
        "seed-iso:one",
        {"files.ssh_public_key.path"},
    ),
    ("domain template", template("domain.xml.j2"), "domain-xml:one", {"templates.domain.xml.j2"}),
    ("network template", template("network.xml.j2"), "network-xml", {"templates.network.xml.j2"}),
    ("user-data", template("user-data.j2"), "seed-iso:one", {"templates.user-data.j2"}),
    ("meta-data", template("meta-data.j2"), "seed-iso:one", {"templates.meta-data.j2"}),
    ("network-config", template("network-config.j2"), "seed-iso:one", {"templates.network-config.j2"}),
    (
        "kind of virtualisation",
        config('"qemu"', '"kvm"'),
        "domain-xml:one",
        {"values.virt_type", "values.platform.cpu_mode"},
    ),
    ("name of the host", config('"a"', '"b"'), "domain-xml:one", {"values.host"}),
    (
        "size of a disk",
        yaml("expand_gigabytes: 1", "expand_gigabytes: 2"),
        "disk:one",
        {"overlay.expand_gigabytes"},
    ),
    (
        "size of an empty disk",
        yaml("disks/install.iso, expand_gigabytes: 1", "disks/install.iso, expand_gigabytes: 2"),
        "disk:media",
        {"blank.gigabytes"},
    ),
    ("base image", write("disks/base.qcow2", QCOW2), "disk:herd", {"overlay.image.content"}),
    ("base image of clones", write("disks/base.qcow2", QCOW2), "clone:herd-0", {"overlay.on.recipe"}),
    ("copied image", write("disks/base.raw", RAW), "disk:disk", {"copy.image.content"}),
    (
        "name of the base image",
        other_name("disks/base.qcow2", "disks/b.qcow2"),
        "disk:herd",
        {"overlay.image.path", "overlay.image.called"},
    ),
    (
        "name of the copied image",
        other_name("disks/base.raw", "disks/b.raw"),
        "disk:disk",
        {"copy.image.path", "copy.image.called"},
    ),
    (
        "installation media",
        other_name("disks/install.iso", "disks/i.iso"),
        "media:media",
        {"link.path", "link.to"},
    ),
    (
        "another catalogue image",
        yaml("name: debian_12", "name: ubuntu_22_04"),
        "disk:one",
        {"overlay.image.name", "overlay.image.called"},
    ),
    (
        "read-only disk",
        yaml(", create_deep_copy: true", ", readonly: true"),
        "domain-xml:disk",
        {"values.disk_readonly"},
    ),
]


#: Keys of virtual machines: edits, and the values of the domain XML that each changes, without what is below.
KEYS: dict[str, tuple[str, Callable[[Bench], object], set[str]]] = {
    "hardware": (
        "one",
        yaml(
            ONE,
            "machine: pc-q35-7.2\n      hugepages: 2M\n      hyperv: true\n      boot: [disk]\n"
            "      cpu: {model: qemu64, topology: {cores: 1}, features: {vmx: disable}}\n"
            "      numa: [{cpus: 0, memory_mb: 64}]\n      clock: {timezone: Europe/Berlin}\n"
            "      graphics: vnc\n      video: cirrus\n      sound: ich9\n      usb: qemu-xhci\n"
            f"      watchdog: ib700\n      rng: none\n      {ONE}",
        ),
        {"values.graphics"}
        | {
            f"values.hardware.{name}"
            for name in (
                "machine", "hugepages_kib", "hyperv", "boot", "cpu_mode", "cpu_model", "cpu_features",
                "topology", "numa", "clock", "graphics", "video", "sound", "usb", "watchdog", "rng",
            )
        },
    ),
    "disks": (
        "one",
        yaml(
            ONE,
            "boot_disk: {bus: scsi, cache: none, discard: ignore, serial: x}\n"
            f"      disks: [{{name: d, size_gigabytes: 1, boot: 1}}]\n      {ONE}",
        ),
        {"values.boot", "values.boot_disk", "values.further"},
    ),
    "firmware": (
        "one",
        yaml(ONE, f"firmware: uefi\n      tpm: true\n      {ONE}"),
        {"values.firmware", "values.tpm", "values.uuid"},
    ),
    "shares": (
        "one",
        yaml(ONE, f"shares: [{{source: files, target: /x, driver: 9p}}]\n      {ONE}"),
        {"values.filesystems"},
    ),
    "answers": (
        "media",
        yaml("install.iso, ", "install.iso, unattended: {a: setup.sh}, "),
        {"values.cdroms"},
    ),
    "architecture": (
        "media",
        yaml("libvirt_type: {iso_guest", "arch: aarch64\n      libvirt_type: {iso_guest"),
        {f"values.platform.{name}" for name in ("apic", "arch", "cdrom", "gic", "keyboard", "tpm", "video")}
        | {"values.hardware.machine", "values.firmware"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("what", "edit", "task", "changed"), EDITS, ids=[edit[0] for edit in EDITS])
def test_each_input_changed_alone_is_named_and_changes_the_recipe(
    lab: Bench, what: str, edit: Callable[[Bench], object], task: str, changed: set[str]
) -> None:
    before = lab.run("why", "--json", task).json
    assert before["changed"] == []
    edit(lab)
    after = lab.run("why", "--json", task).json
    assert {change["name"] for change in after["changed"]} == changed
    assert after["recipe"] != after["built_from"] == before["recipe"]
    named = {name for name, value in after["inputs"].items() if before["inputs"].get(name) != value}
    assert named == changed
    lab.run("generate", "--provision")
    built = lab.run("why", "--json", task).json
    assert (built["recipe"], built["built_from"], built["changed"]) == (after["recipe"], after["recipe"], [])


@pytest.mark.parametrize("what", KEYS)
def test_keys_of_virtual_machines_are_inputs(lab: Bench, what: str) -> None:
    guest, edit, changed = KEYS[what]
    edit(lab)
    after = lab.run("why", "--json", f"domain-xml:{guest}").json
    assert {_stem(change["name"]) for change in after["changed"]} == changed


def _stem(name: str) -> str:
    """Of a value of the domain XML, the part that ``KEYS`` name."""
    match = re.match(r"values\.(?:(?:hardware|platform)\.)?\w+", name)
    return match[0] if match else name


def test_the_time_in_seeds_is_an_input(lab: Bench) -> None:
    ran = lab.run("why", "--json", "seed-iso:one", SOURCE_DATE_EPOCH="1000000000")
    assert [change["name"] for change in ran.json["changed"]] == ["source_date_epoch"]


#: Follow from the names of guest and project, or are fixed by the version of kvmcompose.
_IDENTITY = {
    ("domain-xml", f"values.{name}")
    for name in ("project", "guest", "name", "disk", "seed", "media", "graphics", "console_log")
} | {
    ("network-xml", "values.project"),
    ("network-xml", "values.name"),
    *(("seed-iso", f"values.{name}") for name in ("project", "guest", "hostname", "environment")),
    *(("seed-iso", f"files.{name}.path") for name in ("context", "run/00-run.sh", "setup/00-setup.sh")),
    *(
        (kind, f"renderer.{name}")
        for kind in ("domain-xml", "network-xml", "seed-iso")
        for name in ("name", "code")
    ),
    ("clone", "overlay.on.path"),
    *((kind, "version") for kind in ("clone", "disk")),
    *(("disk", f"{kind}.image.format") for kind in ("copy", "overlay")),
}
#: Follow from the place in the network; that they change is seen by moving a guest.
_NETWORK = re.compile(
    r"values\.(nics|interfaces|reservations)\[\]\.|values\.(bridge|first|last|gateway|prefix|root_ports|uplink)"
)


def test_no_input_goes_untested(built: Bench) -> None:
    """A new kind of input is added to the edits above, or to those that follow from others."""
    tested = {
        (task.partition(":")[0], re.sub(r"\[\d+\]", "[]", name))
        for _, _, task, names in EDITS
        for name in names
    }
    there = {
        (task.partition(":")[0], re.sub(r"\[\d+\]", "[]", name))
        for _, task, _, _, inputs in rows(built.folder)
        for name, _ in leaves(json.loads(inputs))
    }
    keys = {name for _, _, names in KEYS.values() for name in names}
    left = {
        (kind, name)
        for kind, name in there - tested - _IDENTITY
        if not _NETWORK.match(name) and not (kind == "domain-xml" and _stem(name) in keys)
    }
    # devices of a host need the user's consent: tests/hostile/test_trust.py
    consent = ("domain-xml", "values.hardware.host_devices")
    assert left == {("state", "content"), ("seed-iso", "source_date_epoch"), consent}


def test_moving_a_guest_changes_the_recipe_of_what_names_its_network(lab: Bench) -> None:
    before = {path: recipe for path, _, _, recipe, _ in rows(lab.folder)}
    lab.yaml.write_text(lab.yaml.read_text().replace("{bridge: br0}", "{bridge: br1}", 1))
    lab.generate()
    after = {path: recipe for path, _, _, recipe, _ in rows(lab.folder)}
    changed = {path for path in before if before[path] != after[path]}
    assert "artefacts/one-domain.xml" in changed
    assert not [path for path in changed if path.endswith((".img", ".qcow2"))]
    assert not [path for path in changed if "herd" in path], "others stay as they are"
