"""The daemons of a host, started inside its namespaces: libvirt, Open vSwitch, sshd."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uuid

STEP_SECONDS = 30
SSH_KEYS = Path("/run/ssh-keys")

# Guests run as root without confinement, because their files belong to the user that runs the tests.
QEMU_CONF = """\
namespaces = []
cgroup_controllers = []
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
"""

LIBVIRTD_CONF = """\
host_uuid = "{host_uuid}"
unix_sock_dir = "{folder}"
unix_sock_rw_perms = "0777"
unix_sock_ro_perms = "0777"
auth_unix_rw = "none"
auth_unix_ro = "none"
"""

SSHD_CONF = """\
HostKey {keys}/host_key
AuthorizedKeysFile {keys}/authorized_keys
# The files were made for this host alone; their folder need not be root's.
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM yes
PidFile /run/sshd.pid
Subsystem sftp internal-sftp
"""


def run(argv: list[str]) -> str:
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=STEP_SECONDS)
    return done.stdout


def output_of(error: BaseException) -> str:
    """Return the output of a failed program in one line."""
    printed = getattr(error, "stderr", None) or ""
    text = printed.decode(errors="replace") if isinstance(printed, bytes) else printed
    return " | ".join(text.split("\n")[-5:])


def background(argv: list[str], log: Path) -> None:
    """Start a daemon in the foreground. It ends with the namespace."""
    with log.open("ab") as output:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)


def configure_libvirt(folder: Path, host_uuid: uuid.UUID) -> None:
    conf = Path("/etc/libvirt")
    (conf / "qemu.conf").write_text(QEMU_CONF)
    (conf / "libvirtd.conf").write_text(LIBVIRTD_CONF.format(folder=folder, host_uuid=host_uuid))


def start_libvirt(folder: Path) -> None:
    Path("/run/libvirt").mkdir()
    for name in ("libvirt-sock", "libvirt-sock-ro", "libvirt-admin-sock"):
        # the test process sees the socket here; programs inside use the default path
        Path("/run/libvirt", name).symlink_to(folder / name)
    background(["virtlogd"], folder / "virtlogd.log")
    background(["libvirtd"], folder / "libvirtd.log")


def wait_for_libvirt() -> None:
    deadline = time.monotonic() + STEP_SECONDS
    while True:
        try:
            run(["virsh", "-c", "qemu:///system", "uri"])
        except subprocess.CalledProcessError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def start_openvswitch(folder: Path, name: str) -> None:
    Path("/run/openvswitch").mkdir(exist_ok=True)
    database = "/etc/openvswitch/conf.db"
    if not Path(database).exists():
        run(["ovsdb-tool", "create", database, "/usr/share/openvswitch/vswitch.ovsschema"])
    run([
        "ovsdb-server", database, "--remote=punix:/run/openvswitch/db.sock", "--pidfile", "--detach",
        f"--log-file={folder / 'ovsdb-server.log'}", "-vconsole:off",
    ])  # fmt: skip
    run([
        "ovs-vsctl", "--no-wait", "--", "init", "--", "set", "Open_vSwitch", ".",
        f"external_ids:system-id={name}", f"external_ids:hostname={name}",
    ])  # fmt: skip
    # In user space 3.1 aborts with some networks of OVN; it is started again, as Debian's service does it.
    run([
        "prlimit", "--core=0", "ovs-vswitchd", "--pidfile", "--detach", "--monitor",
        f"--log-file={folder / 'ovs-vswitchd.log'}", "-vconsole:off",
    ])  # fmt: skip


def put_underlay_on_openvswitch(address: str) -> None:
    """Put the address on a bridge: the userspace datapath routes tunnels only over its own bridges."""
    mac = Path("/sys/class/net/eth0/address").read_text().strip()
    run([
        "ovs-vsctl", "--", "--may-exist", "add-br", "br-phy",
        "--", "set", "bridge", "br-phy", "datapath_type=netdev", f'other_config:hwaddr="{mac}"',
        "--", "--may-exist", "add-port", "br-phy", "eth0",
    ])  # fmt: skip
    run(["ip", "address", "flush", "dev", "eth0"])
    # Open vSwitch answers the packets; the kernel must not answer them a second time
    run(["nft", "add table netdev underlay"])
    hook = "{ type filter hook ingress device eth0 priority 0; policy drop; }"
    run(["nft", f"add chain netdev underlay unseen {hook}"])
    run(["ip", "address", "add", address, "dev", "br-phy"])
    run(["ip", "link", "set", "br-phy", "up"])


def configure_sshd(authorized_key: str) -> None:
    keys = SSH_KEYS
    keys.mkdir(mode=0o700)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / "host_key")])
    (keys / "authorized_keys").write_text(authorized_key)
    (keys / "sshd_config").write_text(SSHD_CONF.format(keys=keys))


def start_sshd(folder: Path) -> None:
    Path("/run/sshd").mkdir(mode=0o755)
    background(["/usr/sbin/sshd", "-D", "-e", "-f", str(SSH_KEYS / "sshd_config")], folder / "sshd.log")
