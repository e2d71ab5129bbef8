"""The specification of a run of test hosts, which the test process passes to the root processes as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

WIRE_PREFIX = 24
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Spec:
    """A run of test hosts: the folder of its files, their owner, and the hosts."""

    directory: str
    owner: tuple[int, int]
    count: int
    authorized_key: str | None = None
    tunnels: bool = False
    ovn: bool = False
    engines: tuple[str, ...] = ()
    stay: bool = False

    @staticmethod
    def read(text: str) -> Spec:
        fields = json.loads(text)
        return Spec(**{**fields, "owner": tuple(fields["owner"]), "engines": tuple(fields["engines"])})

    def write(self) -> str:
        return json.dumps(asdict(self))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"h{number}" for number in range(1, self.count + 1))

    def folder(self, name: str) -> Path:
        """Return the host's folder, the same inside and outside: it contains sockets and logs."""
        return Path(self.directory) / name

    def address(self, name: str) -> str:
        """Return the host's address on the wire, from a block that RFC 5737 reserves for documentation."""
        return f"192.0.2.{10 + int(name[1:])}"

    @property
    def lock(self) -> Path:
        """The lock that the launcher holds while any process of the run is alive."""
        return Path(self.directory) / "lock"

    @property
    def note(self) -> Path:
        """The file with this specification, for `python -m hosts exec`. Removing it ends the run."""
        return Path(self.directory) / "hosts.json"
