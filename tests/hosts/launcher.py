"""The root process of a run: the parent of the hosts, with the bridge that connects them.

It runs in a network namespace of its own that holds one bridge, so nothing the harness makes is seen
in the machine's own network. Its life hangs on its standard input: when the test process ends, however
it ends, the kernel closes that pipe. The hosts hang on pipes of the launcher in the same way.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from hosts import cgroups
from hosts.spec import SYSTEM_PATH, Spec

if TYPE_CHECKING:
    from pathlib import Path

BRIDGE = "kvmc-wire"
STEP_SECONDS = 60
END_SECONDS = 15


def ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, timeout=STEP_SECONDS)  # noqa: S607


class HostProcess:
    """A host, as the launcher sees it: the process that owns the host's namespaces, and two pipes."""

    def __init__(self, spec: Spec, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [  # noqa: S607 - PATH was set by main
                "unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork",
                # if unshare is killed, the kernel kills the init process and with it the namespace
                "--kill-child=SIGKILL", "--mount-proc", "--propagation", "private",
                # libvirtd waits for orphans of its probes, so the namespace's init must reap them
                "tini", "--", sys.executable, "-m", "hosts.inside", name, spec.write(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def tell(self, word: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def expect(self, word: str) -> None:
        assert self.process.stdout
        line = self.process.stdout.readline().strip()
        if line != word:
            found = line or "it ended"
            raise RuntimeError(f"host {self.name} did not get to {word!r}: {found}")

    def end(self) -> None:
        """Close its standard input, which ends its first program, its init, and so everything in it."""
        assert self.process.stdin
        self.process.stdin.close()

    def wait(self) -> None:
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def make_wire() -> None:
    ip("link", "set", "lo", "up")
    ip("link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    ip("link", "set", BRIDGE, "up")


def plug(host: HostProcess) -> None:
    port = f"kvmc-{host.name}"
    ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.process.pid))
    ip("link", "set", port, "master", BRIDGE, "up")


def start(spec: Spec, hosts: list[HostProcess]) -> None:
    hosts.extend(HostProcess(spec, name) for name in spec.names)
    for host in hosts:
        host.expect("namespaces")
        plug(host)
        host.tell("wired")
    for host in hosts:
        host.expect("up")


def stay_while_wanted(spec: Spec) -> None:
    if not spec.stay:
        for line in sys.stdin:  # until the test process closes it, or is gone
            word, name = line.split()
            ip("link", "set", f"kvmc-{name}", {"cut": "down", "mend": "up"}[word])
            sys.stdout.write("done\n")
            sys.stdout.flush()
        return
    while spec.note.exists():
        time.sleep(0.2)


def remove_sockets(spec: Spec) -> None:
    for name in spec.names:
        for path in spec.folder(name).iterdir():
            if path.is_socket():
                path.unlink(missing_ok=True)


def give_to(owner: tuple[int, int], folder: Path) -> None:
    """Let the user that started the run read and remove the files of the root processes."""
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, *owner, follow_symlinks=False)


def stop(spec: Spec, hosts: list[HostProcess]) -> None:
    for host in hosts:
        host.end()
    for host in hosts:
        host.wait()
        if spec.engines:
            cgroups.remove(cgroups.group_of(spec, host.name))
    for name in spec.names:
        give_to(spec.owner, spec.folder(name))
    remove_sockets(spec)


def main() -> int:
    spec = Spec.read(sys.argv[1])
    os.environ["PATH"] = SYSTEM_PATH
    os.umask(0o022)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hosts: list[HostProcess] = []
    with spec.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            make_wire()
            start(spec, hosts)
            sys.stdout.write("up\n")
            sys.stdout.flush()
            stay_while_wanted(spec)
        except RuntimeError as error:
            sys.stdout.write(f"{error}\n")
            return 1
        finally:
            stop(spec, hosts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
