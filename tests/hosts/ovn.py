"""The daemons of OVN in a host, as Debian's ovn-central and ovn-host run them."""

from __future__ import annotations

from pathlib import Path

from hosts import daemons

RUN, STATE = Path("/run/ovn"), Path("/var/lib/ovn")
SCHEMAS = Path("/usr/share/ovn")
#: Each database with its schema's file, its name and the table that names its listeners.
DATABASES = {
    "nb": ("ovn-nb.ovsschema", "OVN_Northbound", "NB_Global"),
    "sb": ("ovn-sb.ovsschema", "OVN_Southbound", "SB_Global"),
}


def start_central(folder: Path) -> None:
    """Start both databases and ovn-northd. The databases are on disk, and outlive a reboot."""
    RUN.mkdir(exist_ok=True)
    for short in DATABASES:
        start_database(short, folder)
    daemons.run(["ovn-nbctl", "init"])
    daemons.run(["ovn-sbctl", "init"])
    start_northd(folder)


def start_database(short: str, folder: Path) -> None:
    schema, name, table = DATABASES[short]
    database = STATE / f"ovn{short}_db.db"
    if not database.exists():
        daemons.run(["ovsdb-tool", "create", str(database), str(SCHEMAS / schema)])
    keys = ("private_key", "certificate", "ca_cert")
    daemons.run([
        "ovsdb-server", str(database), f"--remote=punix:{RUN}/ovn{short}_db.sock",
        f"--remote=db:{name},{table},connections",
        *(f"--{key.replace('_', '-')}=db:{name},SSL,{key}" for key in keys),
        f"--unixctl={RUN}/ovn{short}_db.ctl", f"--pidfile={RUN}/ovn{short}_db.pid", "--detach",
        f"--log-file={folder / f'ovn{short}.log'}", "-vconsole:off",
    ])  # fmt: skip


def start_northd(folder: Path) -> None:
    daemons.run(["ovn-northd", *_daemon("ovn-northd", folder)])


def start_controller(folder: Path) -> None:
    """Start ovn-controller, which waits until the host is configured as a chassis.

    It creates its bridge at once, in the kernel's datapath by default.
    """
    RUN.mkdir(exist_ok=True)
    daemons.run(["ovs-vsctl", "set", "open", ".", "external_ids:ovn-bridge-datapath-type=netdev"])
    daemons.run(["ovn-controller", "unix:/run/openvswitch/db.sock", *_daemon("ovn-controller", folder)])


def _daemon(name: str, folder: Path) -> list[str]:
    log = f"--log-file={folder / f'{name}.log'}"
    return [f"--pidfile={RUN / f'{name}.pid'}", "--detach", log, "-vconsole:off"]
