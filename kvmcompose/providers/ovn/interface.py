"""OVN, as projects use it: rows of the northbound database, and how far hosts are with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from kvmcompose.core.northbound import Row, RowRef
from kvmcompose.core.ovn_hosts import Identity
from kvmcompose.hosts.errors import DriverError

#: The keys in ``external_ids`` of every row: its project, the main host that it belongs to, its name.
PROJECT_KEY = "kvm-compose-project"
OWNER_KEY = "kvm-compose-owner"
ROW_KEY = "kvm-compose-row"
MARKS = frozenset({PROJECT_KEY, OWNER_KEY, ROW_KEY})

#: What ovn-northd writes itself (ovn-nb(5)), by table.
NORTHDS = {
    "Logical_Switch_Port": frozenset({"up", "dynamic_addresses"}),
    "Logical_Router_Port": frozenset({"status"}),
}


class LateError(DriverError):
    """A change is in the database, and has not been carried out by all that have to."""


class RowOwner(msgspec.Struct, frozen=True):
    """Whose rows are: a project of this name may also be another main host's (``owner``)."""

    project: str
    owner: str


class FoundRows(msgspec.Struct, frozen=True):
    """The rows of a project, by reference. ``foreign`` are the owners of others with the project's name.

    Columns that ovn-northd writes, and the marks, are left out.
    """

    rows: Mapping[RowRef, Row]
    foreign: frozenset[str] = frozenset()


class RowChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change to a project's rows; those that are not named stay.

    Rows in ``put`` are inserted or, where they exist, become the same in all columns and their parent.
    """

    mark: RowOwner
    put: tuple[Row, ...] = ()
    removed: tuple[RowRef, ...] = ()


class Northbound(Protocol):
    """The northbound database of an OVN (ovn-nb(5))."""

    def is_there(self) -> bool:
        """Return whether there is a database, which may not answer."""

    async def check(self) -> None:
        """Raise DriverError when the database does not answer."""

    async def observe(self, mark: RowOwner) -> FoundRows:
        """Return all rows of a project, in one pass, whatever their number."""

    async def rows_of(self, projects: Collection[str]) -> Mapping[str, Sequence[Row]]:
        """Return the rows of projects of any owner."""

    async def change(self, change: RowChange) -> int:
        """Carry out a change in one transaction. Return its number (``NB_Global.nb_cfg``).

        Raises DriverError, and changes nothing, for a row of another owner, for a parent that does not exist,
        and for values that the database refuses.
        """

    async def in_force(self, number: int, chassis: Mapping[str, str], seconds: float) -> None:
        """Wait until these chassis have carried out a change; each with the name of its host.

        Raises DriverError, with the hosts, when some have not within ``seconds``, or are not there.
        """

    async def bound(self, ports: Collection[str]) -> set[str]:
        """Return those of these logical ports that are in force on a chassis (``up``); by their UUIDs."""

    async def lagging(self, number: int, chassis: Collection[str]) -> Collection[str]:
        """Return those of these chassis that have not carried out a change."""

    async def close(self) -> None:
        """Close the connections."""


class FoundCentral(msgspec.Struct, frozen=True, kw_only=True):
    """How the southbound database is open to other hosts.

    ``addresses`` are those where kvm-compose has it listen, ``users`` the projects that need that.
    ``foreign`` is what keeps kvm-compose from opening it, ``open_to_all`` are listeners without keys.
    ``expires`` is the day on which the keys end, empty where that is not known.
    """

    addresses: tuple[str, ...] = ()
    users: frozenset[str] = frozenset()
    foreign: str = ""
    open_to_all: tuple[str, ...] = ()
    has_keys: bool = False
    expires: str = ""


class Southbound(Protocol):
    """The southbound database of the main host's OVN, as other hosts reach it."""

    async def observe(self) -> FoundCentral:
        """Return how it is open."""

    async def open(self, project: str, address: str) -> None:
        """Let it listen at an address of this host, by TLS, for a project; with new keys where they end soon.

        Raises DriverError.
        """

    async def forget(self, chassis: Collection[str]) -> None:
        """Remove the rows of chassis that have left: the other hosts have tunnels to them."""

    async def identity(self, chassis: str) -> Identity:
        """Return a new TLS identity for a chassis, which may write the rows of that one only."""

    async def close(self, project: str) -> None:
        """Forget a project. With the last one, close it again and remove all keys from this host."""
