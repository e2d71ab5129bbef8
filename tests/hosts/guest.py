"""Access to guests for tests: a seed, SSH from their host, and their console when SSH fails."""

from __future__ import annotations

import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hosts.testbed import TestHost

CONSOLE_LINES = 60
ATTEMPT_SECONDS = 30


class GuestError(Exception):
    """The guest did not become reachable; the message ends with the last lines of its console."""


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in to a guest from its host."""

    address: str
    user: str
    identity_file: Path


def write_seed(target: Path, *, user_data: str, meta_data: str, network_config: str) -> None:
    """Write a NoCloud seed (cloud-init finds the disk by its label) with an independent ISO writer."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for name, text in (
            ("user-data", user_data),
            ("meta-data", meta_data),
            ("network-config", network_config),
        ):
            (Path(folder) / name).write_text(text)
        subprocess.run(
            ["xorriso", "-as", "mkisofs", "-quiet", "-V", "CIDATA", "-J", "-r", "-o", str(target), folder],  # noqa: S607
            check=True,
            timeout=60,
            capture_output=True,
        )


def ssh(
    host: TestHost, login: Login, command: Sequence[str], *, timeout: float = 60, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command in a guest, by SSH from its host. Arguments are joined by spaces, as ssh does."""
    argv = [
        "ssh", "-q", "-F", "none", "-i", str(login.identity_file),
        "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=10",
        # each test creates new guests with new keys, at the same addresses: do not record the keys
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        f"{login.user}@{login.address}", "--", *command,
    ]  # fmt: skip
    return host.run(argv, timeout=timeout, check=check)


def wait_for_ssh(host: TestHost, domain: str, login: Login, *, timeout: float = 240) -> float:
    """Wait until SSH to the guest works; return the seconds that it took.

    Raises GuestError, with the end of the guest's console, after ``timeout`` seconds or when the domain
    does not run any more.
    """
    started = time.monotonic()
    with Console(host, domain) as console:
        while True:
            try:
                if ssh(host, login, ["true"], timeout=ATTEMPT_SECONDS, check=False).returncode == 0:
                    return time.monotonic() - started
            except subprocess.TimeoutExpired:
                pass
            state = host.virsh("domstate", domain, check=False).stdout.strip()
            if state != "running":
                raise GuestError(f"{domain} is {state or 'gone'}, not running\n{console.text()}")
            if time.monotonic() - started > timeout:
                wanted = f"no SSH to {domain} as {login.user}@{login.address}"
                raise GuestError(f"{wanted} within {timeout:g} s\n{console.text()}")
            time.sleep(0.5)


class Console:
    """Records what a guest prints on its serial console from now on.

    A domain with <log file=…/> keeps it by itself; else the terminal is read as long as this is open
    (QEMU keeps nothing for readers who come later).
    """

    def __init__(self, host: TestHost, domain: str) -> None:
        self._host = host
        self._reader: subprocess.Popen[bytes] | None = None
        tree = ET.fromstring(host.virsh("dumpxml", domain).stdout)  # noqa: S314 - libvirt's own output
        log = tree.find("./devices/serial/log")
        terminal = tree.find("./devices/serial[@type='pty']/source")
        self.file = Path(log.attrib["file"]) if log is not None else host.folder / f"console-{domain}.log"
        if log is None and terminal is not None:
            with self.file.open("ab") as file:
                self._reader = host.popen(["cat", terminal.attrib["path"]], stdout=file, stderr=file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader:
            self._reader.terminate()
            self._reader.wait()

    def text(self) -> str:
        """Return the last lines. They are read inside the host, because the file belongs to root."""
        shown = self._host.run(["tail", "-n", str(CONSOLE_LINES), self.file], check=False)
        return f"--- the end of its console ({self.file}):\n{shown.stdout or shown.stderr}"
