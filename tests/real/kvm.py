"""Run kvm-compose as a user does, inside a test host, and list what is on that host."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from hosts import engines, image_cache
from kvmcompose.client.address import Address
from kvmcompose.client.unix import PlainAdapter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hosts import TestHost

ROOT = Path(__file__).resolve().parents[2]
KVM_COMPOSE = (sys.executable, "-c", "import sys; from kvmcompose.cli._entry import main; sys.exit(main())")


class Project:
    """A project folder with files, and a separate state folder for its server."""

    def __init__(self, host: TestHost, root: Path, name: str, files: Mapping[str, str]) -> None:
        self.host, self.root, self.name = host, root, name
        self.folder = root / name
        for path, text in files.items():
            self.write(path, text)
        (root / "run").mkdir(exist_ok=True)
        self.env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(root),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_RUNTIME_DIR": str(root / "run"),
            "XDG_CACHE_HOME": str(root / "cache"),
            "KVM_COMPOSE_STATE_DIR": str(root / "state"),
            "KVM_COMPOSE_TRUST": "1",  # images are links out of the project, to the cache
            "KVM_COMPOSE_STORE": str(image_cache.cache_directory() / "store"),
            "KVM_COMPOSE_MIRROR": "http://127.0.0.1:9",
            "NO_COLOR": "1",
        }

    def write(self, path: str, text: str) -> None:
        goal = self.folder / path
        goal.parent.mkdir(parents=True, exist_ok=True)
        goal.write_text(text)

    def edit(self, before: str, after: str) -> None:
        path = self.folder / "kvm-compose.yaml"
        text = path.read_text()
        assert text.count(before) == 1, before
        path.write_text(text.replace(before, after))

    def argv(self, *words: str) -> list[str]:
        return [*KVM_COMPOSE, "-C", str(self.folder), *words]

    def run(
        self,
        *words: str,
        status: int | None = 0,
        timeout: float = 300,
        input: str = "",  # noqa: A002
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, which must exit with this status (None: any)."""
        done = self.host.run(self.argv(*words), check=False, timeout=timeout, env=self.env, input=input)
        said = f"{' '.join(words)}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert status is None or done.returncode == status, said
        assert "Traceback" not in done.stderr, said
        return done

    def start(self, *words: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start a command in the background."""
        environment = [f"{key}={value}" for key, value in self.env.items()]
        return self.host.popen(
            ["env", *environment, *self.argv(*words)], stdout=subprocess.DEVNULL, stderr=stderr
        )

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def states(self) -> dict[str, str]:
        """Return the state of each guest."""
        return {guest["name"]: guest["state"] for guest in self.json("status")["guests"]}

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return what the project's server, which must run, exposes of guests: by metric and guest."""
        address = Address(socket=self.root / "state" / "server.sock")
        with requests.Session() as session:
            session.mount("http://", PlainAdapter(address))
            answer = session.get("http://localhost/metrics", timeout=30)
        assert answer.status_code == HTTPStatus.OK, answer.text
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                if "guest" in sample.labels and sample.value is not None:
                    found.setdefault(sample.name, {})[sample.labels["guest"]] = sample.value
        return found

    def inside(self, guest: str, *argv: str, status: int = 0) -> str:
        """Return the output of a command in a guest."""
        return self.run("exec", guest, "--", *argv, status=status).stdout.strip()

    def state(self) -> Any:
        return json.loads((self.folder / "state.json").read_text())

    def address(self, guest: str) -> str:
        address: str = self.state()["testbed_guests"][guest]["interfaces"][0]["ip"]
        return address


def inventory(host: TestHost) -> dict[str, list[str]]:
    """Return everything that a testbed could leave on a host, from domains to files in /run."""

    def lines(*argv: str) -> list[str]:
        shown = re.sub(r"\.\d+\.ctl$", ".ctl", host.run(argv).stdout, flags=re.MULTILINE)  # by process
        return sorted(filter(None, shown.splitlines()))

    processes = [line for line in lines("ps", "-eo", "comm=") if line not in ("ps", "python3", "python")]
    return {
        "domains": lines("virsh", "-q", "-c", "qemu:///system", "list", "--all", "--name"),
        "networks": lines("virsh", "-q", "-c", "qemu:///system", "net-list", "--all", "--name"),
        "bridges": lines("ovs-vsctl", "list-br"),
        "interfaces": lines("ovs-vsctl", "--bare", "--columns=name", "list", "Interface"),
        "links": sorted(link["ifname"] for link in json.loads(host.run(["ip", "-json", "link"]).stdout)),
        "processes": processes,
        # a libvirtd that is killed leaves empty folders
        "run": lines(
            "find",
            "/run",
            "-not",
            "-type",
            "d",
            "-not",
            "-path",
            "/run/log*",
            # engines keep their state there, and Docker removes namespaces later
            "-not",
            "-path",
            f"{engines.STATE}*",
            "-not",
            "-path",
            "/run/docker/*",
            "-not",
            "-name",
            "*.lock",
            "-not",
            "-name",
            "motd.dynamic",  # PAM's, at the first login
        ),
        "projects": lines("find", "/var/lib/kvm-compose", "-mindepth", "1", "-maxdepth", "1"),
        # libvirt's own chains stay, empty, once there was a network
        "firewall": lines("sh", "-c", "nft list ruleset | grep -F prjbr || true"),
    }


def changes(before: dict[str, list[str]], after: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return what was added to a host (+) and removed from it (-)."""
    found = {}
    for kind, old in before.items():
        come = [f"+ {each}" for each in after[kind] if each not in old]
        gone = [f"- {each}" for each in old if each not in after[kind]]
        if come or gone:
            found[kind] = come + gone
    return found
