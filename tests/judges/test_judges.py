"""Programs that are not ours have the last word on what golden projects build to."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from email import message_from_bytes
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from golden.bench import Bench, cases
from hosts import TestHost

pytestmark = pytest.mark.real

SEED_FILES = {"meta-data", "user-data", "network-config", "context.tar"}


def tell(*argv: str | Path, cwd: Path | None = None) -> str:
    """What a program prints; it must be there, and end well."""
    program = shutil.which(str(argv[0]))
    assert program is not None, f"{argv[0]} is not installed"
    ran = subprocess.run([program, *argv[1:]], cwd=cwd, capture_output=True, check=False, timeout=120)
    assert ran.returncode == 0, f"{argv}: {ran.stdout.decode()}{ran.stderr.decode()}"
    return ran.stdout.decode() + ran.stderr.decode()


def files(bench: Bench, pattern: str) -> list[Path]:
    return sorted(path for path in (bench.folder / "artefacts").glob(pattern) if not path.is_symlink())


def identity(guest: dict[str, Any]) -> str:
    """What a guest's files and its domain are called after."""
    return str(guest.get("id", guest["name"]))


@pytest.fixture(params=cases())
def project(request: pytest.FixtureRequest, projects: dict[str, Bench]) -> Bench:
    return projects[request.param]


# --- libvirt --------------------------------------------------------------------------------------------


def assert_libvirt_accepts(kind: str, found: list[Path]) -> None:
    """What virt-xml-validate does, for all files at once."""
    tell("xmllint", "--noout", "--relaxng", f"/usr/share/libvirt/schemas/{kind}.rng", *found)


@pytest.mark.parametrize("kind", ["domain", "network"])
def test_libvirt_s_schema_accepts_everything(projects: dict[str, Bench], kind: str) -> None:
    found = [files(bench, f"*-{kind}.xml") for bench in projects.values()]
    assert all(found)
    assert_libvirt_accepts(kind, list(chain.from_iterable(found)))


def test_libvirt_s_schema_is_one_that_refuses(projects: dict[str, Bench], tmp_path: Path) -> None:
    """That a judge accepts everything would show in no other test."""
    path = files(projects["base-one-host"], "*-domain.xml")[0]
    wrong = tmp_path / "wrong.xml"
    wrong.write_text(re.sub(r"<vcpu[^>]*>", r"\g<0><evil/>", path.read_text()))
    with pytest.raises(AssertionError, match=r"wrong\.xml fails to validate"):
        assert_libvirt_accepts("domain", [path, wrong])


@pytest.fixture
def defined(host: TestHost, project: Bench, tmp_path: Path) -> Iterator[list[str]]:
    """Everything of a project that a host can be told of: what a second host has comes to the first too."""
    domains, networks = [], []
    try:
        for path in files(project, "*-network.xml"):
            host.virsh("net-define", path)
            networks.append(project.state()["network"]["libvirt_network_name"])
        for path in files(project, "*-domain.xml"):
            # a test host hides /dev/kvm, so that libvirt there knows no such domains
            text = path.read_text().replace('<domain type="kvm">', '<domain type="qemu">')
            text = re.sub('<cpu mode="host-(model|passthrough)"', '<cpu mode="maximum"', text)
            told = tmp_path / path.name
            told.write_text(text)
            host.virsh("define", told)
            domains.append(f"{project.state()['project_name']}-{path.name.removesuffix('-domain.xml')}")
        yield domains
    finally:
        for name in domains:
            host.virsh("undefine", name, "--nvram")
        for name in networks:
            host.virsh("net-undefine", name)


def test_a_libvirt_daemon_takes_every_domain_and_network(
    defined: list[str], host: TestHost, project: Bench
) -> None:
    known = host.virsh("list", "--all", "--name").stdout.split()
    assert set(defined) <= set(known)
    state = project.state()
    names = {
        guest["hostname"].removesuffix(guest["name"]) + identity(guest): guest
        for guest in state["testbed_guests"].values()
        if guest["kind"] != "docker"
    }
    assert set(defined) == set(names)
    for name, guest in names.items():
        dump = host.virsh("dumpxml", "--inactive", name).stdout
        for nic in guest["interfaces"]:
            # what libvirt made of it is what was meant
            assert nic["mac"] in dump
            assert f"dev='{nic['target']}'" in dump
    network = host.virsh("net-dumpxml", state["network"]["libvirt_network_name"]).stdout
    assert f"name='{state['network']['libvirt_network_bridge_name']}'" in network


def test_a_libvirt_daemon_describes_every_domain_alike_when_it_reads_it_again(
    defined: list[str], host: TestHost, tmp_path: Path
) -> None:
    """As it does at each start. What differs then looks like an edit by the user."""
    for name in defined:
        path = tmp_path / "described.xml"
        path.write_text(host.virsh("dumpxml", "--inactive", name).stdout)
        host.virsh("define", path)
        assert host.virsh("dumpxml", "--inactive", name).stdout == path.read_text()


# --- seeds ----------------------------------------------------------------------------------------------


def seeds(bench: Bench) -> list[Path]:
    """Those that cloud-init reads; Windows has others."""
    found = files(bench, "*-cloud-init.iso")
    return [] if bench.folder.name == "windows" else found


def extracted(iso: Path, folder: Path) -> dict[str, bytes]:
    """The files of an image as xorriso gets them out."""
    folder.mkdir()
    tell("xorriso", "-read_fs", "nojoliet", "-osirrox", "on", "-indev", iso, "-extract", "/", folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_xorriso_reads_every_seed(project: Bench, tmp_path: Path) -> None:
    for iso in seeds(project):
        told = tell("xorriso", "-indev", iso, "-find", "/", "-type", "f", "-exec", "lsdl", "--")
        assert re.search(r"Volume id *: 'CIDATA'", told), told
        assert set(re.findall(r"'/([a-z.-]+)'", told)) - {"vendor-data"} == SEED_FILES
        assert extracted(iso, tmp_path / iso.stem).keys() - {"vendor-data"} == SEED_FILES
    shutil.rmtree(tmp_path)


def test_every_seed_is_found_by_its_label(project: Bench) -> None:
    """As a guest finds it: blkid reads the file like the disk that it will be."""
    for iso in seeds(project):
        told = tell("blkid", "-p", "-o", "export", iso).splitlines()
        assert "LABEL=CIDATA" in told
        assert "TYPE=iso9660" in told


def kernel_knows_iso9660() -> bool:
    modprobe = shutil.which("modprobe")
    if modprobe is not None:
        subprocess.run([modprobe, "isofs"], capture_output=True, check=False)
    return "iso9660" in Path("/proc/filesystems").read_text().split()


def mounted(iso: Path, point: Path) -> dict[str, bytes]:
    point.mkdir()
    tell("mount", "-o", "loop,ro", "-t", "iso9660", iso, point)
    try:
        return {path.name: path.read_bytes() for path in point.iterdir()}
    finally:
        tell("umount", point)


def test_a_seed_gives_everybody_the_same_files(project: Bench, tmp_path: Path) -> None:
    """Through Rock Ridge (what Linux sees when it mounts) and through Joliet.

    Where the kernel has no isofs, as in some containers and small virtual machines, or the test does not
    run as root, there is nothing to mount with: then xorriso, which shares no code with what wrote the
    seed, stands for the kernel in both readings. The mount itself is then tried by the guests that boot
    from such seeds in tests/real, whose kernels are their own.
    """
    for iso in seeds(project):
        rock_ridge = extracted(iso, tmp_path / f"{iso.stem}-rr")
        joliet = tmp_path / f"{iso.stem}-joliet"
        joliet.mkdir()
        tell("xorriso", "-read_fs", "norock", "-osirrox", "on", "-indev", iso, "-extract", "/", joliet)
        assert {path.name: path.read_bytes() for path in joliet.iterdir()} == rock_ridge
        if kernel_knows_iso9660() and Path("/dev/loop-control").exists() and is_root():
            assert mounted(iso, tmp_path / f"{iso.stem}-mount") == rock_ridge


def is_root() -> bool:
    return tell("id", "-u").strip() == "0"


#: Runs many commands of cloud-init after one start, which takes ten times as long as an answer. Each has a
#: process of its own: some change global values.
_COMMANDS = """
import contextlib, io, json, multiprocessing, sys
from cloudinit.cmd import main

def run(words):
    sys.argv, out = words, io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main.main()
        except SystemExit as end:
            status = end.code
    return status or 0, out.getvalue()

with multiprocessing.get_context("fork").Pool(maxtasksperchild=1) as pool:
    json.dump(pool.map(run, json.load(sys.stdin), 1), sys.stdout)
"""


def cloud_init(commands: list[tuple[str | Path, ...]]) -> list[str]:
    """What each command prints; they must end well. Only Debian's Python has cloud-init's modules."""
    ran = subprocess.run(
        ["/usr/bin/python3", "-c", _COMMANDS],
        input=json.dumps([["cloud-init", *map(str, words)] for words in commands]),
        capture_output=True, check=False, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    answers = json.loads(ran.stdout)
    for words, (status, told) in zip(commands, answers, strict=True):
        assert status == 0, f"{words}: {told}"
    return [told for _, told in answers]


@functools.cache
def cloud_init_knows_kinds() -> bool:
    """``cloud-init schema`` of versions that know several kinds of file is told which."""
    return "--schema-type" in cloud_init([("schema", "--help")])[0]


def assert_accepted(kind: str, found: list[Path]) -> None:
    words = ("--schema-type", kind) if cloud_init_knows_kinds() else ()
    if words or kind == "cloud-config":
        for told in cloud_init([("schema", "-c", file, *words) for file in found]):
            assert "Valid" in told, told


def test_cloud_init_accepts_every_user_data(projects: dict[str, Bench], tmp_path: Path) -> None:
    found = []
    for iso in chain.from_iterable(map(seeds, projects.values())):
        folder = tmp_path / f"{iso.parts[-3]}-{iso.stem}"
        user_data = extracted(iso, folder)["user-data"]
        if user_data.startswith(b"#cloud-config"):
            found.append(folder / "user-data")
            continue
        for number, part in enumerate(message_from_bytes(user_data).walk()):
            if part.get_content_type() == "text/cloud-config":
                found.append(folder / f"part-{number}")
                found[-1].write_bytes(part.get_payload(decode=True))  # type: ignore[arg-type]
    assert_accepted("cloud-config", found)


def test_cloud_init_makes_of_every_network_config_what_was_meant(
    projects: dict[str, Bench], tmp_path: Path
) -> None:
    """Its own converter reads the file and writes what Debian's guests are configured by."""
    found = {}
    for name, bench in projects.items():
        guests = {identity(guest): guest for guest in bench.state()["testbed_guests"].values()}
        for iso in seeds(bench):
            extracted(iso, tmp_path / f"{name}-{iso.stem}")
            guest = guests[iso.name.removesuffix("-cloud-init.iso")]
            found[tmp_path / f"{name}-{iso.stem}" / "network-config"] = guest["interfaces"]
    assert_accepted("network-config", list(found))
    cloud_init([
        (
            "devel", "net-convert", "-p", config, "-k", "yaml", "-d", config.parent / "netplan",
            "-D", "debian", "-O", "netplan", *macs_of(nics),
        )
        for config, nics in found.items()
    ])  # fmt: skip
    for config, nics in found.items():
        (written,) = (config.parent / "netplan").rglob("*.yaml")
        ethernets = yaml.safe_load(written.read_text())["network"]["ethernets"]
        assert list(ethernets) == [f"eth{index}" for index in range(len(nics))], config
        for nic, made in zip(nics, ethernets.values(), strict=True):
            assert_configured(nic, made)


def macs_of(nics: list[Any]) -> Iterator[str]:
    for index, nic in enumerate(nics):
        yield from ("-m", f"eth{index},{nic['mac']}")


def assert_configured(nic: dict[str, Any], found: dict[str, Any]) -> None:
    assert found["match"]["macaddress"] == nic["mac"]
    assert found["mtu"] == nic["mtu"]
    given = [f"{nic['ip']}/{nic['prefix_length']}"] if nic["ip"] != "dynamic" else []
    given += [nic["ipv6"]] if nic.get("ipv6", "dynamic") != "dynamic" else []
    assert found.get("addresses", []) == given
    dynamic = [f"dhcp{6 if ':' in lease else 4}" for lease in nic.get("leases", ())]
    if nic["attach"] != "ovn" and not given:
        dynamic = ["dhcp4"]
    assert [key for key in ("dhcp4", "dhcp6") if found.get(key)] == dynamic
    gateways = {4: nic.get("gateway"), 6: nic.get("ipv6_gateway")}
    if ":" in (gateways[4] or ""):
        gateways = {6: gateways[4]}  # the only address is one of IPv6
    wanted = [via for version, via in gateways.items() if via and f"dhcp{version}" not in dynamic]
    assert [route["via"] for route in found.get("routes", ())] == wanted


def test_tar_reads_every_archive(project: Bench, tmp_path: Path) -> None:
    for iso in seeds(project):
        folder = tmp_path / iso.stem
        extracted(iso, folder)
        root = tmp_path / f"{iso.stem}-root"
        root.mkdir()
        tell("tar", "-xf", folder / "context.tar", "-C", root)
        assert {"context", "run", "setup", "env.sh", "environment"} == {path.name for path in root.iterdir()}
        tell("sh", "-n", root / "environment")
        tell("sh", "-n", root / "env.sh")
        for script in [*(root / "setup").iterdir(), *(root / "run").iterdir()]:
            assert script.stat().st_mode & 0o111 == 0o111


# --- disks ----------------------------------------------------------------------------------------------


def disks(bench: Bench) -> list[Path]:
    return [*files(bench, "*.img"), *files(bench, "*.qcow2")]


def backing_chain(disk: Path) -> list[dict[str, Any]]:
    return json.loads(tell("qemu-img", "info", "--backing-chain", "--output=json", disk))  # type: ignore[no-any-return]


def test_qemu_img_finds_nothing_wrong_with_any_disk(project: Bench) -> None:
    for disk in disks(project):
        assert "No errors were found" in tell("qemu-img", "check", disk)


def test_every_backing_chain_is_found_and_named_relatively(project: Bench) -> None:
    for disk in disks(project):
        links = backing_chain(disk)
        for link in links[:-1]:
            assert not link["backing-filename"].startswith("/")
            assert link["backing-filename-format"] in ("qcow2", "raw")
        assert "backing-filename" not in links[-1]


def test_every_backing_chain_is_found_after_the_folder_was_moved(project: Bench, tmp_path: Path) -> None:
    before = {disk.name: len(backing_chain(disk)) for disk in disks(project)}
    moved = Bench(project.root, tmp_path / "some where" / "else" / project.folder.name)
    moved.folder.parent.mkdir(parents=True)
    shutil.copytree(project.folder, moved.folder, symlinks=True)
    project.folder.rename(project.folder.with_name("away"))
    try:
        assert {disk.name: len(backing_chain(disk)) for disk in disks(moved)} == before
        for disk in disks(moved):
            tell("qemu-img", "check", disk)
    finally:
        project.folder.with_name("away").rename(project.folder)


def test_disks_hold_what_their_base_holds_and_are_as_large_as_was_asked(projects: dict[str, Bench]) -> None:
    bench = projects["disks"]
    sizes = {
        disk.name.removesuffix("-cloud-init.img"): backing_chain(disk)[0]["virtual-size"]
        for disk in disks(bench)
    }
    assert sizes["installer"] == 10 * 2**30
    assert sizes["raw"] == (bench.folder / "disks/base.raw").stat().st_size
    for name, base in (("raw", "base.raw"), ("readonly", "base.raw"), ("qcow2", "base.qcow2")):
        kind = base.rpartition(".")[2]
        same = tell(
            "qemu-img", "compare", "-f", "qcow2", "-F", kind,
            bench.path(f"{name}-cloud-init.img"), bench.folder / "disks" / base,
        )  # fmt: skip
        assert "identical" in same
    assert len(backing_chain(bench.path("copied-cloud-init.img"))) == 1
    grown = backing_chain(projects["base-one-host"].path("server-cloud-init.img"))
    assert grown[0]["virtual-size"] - grown[-1]["virtual-size"] == 5 * 2**30


def test_clones_lie_on_their_golden_image_and_that_on_the_catalogue_s(projects: dict[str, Bench]) -> None:
    bench = projects["clones-three-hosts"]
    for disk in files(bench, "worker-*-linked-clone.qcow2"):
        names = [Path(link["filename"]).name for link in backing_chain(disk)]
        assert names[:2] == [disk.name, "worker-cloud-init.img"]
        assert names[2].startswith("ubuntu_20_04-")
