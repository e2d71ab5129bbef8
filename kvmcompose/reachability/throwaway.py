"""A throw-away OVN: both databases and northd in a temporary folder, without root and without hosts.

Nothing of it outlives this process, however it ends. All daemons work in the folder, and a shell waits for
the end of a pipe that only this process holds: then it kills what works in the folder and removes it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from kvmcompose.core.errors import KvmComposeError, RefusedError
from kvmcompose.core.northbound import Row, RowRef
from kvmcompose.effects.process import Coprocess, find_program, run
from kvmcompose.reachability.jsonrpc import JsonRpc
from kvmcompose.reachability.rows import compiled, insertion, is_compiled, selection

#: What the start of one daemon, and one question, may take.
_SECONDS = 30.0
#: What northd may take: on the machine of the benchmarks 10,000 ports take 3 s.
_COMPILE_SECONDS = 300.0
#: How often it is asked meanwhile whether it can work at all.
_STEP_SECONDS = 1.0
_SCHEMA_FOLDERS = ("/usr/share/ovn", "/usr/local/share/ovn")
#: ovn-trace shortens names that are UUIDs, as those of guests' ports are.
_WHOLE_NAMES = "--no-friendly-names"
_PROGRAMS = ("ovsdb-tool", "ovsdb-server", "ovn-northd", "ovn-trace")
#: ovn-trace takes the states of connections as options, one for each lookup of all questions together.
_LOOKUPS = 10_000
#: Where Debian has daemons, which is not in every user's PATH.
_DAEMON_FOLDERS = "/usr/sbin:/usr/local/sbin"
_UNPARSED = re.compile(r"\|ovntrace\|WARN\|(.*): parsing expression failed \((.*)\)$", re.MULTILINE)
#: $1 is the folder. Two passes, as a daemon may be starting another process.
_GUARD = """
cat >/dev/null
for pass in 1 2; do
    for process in /proc/[0-9]*; do
        if [ "$process/cwd" -ef "$1" ]; then kill -KILL "${process#/proc/}"; fi
    done
done
rm -rf -- "$1"
"""


class Neighbour(msgspec.Struct, frozen=True):
    """A MAC address that a router has learnt, at one of its ports."""

    router_port: str
    address: str
    mac: str


class Tracer:
    """An ``ovn-trace`` daemon that answers with one state of connections."""

    def __init__(self, throwaway: Throwaway, state: str) -> None:
        self._throwaway = throwaway
        self._state = state
        self._generation = 0
        self._left = 0
        self._connection: JsonRpc | None = None

    def trace(self, datapath: str, microflow: str) -> str:
        """Return the trace of a packet, detailed and minimal. Raises KvmComposeError."""
        if self._connection is None or self._left < _LOOKUPS // 2:
            self._start()
        assert self._connection is not None  # noqa: S101 (it was started)
        text = str(self._connection.call("trace", "--detailed", "--minimal", datapath, microflow))
        # it has used one state for each lookup, and would take another state when none is left
        self._left -= text.count("ct_next(ct_state=")
        return text

    def log(self) -> str:
        """Return what it has logged when it read the logical flows."""
        if self._connection is None:
            self._start()
        return (self._throwaway.folder / f"{self._name}.log").read_text(errors="replace")

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _start(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._throwaway.stop(self._name)
        self._generation += 1
        self._throwaway.daemon(
            "ovn-trace",
            self._name,
            f"--db=unix:{self._throwaway.folder}/db.sock",
            _WHOLE_NAMES,
            *(f"--ct={self._state}" for _ in range(_LOOKUPS)),
        )
        self._connection = JsonRpc(self._throwaway.folder / f"{self._name}.ctl", _SECONDS)
        self._left = _LOOKUPS

    @property
    def _name(self) -> str:
        return f"trace-{self._state.replace(',', '-')}-{self._generation}"


class Throwaway:
    """The databases with the rows in them, compiled."""

    def __init__(self, folder: Path, rows: Sequence[Row], neighbours: Sequence[Neighbour]) -> None:
        """Start it; ``folder`` is empty and private. Raises KvmComposeError."""
        self.folder = folder
        #: The beginning of each row's UUID, as traces and hints have it.
        self.refs: dict[str, RowRef] = {}
        self._tracers: dict[str, Tracer] = {}
        for name in ("nb", "sb"):
            self._run("ovsdb-tool", "create", f"{name}.db", _schema(name))
        self.daemon("ovsdb-server", "db", "--remote=punix:db.sock", "nb.db", "sb.db")
        self._database = JsonRpc(folder / "db.sock", _COMPILE_SECONDS + _SECONDS)
        self._insert(rows)
        remote = f"unix:{folder}/db.sock"
        self.daemon("ovn-northd", "northd", f"--ovnnb-db={remote}", f"--ovnsb-db={remote}")
        self._compile()
        self._learn(neighbours)

    def tracer(self, state: str) -> Tracer:
        """Return the daemon that traces packets of connections in this state: ``new`` or ``est,rpl``."""
        return self._tracers.setdefault(state, Tracer(self, state))

    def trace_once(self, datapath: str, microflow: str, states: Sequence[str]) -> str:
        """Return the trace of one packet, with the state of each lookup. It takes a tenth of a second."""
        return self._run(
            "ovn-trace",
            f"--db=unix:{self.folder}/db.sock",
            _WHOLE_NAMES,
            "--detailed",
            "--minimal",
            *(f"--ct={state}" for state in states),
            datapath,
            microflow,
        )

    def select(self, database: str, table: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Return columns of all rows of a table, as OVSDB encodes them."""
        found = self._transact(selection(database, table, columns), f"cannot read {table}")
        rows: list[dict[str, Any]] = found[0]["rows"]
        return rows

    def hints(self) -> dict[str, RowRef]:
        """Return the rows that logical flows were made from, by the beginning of the flows' UUIDs."""
        found = {}
        for flow in self.select("OVN_Southbound", "Logical_Flow", ("_uuid", "external_ids")):
            hint = dict(flow["external_ids"][1]).get("stage-hint")
            if hint in self.refs:
                found[flow["_uuid"][1][:8]] = self.refs[hint]
        return found

    def datapaths(self) -> dict[str, str]:
        """Return the names of switches and routers by the UUIDs that traces have: those of their rows."""
        found = {}
        for each in self.select("OVN_Southbound", "Datapath_Binding", ("external_ids",)):
            ids = dict(each["external_ids"][1])
            found[ids.get("logical-switch") or ids.get("logical-router", "")] = ids.get("name", "")
        return found

    def unparsed(self) -> list[tuple[str, str]]:
        """Return the matches of logical flows that OVN cannot parse, each with its complaint."""
        return _UNPARSED.findall(self.tracer("new").log())

    def _insert(self, rows: Sequence[Row]) -> None:
        found = self._transact(insertion(rows), "OVN does not accept the network")
        for row, result in zip(rows, found[1:], strict=False):
            self.refs[result["uuid"][1][:8]] = row.ref

    def _learn(self, neighbours: Sequence[Neighbour]) -> None:
        """Add MAC addresses to the southbound database: ovn-trace ignores those of the northbound one."""
        if not neighbours:
            return
        ports = self.select("OVN_Southbound", "Port_Binding", ("logical_port", "datapath"))
        datapaths = {port["logical_port"]: port["datapath"] for port in ports}
        inserts = [
            {
                "op": "insert",
                "table": "MAC_Binding",
                "row": {
                    "logical_port": each.router_port,
                    "ip": each.address,
                    "mac": each.mac,
                    "datapath": datapaths[each.router_port],
                },
            }
            for each in neighbours
        ]
        self._transact(["OVN_Southbound", *inserts], "OVN does not accept a neighbour")

    def _compile(self) -> None:
        """Wait until northd has compiled the rows. It tries for ever what the databases refuse."""
        end = time.monotonic() + _COMPILE_SECONDS
        with JsonRpc(self.folder / "northd.ctl", _COMPILE_SECONDS) as northd:
            while not is_compiled(self._database.call("transact", *compiled(_STEP_SECONDS))):
                if int(northd.call("coverage/read-counter", "txn_error")):
                    raise KvmComposeError(
                        f"ovn-northd cannot write to the databases in {self.folder.parent}",
                        hint=f"{shutil.disk_usage(self.folder).free >> 10} KiB are free there; "
                        "TMPDIR=/another/folder uses another one",
                    )
                if time.monotonic() > end:
                    raise KvmComposeError(
                        f"ovn-northd did not compile the network within {_COMPILE_SECONDS:g} s"
                    )

    def _transact(self, parameters: Sequence[Any], what: str) -> list[Any]:
        results: list[Any] = self._database.call("transact", *parameters)
        for result in results:
            if result is not None and "error" in result:
                raise KvmComposeError(f"{what}: {result['error']}: {result.get('details', '')}")
        return results

    def daemon(self, program: str, name: str, *arguments: str) -> None:
        """Start a daemon; it is ready when this returns. Raises KvmComposeError."""
        self._run(
            program,
            "--detach",
            "--no-chdir",
            f"--pidfile={self.folder}/{name}.pid",
            f"--unixctl={self.folder}/{name}.ctl",
            f"--log-file={self.folder}/{name}.log",
            *("-vconsole:emer", "-vsyslog:off", "-vfile:warn"),
            *arguments,
        )

    def stop(self, name: str) -> None:
        """Stop a daemon."""
        with JsonRpc(self.folder / f"{name}.ctl", _SECONDS) as connection:
            connection.call("exit")

    def _run(self, *argv: str) -> str:
        program = find_daemon(argv[0])
        return run(
            [program, *argv[1:]], cwd=self.folder, env=_surroundings(self.folder), timeout=_SECONDS
        ).stdout.decode(errors="replace")

    def close(self) -> None:
        """Close the connections."""
        self._database.close()
        for tracer in self._tracers.values():
            tracer.close()


@contextmanager
def throwaway(rows: Sequence[Row], neighbours: Sequence[Neighbour] = ()) -> Iterator[Throwaway]:
    """Run a throw-away OVN with these rows. Raises RefusedError when OVN is not installed."""
    for name in _PROGRAMS:
        find_daemon(name)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="kvm-compose-ovn-")).resolve()
        guard = Coprocess(["/bin/sh", "-c", _GUARD, "guard", str(folder)], cwd="/")
        stack.callback(guard.finish, _SECONDS)
        found = Throwaway(folder, rows, neighbours)
        stack.callback(found.close)
        yield found


def find_daemon(name: str) -> str:
    """Return the path of a program. Raises RefusedError, with the package that has it."""
    return shutil.which(name, path=_DAEMON_FOLDERS) or find_program(name)


def _schema(name: str) -> str:
    file = f"ovn-{name}.ovsschema"
    found = (folder / file for folder in map(Path, _SCHEMA_FOLDERS) if (folder / file).is_file())
    path = next(found, None)
    if path is None:
        raise RefusedError(f"{file} of OVN is not installed", hint="sudo apt-get install ovn-central")
    return str(path)


def _surroundings(folder: Path) -> Mapping[str, str]:
    """Return the folders that programs of Open vSwitch and OVN would otherwise share with others."""
    return {f"{each}_{what}DIR": str(folder) for each in ("OVS", "OVN") for what in ("RUN", "LOG", "DB")}
