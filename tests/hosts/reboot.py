"""Simulate a power cut of a host: processes are killed, memory is lost, disks are kept.

Run inside a host (``TestHost.reboot``). The namespaces stay, with what this process needs to be started.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from hosts import daemons, engines, inside
from hosts.spec import WIRE_PREFIX, Spec

GONE = ("libvirt", "openvswitch", "ovn", "sshd", "libvirtd.pid", "virtlogd.pid", "sshd.pid")
SECONDS = 15


def ancestors() -> set[int]:
    """Return the processes to keep: this one, its ancestors, and the namespace's init."""
    found, pid = {1}, os.getpid()
    while pid not in found:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def others() -> set[int]:
    """Return all other processes, without zombies."""
    running = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if path.read_text().rpartition(")")[2].split()[0] != "Z":
                running.add(int(path.parent.name))
    return running - ancestors()


def kill_all() -> None:
    deadline = time.monotonic() + SECONDS
    while left := others():
        if time.monotonic() > deadline:
            raise SystemExit(f"these did not end: {sorted(left)}")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def forget_memory() -> None:
    daemons.run(["nft", "flush", "ruleset"])
    links = json.loads(daemons.run(["ip", "-json", "link", "show"]))
    for name in (link["ifname"] for link in links):
        if name not in ("lo", "eth0"):
            with contextlib.suppress(daemons.subprocess.CalledProcessError):  # went with its other end
                daemons.run(["ip", "link", "delete", "dev", name])
    for name in (*GONE, *engines.GONE):
        path = Path("/run", name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def main() -> None:
    name, spec = sys.argv[1], Spec.read(sys.argv[2])
    kill_all()
    forget_memory()
    folder = spec.folder(name)
    for path in folder.glob("libvirt-*sock*"):
        path.unlink()
    daemons.start_libvirt(folder)
    daemons.start_openvswitch(folder, name)
    if spec.tunnels:
        daemons.run(["ip", "address", "flush", "dev", "eth0"])
        daemons.put_underlay_on_openvswitch(f"{spec.address(name)}/{WIRE_PREFIX}")
    else:
        inside.configure_network(spec, name)
    if spec.ovn:
        inside.start_ovn(spec, name)
    if spec.authorized_key:
        daemons.start_sshd(folder)
    engines.start(spec.engines, folder)
    daemons.wait_for_libvirt()
    engines.wait_for(spec.engines)


if __name__ == "__main__":
    main()
