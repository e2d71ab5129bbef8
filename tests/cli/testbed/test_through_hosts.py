from __future__ import annotations

import subprocess
from pathlib import Path

from kvmcompose.cli._access import through
from kvmcompose.core.access import HostAccess

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINpJiAsVh75GvqGj3zFq+XzRSGRw/U502CeGtPiJ39dR"


def understood(argv: list[str]) -> dict[str, str]:
    """What ssh makes of its options."""
    shown = subprocess.run([argv[0], "-G", *argv[1:]], check=True, capture_output=True, text=True).stdout
    # of several the first counts, or comes first
    return dict(line.split(" ", 1) for line in reversed(shown.splitlines()) if " " in line)


def test_all_that_is_known_of_a_host_is_told_to_ssh(tmp_path: Path) -> None:
    key = tmp_path / "lab"
    key.touch()  # ssh forgets about one that is not there
    host = HostAccess(address="192.0.2.12", user="nocloud", port=2222, identity_file=str(key), host_key=KEY)
    argv = through(host, ["virsh", "console", "a b"])
    assert argv[-1] == "virsh console 'a b'"
    options = understood(argv)
    assert {name: options[name] for name in ("hostname", "user", "port", "identityfile", "requesttty")} == {
        "hostname": "192.0.2.12", "user": "nocloud", "port": "2222", "identityfile": str(key),
        "requesttty": "true",
    }  # fmt: skip
    assert options["stricthostkeychecking"] == "true"
    assert options["knownhostscommand"] == f"/bin/echo %H {KEY}"


def test_what_is_not_known_is_left_to_ssh() -> None:
    argv = through(HostAccess(address="192.0.2.12"), ["true"])
    assert argv[-2:] == ["192.0.2.12", "true"]
    assert not {"-p", "-i"} & set(argv)
    assert "knownhostscommand" not in understood(argv)
