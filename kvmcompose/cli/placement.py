"""``kvm-compose placement``: shows where guests and the network are placed, and compares strategies."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvmcompose.cli._project import find_project, open_project
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from kvmcompose.core.model import LogicalTestbed, PlacedTestbed, Placement

NAME = "placement"
HELP = "show on which host each bridge, gateway and guest is placed, and why"
EXAMPLE = """\
examples:
  kvm-compose placement
  kvm-compose placement --explain       how the strategy chooses, and the load of the hosts
  kvm-compose placement --compare       the result of each strategy, and of the last build
  kvm-compose placement --compare --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    more = parser.add_mutually_exclusive_group()
    more.add_argument(
        "--explain", action="store_true", help="also show how the strategy chooses, and the load of each host"
    )
    more.add_argument(
        "--compare",
        action="store_true",
        help="compare all strategies: hosts, tunnels, loads, guests moved since the last build",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the placement."""
    if arguments.compare:
        return _compare(arguments, console)
    placed = open_project(arguments, console).compiled.placed
    logical, placement = placed.logical, placed.placement
    tunnels = _tunnels(logical, placement)
    kinds = (("bridge", placement.segments), ("guest", placement.guests))
    gateways = _gateways(placed)
    if arguments.json:
        rows = {
            kind: {name: {"host": host, "reason": placement.reasons[name]} for name, host in hosts.items()}
            for kind, hosts in kinds
        }
        everywhere = {"switches": _switches(logical, placement), "gateways": gateways}
        console.json(
            {"strategy": logical.strategy, "bridges": rows["bridge"], "guests": rows["guest"],
             "tunnels": tunnels}
            | (everywhere if logical.topology.everywhere else {})
            | (_explained(logical, placement) if arguments.explain else {})
        )  # fmt: skip
        return 0
    if arguments.explain:
        _explain(logical, placement, console)
    table = [["gateway", port, host, "its gateway chassis"] for port, host in gateways.items()]
    table += [
        [kind, name, host, placement.reasons[name]] for kind, hosts in kinds for name, host in hosts.items()
    ]
    console.table(table, ["KIND", "NAME", "HOST", "REASON"])
    used = len(set(placement.segments.values()) | set(placement.guests.values()))
    console.say(
        f"{logical.strategy}: {used} of {len(logical.hosts)} hosts used, {_crossing(logical, placement)}"
    )
    return 0


def _crossing(logical: LogicalTestbed, placement: Placement) -> str:
    """Return what of the network crosses from host to host."""
    if not logical.topology.everywhere:
        links = len(logical.topology.links)
        return f"{len(_tunnels(logical, placement))} of {links} bridge connections need a tunnel"
    hosts = _switches(logical, placement).values()
    return f"{sum(len(each) > 1 for each in hosts)} of {len(hosts)} switches have guests on several hosts"


def _switches(logical: LogicalTestbed, placement: Placement) -> dict[str, list[str]]:
    """Return the hosts of the guests on each switch, in the order of the config."""
    on: dict[str, set[str]] = {each.name: set() for each in logical.topology.segments}
    for guest in logical.guests:
        for attachment in guest.attachments:
            on[attachment.segment].add(placement.guests[guest.name])
    return {name: [host.name for host in logical.hosts if host.name in used] for name, used in on.items()}


def _gateways(placed: PlacedTestbed) -> dict[str, str]:
    """Return the host of each port of a router that carries its traffic to other networks."""
    from kvmcompose.networks import gateways

    return gateways(placed.logical)


def _tunnels(logical: LogicalTestbed, placement: Placement) -> list[list[str]]:
    return [
        [link.source, link.target]
        for link in logical.topology.links
        if placement.segments[link.source] != placement.segments[link.target]
    ]


def _explained(logical: LogicalTestbed, placement: Placement) -> dict[str, Any]:
    """Return how the strategy works, its constraints, and the resulting load of each host."""
    from kvmcompose.placement import strategy

    return {
        "how": (strategy(logical.strategy).__doc__ or "").strip(),
        "wishes": logical.constraints,
        "hosts": _loads(logical, placement),
    }


def _loads(logical: LogicalTestbed, placement: Placement) -> dict[str, dict[str, int | None]]:
    """Return for each host what its guests need, and its capacity (None: unlimited)."""
    from kvmcompose.placement import used_by

    used = used_by(logical, placement)
    return {
        host.name: {
            "guests": used[host.name][0],
            "cpus": used[host.name][1],
            "cpus_available": host.cpus,
            "memory_mb": used[host.name][2],
            "memory_mb_available": host.memory_mb,
        }
        for host in logical.hosts
    }


def _explain(logical: LogicalTestbed, placement: Placement, console: Console) -> None:
    explained = _explained(logical, placement)
    console.data(f"{logical.strategy}: {explained['how']}\n")
    for name, host in logical.constraints.pin.items():
        console.data(f"pin: {name} to {host}")
    for key, lists in (("together", logical.constraints.together), ("apart", logical.constraints.apart)):
        for names in lists:
            console.data(f"{key}: {', '.join(names)}")
    rows = [
        [name, str(load["guests"]), _of(load, "cpus"), _of(load, "memory_mb")]
        for name, load in explained["hosts"].items()
    ]
    console.table(rows, ["HOST", "GUESTS", "CPUS", "MEMORY (MiB)"])
    console.data("")


def _of(load: Mapping[str, int | None], what: str) -> str:
    available = load[f"{what}_available"]
    if not available:
        return str(load[what])
    return f"{load[what]} of {available} ({(load[what] or 0) * 100 // available} %)"


def _compare(arguments: argparse.Namespace, console: Console) -> int:
    """Print the result of every strategy, or why it cannot place the testbed."""
    from kvmcompose.placement import strategies

    project = find_project(arguments)
    logical, warnings = project.logical
    for warning in warnings:
        console.problem(warning)
    before = _last_build(project.folder)
    found = {name: _tried(name, logical, before) for name in strategies()}
    if arguments.json:
        console.json({"chosen": logical.strategy, "strategies": found})
        return 0
    rows = [
        _row(f"{name} *" if name == logical.strategy else name, outcome, logical)
        for name, outcome in found.items()
    ]
    crossing = "SWITCHES ON SEVERAL HOSTS" if logical.topology.everywhere else "TUNNELS"
    console.table(rows, ["STRATEGY", "HOSTS", crossing, "MOVED", "LOAD PER HOST: GUESTS, CPUS, MiB"])
    for name, outcome in found.items():
        for problem in outcome.get("problems", ()):
            console.say(f"{name}: {problem}")
    if before is None:
        console.say("nothing was built yet, so nothing moves")
    console.say(f"* is set by testbed_options.load_balancing: {logical.strategy}")
    return 0


def _tried(name: str, logical: LogicalTestbed, before: Mapping[str, str] | None) -> dict[str, Any]:
    from kvmcompose.core.errors import ComplaintsError, RefusedError
    from kvmcompose.placement import place

    try:
        placement = place(logical, name)
    except ComplaintsError as error:
        return {"problems": [_said(each.message, each.found, each.wanted) for each in error.complaints]}
    except RefusedError as error:
        return {"problems": [f"{error.message}; {error.hint}"]}
    moved = None
    if before is not None:
        moved = [guest for guest, host in placement.guests.items() if before.get(guest, host) != host]
    return {
        "hosts_used": len(set(placement.segments.values()) | set(placement.guests.values())),
        "tunnels": len(_tunnels(logical, placement)),
        **({"switches": _switches(logical, placement)} if logical.topology.everywhere else {}),
        "moved": moved,
        "hosts": _loads(logical, placement),
    }


def _said(message: str, found: str | None, wanted: str | None) -> str:
    detail = [f"found {found}"] if found else []
    detail += [f"wanted {wanted}"] if wanted else []
    return f"{message} ({', '.join(detail)})" if detail else message


def _row(name: str, outcome: Mapping[str, Any], logical: LogicalTestbed) -> Sequence[str]:
    if "problems" in outcome:
        return [name, "-", "-", "-", "cannot place this testbed"]
    moved = "-" if outcome["moved"] is None else str(len(outcome["moved"]))
    hosts = f"{outcome['hosts_used']} of {len(logical.hosts)}"
    loads = "; ".join(
        f"{host}: {load['guests']}, {load['cpus']}, {load['memory_mb']}"
        for host, load in outcome["hosts"].items()
    )
    crossing = outcome["tunnels"]
    if logical.topology.everywhere:
        crossing = sum(len(each) > 1 for each in outcome["switches"].values())
    return [name, hosts, str(crossing), moved, loads]


def _last_build(folder: Path) -> dict[str, str] | None:
    """Return the hosts of the guests in ``state.json``; None when it cannot be read."""
    import msgspec

    from kvmcompose.effects.opening import DOCUMENT_LIMIT, read_regular
    from kvmcompose.pipeline.compile import STATE_PATH

    try:
        state = msgspec.json.decode(read_regular(folder / STATE_PATH, limit=DOCUMENT_LIMIT))
        return {name: guest["testbed_host"] for name, guest in state["testbed_guests"].items()}
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return None
