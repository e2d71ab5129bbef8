"""The first program inside a host: it mounts the host's own folders, starts its daemons and runs commands.

What it mounts is empty, not an overlay of the machine's folders: a machine with a libvirt of its own has
domains and networks in /etc/libvirt, and a second libvirtd must not start them from the same disks.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from hosts import agent, cgroups, daemons, engines, ovn
from hosts.mounts import MS_BIND, MS_MOVE, MS_NODEV, MS_NOSUID, MS_REC, mount, unmount
from hosts.spec import WIRE_PREFIX, Spec

if TYPE_CHECKING:
    from collections.abc import Iterable

OWN_FOLDERS = (
    "/etc/libvirt",
    "/var/lib/libvirt",
    "/var/cache/libvirt",
    "/var/log/libvirt",
    "/etc/openvswitch",
    "/var/lib/openvswitch",
    "/var/log/openvswitch",
    "/etc/ovn",
    "/var/lib/ovn",
    "/var/log/ovn",
)
PROJECTS = Path("/var/lib/kvm-compose")

# no kvm: if the device exists but does not work, libvirtd would probe it at every call
DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "net/tun": (10, 200),
}


def mount_own_folders(*, with_engines: bool) -> None:
    # /sys/class/net shows the network namespace of the process that mounted it. Unmounting the old one also
    # hides the control groups: libvirt would create its own among the machine's.
    unmount("/sys")
    mount("sysfs", "/sys", "sysfs")
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    Path("/run/lock").mkdir(mode=0o777)
    in_lib = [PROJECTS, *(engines.LIBRARIES if with_engines else ())]
    missing = [folder for folder in in_lib if not folder.exists()]
    if missing:
        mount_lib_with_room(missing)
    for folder in (*OWN_FOLDERS, *(engines.FOLDERS if with_engines else ()), *in_lib):
        mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    give_root_a_home()


def give_root_a_home() -> None:
    """Let those who log in as root have an empty home folder: sshd's shell would read the ~/.bashrc of the
    machine's root for every command, which can take longer than the command."""
    own = Path("/run/of-the-host")
    home, users = own / "root", own / "passwd"
    own.mkdir(mode=0o755)
    home.mkdir(mode=0o700)
    entries = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    for entry in entries:
        if entry[0] == "root":
            entry[5] = str(home)
    users.write_text("".join(":".join(entry) + "\n" for entry in entries))
    mount(users, "/etc/passwd", flags=MS_BIND)


def mount_lib_with_room(missing: Iterable[Path]) -> None:
    """Mount a folder over /var/lib that contains all its entries, so that some can be added.

    Binds, not an overlay: files of a project below /var/lib must stay the machine's own.
    """
    room = Path("/run/lib")
    room.mkdir()
    mount("tmpfs", room, "tmpfs", 0, "mode=755")
    for entry in Path("/var/lib").iterdir():
        if entry.is_symlink():
            (room / entry.name).symlink_to(entry.readlink())
        elif entry.is_dir():
            (room / entry.name).mkdir()
            mount(entry, room / entry.name, flags=MS_BIND | MS_REC)
    for folder in missing:
        (room / folder.name).mkdir()
    mount(room, "/var/lib", flags=MS_MOVE)


def mount_devices() -> None:
    devices = Path("/run/dev")
    devices.mkdir()
    mount("tmpfs", devices, "tmpfs", MS_NOSUID, "mode=755")
    for folder in ("net", "pts", "shm"):
        (devices / folder).mkdir()
    for name, (major, minor) in DEVICES.items():
        os.mknod(devices / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        (devices / name).chmod(0o666)
    for name, target in {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        (devices / name).symlink_to(f"/proc/self/{target}")
    (devices / "ptmx").symlink_to("pts/ptmx")
    mount("devpts", devices / "pts", "devpts", MS_NOSUID, "newinstance,ptmxmode=0666,mode=620")
    mount("tmpfs", devices / "shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    mount(devices, "/dev", flags=MS_MOVE)


def configure_network(spec: Spec, name: str) -> None:
    address = f"{spec.address(name)}/{WIRE_PREFIX}"
    for argv in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "set", "eth0", "up"],
        ["ip", "address", "add", address, "dev", "eth0"],
    ):
        daemons.run(argv)


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def bring_up(spec: Spec, name: str) -> None:
    socket.sethostname(name)
    mount_own_folders(with_engines=bool(spec.engines))
    if spec.engines:
        cgroups.enter(cgroups.group_of(spec, name))
    mount_devices()
    if sys.stdin.readline().strip() != "wired":
        raise SystemExit(1)
    configure_network(spec, name)
    folder = spec.folder(name)
    daemons.configure_libvirt(folder, uuid.uuid5(uuid.NAMESPACE_URL, str(folder)))
    daemons.start_libvirt(folder)
    daemons.start_openvswitch(folder, name)
    if spec.tunnels:
        daemons.put_underlay_on_openvswitch(f"{spec.address(name)}/{WIRE_PREFIX}")
    if spec.ovn:
        start_ovn(spec, name)
    if spec.authorized_key:
        daemons.configure_sshd(spec.authorized_key)
        daemons.start_sshd(folder)
    engines.start(spec.engines, folder)
    daemons.wait_for_libvirt()
    engines.wait_for(spec.engines)
    agent.listen(folder / "control", spec.owner)


def start_ovn(spec: Spec, name: str) -> None:
    """Start OVN: its central part on the first host, ovn-controller on each."""
    if name == spec.names[0]:
        ovn.start_central(spec.folder(name))
    ovn.start_controller(spec.folder(name))


def main() -> None:
    name, spec = sys.argv[1], Spec.read(sys.argv[2])
    say("namespaces")
    started = time.monotonic()
    try:
        bring_up(spec, name)
    except (OSError, subprocess.SubprocessError) as error:
        say(f"failed after {time.monotonic() - started:.1f} s: {error} {daemons.output_of(error)}")
        return
    say("up")
    sys.stdin.read()  # returns when the launcher closes its end, or exits


if __name__ == "__main__":
    os.chdir("/")
    main()
    sys.stdout.flush()
    os._exit(0)  # threads that wait for commands must not delay the exit
