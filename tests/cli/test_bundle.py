"""A bundle has what is needed to understand a failure, and no secret, whatever works and what not."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from golden.bench import Bench, new_bench
from kvmcompose.cli.bundle import _refuse_to_replace

YAML = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 128
      libvirt_type:
        cloud_image:
          name: debian_12
          environment: {PASSWORD: "planted & <one>", PIN: "48151623", MODE: "true"}
          environment_file: secrets.env
          run_script: run.sh
network: {bridges: [{name: br0}], external_bridge: br0}
"""
CONFIG = (
    '{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},'
    '"ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}'
)
KEY = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\nplantedkeyplantedkeyplantedkey\n-----END OPENSSH PRIVATE KEY-----\n"
)
#: No part of any of these may be in a bundle.
SECRETS = (
    "planted & <one>", "planted &amp; &lt;one&gt;", "48151623", "planted-two", "plantedkey", "planted-token",
    "BEGIN OPENSSH PRIVATE KEY", "planted-vnc",
)  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> Bench:
    files = {
        "kvm-compose.yaml": YAML,
        "kvm-compose-config.json": CONFIG,
        "keys/id_ed25519": KEY,
        "secrets.env": "TOKEN=planted-two\n",
        "run.sh": "#!/bin/sh\ntrue\n",
    }
    return new_bench(tmp_path, "lab", files)


@pytest.fixture
def server(state_place: Path) -> dict[str, str]:
    """Settings for a simulated host. One server does for all the commands of a bundle."""
    return {
        "KVM_COMPOSE_STATE_DIR": str(state_place),
        "KVM_COMPOSE_SERVER_FAKE": "1",
        "KVM_COMPOSE_SERVER_IDLE": "30",
        "KVM_COMPOSE_TRUST": "1",
        "LAB_TOKEN": "planted-token",
    }


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        found = {}
        for member in archive:
            assert member.isfile()
            assert (member.mtime, member.uid, member.uname) == (0, 0, "root")
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.removeprefix("kvm-compose-bundle/")] = file.read()
    return found


def assert_no_secrets(path: Path) -> None:
    data = gzip.decompress(path.read_bytes())
    assert [secret for secret in SECRETS if secret.encode() in data] == []


def test_a_bundle_of_a_failed_up(lab: Bench, server: dict[str, str]) -> None:
    lab.generate()
    failing = {"KVM_COMPOSE_SERVER_FAIL": "start_domain:*"}
    up = lab.run("up", **server, **failing)
    assert up.status == 1
    # what a user's own template may contain, and a script may print
    xml = lab.path("web-domain.xml")
    xml.write_text(
        xml.read_text() + f"<!-- <graphics passwd='planted-vnc'/> planted &amp; &lt;one&gt; {KEY} -->\n"
    )
    bundle = lab.root / "out.tar.gz"
    ran = lab.run("bundle", "--output", str(bundle), **server, **failing)
    assert ran.status == 0, ran.said
    assert bundle.stat().st_mode & 0o777 == 0o600
    assert_no_secrets(bundle)
    found = members(bundle)
    assert {
        "artefacts/lab-network.xml", "artefacts/web-domain.xml", "cloud-init/web.txt", "config.json",
        "consoles/web.txt", "contents.txt", "doctor.txt", "errors.txt", "log.txt", "plan.txt", "state.json",
        "status.json", "validate.json", "versions.txt",
    } - found.keys() <= {"cloud-init/web.txt"}  # fmt: skip
    assert b"start_domain" in found["errors.txt"]
    assert b"start web" in found["log.txt"]
    assert b"a fake console" in found["consoles/web.txt"]
    assert b"== QEMU" in found["versions.txt"]
    assert b"(left out)" in found["artefacts/web-domain.xml"]
    # the names of variables are no secret, digests from which a short value can be guessed are
    state = json.loads(found["state.json"])
    kept = state["testbed_guests"]["web"]["libvirt"]["libvirt_type"]["cloud_image"]["environment"]
    assert kept == dict.fromkeys(("MODE", "PASSWORD", "PIN"), "sha256:(left out)")
    assert "cloud-init/web.txt: kvm-compose ssh web" in found["contents.txt"].decode()
    lab.run("down", **server)


def test_a_bundle_without_a_build_and_without_a_server(lab: Bench, server: dict[str, str]) -> None:
    bundle = lab.root / "out.tar.gz"
    nowhere = {"KVM_COMPOSE_SERVER": f"unix:{lab.root}/nothing"}
    ran = lab.run("bundle", "--output", str(bundle), **server, **nowhere)
    assert ran.status == 0, ran.said
    assert "without status.json: kvm-compose status --json: status" in ran.err
    assert "cannot reach a server" in ran.err
    assert_no_secrets(bundle)
    found = members(bundle)
    assert found.keys() >= {"config.json", "contents.txt", "doctor.txt", "plan.txt", "versions.txt"}
    assert b"errors.txt: kvm-compose errors: status 1" in found["contents.txt"]


def test_a_bundle_of_a_yaml_that_is_wrong(lab: Bench, server: dict[str, str]) -> None:
    lab.edit("memory_mb: 128", "memory_mb: many")
    bundle = lab.root / "out.tar.gz"
    assert lab.run("bundle", "--output", str(bundle), **server).status == 0
    assert_no_secrets(bundle)
    assert b"memory_mb" in members(bundle)["validate.json"]


def test_a_lab_from_elsewhere_gets_no_other_files_into_it(lab: Bench, server: dict[str, str]) -> None:
    outside = lab.root / "outside"
    outside.mkdir()
    (outside / "secret.xml").write_text("precious")
    for way in ("files", "folder"):
        (lab.folder / "state.json").unlink(missing_ok=True)
        if way == "files":
            (lab.folder / "state.json").symlink_to(outside / "secret.xml")
            (lab.folder / "artefacts").mkdir()
            (lab.folder / "artefacts/a.xml").symlink_to(outside / "secret.xml")
            os.mkfifo(lab.folder / "artefacts/b.xml")
        else:
            shutil.rmtree(lab.folder / "artefacts", ignore_errors=True)
            (lab.folder / "artefacts").symlink_to(outside)
            guests = {"../../../x": {}, "-oProxyCommand=x": {}}
            (lab.folder / "state.json").write_text(json.dumps({"testbed_guests": guests}))
        bundle = lab.root / f"{way}.tar.gz"
        assert lab.run("bundle", "--output", str(bundle), **server).status == 0
        found = members(bundle)
        assert not any(b"precious" in data for data in found.values())
        assert not any(".." in name or name.startswith(("consoles/", "/")) for name in found)


def test_a_yaml_that_is_nested_too_deeply(tmp_path: Path) -> None:
    """libyaml's composer would end the process with a segmentation fault."""
    path = tmp_path / "deep.yaml"
    path.write_text("a: " + "[" * 3_000_000)
    code = "import sys; from pathlib import Path; from kvmcompose.cli import _bundle_secrets as secrets; "
    code += "secrets._load(Path(sys.argv[1]))"
    assert subprocess.run([sys.executable, "-c", code, path], check=False, timeout=60).returncode == 0


def test_only_a_bundle_is_replaced(lab: Bench, server: dict[str, str]) -> None:
    os.mkfifo(lab.root / "pipe")
    (lab.root / "link").symlink_to(lab.yaml)
    (lab.root / "cut.gz").write_bytes(gzip.compress(b"another archive")[:-9])
    (lab.root / "other.gz").write_bytes(gzip.compress(b"another archive"))
    for name in (
        ".",
        "pipe",
        "link",
        "cut.gz",
        "other.gz",
        f"{lab.folder.name}/kvm-compose.yaml",
        "/dev/full",
    ):
        path = lab.root / name
        before = path.lstat()
        ran = lab.run("bundle", "--output", str(path), **server)
        assert (ran.status, "not replaced" in ran.err) == (3, True), ran.said
        assert (path.lstat().st_ino, path.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    (lab.root / "empty").touch()
    assert lab.run("bundle", "--output", str(lab.root / "empty"), **server).status == 0
    assert members(lab.root / "empty")
    _refuse_to_replace(lab.root / "empty")


def test_a_bundle_that_cannot_be_written(lab: Bench, server: dict[str, str]) -> None:
    ran = lab.run("bundle", "--output", "/proc/new.tar.gz", **server)
    assert ran.status == 1
    assert "Traceback" not in ran.err
    assert "cannot write" in ran.err
    assert not Path(server["KVM_COMPOSE_STATE_DIR"]).exists()  # no server was asked for anything
