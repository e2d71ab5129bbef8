"""OVN's northbound database through ovsdbapp; what chassis have done through the southbound one."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvmcompose.core.northbound import Row
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovn import wire
from kvmcompose.providers.ovn.interface import FoundRows, LateError, RowChange, RowOwner
from kvmcompose.providers.ovn.rows import found_rows, late, operations, rows_of
from kvmcompose.providers.ovn.session import DatabaseSession, Tls

#: Where ovn-ctl(8) puts the sockets: Debian's, and those of an OVN that was built by hand.
_FOLDERS = ("/run/ovn", "/var/run/ovn", "/usr/local/var/run/ovn", "/run/openvswitch")
NORTHBOUND_SOCKET, SOUTHBOUND_SOCKET = "ovnnb_db.sock", "ovnsb_db.sock"
_PAUSE = 0.02
#: The tables of the southbound database that tell how far chassis are, and how they reach it.
_SOUTHBOUND = ("Chassis", "Chassis_Private", "Connection", "SB_Global", "SSL")


class OvnNorthbound:
    """See ``Northbound``. The remotes are empty for the OVN of this host, which is found by its sockets."""

    def __init__(self, northbound: str = "", southbound: str = "", tls: Tls | None = None) -> None:
        self._remote = _remote(northbound, NORTHBOUND_SOCKET)
        self._north = DatabaseSession("OVN's northbound database", "OVN_Northbound", self._remote, (), tls)
        self.south = DatabaseSession(
            "OVN's southbound database",
            "OVN_Southbound",
            _remote(southbound, SOUTHBOUND_SOCKET),
            _SOUTHBOUND,
            tls,
        )

    def is_there(self) -> bool:
        try:
            return bool(self._remote())
        except DriverError:
            return False

    async def check(self) -> None:
        await self._north.read(lambda _: None)
        await self.south.read(lambda _: None)

    async def observe(self, mark: RowOwner) -> FoundRows:
        return await self._north.read(lambda idl: found_rows(idl, mark))

    async def rows_of(self, projects: Collection[str]) -> Mapping[str, Sequence[Row]]:
        return await self._north.read(lambda idl: rows_of(idl, projects))

    async def change(self, change: RowChange) -> int:
        return await self._north.transact(lambda idl: operations(idl, change), _number)

    async def in_force(self, number: int, chassis: Mapping[str, str], seconds: float) -> None:
        end = time.monotonic() + seconds
        await self.compiled(number, seconds)
        await self.south.read(lambda _: None)
        while True:
            reached = await self.south.read(_reached, fresh=False)
            behind = {name for name in chassis if reached.get(name, -1) < number}
            if not behind:
                return
            if time.monotonic() > end:
                break
            await in_thread(time.sleep, _PAUSE)
        missing = {chassis[name] for name in behind if name not in reached}
        raise late(missing, {chassis[name] for name in behind} - missing, seconds)

    async def bound(self, ports: Collection[str]) -> set[str]:
        return await self._north.read(lambda idl: _bound(idl, ports))

    async def lagging(self, number: int, chassis: Collection[str]) -> Collection[str]:
        last = await self._north.read(_number)  # less, where the database was created again
        reached = await self.south.read(_reached)
        return {name for name in chassis if reached.get(name, -1) < min(number, last)}

    async def compiled(self, number: int, seconds: float) -> None:
        """Wait until ovn-northd has carried a change to the southbound database. Raises LateError."""
        end = time.monotonic() + seconds
        while await self._north.read(_compiled, fresh=False) < number:
            if time.monotonic() > end:
                raise LateError(
                    f"ovn-northd has not carried the change to the southbound database within {seconds:g} s",
                    hint="does it run? sudo systemctl status ovn-northd",
                )
            await in_thread(time.sleep, _PAUSE)

    async def close(self) -> None:
        await self._north.close()
        await self.south.close()


def _remote(given: str, socket: str) -> Callable[[], str]:
    return lambda: given or find_socket(socket)


def find_socket(name: str) -> str:
    """Return the address of a database of this host's OVN, by its socket. Raises DriverError."""
    for folder in _FOLDERS:
        path = f"{folder}/{name}"
        try:
            Path(path).stat()
        except PermissionError:
            pass
        except OSError:
            continue
        return f"unix:{path}"
    raise DriverError(
        f"OVN's central part does not run on this host: there is no {_FOLDERS[0]}/{name}",
        hint="sudo apt-get install --no-install-recommends ovn-central",
    )


def _global(idl: Any, table: str) -> Any:
    return next(iter(idl.tables[table].rows.values()), None)


def _number(idl: Any) -> int:
    row = _global(idl, "NB_Global")
    if row is None:
        raise DriverError("OVN's northbound database is not initialised", hint="sudo ovn-nbctl init")
    return int(row.nb_cfg)


def _compiled(idl: Any) -> int:
    row = _global(idl, "NB_Global")
    return int(row.sb_cfg) if row is not None else 0


def _bound(idl: Any, ports: Collection[str]) -> set[str]:
    rows = idl.tables["Logical_Switch_Port"].rows
    known = {each: rows.get(uuid.UUID(each)) for each in ports}
    return {each for each, row in known.items() if row is not None and True in wire.stored(row, "up")}


def _reached(idl: Any) -> dict[str, int]:
    return {row.name: int(row.nb_cfg) for row in idl.tables["Chassis_Private"].rows.values()}
