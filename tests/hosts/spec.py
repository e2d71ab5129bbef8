"""What the test process tells the root processes: one JSON argument, the same for all of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

WIRE_PREFIX = 24
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Spec:
    """A run of test hosts: where its files lie, who owns them, which hosts there are."""

    directory: str
    owner: tuple[int, int]
    count: int
    authorized_key: str | None = None
    tunnels: bool = False
    stay: bool = False

    @staticmethod
    def read(text: str) -> Spec:
        fields = json.loads(text)
        return Spec(**{**fields, "owner": tuple(fields["owner"])})

    def write(self) -> str:
        return json.dumps(asdict(self))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"h{number}" for number in range(1, self.count + 1))

    def folder(self, name: str) -> Path:
        """The host's folder, seen alike from inside and outside: sockets and logs."""
        return Path(self.directory) / name

    def address(self, name: str) -> str:
        """The host's address on the wire, from the block RFC 5737 keeps for documentation."""
        return f"192.0.2.{10 + int(name[1:])}"

    @property
    def lock(self) -> Path:
        """Held by the launcher as long as anything of the run is alive."""
        return Path(self.directory) / "lock"

    @property
    def note(self) -> Path:
        """The spec itself, for `python -m hosts exec`; a run that stays ends when it is removed."""
        return Path(self.directory) / "hosts.json"
