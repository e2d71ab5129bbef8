"""What makes a host a chassis of an OVN: settings in the host's own Open vSwitch database.

The keys are those of ovn-controller(8), in ``external_ids`` of the table ``Open_vSwitch``. They are
the host's, and shared by all projects: each that needs them is noted, and the last one that leaves takes away
what kvm-compose has set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from kvmcompose.core.ovn_hosts import ChassisSpec, Identity
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.hosts.errors import DriverError, NotInstalledError
from kvmcompose.providers.ovs.database import OvsdbTable
from kvmcompose.providers.ovs.driver import VSCTL, run_ovs

#: The key that names what kvm-compose has set, and the beginning of those that name projects.
MADE_KEY, USER_KEY = "kvm-compose-ovn-made", "kvm-compose-ovn-user-"
_REMOTE, _NAME = "ovn-remote", "system-id"
#: The key of the day on which the host's TLS certificate ends.
_EXPIRES = "kvm-compose-ovn-expires"
#: Keys by which ovn-controller knows the ports that it has made.
_CONTROLLERS = {"ovn-chassis-id", "ovn-localnet-port"}
#: The key of the bridges of provider networks.
MAPPINGS = "ovn-bridge-mappings"
_LIST = ("--format=json", "--", "--columns=external_ids,ssl", "list", "Open_vSwitch")


class FoundChassis(msgspec.Struct, frozen=True, kw_only=True):
    """A host's settings for OVN, empty where it has none. ``name`` is its ``system-id``.

    ``made`` are the keys that kvm-compose has set, ``users`` the projects that need them. ``has_identity`` is
    whether it has a TLS identity, ``expires`` the day of its end, if kvm-compose has made it.
    """

    remote: str = ""
    encap_ip: str = ""
    encap_type: str = ""
    bridge: str = ""
    datapath_type: str = ""
    name: str = ""
    made: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    has_identity: bool = False
    expires: str = ""


class HostChassis(Protocol):
    """One host's part in an OVN."""

    async def observe(self) -> FoundChassis:
        """Return the settings."""

    async def join(self, project: str, wanted: ChassisSpec, identity: Identity | None = None) -> None:
        """Set what differs, in one transaction. Raises DriverError, and changes nothing, for what
        ``obstacle`` finds.
        """

    async def detach(self, project: str) -> None:
        """Take away what kvm-compose has set, unless another project needs it.

        The project stays noted, and the host has its name until the last one leaves.
        """

    async def leave(self, project: str) -> None:
        """Detach the host, and forget that the project needs the settings."""

    async def check(self) -> None:
        """Raise DriverError when ovn-controller does not run."""

    async def connected(self) -> bool:
        """Return whether ovn-controller runs and is connected to the southbound database."""


def obstacle(project: str, wanted: ChassisSpec, found: FoundChassis) -> str | None:
    """Return the setting that is not kvm-compose's, or that another project needs, and is in the way."""
    others = found.users - {project}
    for key, value in settings(wanted).items():
        there = settings_found(found)[key]
        if not there or there == value or key == _NAME:  # any name will do
            continue
        if key == "ovn-encap-type" and value in there.split(","):
            continue
        if key not in found.made:
            return f"{key} is {there} already, which kvm-compose has not set; the testbed needs {value}"
        if others:
            return f"{key} is {there} for {', '.join(sorted(others))}; this testbed needs {value}"
    return None


def settings(wanted: ChassisSpec) -> dict[str, str]:
    """Return the keys and values of settings."""
    return {
        _REMOTE: wanted.remote,
        "ovn-encap-type": wanted.encap_type,
        "ovn-encap-ip": wanted.encap_ip,
        "ovn-bridge": wanted.bridge,
        "ovn-bridge-datapath-type": wanted.datapath_type,
        _NAME: wanted.name,
    }


def settings_found(found: FoundChassis) -> dict[str, str]:
    """Return the keys and values of the settings that a host has."""
    return {
        _REMOTE: found.remote,
        "ovn-encap-type": found.encap_type,
        "ovn-encap-ip": found.encap_ip,
        "ovn-bridge": found.bridge,
        "ovn-bridge-datapath-type": found.datapath_type,
        _NAME: found.name,
    }


def to_set(wanted: ChassisSpec, found: FoundChassis) -> dict[str, str]:
    """Return the settings that differ and are to be set."""
    there = settings_found(found)
    return {
        key: value
        for key, value in settings(wanted).items()
        if value != there[key]
        and not (key == _NAME and there[key])
        and not (key == "ovn-encap-type" and value in there[key].split(","))
    }


class OvsChassis:
    """See ``HostChassis``: through ovs-vsctl(8)."""

    def __init__(self, runner: CommandRunner, folder: str = "/var/lib/kvm-compose/.ovn") -> None:
        """``folder`` is where the host has its TLS identity."""
        self._runner = runner
        self._folder = folder

    async def observe(self) -> FoundChassis:
        done = await run_ovs(self._runner, [*VSCTL, *_LIST])
        try:
            row = next(iter(msgspec.json.decode(done.stdout, type=OvsdbTable).rows()))
            return _found(dict(row["external_ids"][1]), row["ssl"])
        except (ValueError, LookupError, TypeError, StopIteration) as error:
            raise DriverError(f"ovs-vsctl printed invalid output: {error}") from error

    async def join(self, project: str, wanted: ChassisSpec, identity: Identity | None = None) -> None:
        found = await self.observe()
        why = obstacle(project, wanted, found)
        if why is not None:
            raise refusal(why, self._runner.name)
        if identity is not None:
            if found.has_identity and "ssl" not in found.made:
                raise refusal(
                    "Open vSwitch has a TLS identity that kvm-compose has not set", self._runner.name
                )
            # noted before there are files: a server that is killed leaves nothing that `down` misses
            noted = {MADE_KEY: " ".join(sorted(found.made | {"ssl"})), f"{USER_KEY}{project}": "yes"}
            await self._set(noted)
            await self._write(identity)
        changed = to_set(wanted, found)
        made = found.made | changed.keys() | ({"ssl"} if identity is not None else set())
        changed |= {MADE_KEY: " ".join(sorted(made)), f"{USER_KEY}{project}": "yes"}
        if identity is not None:
            changed[_EXPIRES] = identity.expires
        ssl = ["--", "set-ssl", *(f"{self._folder}/{name}" for name in _FILES)]
        await self._set(changed, ssl if identity is not None else ())

    async def _set(self, ids: Mapping[str, str], more: Sequence[str] = ()) -> None:
        words = [f"external_ids:{key}={quoted(value)}" for key, value in ids.items()]
        await run_ovs(self._runner, [*VSCTL, "--no-wait", *more, "--", "set", "Open_vSwitch", ".", *words])

    async def _unset(self, keys: Sequence[str], more: Sequence[str] = ()) -> None:
        words = ["--", "remove", "Open_vSwitch", ".", "external_ids", *keys] if keys else []
        await run_ovs(self._runner, [*VSCTL, "--no-wait", *words, *more])

    async def leave(self, project: str) -> None:
        await self.detach(project)
        # the notes are the last to go, as they are what `down` looks for after a server was killed
        found = await self.observe()
        gone = [f"{USER_KEY}{project}"]
        if found.users <= {project}:
            gone += [*sorted(found.made - {"ssl"}), MADE_KEY, _EXPIRES]
        await self._unset(gone)

    async def detach(self, project: str) -> None:
        found = await self.observe()
        if not found.users <= {project}:
            return
        # ovn-controller leaves its ports when it has no database any more; those of another OVN are not ours
        ports = await self._controllers_ports() if _REMOTE in found.made else ()
        more = [word for port in ports for word in ("--", "--if-exists", "del-port", port)]
        if "ssl" in found.made:
            more += ["--", "del-ssl"]
        keys = sorted(found.made - {"ssl", _NAME})
        if keys or more:
            await self._unset(keys, more)
        if "ssl" in found.made:
            folder = f"{self._folder}/chassis"
            await self._runner.run(["rm", "-rf", "--", folder], privileged=True)
            argv = ["rmdir", "--ignore-fail-on-non-empty", "--", self._folder]
            await self._runner.run(argv, privileged=True, check=False)

    async def check(self) -> None:
        if await self._controller("version") is None:
            raise DriverError(
                f"ovn-controller does not run on {self._runner.name}",
                hint="sudo apt-get install --no-install-recommends ovn-host; "
                "sudo systemctl enable --now ovn-controller",
            )

    async def connected(self) -> bool:
        return await self._controller("connection-status") == "connected"

    async def _controller(self, command: str) -> str | None:
        """Return the answer of ovn-controller, None if it does not run or is not installed."""
        argv = ["ovn-appctl", "--timeout=5", "-t", "ovn-controller", command]
        try:
            done = await self._runner.run(argv, privileged=True, check=False)
        except NotInstalledError:
            return None
        return done.text.strip() if done.status == 0 else None

    async def _controllers_ports(self) -> list[str]:
        """Return the ports that ovn-controller has made: tunnels, and patches to provider networks."""
        argv = [*VSCTL, "--format=json", "--columns=name,external_ids", "list", "Port"]
        done = await run_ovs(self._runner, argv)
        try:
            rows = list(msgspec.json.decode(done.stdout, type=OvsdbTable).rows())
            return [row["name"] for row in rows if _CONTROLLERS & dict(row["external_ids"][1]).keys()]
        except (ValueError, LookupError, TypeError) as error:
            raise DriverError(f"ovs-vsctl printed invalid output: {error}") from error

    async def _write(self, identity: Identity) -> None:
        """Store the identity. The key is readable for root alone."""
        texts = (identity.key, identity.certificate, identity.ca)
        for name, text in zip(_FILES, texts, strict=True):
            argv = ["sh", "-c", _STORE, "sh", f"{self._folder}/{name}"]
            await self._runner.run(argv, stdin=text.encode(), privileged=True)


_FILES = ("chassis/key.pem", "chassis/certificate.pem", "chassis/ca.pem")
#: Stores standard input as a file, whole or not at all.
_STORE = """\
umask 077
mkdir -p -- "$(dirname -- "$1")" && cat >"$1.new" && mv -f -- "$1.new" "$1"
"""


def _found(ids: dict[str, str], ssl: Any) -> FoundChassis:
    return from_settings(
        ids,
        ids.get(MADE_KEY, "").split(),
        (key.removeprefix(USER_KEY) for key in ids if key.startswith(USER_KEY)),
        has_identity=ssl[0] == "uuid",
    )


def bridge_mappings(ids: Mapping[str, str]) -> dict[str, str]:
    """Return the bridges of provider networks."""
    found = (each.partition(":") for each in ids.get(MAPPINGS, "").split(",") if each)
    return {network: bridge for network, _, bridge in found}


def from_settings(
    ids: Mapping[str, str],
    made: Iterable[str],
    users: Iterable[str],
    *,
    has_identity: bool,
) -> FoundChassis:
    """Return what a host has, by the keys of ovn-controller(8)."""
    return FoundChassis(
        remote=ids.get(_REMOTE, ""),
        encap_ip=ids.get("ovn-encap-ip", ""),
        encap_type=ids.get("ovn-encap-type", ""),
        bridge=ids.get("ovn-bridge", ""),
        datapath_type=ids.get("ovn-bridge-datapath-type", ""),
        name=ids.get(_NAME, ""),
        made=frozenset(made),
        users=frozenset(users),
        has_identity=has_identity,
        expires=ids.get(_EXPIRES, ""),
    )


def refusal(why: str, host: str) -> DriverError:
    """Return the error of settings that are not kvm-compose's."""
    return DriverError(
        f"{host} is a chassis of another OVN: {why}",
        hint="to use that OVN: ovn_northbound and ovn_southbound in kvm-compose-config.json; "
        "to give the host up there: ovs-vsctl remove open . external_ids ovn-remote",
    )


def quoted(value: str) -> str:
    """Return a value as ovs-vsctl(8) reads it: a string of JSON."""
    return msgspec.json.encode(value).decode()
