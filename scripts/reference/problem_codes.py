"""Every problem code: its meaning, and an example that causes it."""

from __future__ import annotations

from dataclasses import dataclass, field

BASE = """\
machines:
  - name: web
    interfaces: [{bridge: br0}]
    libvirt:
      cpus: 1
      memory_mb: 512
      libvirt_type:
        cloud_image: {name: debian_12, setup_script: ./setup.sh}
  - name: db
    interfaces: [{bridge: br1}]
    libvirt:
      cpus: 1
      memory_mb: 512
      libvirt_type: {cloud_image: {name: debian_12}}
network:
  bridges: [{name: br0}, {name: br1}]
  bridge_connections: {br0: br1}
  external_bridge: br0
"""

CONFIG = """\
{
  "testbed_host_ssh_config": {
    "one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"},
    "two": {"ip": "192.0.2.12", "virt_type": "qemu"}
  },
  "ssh_public_key_location": "key.pub"
}
"""


PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here\n"


@dataclass(frozen=True)
class Example:
    """Edits to the two files above, further files, and the command that reports the problem."""

    yaml: tuple[tuple[str, str], ...] = ()
    config: tuple[tuple[str, str], ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = ("validate",)
    named: bool = True
    encoding: str = "utf-8"


def _yaml(*edits: tuple[str, str]) -> Example:
    return Example(yaml=edits)


def _config(*edits: tuple[str, str]) -> Example:
    return Example(config=edits)


_IMAGE = "cloud_image: {name: debian_12, setup_script: ./setup.sh}"
_WEB = "interfaces: [{bridge: br0}]"
_DB = "interfaces: [{bridge: br1}]"
_SIMPLE = "      libvirt_type: {cloud_image: {name: debian_12}}\n"


def _scaled(scaling: str, image: str = "cloud_image: {name: debian_12}") -> Example:
    """Return an edit that adds clones to the second machine."""
    return _yaml(
        (f"    {_DB}\n", ""), (_SIMPLE, f"      libvirt_type: {{{image}}}\n      scaling: {{{scaling}}}\n")
    )


_CONTAINER = (
    (
        f"    {_DB}\n    libvirt:\n      cpus: 1\n      memory_mb: 512\n{_SIMPLE}",
        f"    {_DB}\n    docker: {{image: nginx}}\n",
    ),
)


def _with_cloud_init(section: str) -> tuple[str, str]:
    return _SIMPLE, f"{_SIMPLE}      cloud_init: {section}\n"


_TWO = "count: 2, interfaces: [{bridge: br1, clones: [0, 1]}]"
_DISK = "existing_disk: {path: setup.sh, driver_type: raw, readonly: true}"

CODES: dict[str, tuple[str, Example | None]] = {
    "address-outside-subnet": (
        (
            "An address is outside its subnet: that of a logical switch, or the `subnet` that a bridge of "
            "its connected network has."
        ),
        _yaml(
            (_WEB, "interfaces: [{bridge: br0, ip: 10.0.0.5}]"),
            ("{name: br1}]", "{name: br1, subnet: 10.20.0.0/24}]"),
        ),
    ),
    "addresses-too-far-apart": (
        (
            "Guests of connected bridges share one subnet. The addresses in the YAML are so far apart that "
            "it would have to be larger than a /9."
        ),
        _yaml(
            (_WEB, "interfaces: [{bridge: br0, ip: 10.0.0.5}]"),
            (_DB, "interfaces: [{bridge: br1, ip: 192.168.1.5}]"),
        ),
    ),
    "alias-bomb": (
        (
            "Aliases repeat anchored parts so often that the file expands to more than a million values. "
            "Such a file would exhaust the memory of its reader."
        ),
        None,
    ),
    "ambiguous-name": (
        (
            "A name in `testbed_options.placement` refers to both a guest and a bridge, or `internet` in "
            "`expect` is the name of a guest, too."
        ),
        _yaml(
            ("name: db", "name: br1"),
            ("network:", "testbed_options: {placement: {pin: {br1: two}}}\nnetwork:"),
        ),
    ),
    "bad-address": (
        (
            "Not a valid IPv4 address of a machine, or not a subnet for machines. An `ip` has no prefix "
            "length: the subnet is derived, or is the `subnet` of a bridge."
        ),
        _yaml((_WEB, "interfaces: [{bridge: br0, ip: 10.0.0.5/24}]")),
    ),
    "bad-answer-file": (
        "An answer file of `unattended` is not valid XML.",
        Example(
            yaml=((_IMAGE, "iso_guest: {path: setup.iso, unattended: autounattend.xml}"),),
            files={"setup.iso": "x", "autounattend.xml": "<unattend>\n"},
        ),
    ),
    "bad-certificate": (
        "A file of `ca_certs` has no certificate in the format PEM.",
        Example(
            yaml=(_with_cloud_init("{ca_certs: [ca.der]}"),),
            files={"ca.der": "0\n"},
        ),
    ),
    "bad-environment-file": (
        "A line of an environment file is not of the form NAME=value. The message never shows the line.",
        Example(
            yaml=((_IMAGE, "cloud_image: {name: debian_12, environment_file: secrets.env}"),),
            files={"secrets.env": "PASS WORD=correct horse\n"},
        ),
    ),
    "bad-file": (
        ("The path exists, but is not what is required: a folder in place of a file, or not readable."),
        Example(yaml=(("./setup.sh", "./scripts"),), files={"scripts/one.sh": ""}),
    ),
    "bad-image": (
        (
            "The file is not usable as a disk image: it is neither qcow2 nor a raw disk, has another format "
            "than the YAML says, is packed, encrypted or damaged, or refers to other files, which are not "
            "permitted or do not exist."
        ),
        _yaml((_IMAGE, "existing_disk: {path: setup.sh, driver_type: qcow2}")),
    ),
    "bad-key": ("A list or a mapping is used as a key.", _yaml(("cpus: 1", "[cpus]: 1"))),
    "bad-libvirt-uri": (
        (
            "A `libvirt_uri` is not one of the permitted forms, which name a local daemon. Other libvirt "
            "URIs can run a program, open a file or connect to another machine."
        ),
        _config(
            ('"virt_type": "qemu"},', '"virt_type": "qemu", "libvirt_uri": "qemu+ssh://me@host/system"},')
        ),
    ),
    "bad-lock": (
        "`images.lock` cannot be read: a line is no image with its digest, or it has an image twice.",
        Example(yaml=_CONTAINER, files={"images.lock": "nginx: latest\n"}),
    ),
    "bad-mac": (
        "The MAC address is multicast or zero, which is invalid for an interface.",
        _yaml((_WEB, "interfaces: [{bridge: br0, mac: 01:00:5e:00:00:01}]")),
    ),
    "bad-merge": (
        "The value of `<<` is neither a mapping nor a list of mappings.",
        _yaml(("cpus: 1", "<<: one\n      cpus: 1")),
    ),
    "bad-name": (
        (
            "A name is too long or contains invalid characters. Names become host names, and parts of file "
            "and interface names."
        ),
        _yaml(("name: web", "name: Web Server")),
    ),
    "bad-tag": ("An unsupported tag (`!…`).", _yaml(("name: web", "name: !secret web"))),
    "bad-user-data": (
        (
            "The data of `cloud_init` are of no format that cloud-init knows, or would take the place of "
            "what kvmcompose has it do."
        ),
        Example(
            yaml=(_with_cloud_init("{user_data: user-data.yaml}"),),
            files={"user-data.yaml": "runcmd:\n  - echo one\n"},
        ),
    ),
    "bad-value": (
        "Not one of the permitted values, or not of the required form.",
        _yaml((_IMAGE, "existing_disk: {path: setup.sh, driver_type: qcow}")),
    ),
    "bridge-loop": (
        "Connected bridges form a loop, in which frames would circulate for ever.",
        _yaml(("{br0: br1}", "{br0: br0}")),
    ),
    "broken-expectation": (
        "A line of `expect` does not hold (`validate --expect`). `check` shows all pairs of guests.",
        Example(
            yaml=(("network:", "expect: [{from: web, to: db, is: denied}]\nnetwork:"),),
            argv=("validate", "--expect"),
        ),
    ),
    "bad-password": (
        (
            "A `hashed_passwd_file` has no hash of a password, or a `password_file` not one line. "
            "The message never shows what it has."
        ),
        Example(
            yaml=(_with_cloud_init("{users: [{name: ada, hashed_passwd_file: ada.hash}]}"),),
            files={"ada.hash": "correct horse\n"},
        ),
    ),
    "bad-public-key": (
        (
            "The file at `ssh_public_key_location` has a line that sshd does not accept: the key is cut off "
            "or wrapped, in another format, or preceded by something that is no option. Each line is one key "
            "in OpenSSH's format."
        ),
        Example(files={"key.pub": PUBLIC_KEY[:60] + "\n" + PUBLIC_KEY[60:]}),
    ),
    "bad-template": (
        (
            "A template of the project cannot be read or rendered. `validate` renders all templates of a "
            "project that has any."
        ),
        Example(files={"templates/domain.xml.j2": "<domain>\n  {{ nam }}\n</domain>\n"}),
    ),
    "bad-script": (
        (
            "A guest cannot run the script: it has line ends of Windows (CR LF), starts with a byte-order "
            "mark, or is not UTF-8. A warning if only some lines of a shell script end in CR LF."
        ),
        Example(files={"setup.sh": "#!/bin/sh\r\ntrue\r\n"}),
    ),
    "cannot-scale": (
        "The machine cannot have clones, because its disk is read-only.",
        _scaled(_TWO, _DISK),
    ),
    "clone-out-of-range": (
        "The number of a clone is not below `count`. Clones are counted from 0.",
        _scaled("count: 2, interfaces: [{bridge: br1, clones: [0, 1, 2]}]"),
    ),
    "clone-without-interface": (
        "No entry of `scaling.interfaces` names these clones, so nothing could reach them.",
        _scaled("count: 3, interfaces: [{bridge: br1, clones: [0, 1]}]"),
    ),
    "cloud-config-schema": (
        (
            "cloud-init's own schema does not permit this in `user_data` or `vendor_data`. Only a machine "
            "where cloud-init is installed says so."
        ),
        None,
    ),
    "contradiction": (
        "Two lines of `expect` cannot both hold.",
        _yaml(
            (
                "network:",
                (
                    "expect:\n  - {from: web, to: db, tcp: 5432, is: allowed}\n"
                    "  - {from: web, to: db, is: denied}\nnetwork:"
                ),
            )
        ),
    ),
    "control-character": (
        "A control character that neither YAML nor XML permits, at the given place.",
        _yaml(("name: web", 'name: "web\\u0007"')),
    ),
    "dependency-cycle": (
        "Machines depend on each other by `depends_on`, or one depends on itself.",
        _yaml(
            ("name: web", "name: web\n    depends_on: [db]"), ("name: db", "name: db\n    depends_on: [web]")
        ),
    ),
    "doubled-clone": (
        "A list names a clone twice, or two entries connect it to the same bridge.",
        _scaled("count: 2, interfaces: [{bridge: br1, clones: [0, 1, 1]}]"),
    ),
    "doubled-disk": (
        "Two disks of a guest have the same name.",
        _yaml(
            (_SIMPLE, f"{_SIMPLE}      disks: [{{size_gigabytes: 1}}, {{name: disk1, size_gigabytes: 1}}]\n")
        ),
    ),
    "duplicate-address": (
        "Two interfaces of connected bridges, or two testbed hosts, have the same address.",
        _yaml(
            (_WEB, "interfaces: [{bridge: br0, ip: 10.0.0.5}]"),
            (_DB, "interfaces: [{bridge: br1, ip: 10.0.0.5}]"),
        ),
    ),
    "duplicate-connection": (
        "Two bridges are connected twice.",
        _yaml(("{br0: br1}", "[[br0, br1], [br1, br0]]")),
    ),
    "duplicate-key": ("A mapping contains a key twice.", _yaml(("cpus: 1", "cpus: 1\n      cpus: 2"))),
    "duplicate-mac": (
        "Two interfaces have the same MAC address.",
        _yaml(
            (_WEB, "interfaces: [{bridge: br0, mac: 52:54:00:00:00:01}]"),
            (_DB, "interfaces: [{bridge: br1, mac: 52:54:00:00:00:01}]"),
        ),
    ),
    "duplicate-name": (
        "Two machines, clones, bridges or host interfaces have the same name.",
        _yaml(("name: db", "name: web")),
    ),
    "duplicate-path": (
        "Two `files` of `cloud_init` have the same path.",
        _yaml(_with_cloud_init("{files: [{path: /etc/a, content: a}, {path: /etc/a, content: b}]}")),
    ),
    "duplicate-variable": (
        "A variable is set both in `environment` and in the environment file.",
        Example(
            yaml=(
                (
                    _IMAGE,
                    "cloud_image: {name: debian_12, environment: {A: b}, environment_file: secrets.env}",
                ),
            ),
            files={"secrets.env": "A=c\n"},
        ),
    ),
    "empty-value": ("A required value is empty.", _yaml(("./setup.sh", "''"))),
    "hardware-conflict": (
        (
            "Keys of a guest's hardware contradict each other, or what the guest has: libvirt or QEMU would "
            "refuse to start it."
        ),
        _yaml((_SIMPLE, f"      machine: virt\n{_SIMPLE}")),
    ),
    "image-name": (
        "On the command line: not a valid name of an image.",
        Example(argv=("cloud-images", "add", "My Image", "setup.sh"), named=False),
    ),
    "image-source": (
        "On the command line: `build` for an image that is downloaded, or `pull` for one that is built.",
        Example(argv=("cloud-images", "build", "debian_12"), named=False),
    ),
    "json-syntax": ("The config is not valid JSON.", _config(('"key.pub"\n', '"key.pub",\n'))),
    "loopback-address": (
        "With several testbed hosts, one has a loopback address, at which other hosts reach themselves.",
        _config(("192.0.2.12", "127.0.0.1")),
    ),
    "missing-file": (
        "A file does not exist. For private keys, which a build does not need, this is a warning.",
        _yaml(("./setup.sh", "./set-up.sh")),
    ),
    "missing-key": ("A required key is missing.", _yaml(("      cpus: 1\n", ""))),
    "name-too-long": (
        "The host name, made of the names of project and guest, would exceed 63 characters.",
        _yaml(("name: web", f"name: {'web' * 20}")),
    ),
    "needs-address": (
        "An interface of a container has an address by DHCP (`ip: dynamic`), and nothing in it asks for one.",
        _yaml(
            (
                "network:\n",
                "  - {name: c, interfaces: [{bridge: br0, ip: dynamic}], docker: {image: nginx}}\nnetwork:\n",
            )
        ),
    ),
    "needs-cloud-init": (
        (
            "`cloud_init`, scripts, a healthcheck and the conditions `reachable` and `setup_done` need "
            "cloud-init, and the machine is not a `cloud_image`."
        ),
        _scaled(
            f"{_TWO}, clone_setup: [{{script: setup.sh, clones: [0]}}]", "existing_disk: {path: setup.sh}"
        ),
    ),
    "needs-ready": (
        (
            "A script runs once the guest is set up. SSH says so, or the guest agent (`ready: agent`), and "
            "not what the `ready` of the machine names."
        ),
        _yaml((_IMAGE + "\n", _IMAGE + "\n      ready: none\n")),
    ),
    "no-healthcheck": (
        "`depends_on` waits for a machine to be healthy that has no `healthcheck`.",
        _yaml(("name: web", "name: web\n    depends_on: {db: {condition: healthy}}")),
    ),
    "no-hosts": (
        "The config lists no testbed host.",
        _config(
            ('    "one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"},\n', ""),
            ('    "two": {"ip": "192.0.2.12", "virt_type": "qemu"}\n', ""),
        ),
    ),
    "mixed-addresses": (
        (
            "A tunnel joins a host with an IPv4 address and one with an IPv6 address, so that nothing would "
            "pass. Host names count as IPv4: `up` resolves them so."
        ),
        _config(('"ip": "192.0.2.12"', '"ip": "fd00::12"')),
    ),
    "no-interface": ("A machine has no interface.", _yaml((f"    {_DB}\n", ""))),
    "no-kind": (
        "A machine has no key of a guest type, or `libvirt_type` is empty, or one of `disks` has no content.",
        _yaml((_SIMPLE, "      libvirt_type: {}\n")),
    ),
    "no-machines": (
        "The list of machines is empty.",
        _yaml((BASE[: BASE.index("network:")], "machines: []\n")),
    ),
    "needs-windows": (
        "The key is for Windows guests, whose seed cloudbase-init reads.",
        _yaml(_with_cloud_init("{datasource: configdrive}")),
    ),
    "no-main-host": ("No testbed host is the main host.", _config((', "is_main_host": true', ""))),
    "not-in-lock": (
        "The project has an `images.lock`, and this image is not in it. `pull` adds it.",
        Example(yaml=_CONTAINER, files={"images.lock": "# none\n"}),
    ),
    "no-pair": (
        "A line of `expect` is about one guest and itself.",
        _yaml(("network:", "expect: [{from: web, to: web, is: allowed}]\nnetwork:")),
    ),
    "no-room": (
        (
            "Guests that must be on one host need more capacity than any host has left, or the strategy "
            "exceeds the `cpus` or `memory_mb` of a host in the config."
        ),
        Example(
            yaml=(("network:", "testbed_options: {load_balancing: pack}\nnetwork:"),),
            config=(
                ('"192.0.2.11"', '"192.0.2.11", "memory_mb": 256'),
                ('"192.0.2.12"', '"192.0.2.12", "memory_mb": 512'),
            ),
        ),
    ),
    "not-allowed": (
        "A combination that is not permitted: an ISO cannot be scaled.",
        _scaled(_TWO, "iso_guest: {path: setup.sh}"),
    ),
    "not-in-windows": (
        "The key is for guests with cloud-init and a shell of Unix: nothing in a Windows guest reads it.",
        _yaml(_with_cloud_init("{os: windows, packages: [nginx]}")),
    ),
    "not-utf8": (
        "The file is not encoded in UTF-8.",
        Example(yaml=(("name: web", "name: caf\u00e9"),), encoding="latin-1"),
    ),
    "other-address": (
        "The `network_config` of `cloud_init` does not give an interface the address that `config` shows.",
        _yaml(_with_cloud_init("{network_config: {version: 2, ethernets: {a: {addresses: [10.9.9.9/24]}}}}")),
    ),
    "out-of-range": ("A number is too small or too large.", _yaml(("cpus: 1", "cpus: 0"))),
    "outside-project": (
        (
            "A file for a guest is outside the project folder, directly or through a link. `--allow-path` "
            "permits other folders."
        ),
        _yaml(("./setup.sh", "~/.ssh/id_ed25519")),
    ),
    "placement-conflict": (
        (
            "The constraints in `testbed_options.placement` contradict each other or the connections of "
            "guests, or the strategy does not support them: `round_robin` supports pins only."
        ),
        _yaml(
            (_DB, "interfaces: [{bridge: br0}, {bridge: br1}]"),
            ("network:", "testbed_options: {placement: {pin: {br0: one, br1: two}}}\nnetwork:"),
        ),
    ),
    "recursive-alias": (
        "An alias is inside the part that it repeats.",
        _yaml(("bridges:", "bridges: &all"), ("{name: br1}", "*all")),
    ),
    "open-private-key": (
        (
            "A warning of `validate` only: a context contains a private key, which arrives in the guest with "
            "mode 0644. ssh refuses such a key, and every user of the guest can read it."
        ),
        Example(
            yaml=((_IMAGE, "cloud_image: {name: debian_12, context: files}"),),
            files={"files/id_ed25519": "-----BEGIN OPENSSH PRIVATE KEY-----\n"},
        ),
    ),
    "reserved-address": (
        "The address has another meaning in its subnet: the network address, broadcast, or the gateway.",
        _yaml((_WEB, "interfaces: [{bridge: br0, ip: 10.0.0.1}]")),
    ),
    "scaling-with-interfaces": (
        (
            "A machine with `scaling` has `interfaces`. It becomes a golden image; use `scaling.interfaces` "
            "for its clones."
        ),
        _yaml((_SIMPLE, f"{_SIMPLE}      scaling: {{{_TWO}}}\n")),
    ),
    "secret-in-environment": (
        (
            "A warning of `validate` only: the name of a variable suggests a secret, and anyone with the lab "
            "can read the YAML."
        ),
        _yaml((_IMAGE, "cloud_image: {name: debian_12, environment: {API_TOKEN: abc}}")),
    ),
    "reserved-variable": (
        (
            "The guest's shell sets this variable itself: bash makes some read-only, which ends every "
            "script, and replaces the values of others."
        ),
        _yaml((_IMAGE, "cloud_image: {name: debian_12, environment: {UID: 1000}}")),
    ),
    "several-documents": (
        "The file contains more than one YAML document.",
        _yaml(("network:", "---\nnetwork:")),
    ),
    "several-protocols": (
        "A line of `expect` is about one protocol, or without any about all traffic.",
        _yaml(("network:", "expect: [{from: web, to: db, tcp: 53, udp: 53, is: allowed}]\nnetwork:")),
    ),
    "shared-address": (
        "An interface of several clones has an `ip` or a `mac`, which only one of them can have.",
        _scaled("count: 2, interfaces: [{bridge: br1, clones: [0, 1], ip: 10.0.0.5}]"),
    ),
    "subnet-too-small": (
        "The `subnet` of a bridge has fewer addresses than its connected network has interfaces.",
        _yaml(("{name: br1}]", "{name: br1, subnet: 10.20.0.0/30}]")),
    ),
    "too-deep": ("Lists and mappings are nested more than 100 levels deep.", None),
    "too-few": ("A list has too few items.", _yaml(("{br0: br1}", "[[br0]]"))),
    "too-large": ("The file is larger than 64 MiB, or one of `cloud_init` than 1 MiB.", None),
    "too-long": ("A text other than a name is too long.", None),
    "too-many": ("A list has too many items.", _yaml(("{br0: br1}", "[[br0, br1, br0]]"))),
    "too-many-keys": (
        "Mutually exclusive keys are set together.",
        _yaml((_IMAGE, "cloud_image: {name: debian_12, path: disk.qcow2}")),
    ),
    "too-many-kinds": (
        "A machine has two guest types, `libvirt_type` two boot disks, or one of `disks` two contents.",
        _yaml(("    libvirt:", "    docker: {image: nginx}\n    libvirt:")),
    ),
    "torn-guest": (
        "A guest is on several bridges that `round_robin` has put on different hosts.",
        _yaml((_DB, "interfaces: [{bridge: br0}, {bridge: br1}]")),
    ),
    "two-main-hosts": (
        "More than one testbed host is the main host.",
        _config(('"192.0.2.12"', '"192.0.2.12", "is_main_host": true')),
    ),
    "two-subnets": (
        "Two connected bridges have different subnets. The guests of connected bridges share one.",
        _yaml(
            (
                "[{name: br0}, {name: br1}]",
                "[{name: br0, subnet: 10.20.0.0/24}, {name: br1, subnet: 10.21.0.0/24}]",
            )
        ),
    ),
    "unknown-alias": (
        "An alias refers to an anchor that is not defined above it.",
        _yaml(("cpus: 1", "cpus: *count")),
    ),
    "unknown-bridge": (
        "A bridge is not in `network.bridges`.",
        _yaml((_WEB, "interfaces: [{bridge: br7}]")),
    ),
    "unknown-guest": (
        "A name or pattern in `expect`, `management.except` or `depends_on` is that of no guest or machine.",
        _yaml(("network:", "expect: [{from: web, to: dbb, is: allowed}]\nnetwork:")),
    ),
    "unknown-host": (
        "`network_interfaces` or `placement.pin` names a testbed host that is not in the config.",
        _yaml(
            (
                "  external_bridge: br0",
                (
                    "  external_bridge: br0\n  network_interfaces:\n"
                    "    - {nic_name: eth1, testbed_bridge: br0, testbed_host: three}"
                ),
            )
        ),
    ),
    "unknown-image": (
        "An image is neither in the catalogue nor added with `cloud-images add`.",
        _yaml(("debian_12,", "debian-12,")),
    ),
    "unknown-key": (
        "A key is not valid at this place.",
        _yaml(("cpus: 1", "cpus: 1\n      vcpus: 2")),
    ),
    "unknown-name": (
        (
            "On the command line: no guest, task or artefact has this name, or several artefacts have it "
            "where one is required."
        ),
        Example(argv=("plan", "wbe")),
    ),
    "usage": (
        "On the command line: an argument is invalid, or two of them exclude each other.",
        Example(argv=("up", "--watch", "--detach")),
    ),
    "no-free-address": (
        "The `subnet` of a bridge or switch has no address left for its management port.",
        _yaml(
            (
                "  bridges: [{name: br0}, {name: br1}]\n  bridge_connections: {br0: br1}\n",
                "  bridges: [{name: br0}, {name: br1, subnet: 10.20.0.0/30}]\n",
            ),
            ("network:", "testbed_options: {management: true}\nnetwork:"),
        ),
    ),
    "unmanaged-guest": (
        "`testbed_options.management` is on, and a guest has no known IPv4 address (a warning).",
        _yaml(
            ("{bridge: br1}", "{bridge: br1, ip: dynamic}"),
            ("  bridge_connections: {br0: br1}\n", ""),
            ("network:", "testbed_options: {management: true}\nnetwork:"),
        ),
    ),
    "unknown-placed-name": (
        "A name in `testbed_options.placement` is not that of a guest, machine or bridge.",
        _yaml(("network:", "testbed_options: {placement: {apart: [[web, dbb]]}}\nnetwork:")),
    ),
    "unknown-strategy": (
        "Unknown placement strategy.",
        _yaml(("network:", "testbed_options: {load_balancing: round-robin}\nnetwork:")),
    ),
    "unsupported-dialect": (
        "This version does not support the dialect of the `network` section.",
        _yaml((BASE[BASE.index("network:") :], "network: {ovs: {}}\n")),
    ),
    "wrong-type": (
        "A value has the wrong type: text instead of a number, a single value instead of a list.",
        _yaml(("memory_mb: 512", "memory_mb: 512M")),
    ),
    "yaml-syntax": ("The file is not valid YAML.", _yaml(("name: web", "name: web: 1"))),
}
