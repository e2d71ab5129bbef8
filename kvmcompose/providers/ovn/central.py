"""The southbound database of this host's OVN, opened to other hosts by TLS.

ovsdb-server listens as its database says (``SB_Global.connections`` and ``ssl``, ovn-sb(5)). So nothing of
kvm-compose has to run for hosts to be served, and a restart changes nothing. The role of the listener lets a
chassis write its own rows only.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kvmcompose.core.ovn_hosts import Identity
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.ovn.interface import FoundCentral
from kvmcompose.providers.ovn.keys import ends_soon, expiry, make_authority, make_identity
from kvmcompose.providers.ovn.session import DatabaseSession, Operation

PORT = 6642
_ROLE = "ovn-controller"
MARK_KEY, USER_KEY = "kvm-compose", "kvm-compose-user-"
EXPIRES_KEY = "kvm-compose-expires"
_IDS = "external_ids"
#: Stores what is on standard input as a file, whole or not at all, unless it exists.
_STORE = """\
umask 077
mkdir -p -- "$(dirname -- "$1")" && cat >"$1.new" && mv -n -- "$1.new" "$1" && rm -f -- "$1.new"
"""


class OvnCentral:
    """See ``Central`` in the interface. ``folder`` is where root has the keys."""

    def __init__(
        self, runner: CommandRunner, south: DatabaseSession, folder: str = "/var/lib/kvm-compose/.ovn"
    ) -> None:
        self._runner = runner
        self._south = south
        self._folder = folder

    async def observe(self) -> FoundCentral:
        return await self._south.read(_found)

    async def open(self, project: str, address: str) -> None:
        """See the interface."""
        found = await self.observe()
        if found.foreign:
            raise DriverError(
                f"OVN's southbound database {found.foreign}, which kvm-compose has not set",
                hint="to use it as it is: ovn_northbound and ovn_southbound in kvm-compose-config.json",
            )
        if address not in found.addresses and found.addresses and found.users - {project}:
            others = ", ".join(sorted(found.users - {project}))
            raise DriverError(
                f"OVN's southbound database is at {' '.join(found.addresses)} for {others}; this testbed has"
                f" the main host at {address}",
                hint="give the main host the same `ip` in both configs",
            )
        # noted before there are keys: a server that is killed leaves nothing that `down` misses
        await self._south.transact(lambda idl: _noted(idl, project, address), lambda _: None)
        expires = await self._server_identity()
        await self._south.transact(self._with_keys, lambda _: None)
        await self._south.transact(lambda idl: _dated(idl, expires), lambda _: None)

    async def identity(self, chassis: str) -> Identity:
        """See the interface."""
        authority = await self._authority()
        try:
            return make_identity(chassis, authority)
        except ValueError as error:
            raise DriverError(
                f"the keys in {self._folder}/authority are not usable: {error}",
                hint=f"take all testbeds down, then: sudo rm -r {self._folder}",
            ) from error

    async def forget(self, chassis: Collection[str]) -> None:
        where = [[["name", "==", name]] for name in sorted(chassis)]
        gone: list[Operation] = [
            {"op": "delete", "table": table, "where": each}
            for table in ("Chassis_Private", "Chassis")
            for each in where
        ]
        await self._south.transact(lambda _: gone, lambda _: None)

    async def close(self, project: str) -> None:
        """See the interface."""
        found = await self.observe()
        if found.users <= {project}:
            # the note is the last to go, as it is what `down` looks for after a server was killed
            await self._south.transact(_without_keys, lambda _: None)
            folders = [f"{self._folder}/{name}" for name in ("authority", "central")]
            await self._runner.run(["rm", "-rf", "--", *folders], privileged=True)
            argv = ["rmdir", "--ignore-fail-on-non-empty", "--", self._folder]
            await self._runner.run(argv, privileged=True, check=False)
            await self._south.transact(_closed, lambda _: None)
        else:
            await self._south.transact(lambda idl: _left(idl, project), lambda _: None)

    async def _authority(self) -> Identity:
        """Return the authority; made when it is needed first."""
        key, certificate = f"{self._folder}/authority/key.pem", f"{self._folder}/authority/certificate.pem"
        for _ in range(2):
            texts = [await self._read(path) for path in (key, certificate)]
            if texts[0] and texts[1]:
                return Identity(key=texts[0], certificate=texts[1], ca=texts[1])
            made = make_authority("kvm-compose OVN")
            if texts[0] or texts[1]:  # half of one is of no use
                await self._runner.run(["rm", "-f", "--", key, certificate], privileged=True)
            await self._store(key, made.key)
            await self._store(certificate, made.certificate)
        raise DriverError(f"cannot store keys in {self._folder}")

    async def _server_identity(self) -> str:
        """Make the keys of the database where it has none, or they end soon; return the day of their end.

        ovsdb-server reads files again that have changed. Chassis with a key of an earlier authority get
        another one from the next `up` of their testbeds.
        """
        paths = [f"{self._folder}/central/{name}.pem" for name in ("key", "certificate", "ca")]
        authority = await self._authority()
        if ends_soon(_expiry(authority.certificate)):
            await self._runner.run(["rm", "-rf", "--", f"{self._folder}/authority"], privileged=True)
            authority = await self._authority()
        there = await self._read(paths[1])
        if there and await self._read(paths[2]) == authority.certificate and not ends_soon(_expiry(there)):
            return _expiry(there)
        made = make_identity("ovn-central", authority)
        await self._runner.run(["rm", "-f", "--", *paths], privileged=True)
        for path, text in zip(paths, (made.key, made.certificate, made.ca), strict=True):
            await self._store(path, text)
        return made.expires

    async def _read(self, path: str) -> str:
        done = await self._runner.run(["cat", "--", path], privileged=True, check=False)
        return done.text if done.status == 0 else ""

    async def _store(self, path: str, text: str) -> None:
        argv = ["sh", "-c", _STORE, "sh", path]
        await self._runner.run(argv, stdin=text.encode(), privileged=True)

    def _with_keys(self, idl: Any) -> list[Operation]:
        """Return the operations that give the database its keys."""
        if any(_is_ours(row) for row in idl.tables["SSL"].rows.values()):
            return []
        keys = [f"{self._folder}/central/{name}.pem" for name in ("key", "certificate", "ca")]
        names = ("private_key", "certificate", "ca_cert")
        files = dict(zip(names, keys, strict=True)) | {_IDS: ["map", [[MARK_KEY, "yes"]]]}
        return [
            {"op": "insert", "table": "SSL", "uuid-name": "keys", "row": files},
            {"op": "update", "table": "SB_Global", "where": [], "row": {"ssl": ["named-uuid", "keys"]}},
        ]


def _noted(idl: Any, project: str, address: str) -> list[Operation]:
    """Return the operations that note the project at the listener, which without keys refuses all clients."""
    done: list[Operation] = []
    mark = ["map", [[MARK_KEY, "yes"], [f"{USER_KEY}{project}", "yes"]]]
    ours = [row for row in idl.tables["Connection"].rows.values() if _is_ours(row)]
    target = _target(address)
    if not ours:
        listener: Operation = {"target": target, "role": _ROLE, "inactivity_probe": 60000, _IDS: mark}
        done += [
            {"op": "insert", "table": "Connection", "uuid-name": "listener", "row": listener},
            _mutation("SB_Global", [], ["connections", "insert", ["named-uuid", "listener"]]),
        ]
    for row in ours:
        where = [["_uuid", "==", ["uuid", str(row.uuid)]]]
        if f"{USER_KEY}{project}" not in row.external_ids:
            done.append(_mutation("Connection", where, [_IDS, "insert", mark]))
        if row.target != target:
            done.append({"op": "update", "table": "Connection", "where": where, "row": {"target": target}})
    return done


def _expiry(certificate: str) -> str:
    """Return the day of a certificate's end; empty for a text that is no certificate, and so of no use."""
    try:
        return expiry(certificate)
    except ValueError:
        return ""


def _dated(idl: Any, expires: str) -> list[Operation]:
    """Return the operations that note at the listener when its keys end."""
    return [
        _mutation("Connection", [["_uuid", "==", ["uuid", str(row.uuid)]]], [_IDS, *change])
        for row in idl.tables["Connection"].rows.values()
        if _is_ours(row) and row.external_ids.get(EXPIRES_KEY) != expires
        for change in (
            ["delete", ["set", [EXPIRES_KEY]]],
            ["insert", ["map", [[EXPIRES_KEY, expires]]]],
        )
    ]


def _target(address: str) -> str:
    return f"pssl:{PORT}:[{address}]" if ":" in address else f"pssl:{PORT}:{address}"


def _mutation(table: str, where: list[Any], mutation: list[Any]) -> Operation:
    return {"op": "mutate", "table": table, "where": where, "mutations": [mutation]}


def _is_ours(row: Any) -> bool:
    return MARK_KEY in row.external_ids


def _found(idl: Any) -> FoundCentral:
    ours = [row for row in idl.tables["Connection"].rows.values() if _is_ours(row)]
    users = {
        key.removeprefix(USER_KEY) for row in ours for key in row.external_ids if key.startswith(USER_KEY)
    }
    others = [row for row in idl.tables["SSL"].rows.values() if not _is_ours(row)]
    open_ones = sorted(
        row.target
        for row in idl.tables["Connection"].rows.values()
        if not _is_ours(row) and is_open(row.target)
    )
    return FoundCentral(
        addresses=tuple(row.target.removeprefix(f"pssl:{PORT}:").strip("[]") for row in ours),
        users=frozenset(users),
        foreign="has TLS keys" if others else "",
        open_to_all=tuple(open_ones),
        has_keys=any(_is_ours(row) for row in idl.tables["SSL"].rows.values()),
        expires=next((row.external_ids.get(EXPIRES_KEY, "") for row in ours), ""),
    )


def is_open(target: str) -> bool:
    """Return whether a listener takes connections without keys from other machines (ovsdb(7))."""
    kind, _, rest = target.partition(":")
    _, _, address = rest.partition(":")
    return kind == "ptcp" and address.strip("[]") not in ("127.0.0.1", "::1", "localhost")


def _closed(idl: Any) -> list[Operation]:
    """Return the operations that take away the listener of kvm-compose, and the notes with it."""
    return [
        _mutation("SB_Global", [], ["connections", "delete", ["uuid", str(row.uuid)]])
        for row in idl.tables["Connection"].rows.values()
        if _is_ours(row)
    ]


def _without_keys(idl: Any) -> list[Operation]:
    """Return the operations that take away the keys of kvm-compose."""
    if not any(_is_ours(row) for row in idl.tables["SSL"].rows.values()):
        return []
    return [{"op": "update", "table": "SB_Global", "where": [], "row": {"ssl": ["set", []]}}]


def _left(idl: Any, project: str) -> list[Operation]:
    """Return the operations that forget a project."""
    return [
        _mutation("Connection", [["_uuid", "==", ["uuid", str(row.uuid)]]], [
            _IDS, "delete", ["set", [f"{USER_KEY}{project}"]],
        ])
        for row in idl.tables["Connection"].rows.values()
        if _is_ours(row)
    ]  # fmt: skip
