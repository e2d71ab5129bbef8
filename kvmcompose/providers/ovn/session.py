"""A connection to a database of OVN, kept open: an ``ovs.db.idl.Idl``, in a thread of ovsdbapp.

The replica that it keeps is read and changed under its lock, in threads. Traps of these libraries that are
avoided here and in ``wire``: an API class of ovsdbapp has one connection for the whole process; without
``check_error`` a refused transaction raises nothing; select(); a slow parser.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from ovs.stream import Stream
from ovsdbapp.backend.ovs_idl import connection, idlutils, transaction
from ovsdbapp.exceptions import TimeoutException

from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovn import wire

_T = TypeVar("_T")
#: An operation of RFC 7047, section 5.2.
Operation = dict[str, Any]

#: How long a database may take to answer, in seconds.
SECONDS = 20.0
#: How much longer a thread may take before it is abandoned, in seconds.
_HANGING = 120.0
#: How many operations of a transaction add a second to its time limit.
_OPERATIONS = 200


wire.install()


class Tls(msgspec.Struct, frozen=True):
    """The files of a TLS identity. A process has one: the library keeps it in its class."""

    key: Path
    certificate: Path
    ca: Path


class _Operations:
    """A command of ovsdbapp: operations as they go over the wire, without a row object for each."""

    result = None

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = operations

    def run_idl(self, txn: Any) -> None:
        for each in self._operations:
            txn.add_op(each)

    def post_commit(self, txn: Any) -> None:
        """Nothing to do: the replica has the changes."""


class _Api(msgspec.Struct):
    """What a transaction of ovsdbapp needs of its API."""

    idl: Any


class DatabaseSession:
    """A connection to one database. ``remote`` finds its address, in the syntax of ovsdb(7).

    ``what`` is what the database is called in messages. Only ``tables`` are replicated, if given.
    """

    def __init__(
        self,
        what: str,
        schema: str,
        remote: Callable[[], str],
        tables: Collection[str] = (),
        tls: Tls | None = None,
    ) -> None:
        self._what = what
        self._schema = schema
        self._remote = remote
        self._tables = tuple(tables)
        self._tls = tls
        self._guard = threading.Lock()
        self._connection: Any = None

    async def read(self, work: Callable[[Any], _T], *, fresh: bool = True) -> _T:
        """Return what ``work`` finds in the replica (an ``Idl``); ``fresh``: with all that was done before.

        Raises DriverError when the database does not answer.
        """
        return await self._in_time(lambda: self._read(work, fresh=fresh))

    async def transact(
        self, plan: Callable[[Any], Sequence[Operation]], after: Callable[[Any], _T], seconds: float = SECONDS
    ) -> _T:
        """Carry out the operations that ``plan`` derives from the replica in one transaction.

        Returns what ``after`` finds in the replica then. Raises DriverError.
        """
        return await self._in_time(lambda: self._transact(plan, after, seconds), seconds)

    async def close(self) -> None:
        """Close the connection; it is opened again when it is needed."""
        with self._guard:
            opened, self._connection = self._connection, None
        if opened is not None:
            await in_thread(opened.stop, 1)

    # -- in threads

    def _read(self, work: Callable[[Any], _T], *, fresh: bool) -> _T:
        opened = self._open()
        if fresh:  # the answer comes after the updates of all that was committed before
            nothing: Operation = {"op": "select", "table": self._root, "where": [], "columns": []}
            self._commit(opened, [nothing], SECONDS)
        with opened.lock:
            return work(opened.idl)

    def _transact(
        self, plan: Callable[[Any], Sequence[Operation]], after: Callable[[Any], _T], seconds: float
    ) -> _T:
        opened = self._open()
        with opened.lock:
            operations = plan(opened.idl)
        if operations:
            self._commit(opened, operations, seconds + len(operations) / _OPERATIONS)
        with opened.lock:
            return after(opened.idl)

    @property
    def _root(self) -> str:
        return "NB_Global" if self._schema == "OVN_Northbound" else "SB_Global"

    def _commit(self, opened: Any, operations: Sequence[Operation], seconds: float) -> None:
        work = transaction.Transaction(
            _Api(opened.idl), opened, timeout=seconds, check_error=True, log_errors=False
        )
        work.add(_Operations(operations))
        try:
            work.commit()
        except TimeoutException as error:
            raise self._silent(f"no answer within {seconds:g} s") from error
        except RuntimeError as error:
            raise DriverError(f"{self._what} refuses the change: {_reason(str(error))}") from error

    def _open(self) -> Any:
        with self._guard:
            if self._connection is None:
                self._connection = self._connect()
            elif not wire.is_connected(self._connection.idl):
                self._answering(self._remote())  # otherwise each call would wait for its time limit
            return self._connection

    def _connect(self) -> Any:
        remote = self._remote()
        self._use_keys(remote)
        member = self._answering(remote)
        try:
            helper = idlutils.get_schema_helper(member, self._schema)
            idl = connection.OvsdbIdl.from_server(
                remote, self._schema, helper=helper, helper_tables=self._tables, leader_only=False
            )
            opened = connection.Connection(idl, SECONDS)
            opened.start()
        except Exception as error:  # the libraries raise Exception itself
            raise self._silent(str(error) or "no answer") from error
        return opened

    def _use_keys(self, remote: str) -> None:
        if "ssl:" not in remote:
            return
        if self._tls is None:
            raise DriverError(
                f"{self._what} at {remote} needs keys",
                hint="name them in kvm-compose-config.json: ovn_private_key, ovn_certificate, "
                "ovn_ca_certificate",
            )
        Stream.ssl_set_private_key_file(str(self._tls.key))
        Stream.ssl_set_certificate_file(str(self._tls.certificate))
        Stream.ssl_set_ca_cert_file(str(self._tls.ca))

    def _answering(self, remote: str) -> str:
        """Return a member that answers. Raises DriverError when none does, with the reason of the last."""
        why, permission = "no member", False
        for member in (each.strip() for each in remote.split(",")):
            try:
                number, stream = Stream.open_block(Stream.open(member), int(SECONDS * 1000))
            except (OSError, ValueError) as error:  # keys that cannot be read
                raise self._silent(str(error)) from error
            if not number:
                stream.close()
                return member
            # the numbers of TLS are no errno
            reason = "no TLS connection" if member.startswith("ssl:") else os.strerror(number)
            why, permission = f"{reason} ({member})", number in (errno.EPERM, errno.EACCES)
        raise self._silent(why, permission=permission and "unix:" in remote)

    def _silent(self, why: str, *, permission: bool = False) -> DriverError:
        hint = "does it run? sudo systemctl status ovn-central"
        if permission:
            hint = "its socket is root's: run the server as root"
        return DriverError(f"{self._what} does not answer: {why}", hint=hint)

    async def _in_time(self, work: Callable[[], _T], seconds: float = SECONDS) -> _T:
        """Run work in a thread. One that hangs for longer than all its own limits is abandoned."""
        limit = _HANGING + seconds
        try:
            async with asyncio.timeout(limit):
                return await in_thread(work)
        except TimeoutError as error:
            raise self._silent(f"no answer within {limit:g} s") from error


def _reason(text: str) -> str:
    """Return what ovsdb-server says: ``OVSDB Error: {"details": …, "error": …}``."""
    _, _, found = text.partition("OVSDB Error: ")
    try:
        answer = msgspec.json.decode(found)
        return f"{answer['error']}: {answer['details']}"
    except (msgspec.DecodeError, KeyError, TypeError):
        return found or text
