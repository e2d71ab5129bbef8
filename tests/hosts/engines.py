"""Container engines of a host: Docker's daemon, and the API service of Podman, root's and a user's.

They make no networks and touch no firewall: the product connects containers itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hosts import daemons
from hosts.mounts import MS_BIND, mount
from hosts.prerequisites import SEARCH_PATH

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What outlives a reboot: images and containers.
STATE = Path("/run/engines")
DOCKER_SOCKET = Path("/run/docker.sock")
PODMAN_SOCKET = Path("/run/podman/podman.sock")
#: The user of the rootless engine, who exists in the host alone.
USER, UID = "rootless", 4411
USER_RUN = Path(f"/run/user/{UID}")
USER_SOCKET = USER_RUN / "podman" / "podman.sock"
SOCKETS = {"docker": DOCKER_SOCKET, "podman": PODMAN_SOCKET, "rootless": USER_SOCKET}
#: What the programs write to whatever their settings: keys, and notes about layers of images.
FOLDERS, LIBRARIES = ("/etc/docker",), (Path("/var/lib/containers"),)
#: What a reboot removes.
GONE = (
    "docker",
    "docker.sock",
    "docker.pid",
    "podman",
    "podman-run",
    "containers",
    "crun",
    "runc",
    "user",
    "libpod",
)
START_SECONDS = 30

CONTAINERS_CONF = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
default_rootless_network_cmd = "slirp4netns"
"""

STORAGE_CONF = """\
[storage]
driver = "{driver}"
graphroot = "{state}"
runroot = "{run}"
"""


def start(names: Iterable[str], folder: Path) -> None:
    """Start engines, which need a moment: see ``wait_for``."""
    starters = {"docker": start_docker, "podman": start_podman, "rootless": start_rootless}
    for name in names:
        starters[name](folder)


def start_docker(folder: Path) -> None:
    STATE.mkdir(exist_ok=True)
    config = STATE / "daemon.json"  # not the machine's
    config.write_text("{}\n")
    daemons.background(
        [
            "dockerd", f"--config-file={config}", "--iptables=false", "--ip6tables=false", "--bridge=none",
            f"--data-root={STATE / 'docker'}", "--exec-root=/run/docker", "--pidfile=/run/docker.pid",
            f"--host=unix://{DOCKER_SOCKET}",
        ],
        folder / "dockerd.log",
    )  # fmt: skip


def start_podman(folder: Path) -> None:
    STATE.mkdir(exist_ok=True)
    _serve_podman(PODMAN_SOCKET, STATE / "podman", Path("/run/podman-run"), "overlay", folder / "podman.log")


def start_rootless(folder: Path) -> None:
    """Start the API service of a user's Podman; the user, its home and its range of IDs are made here."""
    STATE.mkdir(exist_ok=True)
    home = STATE / "home"
    if not home.exists():
        _add_user(home)
    for path in (USER_RUN.parent, USER_RUN, home):
        path.mkdir(exist_ok=True)
    for path in (USER_RUN, home):
        os.chown(path, UID, UID)
    log = folder / "rootless.log"
    log.touch()
    _serve_podman(USER_SOCKET, home / "storage", USER_RUN / "containers", "vfs", log, user=UID)


def _add_user(home: Path) -> None:
    """Extend the files of users, in this host alone."""
    entries = {
        "passwd": f"{USER}:x:{UID}:{UID}::{home}:/bin/sh\n",
        "group": f"{USER}:x:{UID}:\n",
        "subuid": f"{USER}:1000000:65536\n",
        "subgid": f"{USER}:1000000:65536\n",
    }
    for name, line in entries.items():
        file, own = Path("/etc", name), STATE / name
        own.write_text((file.read_text() if file.exists() else "") + line)
        mount(own, file, flags=MS_BIND)


def _serve_podman(
    path: Path, state: Path, run: Path, driver: str, log: Path, *, user: int | None = None
) -> None:
    config = STATE / f"{path.parent.parent.name}-podman"
    config.mkdir(exist_ok=True)
    (config / "containers.conf").write_text(CONTAINERS_CONF)
    (config / "storage.conf").write_text(STORAGE_CONF.format(driver=driver, state=state, run=run))
    for folder in (path.parent, state, run):
        folder.mkdir(exist_ok=True)
        os.chown(folder, user or 0, user or 0)
    environment = {
        "PATH": SEARCH_PATH,
        "HOME": str(STATE / "home") if user else "/root",
        "CONTAINERS_CONF": str(config / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(config / "storage.conf"),
        **({"XDG_RUNTIME_DIR": str(USER_RUN)} if user else {}),
    }
    with log.open("ab") as output:
        subprocess.Popen(
            ["podman", "system", "service", "--time=0", f"unix://{path}"],  # noqa: S607 - PATH is SEARCH_PATH
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=environment,
            cwd="/",
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )


def wait_for(names: Iterable[str]) -> None:
    """Wait until these engines answer."""
    deadline = time.monotonic() + START_SECONDS
    for path in (SOCKETS[name] for name in names):
        while not _answers(path):
            if time.monotonic() > deadline:
                raise OSError(f"no container engine answers at {path} within {START_SECONDS} s")
            time.sleep(0.1)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, contextlib.suppress(OSError):
        connection.settimeout(1)
        connection.connect(str(path))
        connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        return b" 200 " in connection.recv(64)
    return False
