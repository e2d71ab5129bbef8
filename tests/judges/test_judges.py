"""Programs that are not ours have the last word on what golden projects build to."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
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


def test_libvirt_s_schema_accepts_every_domain(project: Bench) -> None:
    domains = files(project, "*-domain.xml")
    assert domains
    for path in domains:
        tell("virt-xml-validate", path, "domain")


def test_libvirt_s_schema_accepts_every_network(project: Bench) -> None:
    (network,) = files(project, "*-network.xml")
    tell("virt-xml-validate", network, "network")


def test_libvirt_s_schema_is_one_that_refuses(project: Bench, tmp_path: Path) -> None:
    """That a judge accepts everything would show in no other test."""
    path = files(project, "*-domain.xml")[0]
    wrong = tmp_path / "wrong.xml"
    wrong.write_text(re.sub(r"<vcpu[^>]*>", r"\g<0><evil/>", path.read_text()))
    program = shutil.which("virt-xml-validate")
    assert program is not None
    assert subprocess.run([program, wrong, "domain"], capture_output=True, check=False).returncode != 0


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


@functools.cache
def cloud_init_help() -> str:
    return tell("cloud-init", "schema", "--help")


def cloud_init_accepts(kind: str, file: Path) -> None:
    """``cloud-init schema`` of versions that know several kinds of file is told which."""
    helped = cloud_init_help()
    words = ["--schema-type", kind] if "--schema-type" in helped else []
    if words or kind == "cloud-config":
        told = tell("cloud-init", "schema", "-c", file, *words)
        assert "Valid" in told, told


def in_parallel(judge: Callable[[Path], None], isos: list[Path]) -> None:
    """cloud-init takes its time to start."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(judge, isos))


def test_cloud_init_accepts_every_user_data(project: Bench, tmp_path: Path) -> None:
    def judge(iso: Path) -> None:
        user_data = extracted(iso, tmp_path / iso.stem)["user-data"]
        if user_data.startswith(b"#cloud-config"):
            cloud_init_accepts("cloud-config", tmp_path / iso.stem / "user-data")
            return
        for number, part in enumerate(message_from_bytes(user_data).walk()):
            if part.get_content_type() == "text/cloud-config":
                file = tmp_path / iso.stem / f"part-{number}"
                file.write_bytes(part.get_payload(decode=True))  # type: ignore[arg-type]
                cloud_init_accepts("cloud-config", file)

    in_parallel(judge, seeds(project))


def test_cloud_init_makes_of_every_network_config_what_was_meant(project: Bench, tmp_path: Path) -> None:
    """Its own converter reads the file and writes what Debian's guests are configured by."""
    guests = {identity(guest): guest for guest in project.state()["testbed_guests"].values()}

    def judge(iso: Path) -> None:
        guest = guests[iso.name.removesuffix("-cloud-init.iso")]
        folder = tmp_path / iso.stem
        extracted(iso, folder)
        cloud_init_accepts("network-config", folder / "network-config")
        ethernets = converted(folder / "network-config", guest, tmp_path / f"{iso.stem}-netplan")
        assert list(ethernets) == [f"eth{index}" for index in range(len(guest["interfaces"]))]
        for nic, found in zip(guest["interfaces"], ethernets.values(), strict=True):
            assert_configured(nic, found)

    in_parallel(judge, seeds(project))


def converted(config: Path, guest: Any, goal: Path) -> dict[str, Any]:
    macs = [
        word for index, nic in enumerate(guest["interfaces"]) for word in ("-m", f"eth{index},{nic['mac']}")
    ]
    tell(
        "cloud-init", "devel", "net-convert", "-p", config, "-k", "yaml", "-d", goal, "-D", "debian",
        "-O", "netplan", *macs,
    )  # fmt: skip
    (written,) = goal.rglob("*.yaml")
    return yaml.safe_load(written.read_text())["network"]["ethernets"]  # type: ignore[no-any-return]


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


def chain(disk: Path) -> list[dict[str, Any]]:
    return json.loads(tell("qemu-img", "info", "--backing-chain", "--output=json", disk))  # type: ignore[no-any-return]


def test_qemu_img_finds_nothing_wrong_with_any_disk(project: Bench) -> None:
    for disk in disks(project):
        assert "No errors were found" in tell("qemu-img", "check", disk)


def test_every_backing_chain_is_found_and_named_relatively(project: Bench) -> None:
    for disk in disks(project):
        links = chain(disk)
        for link in links[:-1]:
            assert not link["backing-filename"].startswith("/")
            assert link["backing-filename-format"] in ("qcow2", "raw")
        assert "backing-filename" not in links[-1]


def test_every_backing_chain_is_found_after_the_folder_was_moved(project: Bench, tmp_path: Path) -> None:
    before = {disk.name: len(chain(disk)) for disk in disks(project)}
    moved = Bench(project.root, tmp_path / "some where" / "else" / project.folder.name)
    moved.folder.parent.mkdir(parents=True)
    shutil.copytree(project.folder, moved.folder, symlinks=True)
    project.folder.rename(project.folder.with_name("away"))
    try:
        assert {disk.name: len(chain(disk)) for disk in disks(moved)} == before
        for disk in disks(moved):
            tell("qemu-img", "check", disk)
    finally:
        project.folder.with_name("away").rename(project.folder)


def test_disks_hold_what_their_base_holds_and_are_as_large_as_was_asked(projects: dict[str, Bench]) -> None:
    bench = projects["disks"]
    sizes = {
        disk.name.removesuffix("-cloud-init.img"): chain(disk)[0]["virtual-size"] for disk in disks(bench)
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
    assert len(chain(bench.path("copied-cloud-init.img"))) == 1
    grown = chain(projects["base-one-host"].path("server-cloud-init.img"))
    assert grown[0]["virtual-size"] - grown[-1]["virtual-size"] == 5 * 2**30


def test_clones_lie_on_their_golden_image_and_that_on_the_catalogue_s(projects: dict[str, Bench]) -> None:
    bench = projects["clones-three-hosts"]
    for disk in files(bench, "worker-*-linked-clone.qcow2"):
        names = [Path(link["filename"]).name for link in chain(disk)]
        assert names[:2] == [disk.name, "worker-cloud-init.img"]
        assert names[2].startswith("ubuntu_20_04-")
