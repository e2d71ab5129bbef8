"""Testbeds as plain data, edits of them, and what pasting the lines of a report does."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from hypothesis import strategies as st

from golden.memory import compile_text, host
from kvmcompose.core.errors import InputError
from kvmcompose.core.state import State, decode_state, encode_state
from kvmcompose.pipeline.compile import Compiled

Document = dict[str, Any]

BRIDGES = ["lan", "wan", "dmz", "mid"]
NAMES = [f"g{number}" for number in range(6)]


def machine(name: str, *on: str, memory_mb: int = 100, clones: int = 0) -> Document:
    """A guest on these bridges; with ``clones`` a machine whose clones are all on them."""
    body: Document = {
        "cpus": 1,
        "memory_mb": memory_mb,
        "libvirt_type": {"cloud_image": {"name": "debian_12"}},
    }
    entry: Document = {"name": name, "libvirt": body}
    if clones:
        every = list(range(clones))
        body["scaling"] = {"count": clones, "interfaces": [{"bridge": each, "clones": every} for each in on]}
    else:
        entry["interfaces"] = [{"bridge": each} for each in on]
    return entry


def lab_of(
    bridges: list[str],
    machines: list[Document],
    *links: tuple[str, str],
    external: str | None = None,
    strategy: str = "round_robin",
) -> Document:
    network: Document = {
        "bridges": [{"name": each} for each in bridges],
        "bridge_connections": [list(each) for each in links],
    }
    if external is not None:
        network["external_bridge"] = external
    return {
        "machines": machines,
        "network": network,
        "testbed_options": {"load_balancing": strategy},
    }


def compiled(document: Document, count: int = 2, memory_mb: int | None = None) -> Compiled:
    """Compile for this number of hosts, ``h0`` first, each with this memory, or any."""
    on = [
        host(f"h{number}", f"192.0.2.{number + 1}", main=number == 0, memory_mb=memory_mb)
        for number in range(count)
    ]
    return compile_text(yaml.safe_dump(document, sort_keys=False), on=on)


def up(document: Document, count: int = 2, memory_mb: int | None = None) -> State:
    """The state of a testbed that is up, as it is read back."""
    return decode_state(encode_state(compiled(document, count, memory_mb).state))


def pasted(document: Document, lines: Document) -> Document:
    """Return a document with lines added: to mappings by key, to entries of lists by their name."""
    found = copy.deepcopy(document)
    for key, value in lines.items():
        if isinstance(value, dict):
            found[key] = pasted(found.get(key) or {}, value)
        elif key in ("machines", "bridges"):
            new = {each["name"]: each for each in value}
            assert new.keys() <= {each["name"] for each in found[key]}
            found[key] = [pasted(each, new.get(each["name"], {})) for each in found[key]]
        else:
            found[key] = value
    return found


@st.composite
def labs(draw: st.DrawFn, strategy: str) -> Document:
    """Some bridges, connected without loops, and guests on one or two of them."""
    bridges = draw(st.lists(st.sampled_from(BRIDGES), min_size=1, max_size=4, unique=True))
    machines = []
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True)):
        on = draw(st.lists(st.sampled_from(bridges), min_size=1, max_size=2, unique=True))
        clones = draw(st.sampled_from([0, 0, 0, 2]))
        machines.append(machine(name, *on, memory_mb=draw(st.sampled_from([64, 300])), clones=clones))
    links = [
        (bridges[draw(st.integers(0, number - 1))], bridge)
        for number, bridge in enumerate(bridges)
        if number and draw(st.booleans())
    ]
    external = draw(st.none() | st.sampled_from(bridges))
    return lab_of(bridges, machines, *links, external=external, strategy=strategy)


EDITS = [
    "guest first", "guest between", "guest last", "router", "bridge first", "bridge last",
    "connected bridge first", "connection", "guest removed", "host added", "host removed",
]  # fmt: skip


def edited(  # noqa: C901 (one case for each edit)
    lab: Document, count: int, edit: str, pick: int
) -> tuple[Document, int]:
    """Return a testbed and its number of hosts after one edit; ``pick`` chooses among the possible ones."""
    document = copy.deepcopy(lab)
    machines, network = document["machines"], document["network"]
    bridges = [each["name"] for each in network["bridges"]]
    bridge = bridges[pick % len(bridges)]
    links = network["bridge_connections"]
    match edit:
        case "guest first":
            machines.insert(0, machine("new", bridge))
        case "guest between":
            machines.insert(len(machines) // 2, machine("new", bridge, memory_mb=900))
        case "guest last":
            machines.append(machine("new", bridge))
        case "router":
            machines.append(machine("new", *dict.fromkeys((bridge, bridges[0]))))
        case "bridge first" | "connected bridge first":
            network["bridges"].insert(0, {"name": "new"})
            if edit != "bridge first":
                links.append([bridge, "new"])
        case "bridge last":
            network["bridges"].append({"name": "new"})
        case "connection":
            links.append([bridge, bridges[pick // 7 % len(bridges)]])
        case "guest removed":
            del machines[pick % len(machines)]
        case "host added":
            count += 1
        case "host removed":
            count -= 1
    return document, count


def possible(document: Document, count: int, memory_mb: int | None = None) -> Compiled | None:
    """Return the compiled testbed, or None for one that is refused, as with a loop."""
    if count < 1 or not document["machines"]:
        return None
    try:
        return compiled(document, count, memory_mb)
    except InputError:
        return None


def differences(before: State, after: Compiled) -> set[tuple[str | None, str]]:
    """Return what differs of guests and bridges of both, found without the code under test.

    For edits after which no guest is on other bridges. What was on a host that is gone is left out.
    """
    was = json.loads(encode_state(before))
    now = json.loads(encode_state(after.state))
    found: set[tuple[str | None, str]] = set()
    old_hosts = {each["name"]: each["testbed_host"] for each in was["network"]["bridges"]}
    for each in now["network"]["bridges"]:
        old = old_hosts.get(each["name"], each["testbed_host"])
        if old != each["testbed_host"] and old in now["testbed_hosts"]:
            found.add((None, "host"))
    for name, guest in now["testbed_guests"].items():
        old_guest = was["testbed_guests"].get(name)
        if old_guest is None or guest["is_golden_image"]:
            continue
        old = old_guest["testbed_host"]
        if old != guest["testbed_host"] and old in now["testbed_hosts"]:
            found.add((name, "host"))
        for old_nic, nic in zip(old_guest["interfaces"], guest["interfaces"], strict=True):
            if (old_nic["ip"], old_nic["prefix_length"]) != (nic["ip"], nic["prefix_length"]):
                found.add((name, "address"))
            if None not in (both := (old_nic.get("gateway"), nic.get("gateway"))) and both[0] != both[1]:
                found.add((name, "gateway"))
            found |= {(name, what) for what, key in WORDS.items() if old_nic[key] != nic[key]}
    return found


WORDS = {"MAC address": "mac", "MTU": "mtu", "name of the tap device": "target"}
