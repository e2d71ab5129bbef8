"""``kvm-compose inventory``: prints the guests for other programs."""

from __future__ import annotations

import argparse
import re
import shlex
from typing import TYPE_CHECKING, Any

from kvmcompose.cli._labels import add_labels, labelled
from kvmcompose.cli._server import add_server_options, open_target
from kvmcompose.core.errors import KvmComposeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kvmcompose.core.access import EngineAccess, GuestAccess, HostAccess
    from kvmcompose.monitor.console import Console

NAME = "inventory"
HELP = "print the guests and their addresses for Ansible, ssh_config or /etc/hosts"
EXAMPLE = """\
examples:
  kvm-compose inventory > inventory.yaml && ansible -i inventory.yaml all -m ping
  kvm-compose inventory --format ssh_config > lab.ssh && ssh -F lab.ssh server
  kvm-compose inventory --format hosts
  kvm-compose inventory --label role=web
  kvm-compose inventory --json

Ansible enters containers with the collection community.docker, or containers.podman, and
the engine's program on this machine. Those of other hosts are reached by SSH: docker uses
your own SSH configuration and keys for that.
"""

#: The groups that every inventory of Ansible has.
_ANSIBLE_GROUPS = ("all", "ungrouped")
#: Names of the loopback address in /etc/hosts of some system, which programs rely on.
_LOOPBACK = ("localhost", "ip6-localhost", "ip6-loopback", "localhost4", "localhost6", "broadcasthost")

#: Where root's Podman listens (podman-system-service(1)).
_PODMAN_SOCKET = "/run/podman/podman.sock"
#: Ansible evaluates the values of an inventory as templates (Jinja2), which may run programs.
_TEMPLATE = re.compile(r"\{[{%#]")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--format",
        choices=("ansible", "ssh_config", "hosts"),
        default="ansible",
        help="output format (default: ansible)",
    )
    parser.add_argument("--json", action="store_true", help="print everything known as JSON")
    add_labels(parser)
    add_server_options(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the inventory."""
    target = open_target(arguments)
    guests = target.server.access(target.name)
    if arguments.labels:
        wanted = labelled(target, arguments.labels)
        guests = [guest for guest in guests if guest.name in wanted]
    if arguments.json:
        console.json(guests)
        return 0
    engines = arguments.format == "ansible"
    others = [
        guest.name
        for guest in guests
        if not guest.by_ssh and arguments.format != "hosts" and not (engines and guest.engine)
    ]
    reached = [
        guest
        for guest in guests
        if (guest.address is not None or (engines and guest.engine))
        and guest.name not in others
        and not (arguments.format == "hosts" and guest.through_server)
    ]
    from kvmcompose.cli._access import stdio_command

    formats = {"ansible": ansible, "ssh_config": ssh_config, "hosts": hosts}
    console.raw(formats[arguments.format](reached, stdio_command(arguments)).encode())
    if others:
        console.say(f"left out, because they are not entered by SSH: {', '.join(others)}")
    left_out = [guest.name for guest in guests if guest not in reached and guest.name not in others]
    if left_out:
        console.say(f"left out, because they have no connection to the main host: {', '.join(left_out)}")
    return 0


def ansible(guests: Sequence[GuestAccess], proxy: Sequence[str] = ()) -> str:
    """Return an inventory in YAML, with guests in groups."""
    import yaml

    everyone = {_host_name(guest): _variables(guest, proxy) for guest in guests}
    for variables in everyone.values():
        for name, value in variables.items():
            if isinstance(value, str) and _TEMPLATE.search(value):
                raise KvmComposeError(
                    f"Ansible would evaluate {value!r} ({name}) as a template",
                    hint="rename the folder, or use another format: --format ssh_config",
                )
    groups: dict[str, Any] = {}
    names = _group_names(guests)
    for guest in guests:
        for group in guest.groups:
            groups.setdefault(names[group], {"hosts": {}})["hosts"][_host_name(guest)] = {}
    document = {"all": {"hosts": everyone, **({"children": groups} if groups else {})}}
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)
    return text


def _host_name(guest: GuestAccess) -> str:
    """Return what Ansible calls a guest: a host with the name of a group hides all other hosts."""
    return f"guest_{guest.name}" if guest.name in _ANSIBLE_GROUPS else guest.name


def _group_names(guests: Sequence[GuestAccess]) -> dict[str, str]:
    """Return the name of Ansible's group for each group of the guests.

    Ansible's names contain underscores instead of hyphens. A group may be called neither like a host nor like
    one of Ansible's own groups: such a group gets the prefix ``bridge_``.
    """
    reserved = {*_ANSIBLE_GROUPS, *map(_host_name, guests)}
    taken = set(reserved)
    names: dict[str, str] = {}
    for group in sorted(
        {group for guest in guests for group in guest.groups}, key=lambda group: (group in reserved, group)
    ):
        name = group.replace("-", "_")
        while name in taken:
            name = f"bridge_{name}"
        taken.add(name)
        names[group] = name
    return names


def _variables_of_container(guest: GuestAccess, engine: EngineAccess) -> dict[str, Any]:
    """Return what the connection plug-ins of the collections community.docker and containers.podman read."""
    connections = {"docker": "community.docker.docker", "podman": "containers.podman.podman"}
    variables = {"ansible_connection": connections[engine.program], "ansible_host": guest.domain}
    if guest.user is not None:
        variables["ansible_user"] = guest.user
    words = list(_engine_words(guest.via, engine))
    if words:
        variables[f"ansible_{engine.program}_extra_args"] = shlex.join(words)
    return variables


def _engine_words(via: HostAccess | None, engine: EngineAccess) -> Iterator[str]:
    """Yield global options of docker(1) or podman(1) for the engine of a host."""
    if via is None:
        if engine.socket is not None and engine.program == "docker":
            yield from ("-H", f"unix://{engine.socket}")
        elif engine.socket is not None:
            yield from ("--url", f"unix://{engine.socket}")
        return
    host = f"[{via.address}]" if ":" in via.address else via.address
    user = f"{via.user}@" if via.user is not None else ""
    port = f":{via.port}" if via.port is not None else ""
    if engine.program == "docker":  # which takes neither a key nor a host key
        yield from ("-H", f"ssh://{user}{host}{port}{engine.socket or ''}")
        return
    if via.identity_file is not None:
        yield from ("--identity", via.identity_file)
    yield from ("--url", f"ssh://{user}{host}{port}{engine.socket or _PODMAN_SOCKET}")


def _variables(guest: GuestAccess, proxy: Sequence[str]) -> dict[str, Any]:
    if guest.engine is not None:
        return _variables_of_container(guest, guest.engine)
    from kvmcompose.cli._access import ssh_settings

    variables: dict[str, Any] = {"ansible_host": guest.address, "ansible_port": guest.port}
    if guest.user is not None:
        variables["ansible_user"] = guest.user
    if guest.identity_file is not None:
        variables["ansible_ssh_private_key_file"] = guest.identity_file
    given = {"Port", "IdentityFile", "LogLevel"}
    options = [
        f"-o {shlex.quote(f'{name}={value}')}"
        for name, value in ssh_settings(guest, proxy)
        if name not in given
    ]
    if options:
        variables["ansible_ssh_common_args"] = " ".join(options)
    return variables


def ssh_config(guests: Sequence[GuestAccess], proxy: Sequence[str] = ()) -> str:
    """Return an entry for each guest in the format of OpenSSH's configuration."""
    from kvmcompose.cli._access import ssh_settings

    entries = []
    for guest in guests:
        lines = [f"Host {guest.name}", f"    HostName {guest.address}"]
        lines += [f"    User {guest.user}"] if guest.user is not None else []
        lines += [f"    {name} {value}" for name, value in ssh_settings(guest, proxy)]
        entries.append("\n".join(lines) + "\n")
    return "\n".join(entries)


def hosts(guests: Sequence[GuestAccess], _proxy: Sequence[str] = ()) -> str:
    """Return a line for each guest in the format of /etc/hosts, with its name and its host name.

    A guest that is called like the machine that reads the file itself has the latter only.
    """
    lines = []
    for guest in guests:
        hostname = guest.hostname or guest.domain
        names = hostname if guest.name in _LOOPBACK else f"{guest.name} {hostname}"
        lines.append(f"{guest.address}\t{names}\n")
    return "".join(lines)
