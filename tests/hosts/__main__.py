"""Start test hosts by hand: `up --count 3`, then any number of `exec h1 -- virsh list`, then `down`."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

from hosts.agent import Call, NoAgent
from hosts.cluster import host_config
from hosts.prerequisites import MissingPrograms
from hosts.spec import Spec
from hosts.testbed import HostError, TestHost, TestHosts

END_SECONDS = 30


def default_directory() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "kvm-compose-hosts"


def is_running(spec: Spec) -> bool:
    """Return whether a process of the run is alive: the launcher holds the lock until then."""
    if not spec.lock.exists():
        return False
    with spec.lock.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_spec(directory: Path) -> Spec:
    try:
        return Spec.read((directory / "hosts.json").read_text())
    except FileNotFoundError:
        raise HostError(f"no hosts are up in {directory}\nhint: python -m hosts up") from None


def up(arguments: argparse.Namespace) -> int:
    note = arguments.directory / "hosts.json"
    if note.exists() and is_running(read_spec(arguments.directory)):
        raise HostError(f"hosts are up in {arguments.directory}\nhint: python -m hosts down")
    hosts = TestHosts(
        arguments.count,
        directory=arguments.directory,
        ssh=True,
        tunnels=arguments.tunnels,
        ovn=arguments.ovn,
        docker=arguments.docker,
        podman=arguments.podman,
        rootless=arguments.rootless,
        stay=True,
    )
    hosts.start()
    for host in hosts:
        sys.stdout.write(f"{host.name} {host.address} {host.libvirt_uri}\n")
    assert hosts.identity_file
    sys.stdout.write(f"ssh key: {hosts.identity_file} (user root)\n")
    if arguments.tunnels:
        config = arguments.directory / "kvm-compose-config.json"
        entries = {"testbed_host_ssh_config": host_config(hosts, hosts.identity_file)}
        config.write_text(json.dumps(entries, indent=2) + "\n")
        sys.stdout.write(f"for a project on these hosts: {config}\n")
    return 0


def down(arguments: argparse.Namespace) -> int:
    spec = read_spec(arguments.directory)
    spec.note.unlink()
    deadline = time.monotonic() + END_SECONDS
    while is_running(spec):
        if time.monotonic() > deadline:
            raise HostError(f"the hosts of {arguments.directory} did not end in {END_SECONDS} s")
        time.sleep(0.05)
    return 0


def execute(arguments: argparse.Namespace) -> int:
    spec = read_spec(arguments.directory)
    if arguments.host not in spec.names:
        raise HostError(f"no host {arguments.host!r}; there are: {', '.join(spec.names)}")
    host = TestHost(spec, arguments.host)
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    with Call(host.folder / "control", argv or ["bash"], (0, 1, 2), cwd="/", env={}) as call:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda received, _: call.signal(received))
        status = call.wait()
    return status if status >= 0 else 128 - status


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hosts", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, action, text in (
        ("up", up, "start hosts that stay until `down`"),
        ("down", down, "end them and all that runs in them"),
        ("exec", execute, "run a command inside one, as root"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(action=action)
        command.add_argument(
            "--directory", type=lambda text: Path(text).resolve(), default=default_directory()
        )
        if name == "up":
            command.add_argument("--count", type=int, default=1)
            command.add_argument("--tunnels", action="store_true", help="underlay on br-phy")
            command.add_argument("--ovn", action="store_true", help="OVN's daemons; needs --tunnels")
            command.add_argument("--docker", action="store_true", help="Docker's daemon")
            command.add_argument("--podman", action="store_true", help="root's Podman service")
            command.add_argument("--rootless", action="store_true", help="a user's Podman service")
        if name == "exec":
            command.add_argument("host")
            command.add_argument("argv", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        return int(arguments.action(arguments))
    except (HostError, MissingPrograms, NoAgent, FileNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
