"""Testbeds of OVN on real hosts, judged by packets that guests send."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from kvm import Project, changes, inventory
from test_several_hosts import config

from hosts import TestHost, TestHosts

#: The most that fits into a packet of a guest: 1442 bytes without the headers of IPv4 and ICMP.
MOST = 1414


class LogicalLab:
    """A testbed on the first hosts of a run. Its guests are entered by management ports."""

    def __init__(self, hosts: TestHosts, count: int, root: Path, name: str, yaml: str) -> None:
        self.all_hosts, self.hosts = hosts, list(hosts)[:count]
        self.before = [inventory(host) for host in self.hosts]
        settings = json.dumps(config(self.hosts, hosts.directory / "id_ed25519"))
        files = {"kvm-compose.yaml": yaml, "kvm-compose-config.json": settings}
        self.project = Project(hosts[0], root, name, files)
        for each in ("key", "key.pub"):
            shutil.copy(root / each, self.project.folder / each)
        for each in ("micro.qcow2", "disk.qcow2"):
            (self.project.folder / each).symlink_to((root / "micro.qcow2").resolve())

    @property
    def guests(self) -> list[str]:
        """The guests that run, without golden images."""
        found = self.project.state()["testbed_guests"]
        return [name for name, guest in found.items() if not guest["is_golden_image"]]

    def reaches(self, guest: str, yes: Collection[str], no: Collection[str] = (), *options: str) -> None:
        """Require which targets (addresses, or names of guests) answer a guest's pings, and which do not.

        Packets are lost on a busy machine: a target that must answer may do so at the fifth ping.
        """
        names = {self.address(each): each for each in (*yes, *no)}
        ping = " ".join(("ping", "-W2", "-s", str(MOST), *options))
        script = "".join(
            f"(for _ in 1 2 3 4 5; do {ping} -c1 {each} >/dev/null 2>&1 && echo {each} && break; done) &\n"
            for each in map(self.address, yes)
        )
        script += "".join(
            f"({ping} -c2 {each} >/dev/null 2>&1 && echo {each}) &\n" for each in map(self.address, no)
        )
        found = {names[each] for each in self.project.inside(guest, "sh", "-c", f"{script}wait").split()}
        assert found == set(yes), f"{guest} reaches {sorted(found)} instead of {sorted(yes)}"

    def address(self, target: str) -> str:
        """Return the IPv4 address of a guest's first interface; any other target as it is."""
        guest = self.project.state()["testbed_guests"].get(target)
        if guest is None:
            return target
        nic = guest["interfaces"][0]
        return str(nic["leases"][0] if nic["ip"] == "dynamic" else nic["ip"])

    def resolves(self, guest: str, name: str) -> bool:
        """Return whether a guest finds the IPv4 address of another one by a name of it.

        Not by `ping`: OVN 23.03 does not answer for the IPv6 address of a guest that has none.
        """
        said = self.project.inside(guest, "sh", "-c", f"nslookup -type=a {name} 2>&1 || true")
        return f"Address: {self.address(name.partition('.')[0])}" in said

    def processes(self) -> dict[str, str]:
        """Return the process of each guest, with its host: another one once it was off."""
        found = {}
        word = f"guest={self.project.name}-"
        for host in self.hosts:
            for line in host.run(["pgrep", "-a", "-f", word], check=False).stdout.splitlines():
                found[line.split(word)[1].split(",")[0]] = f"{host.name} {line.split()[0]}"
        return found

    def differences(self) -> list[str]:
        found: list[str] = self.project.json("status")["differences"]
        return found

    def down(self) -> None:
        """Take it down, and require that nothing of it is left on any host."""
        self.project.run("down", "--purge", "--timeout", "0")
        assert_nothing_left(self.hosts, self.before)


def assert_nothing_left(hosts: Sequence[TestHost], before: Sequence[dict[str, list[str]]]) -> None:
    """Require that no host and no database shows a testbed: ports, rules, keys, namespaces, rows."""
    for host, there in zip(hosts, before, strict=True):
        now = inventory(host)
        # what an earlier test has started may have ended since
        there["processes"] = [each for each in there["processes"] if each in now["processes"]]
        left = changes(there, now)
        # on another host than the first one a folder stays
        expected = {"projects"} if host is not hosts[0] else set()
        assert left.keys() <= expected, (host.name, left)
        assert ".ovn" not in host.run(["ls", "-A", "/var/lib/kvm-compose"]).stdout
        keys = host.run(["ovs-vsctl", "get", "open", ".", "external_ids"]).stdout
        assert not re.search(r"ovn-(remote|encap|bridge=|bridge-mappings)|kvm-compose", keys), keys
        assert host.run(["sh", "-c", "ls /run/netns 2>/dev/null || true"]).stdout == ""
        assert "kvm-compose" not in host.run(["nft", "list", "tables"]).stdout
    for words in (["ovn-nbctl", "show"], ["ovn-sbctl", "show"], ["ovn-sbctl", "get-connection"]):
        assert hosts[0].run(words).stdout == ""
    for table in ("DHCP_Options", "DNS", "NAT", "ACL", "Logical_Router_Static_Route", "Gateway_Chassis"):
        assert hosts[0].run(["ovn-nbctl", "--bare", "--columns=_uuid", "list", table]).stdout == ""
