"""A built project under another home: no key pair yet, other paths behind ``~``, a project that was moved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from golden.bench import Bench, Ran, new_bench, settle, tiny_raw

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {cloud_image: {path: disks/base.qcow2}}}
network: {bridges: [{name: br0}], external_bridge: br0}
"""
HOSTS = """\
{
  "testbed_host_ssh_config": {"main": {"ip": "127.0.0.1", "is_main_host": true, "virt_type": "qemu"}}
}
"""
OWN_KEYS = """\
{
  "testbed_host_ssh_config": {"main": {"ip": "127.0.0.1", "is_main_host": true, "virt_type": "qemu"}},
  "ssh_public_key_location": "keys/id_ed25519.pub",
  "ssh_private_key_location": "keys/id_ed25519"
}
"""
SEED = "artefacts/web-cloud-init.iso"


@pytest.fixture
def lab(memory_root: Path, tmp_path: Path) -> Bench:
    root = memory_root / tmp_path.name
    root.mkdir()
    return new_bench(root, "lab", {"kvm-compose.yaml": YAML, "kvm-compose-config.json": HOSTS})


# --- no key pair yet ------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown to the ledger"])
def test_what_only_looks_works_before_the_key_pair_is_made(lab: Bench, *, known: bool) -> None:
    first, other = lab.root / "a home", lab.root / "another home"
    lab.generate(HOME=str(first), XDG_DATA_HOME="")
    if not known:
        shutil.rmtree(lab.folder / ".kvm-compose")

    def run(*words: str) -> Ran:
        return lab.run(*words, HOME=str(other), XDG_DATA_HOME="")

    def planned() -> dict[str, str]:
        rows = run("plan", "--json").json["files"]
        return {row["path"]: row["action"] for row in rows if row["action"] not in ("keep", "adopt")}

    assert planned() == {SEED: "rebuild"}
    for words in (
        ("why", "seed-iso:web"),
        ("clean", "--dry-run"),
        ("list", "--all", "--status"),
        ("plan", "--diff"),
    ):
        ran = run(*words)
        assert ran.status == 0, ran.said
    assert run("info", "seed-iso:web").status == 1, "doit's way to say that a task would run"
    assert not other.exists(), "what only looks makes no keys"
    if known:
        assert "ssh_public_key.content: " in run("why", "seed-iso:web").out
    assert '"to be made"' in run("why", "seed-iso:web").out
    assert lab.generate(HOME=str(other), XDG_DATA_HOME="") == {SEED: "rebuild"}
    assert (other / ".local/share/kvm-compose/keys/id_ed25519.pub").exists()
    assert planned() == {}


def test_own_keys_whose_config_was_removed(lab: Bench) -> None:
    lab.write("kvm-compose-config.json", OWN_KEYS)
    lab.generate()
    lab.write("kvm-compose-config.json", HOSTS)
    assert lab.plan()[SEED] == "rebuild"
    assert lab.run("why", "seed-iso:web").status == 0
    assert lab.generate()[SEED] == "rebuild"
    assert lab.plan() == {}


def test_a_key_of_the_user_s_own_has_to_exist(lab: Bench) -> None:
    """Only the default pair is made: any other that is missing is an error, for plan as for generate."""
    lab.write("kvm-compose-config.json", OWN_KEYS)
    (lab.folder / "keys/id_ed25519.pub").unlink()
    for command in ("plan", "generate"):
        ran = lab.run(command)
        assert ran.status == 2
        assert "does not exist" in ran.err


# --- links to media -------------------------------------------------------------------------------------

MEDIA = "artefacts/web-media.iso"
MEDIA_YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt: {cpus: 1, memory_mb: 64, libvirt_type: {iso_guest: {path: "%s", expand_gigabytes: 1}}}
network: {bridges: [{name: br0}], external_bridge: br0}
"""


def media_lab(lab: Bench, written: str) -> Bench:
    lab.write("kvm-compose.yaml", MEDIA_YAML % written)
    return lab


def target(lab: Bench, link: str = MEDIA) -> Path:
    """The file that a link leads to, which must be there."""
    return (lab.folder / link).resolve(strict=True)


def test_media_below_another_home(lab: Bench) -> None:
    media_lab(lab, "~/x.iso")
    homes = [lab.root / name for name in ("first", "second")]
    for home in homes:
        home.mkdir()
        (home / "x.iso").write_bytes(tiny_raw())
    for home in homes:
        ran = lab.run("plan", "--json", HOME=str(home))
        planned = {row["path"]: row["action"] for row in ran.json["files"]}
        assert planned[MEDIA] == ("create" if home is homes[0] else "rebuild")
        assert MEDIA in lab.generate(HOME=str(home))
        assert target(lab) == home / "x.iso"
        assert lab.generate(HOME=str(home)) == {}


def test_media_named_by_an_absolute_path_in_a_project_that_was_copied(lab: Bench) -> None:
    lab.write("x.iso", "")
    (lab.folder / "x.iso").write_bytes(tiny_raw())
    media_lab(lab, str(lab.folder / "x.iso")).generate()
    assert (lab.folder / MEDIA).readlink() == Path("../x.iso")
    copy = Bench(lab.root, lab.root / "copy", ("--project-name", "lab"))
    shutil.copytree(lab.folder, copy.folder, symlinks=True)
    assert copy.generate()[MEDIA] == "rebuild"
    assert target(copy) == lab.folder / "x.iso", "as the YAML says"
    moved = Bench(lab.root, lab.root / "moved", ("--project-name", "lab"))
    media_lab(lab, "x.iso").generate()
    lab.folder.rename(moved.folder)
    assert target(moved) == moved.folder / "x.iso"
    assert MEDIA not in moved.generate()


@pytest.mark.parametrize("written", ["sub/../y.iso", "{root}/lab/sub/../y.iso"])
def test_media_behind_a_link_to_a_folder(lab: Bench, written: str) -> None:
    """``sub/..`` is the folder above the one that ``sub`` leads to; and sub may come to lead elsewhere."""
    for name in ("one", "two"):
        (lab.root / name / "sub").mkdir(parents=True)
        (lab.root / name / "y.iso").write_bytes(tiny_raw())
    (lab.folder / "y.iso").write_bytes(tiny_raw())
    media_lab(lab, written.format(root=lab.root))
    for name in ("one", "two"):
        (lab.folder / "sub").unlink(missing_ok=True)
        (lab.folder / "sub").symlink_to(f"../{name}/sub")
        settle()
        lab.generate()
        assert target(lab) == lab.root / name / "y.iso"
        settle()
        assert lab.generate() == {}


def test_links_from_artefacts_that_are_a_link(lab: Bench) -> None:
    """``..`` in a link is relative to the folder that the link is in, not to the one that leads there."""
    (lab.folder / "x.iso").write_bytes(tiny_raw())
    (lab.folder / "built/deep/out").mkdir(parents=True)
    (lab.folder / "artefacts").symlink_to("built/deep/out")
    media_lab(lab, "x.iso").generate()
    assert target(lab) == lab.folder / "x.iso"
    lab.write("kvm-compose.yaml", YAML)
    lab.generate()
    (image,) = (lab.folder / "artefacts/images").iterdir()
    assert target(lab, f"artefacts/images/{image.name}") == lab.folder / "disks/base.qcow2"
    assert lab.plan() == {}


def test_the_spelling_of_the_project_is_not_part_of_a_link(lab: Bench) -> None:
    (lab.folder / "x.iso").write_bytes(tiny_raw())
    (lab.root / "link").symlink_to("lab")
    media_lab(lab, str(lab.folder / "x.iso")).generate()
    for folder in (lab.root / "link", lab.root / "lab/../lab", lab.folder / "keys/.."):
        assert Bench(lab.root, folder, ("--project-name", "lab")).plan() == {}, folder
