"""Large testbeds on simulated hosts, with a server in a process of its own, for benchmarks."""

from __future__ import annotations

import json
import os
from pathlib import Path

from daemon import Daemon

from golden.bench import Bench, environment, new_bench

BRIDGES = 40
_MACHINE = """\
  - name: g{number:05}
    interfaces: [{{bridge: br{bridge}}}]
    libvirt: {{cpus: 1, memory_mb: 512, libvirt_type: {{cloud_image: {{name: debian_12}}}}}}
"""
_TICKS = os.sysconf("SC_CLK_TCK")


def yaml(guests: int) -> str:
    """All guests can be reached: their bridges are connected, over all hosts."""
    machines = "".join(_MACHINE.format(number=number, bridge=number % BRIDGES) for number in range(guests))
    bridges = "".join(f"    - name: br{number}\n" for number in range(BRIDGES))
    connections = "".join(f"    br{number}: br{number - 1}\n" for number in range(1, BRIDGES))
    return (
        f"machines:\n{machines}network:\n  bridges:\n{bridges}  bridge_connections:\n{connections}"
        "  external_bridge: br0\n"
    )


def config(hosts: int) -> str:
    entries = {
        f"h{number:02}": {
            "ip": f"192.0.2.{number + 1}", "user": "root", "is_main_host": number == 0, "virt_type": "kvm",
        }
        for number in range(hosts)
    }  # fmt: skip
    keys = {"ssh_public_key_location": "keys/id_ed25519.pub", "ssh_private_key_location": "keys/id_ed25519"}
    return json.dumps({"testbed_host_ssh_config": entries, **keys})


class SimulatedTestbed:
    """A built project ``lab``, and its server, which is not started yet."""

    def __init__(self, root: Path, guests: int, hosts: int) -> None:
        self.guests = guests
        files = {
            "kvm-compose.yaml": yaml(guests),
            "kvm-compose-config.json": config(hosts),
            "keys/id_ed25519": "not a key\n",
        }
        self.bench: Bench = new_bench(root, "lab", files)
        self.generate()
        self.daemon = Daemon(root / "server", root, environment=environment(root), forked=False)

    def generate(self) -> None:
        """Write the artefacts."""
        ran = self.bench.spawn("generate", seconds=3600)
        if ran.status != 0:
            raise RuntimeError(ran.said)

    @property
    def _pid(self) -> int:
        if self.daemon.process is None:
            raise RuntimeError("the server does not run")
        return self.daemon.process.pid

    @property
    def processor(self) -> float:
        """The processor time of the server, in seconds."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def memory(self) -> float:
        """The largest resident size of the server, in MiB."""
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
