"""What a second build does: just what has to be done, and never at the cost of the user's work."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from golden.bench import PUBLIC_KEY, Bench, golden_bench, new_bench, settle, tiny_qcow2

SERVER_XML = "artefacts/server-domain.xml"
CLIENT_XML = "artefacts/client-domain.xml"
SERVER_ISO = "artefacts/server-cloud-init.iso"
CLIENT_ISO = "artefacts/client-cloud-init.iso"
SERVER_DISK = "artefacts/server-cloud-init.img"
CLIENT_DISK = "artefacts/client-cloud-init.img"
NETWORK = "artefacts/small-network.xml"
STATE = "state.json"


def changed(before: dict[str, bytes | str], after: dict[str, bytes | str]) -> set[str]:
    """The paths whose content is another, or that came or went."""
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def assert_as_if_built_afresh(bench: Bench) -> None:
    """What is there after incremental builds is what one clean build would have made."""
    clean = bench.root / "afresh" / bench.folder.name
    shutil.copytree(
        bench.folder, clean, symlinks=True, ignore=shutil.ignore_patterns("artefacts", "state.json", ".kvm-*")
    )
    other = Bench(bench.root, clean)
    other.generate()
    assert other.artefacts() == bench.artefacts()


# --- precision ------------------------------------------------------------------------------------------


def test_memory_rebuilds_that_domain_and_the_state_only(built: Bench) -> None:
    before = built.artefacts()
    built.edit("memory_mb: 512", "memory_mb: 768")
    assert built.plan() == {STATE: "rebuild", SERVER_XML: "rebuild"}
    assert built.generate() == {STATE: "rebuild", SERVER_XML: "rebuild"}
    assert changed(before, built.artefacts()) == {STATE, SERVER_XML}
    assert built.generate() == {}
    assert_as_if_built_afresh(built)


def test_a_script_rebuilds_one_seed_and_nothing_else(built: Bench) -> None:
    before = built.artefacts()
    built.write("setup.sh", "#!/bin/sh\nfalse\n")
    assert built.generate() == {SERVER_ISO: "rebuild"}
    assert changed(before, built.artefacts()) == {SERVER_ISO}
    assert_as_if_built_afresh(built)


def test_the_mode_of_a_file_in_a_context_counts(built: Bench) -> None:
    (built.folder / "files/readme").chmod(0o755)
    assert built.generate() == {SERVER_ISO: "rebuild"}


@pytest.mark.parametrize("name", ["files/new", "files/deep/er/new"])
def test_a_file_added_to_a_context_rebuilds_one_seed(built: Bench, name: str) -> None:
    built.write(name, "x")
    assert built.generate() == {SERVER_ISO: "rebuild"}
    assert_as_if_built_afresh(built)


def test_an_edit_with_the_old_time_and_size_is_seen(built: Bench) -> None:
    script = built.folder / "setup.sh"
    settle()
    built.generate()  # by now its digest is remembered
    status = script.stat()
    script.write_text("#!/bin/sh\nTRUE\n")
    os.utime(script, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert script.stat().st_size == status.st_size
    assert built.generate() == {SERVER_ISO: "rebuild"}


def test_a_touched_input_rebuilds_nothing(built: Bench) -> None:
    for name in (
        "setup.sh",
        "files/readme",
        "kvm-compose.yaml",
        "kvm-compose-config.json",
        "keys/id_ed25519.pub",
    ):
        os.utime(built.folder / name)
    assert built.generate() == {}


@pytest.mark.parametrize(
    ("template", "rebuilt"),
    [
        ("domain.xml.j2", {SERVER_XML, CLIENT_XML}),
        ("network.xml.j2", {NETWORK}),
        ("user-data.j2", {SERVER_ISO, CLIENT_ISO}),
        ("network-config.j2", {SERVER_ISO, CLIENT_ISO}),
        ("meta-data.j2", {SERVER_ISO, CLIENT_ISO}),
    ],
)
def test_a_template_of_the_project_rebuilds_what_it_renders(
    built: Bench, template: str, rebuilt: set[str]
) -> None:
    import kvmcompose  # noqa: PLC0415

    package = Path(kvmcompose.__file__).parent
    folder = next(each for each in (package / "templates", package.parent / "templates") if each.is_dir())
    own = built.write(f"templates/{template}", (folder / template).read_text(encoding="utf-8"))
    assert built.generate() == {}, "the same template in another place is the same template"
    comment = "<!-- own -->\n" if ".xml" in template else "# own\n"
    own.write_text(own.read_text(encoding="utf-8") + comment, encoding="utf-8")
    assert built.generate() == dict.fromkeys(rebuilt, "rebuild")
    own.unlink()
    assert built.generate() == dict.fromkeys(rebuilt, "rebuild")
    assert_as_if_built_afresh(built)


def test_what_a_template_includes_counts_as_the_template(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "own-template")
    bench.generate()
    bench.write("templates/users.j2", "  - name: {{ username }}\n")
    assert bench.generate() == {"artefacts/server-cloud-init.iso": "rebuild"}


def test_the_public_key_rebuilds_the_seeds(built: Bench) -> None:
    built.write("keys/id_ed25519.pub", PUBLIC_KEY.replace("tests", "another"))
    assert built.generate() == {SERVER_ISO: "rebuild", CLIENT_ISO: "rebuild"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# a testbed of two guests\n", "# a testbed\n\n\n# of two guests\n"),
        ("      cpus: 1\n      memory_mb: 512\n", "      memory_mb: 512\n      cpus: 1\n"),
        ("memory_mb: 512", 'memory_mb:   512   # "plenty"'),
        ("name: debian_12\n          expand", 'name: "debian_12"\n          expand'),
        ("interfaces: [{bridge: br0}]\n    libvirt:\n      cpus: 2", "libvirt:\n      cpus: 2"),
        ("bridges: [{name: br0}]\n", "bridges:\n    - name: br0\n  bridge_connections: {}\n"),
        ("external_bridge: br0\n", "external_bridge: br0\ntooling: {}\ntestbed_options: {}\n"),
        ("external_bridge: br0\n", "external_bridge: br0\ntestbed_options: {load_balancing: round_robin}\n"),
    ],
)
def test_comments_order_and_spelling_change_nothing(built: Bench, before: str, after: str) -> None:
    built.edit(before, after)
    if "interfaces" in before:  # the key moves behind the section it stood before
        built.edit(
            "cloud_image: {name: debian_12}\n",
            "cloud_image: {name: debian_12}\n    interfaces: [bridge: br0]\n",
        )
    assert built.plan() == {}
    assert built.generate() == {}


def test_anchors_stand_for_what_they_repeat(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "addresses")
    bench.generate()
    text = bench.yaml.read_text()
    written_out = (
        "libvirt:\n      cpus: 1\n      memory_mb: 256\n"
        "      libvirt_type:\n        cloud_image: {name: debian_12}\n"
    )
    text = text.replace("libvirt: *small\n", written_out)
    text = text.replace(
        "libvirt:\n      <<: *small\n      cpus: 2\n", written_out.replace("cpus: 1", "cpus: 2")
    )
    text = text.replace(" &small", "")
    assert "small" not in text
    bench.yaml.write_text(text)
    assert bench.generate() == {}


def test_the_order_of_environment_and_connections_means_nothing(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "base-two-hosts")
    bench.generate()
    bench.edit(
        "            PORT: 8080\n            DEBUG: on\n", "            DEBUG: on\n            PORT: 8080\n"
    )
    bench.edit("    br0: br1\n    br1: br2\n", "    br1: br2\n    br0: br1\n")
    assert bench.generate() == {}


def test_the_config_as_one_line_is_the_same_config(built: Bench) -> None:
    built.config.write_text(json.dumps(json.loads(built.config.read_text())))
    assert built.generate() == {}


def test_a_new_host_rebuilds_what_it_moves(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "base-one-host")
    bench.generate()
    before = bench.artefacts()
    config = json.loads(bench.config.read_text())
    hosts = config["testbed_host_ssh_config"]
    hosts["testbed-host-two"] = hosts["testbed-host-one"] | {"ip": "192.0.2.12", "is_main_host": False}
    bench.config.write_text(json.dumps(config))
    # br1 moves, and with it its guest; addresses, disks and seeds stay as they are
    rebuilt = {STATE, "artefacts/client-domain.xml"}
    assert bench.generate() == dict.fromkeys(rebuilt, "rebuild")
    assert changed(before, bench.artefacts()) == rebuilt


def test_moving_a_host_to_another_address_changes_the_state_only(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "base-two-hosts")
    bench.generate()
    bench.edit("192.0.2.12", "192.0.2.99", "kvm-compose-config.json")
    assert bench.generate() == {STATE: "rebuild"}


THIRD = """\
  - name: third
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type:
        cloud_image: {name: debian_12}
network:
"""


def test_a_guest_added_at_the_end_touches_no_other_guest(built: Bench) -> None:
    before = built.artefacts()
    built.edit("network:\n", THIRD)
    made = {
        STATE: "rebuild",
        NETWORK: "rebuild",  # its address is reserved there
        "artefacts/third-domain.xml": "create",
        "artefacts/third-cloud-init.iso": "create",
        "artefacts/third-cloud-init.img": "create",
    }
    assert built.generate() == made
    assert changed(before, built.artefacts()) == set(made)
    assert_as_if_built_afresh(built)


def test_a_guest_added_at_the_beginning_touches_no_other_guest(built: Bench) -> None:
    built.edit("machines:\n", "machines:\n" + THIRD.removesuffix("network:\n"))
    done = built.generate()
    assert {path for path, action in done.items() if action == "rebuild"} == {STATE, NETWORK}


def test_the_files_of_a_removed_guest_are_removed(built: Bench) -> None:
    built.edit("network:\n", THIRD)
    built.generate()
    built.edit(THIRD, "network:\n")
    gone = {"artefacts/third-domain.xml", "artefacts/third-cloud-init.iso", "artefacts/third-cloud-init.img"}
    assert {path for path, action in built.plan().items() if action == "remove"} == gone
    assert built.generate() == {STATE: "rebuild", NETWORK: "rebuild"} | dict.fromkeys(gone, "remove")
    assert_as_if_built_afresh(built)


def test_a_renamed_guest_is_another_guest(built: Bench) -> None:
    built.edit("- name: client", "- name: customer")
    done = built.generate()
    for kind in ("domain.xml", "cloud-init.iso", "cloud-init.img"):
        assert done[f"artefacts/client-{kind}"] == "remove"
        assert done[f"artefacts/customer-{kind}"] == "create"
    assert not [path for path in done if "server" in path]
    assert_as_if_built_afresh(built)


def scale(bench: Bench, count: int) -> dict[str, str]:
    text = bench.yaml.read_text()
    text = re.sub(r"count: \d+", f"count: {count}", text, count=1)
    ids = ", ".join(str(number) for number in range(count))
    text = re.sub(r"clones: \[[^]]*\]", f"clones: [{ids}]", text, count=1)
    bench.yaml.write_text(text)
    return bench.generate()


def test_scaling_makes_and_removes_clones_and_leaves_the_others_alone(tmp_path: Path) -> None:
    herd = """\
machines:
  - name: herd
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type:
        cloud_image: {name: debian_12}
      scaling:
        count: 2
        interfaces: [{bridge: br0, clones: [0, 1]}]
network: {bridges: [{name: br0}], external_bridge: br0}
"""
    config = (
        '{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},'
    )
    config += '"ssh_public_key_location": "keys/id_ed25519.pub"}'
    bench = new_bench(tmp_path, "herd", {"kvm-compose.yaml": herd, "kvm-compose-config.json": config})
    bench.generate()
    common = {STATE: "rebuild", "artefacts/herd-network.xml": "rebuild"}
    clone = {
        f"artefacts/herd-{number}-{kind}"
        for number in (2, 3)
        for kind in ("domain.xml", "cloud-init.iso", "linked-clone.qcow2")
    }
    assert scale(bench, 4) == common | dict.fromkeys(clone, "create")
    assert scale(bench, 2) == common | dict.fromkeys(clone, "remove")
    assert bench.generate() == {}
    assert_as_if_built_afresh(bench)


def test_naming_a_guest_builds_its_artefacts_and_the_state(bench: Bench) -> None:
    done = bench.generate("client")
    assert {path for path in done if "images/" not in path} == {STATE, CLIENT_XML, CLIENT_ISO, CLIENT_DISK}
    assert bench.plan() == dict.fromkeys([NETWORK, SERVER_XML, SERVER_ISO, SERVER_DISK], "create")


def test_naming_a_clone_builds_its_golden_image_first(golden: Callable[[str], Bench]) -> None:
    bench = golden("clones-one-host")
    done = list(bench.generate("worker-2"))
    assert done.index("artefacts/worker-cloud-init.img") < done.index("artefacts/worker-2-linked-clone.qcow2")
    assert not [path for path in done if "worker-1" in path]


def test_a_name_that_is_nothing_is_refused_with_near_ones(built: Bench) -> None:
    ran = built.run("generate", "sever")
    assert ran.status == 2
    assert "'sever'" in ran.err
    assert "server" in ran.err.partition("hint:")[2]


# --- hand edits -----------------------------------------------------------------------------------------


def edit_by_hand(bench: Bench, path: str = SERVER_XML) -> bytes:
    file = bench.folder / path
    text = file.read_text().replace("<acpi/>", "<acpi/>\n    <!-- by hand -->")
    assert "by hand" in text
    file.write_text(text)
    return text.encode()


def test_a_hand_edit_is_kept_and_reported(built: Bench) -> None:
    edited = edit_by_hand(built)
    assert built.plan() == {SERVER_XML: "keep customised"}
    ran = built.run("generate")
    assert ran.status == 0
    assert SERVER_XML in ran.out
    assert "customised" in ran.out
    assert (built.folder / SERVER_XML).read_bytes() == edited
    assert built.run("plan", "--detailed-exitcode").status == 0


def test_a_hand_edit_whose_inputs_change_is_kept_and_the_new_one_laid_beside(built: Bench) -> None:
    edited = edit_by_hand(built)
    built.edit("memory_mb: 512", "memory_mb: 768")
    assert built.plan()[SERVER_XML] == "conflict"
    ran = built.run("generate")
    assert ran.status == 1
    assert "server-domain.xml.new" in ran.err
    assert "--overwrite" in ran.err
    assert (built.folder / SERVER_XML).read_bytes() == edited
    offered = (built.folder / f"{SERVER_XML}.new").read_text()
    assert "768" in offered
    assert "by hand" not in offered
    # and so again, until somebody decides
    assert built.run("generate").status == 1
    assert (built.folder / SERVER_XML).read_bytes() == edited


def test_removing_the_new_version_settles_a_conflict(built: Bench) -> None:
    edited = edit_by_hand(built)
    built.edit("memory_mb: 512", "memory_mb: 768")
    built.generate(status=1)
    (built.folder / f"{SERVER_XML}.new").unlink()
    assert built.generate() == {SERVER_XML: "keep customised"}
    assert built.generate() == {SERVER_XML: "keep customised"}
    assert (built.folder / SERVER_XML).read_bytes() == edited
    # it was settled for those inputs, and not for all to come
    built.edit("memory_mb: 768", "memory_mb: 1024")
    built.generate(status=1)
    assert (built.folder / f"{SERVER_XML}.new").exists()


def test_taking_over_the_new_version_settles_a_conflict(built: Bench) -> None:
    edit_by_hand(built)
    built.edit("memory_mb: 512", "memory_mb: 768")
    built.generate(status=1)
    (built.folder / f"{SERVER_XML}.new").replace(built.folder / SERVER_XML)
    assert built.generate() == {}
    assert built.plan() == {}
    assert_as_if_built_afresh(built)


def test_overwrite_takes_the_new_version_and_keeps_the_old_one(built: Bench) -> None:
    edited = edit_by_hand(built)
    built.edit("memory_mb: 512", "memory_mb: 768")
    built.generate(status=1)
    assert built.generate("--overwrite") == {SERVER_XML: "rebuild"}
    assert "768" in (built.folder / SERVER_XML).read_text()
    assert (built.folder / f"{SERVER_XML}.orig").read_bytes() == edited
    assert not (built.folder / f"{SERVER_XML}.new").exists()
    assert built.generate() == {}


def test_overwriting_twice_loses_neither_version(built: Bench) -> None:
    first = edit_by_hand(built)
    built.generate("--overwrite")
    second = edit_by_hand(built).replace(b"by hand", b"again")
    (built.folder / SERVER_XML).write_bytes(second)
    built.generate("--overwrite")
    kept = {path.read_bytes() for path in (built.folder / "artefacts").glob("server-domain.xml.orig*")}
    assert kept == {first, second}


def test_an_edit_undone_is_no_edit(built: Bench) -> None:
    before = (built.folder / SERVER_XML).read_bytes()
    edit_by_hand(built)
    (built.folder / SERVER_XML).write_bytes(before)
    assert built.generate() == {}
    built.edit("memory_mb: 512", "memory_mb: 768")
    assert built.generate() == {STATE: "rebuild", SERVER_XML: "rebuild"}


def test_an_edit_of_the_same_size_right_after_a_build_is_seen(built: Bench) -> None:
    file = built.folder / SERVER_XML
    file.write_bytes(file.read_bytes().replace(b">512<", b">513<"))
    assert built.plan() == {SERVER_XML: "keep customised"}


def test_an_edit_with_its_time_put_back_is_seen(built: Bench) -> None:
    file = built.folder / SERVER_XML
    status = file.stat()
    file.write_bytes(file.read_bytes().replace(b">512<", b">513<"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert built.plan() == {SERVER_XML: "keep customised"}


@pytest.mark.parametrize("path", [STATE, NETWORK, SERVER_XML])
def test_every_text_artefact_may_be_edited(built: Bench, path: str) -> None:
    file = built.folder / path
    edited = file.read_bytes() + b"\n"
    file.write_bytes(edited)
    assert built.generate() == {path: "keep customised"}
    assert file.read_bytes() == edited


def test_a_truncated_text_artefact_is_no_edit(built: Bench) -> None:
    before = built.artefacts()
    (built.folder / SERVER_XML).write_bytes(b"")
    assert built.generate() == {SERVER_XML: "rebuild"}
    assert built.artefacts() == before


def test_a_changed_seed_is_put_right(built: Bench) -> None:
    before = built.artefacts()
    with (built.folder / SERVER_ISO).open("r+b") as file:
        file.seek(40_000)
        file.write(b"changed")
    assert built.generate() == {SERVER_ISO: "rebuild"}
    assert built.artefacts() == before


@pytest.mark.parametrize("path", [STATE, NETWORK, SERVER_XML, SERVER_ISO, SERVER_DISK])
def test_a_deleted_artefact_is_made_again(built: Bench, path: str) -> None:
    before = built.artefacts()
    (built.folder / path).unlink()
    assert built.plan() == {path: "create"}
    assert built.generate() == {path: "create"}
    assert built.artefacts() == before


@pytest.mark.parametrize("path", [STATE, SERVER_XML, SERVER_ISO, SERVER_DISK])
def test_a_folder_in_the_place_of_an_artefact_is_left_alone(built: Bench, path: str) -> None:
    file = built.folder / path
    file.unlink()
    (file / "mine").mkdir(parents=True)
    assert built.plan()[path] == "blocked"
    ran = built.run("generate")
    assert ran.status == 1
    assert path in ran.err
    assert "Traceback" not in ran.err
    assert (file / "mine").is_dir()


@pytest.mark.parametrize("path", [SERVER_XML, SERVER_ISO, SERVER_DISK])
def test_a_link_in_the_place_of_an_artefact_is_not_followed(built: Bench, path: str) -> None:
    victim = built.root / "victim"
    victim.write_text("precious")
    (built.folder / path).unlink()
    (built.folder / path).symlink_to(victim)
    assert built.run("generate", "--overwrite", "--provision").status == 1
    assert victim.read_text() == "precious"


def test_an_edited_file_of_a_removed_guest_is_reported_and_left(built: Bench) -> None:
    edited = edit_by_hand(built, CLIENT_XML)
    text = built.yaml.read_text()
    start = text.index("  - name: client")
    built.yaml.write_text(text[:start] + text[text.index("network:") :])
    done = built.generate()
    assert done[CLIENT_XML] == "left over"
    assert done[CLIENT_ISO] == "remove"
    assert (built.folder / CLIENT_XML).read_bytes() == edited
    assert "left over" in built.run("generate").out


# --- disks ----------------------------------------------------------------------------------------------


def test_a_disk_that_its_guest_used_is_kept(built: Bench) -> None:
    built.use("server-cloud-init.img")
    used = (built.folder / SERVER_DISK).read_bytes()
    assert built.plan() == {}
    assert built.generate() == {}
    assert (built.folder / SERVER_DISK).read_bytes() == used


def test_a_new_recipe_for_a_used_disk_is_refused(built: Bench) -> None:
    built.use("server-cloud-init.img")
    used = (built.folder / SERVER_DISK).read_bytes()
    built.edit(
        "name: debian_12\n          expand_gigabytes: 1",
        "path: disks/base.qcow2\n          expand_gigabytes: 1",
    )
    assert built.plan()[SERVER_DISK] == "refuse"
    ran = built.run("generate")
    assert ran.status == 1
    assert "--provision" in ran.err
    assert (built.folder / SERVER_DISK).read_bytes() == used


def test_a_new_recipe_for_an_unused_disk_makes_a_new_one(built: Bench) -> None:
    built.edit("expand_gigabytes: 1", "expand_gigabytes: 2")
    assert built.generate() == {STATE: "rebuild", SERVER_DISK: "rebuild"}
    assert_as_if_built_afresh(built)


def test_provision_gives_up_a_used_disk(built: Bench) -> None:
    fresh = (built.folder / SERVER_DISK).read_bytes()
    built.use("server-cloud-init.img")
    assert built.generate("--provision", "server") == {SERVER_DISK: "rebuild"}
    assert (built.folder / SERVER_DISK).read_bytes() == fresh


def test_provision_of_one_guest_leaves_the_disks_of_the_others(built: Bench) -> None:
    built.use("server-cloud-init.img")
    built.use("client-cloud-init.img")
    used = (built.folder / CLIENT_DISK).read_bytes()
    built.generate("--provision", "server")
    assert (built.folder / CLIENT_DISK).read_bytes() == used


def test_the_used_disk_of_a_removed_guest_is_left_until_its_data_may_go(built: Bench) -> None:
    built.use("client-cloud-init.img")
    text = built.yaml.read_text()
    built.yaml.write_text(text[: text.index("  - name: client")] + text[text.index("network:") :])
    assert built.generate()[CLIENT_DISK] == "left over"
    assert (built.folder / CLIENT_DISK).exists()
    assert built.generate("--provision")[CLIENT_DISK] == "remove"
    assert not (built.folder / CLIENT_DISK).exists()


def test_a_truncated_disk_is_made_again(built: Bench) -> None:
    before = built.artefacts()
    (built.folder / SERVER_DISK).write_bytes(b"")
    assert built.generate() == {SERVER_DISK: "rebuild"}
    assert built.artefacts() == before


def test_a_new_base_image_makes_new_disks_where_none_was_used(built: Bench) -> None:
    built.use("server-cloud-init.img")
    image = built.root / "newer.qcow2"
    image.write_bytes(tiny_qcow2().ljust(2**19, b"\1"))
    assert built.run("cloud-images", "add", "debian_12", str(image)).status == 0
    plan = built.plan()
    assert plan[CLIENT_DISK] == "rebuild"
    assert plan[SERVER_DISK] == "refuse"
    used = (built.folder / SERVER_DISK).read_bytes()
    built.generate("-k", status=1)
    assert (built.folder / SERVER_DISK).read_bytes() == used
    # and what the used disk lies on is still where the disk says it is
    backing = built.path("images").glob("debian_12-*.qcow2")
    assert len(list(backing)) == 2


# --- the folder and the ledger --------------------------------------------------------------------------


def test_a_project_folder_can_move(built: Bench) -> None:
    before = built.artefacts()
    home = built.root / "elsewhere/deep/down"
    home.mkdir(parents=True)
    built.folder.rename(home / "small")
    moved = Bench(built.root, home / "small")
    assert moved.plan() == {}
    assert moved.generate() == {}
    assert moved.artefacts() == before


def test_a_copied_folder_is_built_already(built: Bench) -> None:
    copy = built.root / "copy" / "small"
    shutil.copytree(built.folder, copy, symlinks=True)
    assert Bench(built.root, copy).generate() == {}


def damage(how: str, ledger: Path) -> None:
    data = ledger.read_bytes()
    match how:
        case "deleted":
            shutil.rmtree(ledger.parent)
        case "empty":
            ledger.write_bytes(b"")
        case "text":
            ledger.write_text("this is no database\n" * 100)
        case "truncated":
            ledger.write_bytes(data[: len(data) // 2])
        case "scrambled":
            ledger.write_bytes(data[:100] + bytes(byte ^ 0x5A for byte in data[100:]))


LEDGERS = ["deleted", "empty", "text", "truncated", "scrambled"]


@pytest.mark.parametrize("how", LEDGERS)
def test_a_lost_ledger_costs_nothing_but_time(built: Bench, how: str) -> None:
    before = built.artefacts()
    damage(how, built.folder / ".kvm-compose/ledger.sqlite")
    ran = built.run("plan")
    assert ran.status == 0, ran.said
    assert built.generate() == {}
    assert built.generate() == {}
    assert built.artefacts() == before


@pytest.mark.parametrize("how", LEDGERS)
def test_without_a_ledger_no_work_of_the_user_is_lost(built: Bench, how: str) -> None:
    edited = edit_by_hand(built)
    built.use("server-cloud-init.img")
    used = (built.folder / SERVER_DISK).read_bytes()
    damage(how, built.folder / ".kvm-compose/ledger.sqlite")
    built.run("generate")
    kept = [path.read_bytes() for path in (built.folder / "artefacts").glob("server-domain.xml*")]
    assert edited in kept
    assert (built.folder / SERVER_DISK).read_bytes() == used


def test_a_fresh_clone_with_its_text_artefacts_has_nothing_to_do_for_them(built: Bench) -> None:
    clone = built.root / "clone" / "small"
    shutil.copytree(
        built.folder, clone, ignore=shutil.ignore_patterns(".kvm-compose", "*.iso", "*.img", "images")
    )
    other = Bench(built.root, clone)
    plan = other.plan()
    assert {path for path in plan if "images" not in path and "image:" not in path} == {
        SERVER_ISO,
        CLIENT_ISO,
        SERVER_DISK,
        CLIENT_DISK,
    } | {path for path, action in plan.items() if action == "adopt"}
    done = other.generate()
    assert not {path for path in done if path.endswith((".xml", ".json"))}
    assert other.artefacts() == built.artefacts()


def test_out_of_date_artefacts_of_a_fresh_clone_show_in_the_exit_status(built: Bench) -> None:
    clone = built.root / "clone" / "small"
    shutil.copytree(built.folder, clone, ignore=shutil.ignore_patterns(".kvm-compose"), symlinks=True)
    other = Bench(built.root, clone)
    assert other.run("plan", "--detailed-exitcode").status == 0
    other.edit("memory_mb: 512", "memory_mb: 768")
    assert other.run("plan", "--detailed-exitcode").status == 2


def test_the_user_is_told_that_the_ledger_could_not_be_read(built: Bench) -> None:
    damage("text", built.folder / ".kvm-compose/ledger.sqlite")
    built.edit("memory_mb: 512", "memory_mb: 768")
    assert "ledger" in built.run("generate").err


# --- the short way out --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.edit("memory_mb: 512", "memory_mb: 768"),
        lambda b: b.edit('"virt_type": "qemu"', '"virt_type": "kvm"', "kvm-compose-config.json"),
        lambda b: b.write("setup.sh", "#!/bin/sh\nTRUE\n"),
        lambda b: b.write("files/readme", "READ ME\n"),
        lambda b: b.write("files/new", ""),
        lambda b: (b.folder / "files/readme").unlink(),
        lambda b: (b.folder / "files/readme").chmod(0o755),
        lambda b: (b.folder / "files/empty").mkdir(),
        lambda b: b.write("keys/id_ed25519.pub", PUBLIC_KEY.replace("tests", "another")),
        lambda b: b.write("templates/meta-data.j2", "instance-id: {{ instance_id }}\n"),
        lambda b: (b.folder / SERVER_XML).unlink(),
        lambda b: (b.folder / SERVER_ISO).write_bytes(b""),
        lambda b: (b.folder / SERVER_DISK).write_bytes(b""),
        lambda b: (b.folder / STATE).write_bytes(b""),
        lambda b: next(b.path("images").iterdir()).unlink(),
        lambda b: b.run("cloud-images", "add", "debian_12", str(b.folder / "disks/base.raw")),
        lambda b: b.run("forget", "domain-xml:server"),
        lambda b: b.run("clean", "domain-xml:server"),
    ],
)
def test_a_build_with_nothing_to_do_does_not_overlook_a_change(
    built: Bench, change: Callable[[Bench], object]
) -> None:
    assert built.generate() == {}
    settle()
    change(built)
    assert built.generate() != {}
    assert built.generate() == {}
    assert_as_if_built_afresh(built)


def test_a_change_of_what_is_deep_in_a_context_is_not_overlooked(bench: Bench) -> None:
    deep = bench.write("files/a/b/c/d", "1\n")
    (bench.folder / "files/link").symlink_to("readme")
    settle()
    bench.generate()
    assert bench.generate() == {}
    settle()
    deep.write_text("2\n")
    assert bench.generate() == {SERVER_ISO: "rebuild"}
    settle()
    assert bench.generate() == {}
    (bench.folder / "files/link").unlink()
    (bench.folder / "files/link").symlink_to("a/b/c/d")
    assert bench.generate() == {SERVER_ISO: "rebuild"}
    settle()
    assert bench.generate() == {}
    deep.rename(deep.with_name("e"))
    assert bench.generate() == {SERVER_ISO: "rebuild"}


def test_a_new_problem_is_not_overlooked(built: Bench) -> None:
    assert built.generate() == {}
    (built.folder / "setup.sh").unlink()
    assert built.run("generate").status == 2


def test_an_image_lost_from_the_store_is_not_overlooked(built: Bench) -> None:
    assert built.generate() == {}
    shutil.rmtree(built.root / "store")
    plan = built.run("plan")
    assert plan.status == 0
    # disks that were made on it stay as they are, and nothing is fetched for them
    assert built.generate() == {}


def test_a_config_that_comes_or_goes_is_not_overlooked(built: Bench) -> None:
    config = built.config.read_text()
    two = config.replace('"user"', '"main_interface": "eth9", "user"')
    built.config.unlink()
    built.config.write_text(two)
    assert built.generate() == {STATE: "rebuild", NETWORK: "rebuild"}


def test_another_project_name_is_another_build(built: Bench) -> None:
    assert built.generate() == {}
    done = built.generate(KVM_COMPOSE_PROJECT_NAME="other")
    assert done["artefacts/other-network.xml"] == "create"
    assert done[NETWORK] == "remove"


# --- plan and why ---------------------------------------------------------------------------------------


def test_a_plan_writes_nothing(built: Bench) -> None:
    built.edit("memory_mb: 512", "memory_mb: 768")
    before = built.artefacts()
    built.run("plan")
    built.run("plan", "--diff")
    assert built.artefacts() == before
    assert built.plan() == {STATE: "rebuild", SERVER_XML: "rebuild"}


def test_a_plan_of_a_fresh_project_leaves_its_folder_as_it_was(bench: Bench) -> None:
    before = sorted(bench.folder.rglob("*"))
    assert bench.run("plan").status == 0
    assert sorted(bench.folder.rglob("*")) == before


def test_a_plan_shows_the_difference(built: Bench) -> None:
    built.edit("memory_mb: 512", "memory_mb: 768")
    ran = built.run("plan", "--diff")
    assert '-  <memory unit="MiB">512</memory>\n' in ran.out
    assert '+  <memory unit="MiB">768</memory>\n' in ran.out
    assert '-        "memory_mb": 512,\n' in ran.out


def test_a_plan_says_why(built: Bench) -> None:
    built.edit("memory_mb: 512", "memory_mb: 768")
    rows = {row["path"]: row for row in built.run("plan", "--json").json["files"]}
    assert rows[SERVER_XML]["reasons"] == ["memory_mb: 512 -> 768"]


def test_why_names_the_input_that_changed(built: Bench) -> None:
    built.write("setup.sh", "#!/bin/sh\nfalse\n")
    answer = built.run("why", "seed-iso:server", "--json").json
    assert [change["name"] for change in answer["changed"]] == ["files.setup/00-setup.sh.content"]
    assert answer["action"] == "rebuild"
    assert answer["recipe"] != answer["built_from"]
    built.generate()
    after = built.run("why", "seed-iso:server", "--json").json
    assert after["changed"] == []
    assert after["recipe"] == after["built_from"] == answer["recipe"]


def test_why_takes_a_path_a_task_or_a_guest_and_refuses_the_rest(built: Bench) -> None:
    by_task = built.run("why", "--json", "domain-xml:server").json
    for name in (SERVER_XML, "server-domain.xml"):
        assert built.run("why", "--json", name).json == by_task
    of_guest = built.run("why", "server").out
    assert all(f"{path} (" in of_guest for path in (SERVER_XML, SERVER_ISO, SERVER_DISK))
    assert CLIENT_XML not in of_guest
    assert built.run("why", "nothing").status == 2


# --- doit's commands ------------------------------------------------------------------------------------


def test_a_forgotten_task_runs_again(built: Bench) -> None:
    before = built.artefacts()
    assert built.run("forget", "domain-xml:server").status == 0
    assert built.generate() == {SERVER_XML: "rebuild"}
    assert built.generate() == {}
    assert built.artefacts() == before


def test_forgetting_a_group_or_everything_runs_them_again(built: Bench) -> None:
    assert built.run("forget", "domain-xml").status == 0
    assert built.generate() == {SERVER_XML: "rebuild", CLIENT_XML: "rebuild"}
    assert built.run("forget").status == 0
    done = built.generate()
    assert {STATE, NETWORK, SERVER_XML, SERVER_ISO, SERVER_DISK} <= set(done)
    assert built.generate() == {}


def test_what_was_edited_or_used_is_safe_from_forget(built: Bench) -> None:
    edited = edit_by_hand(built)
    built.use("server-cloud-init.img")
    used = (built.folder / SERVER_DISK).read_bytes()
    built.run("forget")
    built.run("generate", "-k")
    assert (built.folder / SERVER_XML).read_bytes() == edited
    assert (built.folder / SERVER_DISK).read_bytes() == used


def test_clean_removes_what_can_be_built_again(built: Bench) -> None:
    before = built.artefacts()
    assert built.run("clean").status == 0
    assert not (built.folder / "artefacts").exists()
    assert not (built.folder / STATE).exists()
    assert (built.folder / "setup.sh").exists()
    built.generate()
    assert built.artefacts() == before


def test_clean_keeps_what_was_edited_or_used_unless_forced(built: Bench) -> None:
    edit_by_hand(built)
    built.use("server-cloud-init.img")
    ran = built.run("clean")
    assert "server-domain.xml: kept" in ran.out
    left = {path.name for path in (built.folder / "artefacts").iterdir() if path.is_file()}
    assert left == {"server-domain.xml", "server-cloud-init.img"}
    # the image that the disk lies on is still there
    assert list(built.path("images").iterdir())
    assert built.run("clean", "--force").status == 0
    assert not (built.folder / "artefacts").exists()


def test_clean_with_dry_run_only_talks(built: Bench) -> None:
    before = built.artefacts()
    ran = built.run("clean", "--dry-run")
    assert SERVER_XML in ran.out
    assert built.artefacts() == before
    assert built.generate() == {}


def test_clean_takes_names(built: Bench) -> None:
    assert built.run("clean", "domain-xml:server").status == 0
    assert built.plan() == {SERVER_XML: "create"}


def test_the_old_names_of_commands_work(bench: Bench) -> None:
    assert bench.run("generate-artefacts").status == 0
    assert (bench.folder / SERVER_XML).exists()
    assert bench.run("clear-artefacts").status == 0
    assert not (bench.folder / SERVER_XML).exists()


def test_list_tells_what_is_up_to_date(built: Bench) -> None:
    built.edit("memory_mb: 512", "memory_mb: 768")
    rows = {row["task"]: row["up_to_date"] for row in built.run("list", "--json").json}
    assert [task for task, fresh in rows.items() if not fresh] == ["state", "domain-xml:server"]
    lines = built.run("list", "--all", "--status").out.splitlines()
    status = {line.split()[1]: line.split()[0] for line in lines if line.split()[0] in ("R", "U")}
    assert status["domain-xml:server"] == "R"
    assert status["domain-xml:client"] == "U"
    assert "generate" in built.run("list").out


def test_info_shows_a_task(built: Bench) -> None:
    ran = built.run("info", "domain-xml:server")
    assert ran.status == 0
    assert "server-domain.xml" in ran.out
    built.edit("memory_mb: 512", "memory_mb: 768")
    assert built.run("info", "domain-xml:server").status == 1


def test_clones_list_and_explain_like_other_guests(golden: Callable[[str], Bench]) -> None:
    bench = golden("clones-two-hosts")
    tasks = {row["task"] for row in bench.run("list", "--json").json}
    assert {"clone:worker-0", "disk:worker", "seed-iso:worker-3", "domain-xml:disk-1"} <= tasks
    assert {"container:web-0", "resolv-conf:web-2"} <= tasks
    assert bench.run("why", "clone:worker-0").status == 0


def test_info_is_there_for_scripts(built: Bench) -> None:
    ran = built.run("info", "--json", "domain-xml:server")
    assert ran.status == 0
    assert [(each["path"], each["up_to_date"]) for each in ran.json] == [(SERVER_XML, True)]
    (built.folder / SERVER_XML).unlink()
    ran = built.run("info", "--json", "domain-xml:server")
    assert ran.status == 1
    assert ran.json[0]["reasons"] == ["it is not there"]


def test_an_image_may_be_named_in_two_ways(bench: Bench) -> None:
    (bench.folder / "base.qcow2").write_bytes(tiny_qcow2())
    machine = (
        "  - name: {}\n    interfaces: [{{bridge: br0}}]\n"
        "    libvirt: {{cpus: 1, memory_mb: 64, libvirt_type: {{{}: {{path: base.qcow2{}}}}}}}\n"
    )
    machines = machine.format("one", "existing_disk", ", driver_type: qcow2")
    machines += machine.format("two", "cloud_image", "")
    bench.yaml.write_text(f"machines:\n{machines}network: {{bridges: [{{name: br0}}]}}\n")
    done = list(bench.generate())
    images = [path for path in done if "/images/" in path]
    assert len(images) == 1
    for name in ("one", "two"):
        assert done.index(f"artefacts/{name}-cloud-init.img") > done.index(images[0])
    assert bench.generate() == {}
    assert bench.run("list", "--all").out.count("image:base.qcow2 ") == 1
    nodes = bench.run("graph", "--of", "tasks", "--json").json["nodes"]
    assert [node["name"] for node in nodes].count("image:base.qcow2") == 1
