"""A ``libvirt_uri`` that is a program, a file or another machine, wherever it comes from."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from kvmcompose.cli import console
from kvmcompose.core.access import GuestAccess
from kvmcompose.core.errors import KvmComposeError
from kvmcompose.core.libvirt_uri import LibvirtUri, LibvirtUriError, parse_libvirt_uri
from kvmcompose.core.model import Host
from kvmcompose.core.state import decode_state
from kvmcompose.effects.process import find_program

if TYPE_CHECKING:
    from golden.bench import Bench

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.bench import golden_bench

HOSTILE = [
    "qemu+ssh://me@192.0.2.1/system?command=/tmp/evil",
    "qemu+ssh:///system?netcat=/tmp/evil&socket=/run/libvirt/libvirt-sock",
    "qemu+ssh://me@192.0.2.1/system?keyfile=/root/.ssh/id_ed25519",
    "qemu+libssh://me@192.0.2.1/system?known_hosts=/etc/passwd",
    "qemu+ext:///system?command=/tmp/evil",
    "qemu+EXT:///system?command=/tmp/evil",
    "qemu+tls://192.0.2.1/system?pkipath=/tmp",
    "qemu+tcp://192.0.2.1/system",
    "qemu:///system?command=/tmp/evil",
    "qemu:///system?socket=/run/x&command=/tmp/evil",
    "qemu:///system?socket=/run/x%26command=/tmp/evil&mode=direct",
    "qemu+unix:///system?mode=direct&socket=/run/x",
    "qemu+unix:///system?socket=relative",
    "qemu+unix:///system?socket=/run/../etc/x",
    "qemu+unix:///system?socket=/run/%2e%2e/etc/x",
    "qemu+unix:///system?socket=/run/a%00b",
    "qemu+unix:///system?socket=/run/a%0Ab",
    "qemu+unix:///system?socket=/" + "a" * 200,
    "qemu+unix:///system?socket=",
    "qemu+unix:///system?socket=/",
    "qemu+unix://192.0.2.1/system?socket=/run/x",
    "qemu:///embed?root=/tmp/evil",
    "qemu:///system#x",
    "qemu:///system\n",
    " qemu:///system",
    "lxc:///system",
    "test:///tmp/evil.xml",
    "vbox:///session",
    "esx://host/?no_verify=1&proxy=evil",
    "myalias",
    "",
]
PEACEFUL = {
    "qemu:///system": "qemu:///system",
    "qemu:///session": "qemu:///session",
    "qemu+unix:///system": "qemu:///system",
    "qemu+unix:///system?socket=/run/my/libvirt-sock": "qemu+unix:///system?socket=/run/my/libvirt-sock",
    "qemu:///session?socket=/run/x": "qemu+unix:///session?socket=/run/x",
    "qemu+unix:///system?socket=%2Frun/x": None,
    "qemu+unix:///system?socket=/run/a%20b%26c": "qemu+unix:///system?socket=/run/a%20b%26c",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_is_no_uri(text: str) -> None:
    with pytest.raises(LibvirtUriError) as caught:
        parse_libvirt_uri(text)
    assert "qemu:///system" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(("text", "written"), PEACEFUL.items())
def test_is_written_from_the_parsed_value(text: str, written: str | None) -> None:
    if written is None:
        with pytest.raises(LibvirtUriError):
            parse_libvirt_uri(text)
        return
    parsed = parse_libvirt_uri(text)
    assert str(parsed) == written
    assert parse_libvirt_uri(written) == parsed


def test_what_is_written_says_no_more_than_the_socket() -> None:
    assert str(LibvirtUri(socket="/run/a&command=/tmp/evil")) == (
        "qemu+unix:///system?socket=/run/a%26command%3D/tmp/evil"
    )


@pytest.mark.parametrize("text", [text for text in HOSTILE if text])
def test_no_host_has_one(text: str) -> None:
    with pytest.raises(ValueError, match="libvirt URI"):
        Host(name="main", ip="127.0.0.1", libvirt_uri=text)
    with pytest.raises(msgspec.ValidationError, match="libvirt URI"):
        msgspec.convert({"name": "main", "ip": "127.0.0.1", "libvirt_uri": text}, Host)


def _with_uri(bench: Bench, uri: str) -> str:
    config = json.loads(bench.config.read_text())
    host = next(iter(config["testbed_host_ssh_config"]))
    config["testbed_host_ssh_config"][host]["libvirt_uri"] = uri
    bench.config.write_text(json.dumps(config, indent=2))
    return f"testbed_host_ssh_config.{host}.libvirt_uri"


def test_the_config_is_refused_at_its_place(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "base-two-hosts")
    where = _with_uri(bench, "qemu+ext:///system?command=/tmp/evil")
    ran = bench.run("validate")
    assert ran.status == 2
    assert f"{where}: error: " in ran.err
    assert "[bad-libvirt-uri]" in ran.err
    assert "wanted qemu:///system" in ran.err
    assert "kvm-compose-config.json:" in ran.err


def test_every_host_of_the_config_is_checked(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "base-two-hosts")
    config = json.loads(bench.config.read_text())
    for host in config["testbed_host_ssh_config"].values():
        host["libvirt_uri"] = "myalias"
    bench.config.write_text(json.dumps(config))
    assert bench.run("validate").err.count("[bad-libvirt-uri]") == len(config["testbed_host_ssh_config"])


def test_a_state_with_one_is_not_read(tmp_path: Path) -> None:
    bench = golden_bench(tmp_path, "base-one-host")
    bench.generate()
    document = json.loads((bench.folder / "state.json").read_text())
    next(iter(document["testbed_hosts"].values()))["libvirt_uri"] = "qemu+ext:///?command=/tmp/evil"
    with pytest.raises(KvmComposeError, match=r"state\.json"):
        decode_state(json.dumps(document).encode())


def test_virsh_is_not_given_what_a_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = GuestAccess(
        name="web",
        host="main",
        domain="lab-web",
        libvirt_uri="qemu+ext:///system?command=/tmp/evil",
        address=None,
        user=None,
    )
    monkeypatch.setattr(console, "open_target", lambda _arguments: None)
    monkeypatch.setattr(console, "access_to", lambda _target, _name: guest)
    with pytest.raises(LibvirtUriError):
        console.run(argparse.Namespace(guest="web", force=False), None)  # type: ignore[arg-type]


def test_libvirt_would_have_run_it(tmp_path: Path) -> None:
    """That this is an attack at all."""
    mark = tmp_path / "ran"
    program = tmp_path / "evil"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    uri = f"qemu+ext:///system?command={program}"
    subprocess.run([find_program("virsh"), "-c", uri, "list"], check=False, capture_output=True, timeout=60)
    assert mark.exists()
    with pytest.raises(LibvirtUriError):
        parse_libvirt_uri(uri)
