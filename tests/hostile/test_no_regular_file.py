"""What is no regular file in the place of one: said at once; nothing waits for it or fills up with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import Bench, Ran, new_bench
from kvmcompose.core.errors import RefusedError
from kvmcompose.effects import opening
from kvmcompose.server.orchestrator.built_testbed import read_testbed
from kvmcompose.server.orchestrator.project_folder import ProjectFolder

CONFIG = """\
{"testbed_host_ssh_config": {"a": {"ip": "192.0.2.1", "is_main_host": true, "virt_type": "qemu"}},
 "ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
"""
IMAGE = {"name": "debian_12", "setup_script": "setup.sh", "context": "stuff"}
LAB = {
    "machines": [
        {
            "name": "one",
            "interfaces": [{"bridge": "br0"}],
            "libvirt": {"cpus": 1, "memory_mb": 64, "libvirt_type": {"cloud_image": IMAGE}},
        }
    ],
    "network": {"bridges": [{"name": "br0"}], "external_bridge": "br0"},
}
#: A sparse file of so many bytes costs its maker nothing.
HUGE = 1 << 40


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # zeros without end; nobody else's node
    except PermissionError:
        pytest.skip("only root makes devices")


def folder(path: Path) -> None:
    path.mkdir()


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)


KINDS = [pipe, listening, device, folder, huge]
PLACES = [
    "kvm-compose.yaml",
    "kvm-compose-config.json",
    "setup.sh",
    "stuff/file",
    "templates/user-data.j2",
    "keys/id_ed25519.pub",
    "state.json",
]
COMMANDS = [
    ("validate",), ("list",), ("plan",), ("plan", "--diff"), ("why", "state.json"), ("graph",),
    ("info", "state"), ("placement", "--compare"), ("clean", "--dry-run"), ("generate",),
]  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> Bench:
    files = {
        "kvm-compose.yaml": json.dumps(LAB),
        "kvm-compose-config.json": CONFIG,
        "keys/id_ed25519": "",
        "setup.sh": "#!/bin/sh\n",
        "stuff/file": "x",
        "templates/user-data.j2": "#cloud-config\n{}\n",
    }
    return new_bench(tmp_path, "lab", files)


def quickly(bench: Bench, *words: str) -> Ran:
    def too_late(_signal: int, _frame: object) -> None:
        pytest.fail(f"{words} does not end")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(20)
    try:
        ran = bench.run(*words)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert "Traceback" not in ran.said
    assert "internal error" not in ran.said
    return ran


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_no_command_waits_for_it_or_swallows_it(place: str, kind: Callable[[Path], None], lab: Bench) -> None:
    path = lab.folder / place
    path.unlink(missing_ok=True)
    kind(path)
    for words in COMMANDS:
        ran = quickly(lab, *words)
        if place == "kvm-compose.yaml":
            assert ran.status == 2, (words, ran.said)
            assert place in ran.err


def test_the_yaml_says_what_it_is(lab: Bench) -> None:
    lab.yaml.unlink()
    pipe(lab.yaml)
    ran = lab.run("validate")
    assert "it is a named pipe, not a regular file" in ran.err
    assert "hint: " in ran.err


def test_a_token_is_not_waited_for(lab: Bench) -> None:
    token = lab.root / "token"
    pipe(token)
    ran = quickly(lab, "deployments", "--server", "http://127.0.0.1:1", "--token-file", str(token))
    assert ran.status != 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_does_not_wait_for_a_state(kind: Callable[[Path], None], tmp_path: Path) -> None:
    kind(tmp_path / "state.json")
    with pytest.raises(RefusedError, match="cannot be read"):
        read_testbed(ProjectFolder(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_the_door_opens_files_and_nothing_else(kind: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "x"
    kind(path)
    with pytest.raises(OSError, match=r"not a regular file|larger than|Is a directory"):
        opening.read_regular(path, limit=1000)


def test_a_file_is_read_up_to_its_limit_and_not_beyond(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1234")
    assert opening.read_regular(path, limit=4) == b"1234"
    with pytest.raises(opening.TooLargeError):
        opening.read_regular(path, limit=3)


def test_a_file_that_says_it_is_empty_is_read_up_to_the_limit(tmp_path: Path) -> None:
    with pytest.raises(opening.TooLargeError):  # the kernel gives such files no size
        opening.read_regular("/proc/self/maps", limit=10)


def test_nothing_below_a_folder_leads_out_of_it(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (inside / "sub/file").write_text("file")
    (inside / "link").symlink_to(outside)
    (inside / "sub/leaf").symlink_to(outside / "secret")
    (inside / "sub/self").symlink_to("file")
    handle = opening.open_folder(inside)
    try:
        assert opening.read_below(handle, "sub/file", limit=100) == b"file"
        far = ("../out/secret", str(outside / "secret"), "", "a//b")
        for path in ("link/secret", "sub/leaf", "sub/self", *far):
            with pytest.raises(OSError, match=r"."):
                opening.read_below(handle, path, limit=100)
        with pytest.raises(OSError, match=r"."):
            opening.open_below(handle, "link/new", os.O_WRONLY | os.O_CREAT)
        os.close(opening.open_below(handle, "sub/new", os.O_WRONLY | os.O_CREAT, 0o600))
    finally:
        os.close(handle)
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (inside / "sub/new").stat().st_mode & 0o777 == 0o600
