"""Random testbeds, and random edits of them: what a user changes in the files, and by hand on hosts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

from kvmcompose.hosts.fake import Worlds
from kvmcompose.hosts.fake_world import World

HOSTS = ("one", "two", "three")
SCRIPT = "#!/bin/sh\ntrue\n"


@dataclass
class Machine:
    """A guest as the YAML has it."""

    memory_mb: int
    cpus: int
    bridges: list[str]
    setup: bool = False
    run: bool = False
    greeting: str | None = None


@dataclass
class Testbed:
    """What the YAML and the config say. Bridges are pinned to hosts, guests follow their bridges."""

    __test__ = False

    hosts: list[str] = field(default_factory=list)
    bridges: dict[str, str] = field(default_factory=dict)
    connections: list[tuple[str, str]] = field(default_factory=list)
    external: str | None = None
    machines: dict[str, Machine] = field(default_factory=dict)
    #: Clones of a golden image, by number, each on a bridge.
    clones: list[str] = field(default_factory=list)
    setup_text: str = SCRIPT
    #: Counts the names that were given, so that none is given twice.
    names: int = 0

    def reachable(self) -> set[str]:
        """The bridges that are connected to the outside."""
        found = {self.external} if self.external else set()
        for _ in self.connections:
            found |= {end for pair in self.connections if found & set(pair) for end in pair}
        return {each for each in found if each}

    def yaml(self) -> str:
        """The text of ``kvm-compose.yaml``, which is JSON here."""
        reachable = self.reachable()
        machines = [self._machine(name, each, reachable) for name, each in self.machines.items()]
        if self.clones:
            where = sorted(set(self.clones))
            machines.append(
                {
                    "name": "worker",
                    "libvirt": {
                        "cpus": 1,
                        "memory_mb": 128,
                        "libvirt_type": {"cloud_image": {"name": "debian_12"}},
                        "scaling": {
                            "count": len(self.clones),
                            "shared_setup": "shared.sh",
                            "interfaces": [
                                {
                                    "bridge": name,
                                    "clones": [i for i, at in enumerate(self.clones) if at == name],
                                }
                                for name in where
                            ],
                        },
                    },
                }
            )
        network: dict[str, Any] = {"bridges": [{"name": name} for name in self.bridges]}
        if self.connections:
            network["bridge_connections"] = dict(self.connections)
        if self.external:
            network["external_bridge"] = self.external
        options = {"placement": {"pin": dict(self.bridges)}}
        return json.dumps({"machines": machines, "network": network, "testbed_options": options}, indent=1)

    def _machine(self, name: str, machine: Machine, reachable: set[str]) -> dict[str, Any]:
        image: dict[str, Any] = {"name": "debian_12"}
        if reachable & set(machine.bridges):
            image |= {"setup_script": "setup.sh"} if machine.setup else {}
            image |= {"run_script": "run.sh"} if machine.run else {}
        if machine.greeting is not None:
            image["environment"] = {"GREETING": machine.greeting}
        return {
            "name": name,
            "interfaces": [{"bridge": bridge} for bridge in machine.bridges],
            "libvirt": {
                "cpus": machine.cpus,
                "memory_mb": machine.memory_mb,
                "libvirt_type": {"cloud_image": image},
            },
        }

    def config(self) -> str:
        """The text of ``kvm-compose-config.json``."""
        hosts = {
            name: {"ip": f"192.0.2.{11 + HOSTS.index(name)}", "virt_type": "qemu"}
            | ({"is_main_host": True} if name == "one" else {"user": "root"})
            for name in self.hosts
        }
        return json.dumps(
            {
                "testbed_host_ssh_config": hosts,
                "ssh_public_key_location": "keys/id_ed25519.pub",
                "ssh_private_key_location": "keys/id_ed25519",
            }
        )

    def files(self) -> dict[str, str]:
        """All files of the project that a user writes."""
        return {
            "kvm-compose.yaml": self.yaml(),
            "kvm-compose-config.json": self.config(),
            "setup.sh": self.setup_text,
            "run.sh": SCRIPT,
            "shared.sh": SCRIPT,
        }

    def new_name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}{self.names}"


def draw(random: Random) -> Testbed:
    """Return a testbed to begin with."""
    testbed = Testbed(hosts=list(HOSTS[: random.randint(1, 3)]))
    for _ in range(random.randint(1, 3)):
        testbed.bridges[testbed.new_name("br")] = random.choice(testbed.hosts)
    if random.random() < 0.8:
        testbed.external = next(iter(testbed.bridges))
        testbed.bridges[testbed.external] = "one"  # where the NAT network is
    for _ in range(random.randint(0, 2)):
        _connect(testbed, random)
    for _ in range(random.randint(1, 4)):
        _add_guest(testbed, random)
    if testbed.external and random.random() < 0.5:
        testbed.clones = [_bridge(testbed, random) for _ in range(random.randint(1, 2))]
    return testbed


def edit(testbed: Testbed, random: Random) -> str:
    """Change a testbed as a user would; return what was done. May do nothing."""
    change = random.choice(_EDITS)
    before = testbed.yaml() + testbed.config() + testbed.setup_text
    change(testbed, random)
    after = testbed.yaml() + testbed.config() + testbed.setup_text
    return f"{change.__name__.strip('_')}{'' if before != after else ' (nothing)'}"


def _bridge(testbed: Testbed, random: Random) -> str:
    return random.choice(list(testbed.bridges))


def _connect(testbed: Testbed, random: Random) -> None:
    """A connection between bridges that are not connected yet, in whatever way."""
    groups = {name: {name} for name in testbed.bridges}
    for left, right in testbed.connections:
        merged = groups[left] | groups[right]
        for each in merged:
            groups[each] = merged
    taken = {left for left, _ in testbed.connections}
    free = [name for name in testbed.bridges if name not in taken]
    pairs = [(left, right) for left in free for right in testbed.bridges if right not in groups[left]]
    if pairs:
        testbed.connections.append(random.choice(pairs))


def _disconnect(testbed: Testbed, random: Random) -> None:
    if testbed.connections:
        testbed.connections.remove(random.choice(testbed.connections))


def _add_guest(testbed: Testbed, random: Random) -> None:
    first = _bridge(testbed, random)
    near = [name for name, host in testbed.bridges.items() if host == testbed.bridges[first]]
    testbed.machines[testbed.new_name("g")] = Machine(
        memory_mb=random.choice((128, 192)),
        cpus=random.choice((1, 2)),
        bridges=[first, random.choice(near)] if random.random() < 0.3 else [first],
        setup=random.random() < 0.5,
        run=random.random() < 0.5,
    )


def _remove_guest(testbed: Testbed, random: Random) -> None:
    if len(testbed.machines) > 1:
        del testbed.machines[random.choice(list(testbed.machines))]


def _machine(testbed: Testbed, random: Random) -> Machine:
    return testbed.machines[random.choice(list(testbed.machines))]


def _memory(testbed: Testbed, random: Random) -> None:
    _machine(testbed, random).memory_mb = random.choice((128, 192, 256))


def _cpus(testbed: Testbed, random: Random) -> None:
    _machine(testbed, random).cpus = random.choice((1, 2, 3))


def _replug(testbed: Testbed, random: Random) -> None:
    """A NIC to another bridge of its host."""
    machine = _machine(testbed, random)
    host = testbed.bridges[machine.bridges[0]]
    near = [name for name, at in testbed.bridges.items() if at == host]
    machine.bridges[random.randrange(len(machine.bridges))] = random.choice(near)


def _nics(testbed: Testbed, random: Random) -> None:
    machine = _machine(testbed, random)
    if len(machine.bridges) > 1:
        machine.bridges.pop()
    else:
        machine.bridges.append(machine.bridges[0])


def _add_bridge(testbed: Testbed, random: Random) -> None:
    bridges = dict(testbed.bridges)
    new = testbed.new_name("br")
    names = list(bridges)
    names.insert(random.randint(0, len(names)), new)
    host = random.choice(testbed.hosts)
    testbed.bridges = {name: bridges.get(name, host) for name in names}


def _remove_bridge(testbed: Testbed, random: Random) -> None:
    """One without guests, or with them: they go to another bridge of its host."""
    name = _bridge(testbed, random)
    host = testbed.bridges[name]
    near = [other for other, at in testbed.bridges.items() if at == host and other != name]
    if not near:
        return
    del testbed.bridges[name]
    for machine in testbed.machines.values():
        machine.bridges = [random.choice(near) if each == name else each for each in machine.bridges]
    testbed.clones = [near[0] if each == name else each for each in testbed.clones]
    testbed.connections = [pair for pair in testbed.connections if name not in pair]
    if testbed.external == name:
        testbed.external = near[0]


def _external(testbed: Testbed, random: Random) -> None:
    names: list[str | None] = [name for name, host in testbed.bridges.items() if host == "one"]
    testbed.external = random.choice(names if testbed.clones else [*names, None])


def _environment(testbed: Testbed, random: Random) -> None:
    _machine(testbed, random).greeting = random.choice((None, "hello", "good morning"))


def _scripts(testbed: Testbed, random: Random) -> None:
    machine = _machine(testbed, random)
    machine.setup, machine.run = random.random() < 0.5, random.random() < 0.5


def _setup_text(testbed: Testbed, random: Random) -> None:
    testbed.setup_text = SCRIPT + f"# {random.randint(1, 3)}\n"


def _clones(testbed: Testbed, random: Random) -> None:
    if not testbed.external:
        return
    if testbed.clones and random.random() < 0.4:
        testbed.clones.pop()
    else:
        testbed.clones.append(_bridge(testbed, random))


def _add_host(testbed: Testbed, random: Random) -> None:
    missing = [name for name in HOSTS if name not in testbed.hosts]
    if missing:
        testbed.hosts.append(random.choice(missing))
        _add_bridge(testbed, random)
        testbed.bridges[f"br{testbed.names}"] = testbed.hosts[-1]
        _add_guest(testbed, random)


def _remove_host(testbed: Testbed, random: Random) -> None:
    """A host with all that is pinned to it: its bridges, and their guests."""
    others = [name for name in testbed.hosts if name != "one"]
    if not others:
        return
    host = random.choice(others)
    gone = {name for name, at in testbed.bridges.items() if at == host}
    left = {name: each for name, each in testbed.machines.items() if not gone & set(each.bridges)}
    if not left or gone == set(testbed.bridges):
        return
    testbed.hosts.remove(host)
    testbed.machines = left
    for name in gone:
        del testbed.bridges[name]
    testbed.clones = [each for each in testbed.clones if each not in gone]
    testbed.connections = [pair for pair in testbed.connections if not gone & set(pair)]


_EDITS = (
    _connect, _disconnect, _add_guest, _remove_guest, _memory, _cpus, _replug, _nics, _add_bridge,
    _remove_bridge, _external, _environment, _scripts, _setup_text, _clones, _add_host, _remove_host,
)  # fmt: skip


# -- by hand, on hosts ---------------------------------------------------------------------------------


def meddle(worlds: Worlds, random: Random) -> tuple[str, set[str]]:
    """Change something on a host by hand; return what was done, and the guests that may start for that."""
    world = random.choice(list(worlds.worlds.values()))
    done = random.choice(_MEDDLING)
    guests = done(world, random)
    worlds.keep()
    return done.__name__.strip("_"), guests


def _off(world: World, random: Random) -> set[str]:
    running = [name for name, domain in world.domains.items() if domain.started]
    if not running:
        return set()
    name = random.choice(running)
    world.unplug(name)
    world.domains[name].started = 0
    return {world.domains[name].guest}


def _undefined(world: World, random: Random) -> set[str]:
    guests = _off(world, random)
    for name in [name for name, domain in world.domains.items() if domain.guest in guests]:
        del world.domains[name]
    return guests


def _paused(world: World, random: Random) -> set[str]:
    for domain in world.domains.values():
        if domain.started and random.random() < 0.5:
            domain.paused = "by user"
    return set()


def _bridge_gone(world: World, random: Random) -> set[str]:
    bridges = world.bridges.get("lab", {})
    if bridges:
        gone = bridges.pop(random.choice(list(bridges)))
        for port in gone.ports:
            if port in world.links:
                world.links[port].attached = False
        if not bridges:
            del world.bridges["lab"]
    return set()


def _port_gone(world: World, random: Random) -> set[str]:
    ports = [(bridge, name) for bridge in world.bridges.get("lab", {}).values() for name in bridge.ports]
    if ports:
        bridge, name = random.choice(ports)
        del bridge.ports[name]
        if name in world.links:
            world.links[name].attached = False
    return set()


def _link_gone(world: World, random: Random) -> set[str]:
    """Both ends go; their ports stay in the database, and have no device."""
    if world.links:
        name = random.choice(list(world.links))
        peer = world.links.pop(name).peer
        world.links.pop(peer, None)
    return set()


def _network_gone(world: World, random: Random) -> set[str]:
    for name in [name for name, project in world.networks.items() if project == "lab"]:
        world.drop_network(name)
    return set()


def _network_stopped(world: World, random: Random) -> set[str]:
    world.stopped_networks = [name for name, project in world.networks.items() if project == "lab"]
    return set()


_MEDDLING = (
    _off, _off, _undefined, _paused, _bridge_gone, _port_gone, _link_gone, _network_gone, _network_stopped,
)  # fmt: skip
