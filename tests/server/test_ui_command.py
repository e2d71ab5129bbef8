"""``kvm-compose ui``: the link, the browser, and the server that stays for the page."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from signed_in import Browser

from kvmcompose.cli.main import main
from kvmcompose.client.address import Address
from kvmcompose.client.embedded import listens

_LINK = re.compile(r"http://127\.0\.0\.1:(\d+)/#sign-in=([A-Za-z0-9_-]{43})(?:&lab=(\S+))?\n")
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(own_place: Path) -> Iterator[Start]:
    """Starts the command in a folder."""
    begun = []

    def begin(folder: Path, *words: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "kvmcompose", "-C", str(folder), "ui", *words]
        begun.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return begun[-1]

    yield begin
    for each in begun:
        each.kill()
        each.communicate(timeout=20)


def read_link(command: subprocess.Popen[str]) -> tuple[int, str, str | None]:
    """Return the port, the code and the testbed of the link that the command prints."""
    assert command.stdout is not None
    found = _LINK.fullmatch(command.stdout.readline())
    assert found is not None
    return int(found.group(1)), found.group(2), found.group(3)


def test_the_page_opens_at_the_project_of_the_folder(start: Start, project: Path, own_place: Path) -> None:
    command = start(project, "--no-browser")
    port, code, lab = read_link(command)
    assert lab == project.name
    browser = Browser(port)
    assert browser.sign_in(code=code).status == 201
    said = command.communicate(timeout=30)[1]
    assert (command.returncode, "signed in" in said) == (0, True)
    assert [each["name"] for each in browser.ask("GET", "/api/deployments").json] == [project.name]
    time.sleep(2.5)  # longer than an embedded server waits that no browser uses
    assert browser.ask("GET", "/api/session").status == 200
    assert browser.ask("DELETE", "/api/session").status == 204
    address = Address(socket=own_place / "server.sock")
    for _ in range(200):
        if not listens(address):
            break
        time.sleep(0.1)
    assert not listens(address)


def test_a_folder_that_does_not_exist_is_an_error(
    own_place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-C", str(tmp_path / "missing"), "ui", "--no-browser"]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not listens(Address(socket=own_place / "server.sock"))


def test_a_browser_is_started_with_the_link(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$1" > {seen}.new && mv {seen}.new {seen}\n')
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{program} %s")
    command = start(tmp_path)
    for _ in range(600):
        if seen.exists():
            break
        time.sleep(0.1)
    found = _LINK.fullmatch(seen.read_text())
    assert found is not None
    assert found.group(3) is None  # there is no project here
    browser = Browser(int(found.group(1)))
    assert browser.sign_in(code=found.group(2)).status == 201
    out, said = command.communicate(timeout=30)
    assert (command.returncode, out) == (0, "")
    assert found.group(2) not in said
    browser.ask("DELETE", "/api/session")


def test_over_ssh_the_tunnel_is_explained(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.7 22")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("USER", "alice")
    monkeypatch.delenv("BROWSER", raising=False)
    command = start(tmp_path)
    port, code, _ = read_link(command)
    command.send_signal(2)
    said = command.communicate(timeout=30)[1]
    assert f"ssh -N -L {port}:127.0.0.1:{port} alice@192.0.2.7\n" in said
    assert (command.returncode, "Traceback" in said) == (130, False)
    assert code not in said


def test_without_a_server_nothing_is_opened(
    capsys: pytest.CaptureFixture[str], short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER", "/bin/false")
    assert main(["-C", str(short_path), "ui", "--server", f"unix:{short_path}/none"]) == 1
    assert "cannot reach a server" in capsys.readouterr().err
