"""Every problem code: what it means, and an example that provokes it."""

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


@dataclass(frozen=True)
class Example:
    """Edits to the two files above, further files, and the command that then complains."""

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
    """The second machine with clones."""
    return _yaml(
        (f"    {_DB}\n", ""), (_SIMPLE, f"      libvirt_type: {{{image}}}\n      scaling: {{{scaling}}}\n")
    )


_TWO = "count: 2, interfaces: [{bridge: br1, clones: [0, 1]}]"
_DISK = "existing_disk: {path: setup.sh, readonly: true}"

CODES: dict[str, tuple[str, Example | None]] = {
    "addresses-too-far-apart": (
        (
            "Guests of connected bridges share one subnet, and the addresses given are so far apart that it "
            "would have to be larger than /9."
        ),
        _yaml(
            (_WEB, "interfaces: [{bridge: br0, ip: 10.0.0.5}]"),
            (_DB, "interfaces: [{bridge: br1, ip: 192.168.1.5}]"),
        ),
    ),
    "alias-bomb": (
        (
            "Aliases repeat anchored parts so often that the file stands for more than a million values. "
            "It was made to fill the memory of its reader, or is a mistake like one."
        ),
        None,
    ),
    "ambiguous-name": (
        "A name in `testbed_options.placement` is that of a guest and of a bridge.",
        _yaml(
            ("name: db", "name: br1"),
            ("network:", "testbed_options: {placement: {pin: {br1: two}}}\nnetwork:"),
        ),
    ),
    "bad-address": (
        (
            "Not an IPv4 address that one machine can have. A prefix length is not part of it: the subnet is "
            "derived."
        ),
        _yaml((_WEB, "interfaces: [{bridge: br0, ip: 10.0.0.5/24}]")),
    ),
    "bad-environment-file": (
        "A line of an environment file is no NAME=value. The message never shows the line itself.",
        Example(
            yaml=((_IMAGE, "cloud_image: {name: debian_12, environment_file: secrets.env}"),),
            files={"secrets.env": "PASS WORD=correct horse\n"},
        ),
    ),
    "bad-file": (
        (
            "The path leads to something, but not to what is wanted there: a folder in place of a file, "
            "or what cannot be read."
        ),
        Example(yaml=(("./setup.sh", "./scripts"),), files={"scripts/one.sh": ""}),
    ),
    "bad-image": (
        (
            "The file cannot be used as a disk image: it has another format than the YAML says, is damaged, "
            "or leads to other files that may not be opened or are not there."
        ),
        _yaml((_IMAGE, "existing_disk: {path: setup.sh, driver_type: qcow2}")),
    ),
    "bad-key": ("A list or a mapping stands where a key is wanted.", _yaml(("cpus: 1", "[cpus]: 1"))),
    "bad-libvirt-uri": (
        (
            "A `libvirt_uri` is none of the few forms that name a daemon and nothing else: to libvirt a URI "
            "can also be a program to run, a file to open or another machine."
        ),
        _config(
            ('"virt_type": "qemu"},', '"virt_type": "qemu", "libvirt_uri": "qemu+ssh://me@host/system"},')
        ),
    ),
    "bad-mac": (
        "The address is a multicast address, or zero: no interface can have it.",
        _yaml((_WEB, "interfaces: [{bridge: br0, mac: 01:00:5e:00:00:01}]")),
    ),
    "bad-merge": (
        "What stands behind `<<` is neither a mapping nor a list of mappings.",
        _yaml(("cpus: 1", "<<: one\n      cpus: 1")),
    ),
    "bad-name": (
        (
            "A name with characters that cannot be in it, or too long. Names become host names, and parts of "
            "file and interface names."
        ),
        _yaml(("name: web", "name: Web Server")),
    ),
    "bad-tag": ("A tag (`!…`) that means nothing here.", _yaml(("name: web", "name: !secret web"))),
    "bad-value": (
        "Not one of the values that may stand here, or of another form.",
        _yaml((_IMAGE, "existing_disk: {path: setup.sh, driver_type: qcow}")),
    ),
    "bridge-loop": (
        "The connections join bridges in a circle, in which frames would go round for ever.",
        _yaml(("{br0: br1}", "{br0: br0}")),
    ),
    "cannot-scale": (
        "The machine cannot have clones: its disk is read-only.",
        _scaled(_TWO, _DISK),
    ),
    "clone-out-of-range": (
        "A clone's number is not below `count`; they are counted from 0.",
        _scaled("count: 2, interfaces: [{bridge: br1, clones: [0, 1, 2]}]"),
    ),
    "clone-without-interface": (
        "No entry of `scaling.interfaces` names these clones: nothing could reach them.",
        _scaled("count: 3, interfaces: [{bridge: br1, clones: [0, 1]}]"),
    ),
    "control-character": (
        "A character that can be in neither YAML nor XML. The place tells where it is.",
        _yaml(("name: web", 'name: "web\\u0007"')),
    ),
    "doubled-clone": (
        "A list names a clone twice, or two entries plug it into the same bridge.",
        _scaled("count: 2, interfaces: [{bridge: br1, clones: [0, 1, 1]}]"),
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
    "duplicate-key": ("A key stands twice in one mapping.", _yaml(("cpus: 1", "cpus: 1\n      cpus: 2"))),
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
    "duplicate-variable": (
        "A variable is set in `environment` and in the environment file.",
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
    "empty-value": ("A value is wanted, and the text is empty.", _yaml(("./setup.sh", "''"))),
    "image-name": (
        "On the command line: not a name that an image can have.",
        Example(argv=("cloud-images", "add", "My Image", "setup.sh"), named=False),
    ),
    "image-source": (
        "On the command line: an image is to be built that is fetched, or fetched that is built.",
        Example(argv=("cloud-images", "build", "debian_12"), named=False),
    ),
    "json-syntax": ("The config is not JSON.", _config(('"key.pub"\n', '"key.pub",\n'))),
    "loopback-address": (
        "With several testbed hosts, the address of one leads every other host to itself.",
        _config(("192.0.2.12", "127.0.0.1")),
    ),
    "missing-file": (
        "A file that is named is not there. A warning for the private keys, which building does not need.",
        _yaml(("./setup.sh", "./set-up.sh")),
    ),
    "missing-key": ("A key that is required is not there.", _yaml(("      cpus: 1\n", ""))),
    "name-too-long": (
        "The host name that is made of project and guest name would have more than 63 characters.",
        _yaml(("name: web", f"name: {'web' * 20}")),
    ),
    "needs-cloud-init": (
        "Scripts reach clones by cloud-init, and the machine is no `cloud_image`.",
        _scaled(
            f"{_TWO}, clone_setup: [{{script: setup.sh, clones: [0]}}]", "existing_disk: {path: setup.sh}"
        ),
    ),
    "no-hosts": (
        "The config lists no testbed host.",
        _config(
            ('    "one": {"ip": "192.0.2.11", "is_main_host": true, "virt_type": "qemu"},\n', ""),
            ('    "two": {"ip": "192.0.2.12", "virt_type": "qemu"}\n', ""),
        ),
    ),
    "no-interface": ("A machine has no interface.", _yaml((f"    {_DB}\n", ""))),
    "no-kind": (
        "A machine has none of the keys that say what it is, or `libvirt_type` is empty.",
        _yaml((_SIMPLE, "      libvirt_type: {}\n")),
    ),
    "no-machines": (
        "The list of machines is empty.",
        _yaml((BASE[: BASE.index("network:")], "machines: []\n")),
    ),
    "no-main-host": ("No testbed host is the main host.", _config((', "is_main_host": true', ""))),
    "no-room": (
        (
            "Guests that have to lie together need more than any host has, or has left; or the strategy puts "
            "more on a host than its `cpus` and `memory_mb` in the config."
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
        "A combination that is ruled out: an ISO cannot be scaled.",
        _scaled(_TWO, "iso_guest: {path: setup.sh}"),
    ),
    "not-utf8": (
        "The file is not UTF-8.",
        Example(yaml=(("name: web", "name: caf\u00e9"),), encoding="latin-1"),
    ),
    "out-of-range": ("A number is too small or too large.", _yaml(("cpus: 1", "cpus: 0"))),
    "outside-project": (
        (
            "What is carried into a guest lies outside the project folder, itself or through a link. "
            "`--allow-path` allows other places."
        ),
        _yaml(("./setup.sh", "~/.ssh/id_ed25519")),
    ),
    "placement-conflict": (
        (
            "What `testbed_options.placement` asks for contradicts itself or what lies together anyway; "
            "or the strategy does not heed it, as `round_robin` heeds pins only."
        ),
        _yaml(
            (_DB, "interfaces: [{bridge: br0}, {bridge: br1}]"),
            ("network:", "testbed_options: {placement: {pin: {br0: one, br1: two}}}\nnetwork:"),
        ),
    ),
    "recursive-alias": (
        "An alias stands inside the part that it repeats.",
        _yaml(("bridges:", "bridges: &all"), ("{name: br1}", "*all")),
    ),
    "reserved-address": (
        "The address means something else in its subnet: the subnet itself, broadcast, or the gateway.",
        _yaml((_WEB, "interfaces: [{bridge: br0, ip: 10.0.0.1}]")),
    ),
    "scaling-with-interfaces": (
        "A machine with `scaling` has `interfaces`. It becomes a golden image; its clones have interfaces.",
        _yaml((_SIMPLE, f"{_SIMPLE}      scaling: {{{_TWO}}}\n")),
    ),
    "secret-in-environment": (
        (
            "A warning that only `validate` gives: a variable's name looks like that of a secret, and the "
            "file is seen by everybody who sees the lab."
        ),
        _yaml((_IMAGE, "cloud_image: {name: debian_12, environment: {API_TOKEN: abc}}")),
    ),
    "several-documents": (
        "The file holds more than one YAML document.",
        _yaml(("network:", "---\nnetwork:")),
    ),
    "too-deep": ("Lists and mappings are nested more than 100 levels deep.", None),
    "too-few": ("A list has too few items.", _yaml(("{br0: br1}", "[[br0]]"))),
    "too-large": ("The file has more than 64 MiB.", None),
    "too-long": ("A text is too long, and no name.", None),
    "too-many": ("A list has too many items.", _yaml(("{br0: br1}", "[[br0, br1, br0]]"))),
    "too-many-keys": (
        "Keys of which one can be given stand together.",
        _yaml((_IMAGE, "cloud_image: {name: debian_12, path: disk.qcow2}")),
    ),
    "too-many-kinds": (
        "A machine is of two kinds, or `libvirt_type` names two things to boot from.",
        _yaml(("    libvirt:", "    docker: {image: nginx}\n    libvirt:")),
    ),
    "torn-guest": (
        "A guest is on several bridges, and round robin has put them on different hosts.",
        _yaml((_DB, "interfaces: [{bridge: br0}, {bridge: br1}]")),
    ),
    "two-main-hosts": (
        "More than one testbed host is the main host.",
        _config(('"192.0.2.12"', '"192.0.2.12", "is_main_host": true')),
    ),
    "unknown-alias": (
        "An alias repeats an anchor that does not stand above it.",
        _yaml(("cpus: 1", "cpus: *count")),
    ),
    "unknown-bridge": (
        "A bridge is named that `network.bridges` does not have.",
        _yaml((_WEB, "interfaces: [{bridge: br7}]")),
    ),
    "unknown-host": (
        "`network_interfaces` or `placement.pin` names a testbed host that the config does not have.",
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
        "An image is named that is neither in the catalogue nor added with `cloud-images add`.",
        _yaml(("debian_12,", "debian-12,")),
    ),
    "unknown-key": (
        "A key that means nothing where it stands.",
        _yaml(("cpus: 1", "cpu: 1\n      cpus: 1")),
    ),
    "unknown-name": (
        (
            "On the command line: no guest, task or artefact has this name, or several artefacts have it "
            "where one is wanted."
        ),
        Example(argv=("plan", "wbe")),
    ),
    "unknown-placed-name": (
        "A name in `testbed_options.placement` is that of no guest, machine or bridge.",
        _yaml(("network:", "testbed_options: {placement: {apart: [[web, dbb]]}}\nnetwork:")),
    ),
    "unknown-strategy": (
        "There is no placement strategy of this name.",
        _yaml(("network:", "testbed_options: {load_balancing: round-robin}\nnetwork:")),
    ),
    "unsupported-dialect": (
        "The network is written in a dialect that this version does not build.",
        _yaml((BASE[BASE.index("network:") :], "network: {ovn: {switches: {}}}\n")),
    ),
    "wrong-type": (
        "A value of another type than wanted: text for a number, a single value for a list.",
        _yaml(("memory_mb: 512", "memory_mb: 512M")),
    ),
    "yaml-syntax": ("The file is not YAML.", _yaml(("name: web", "name: web: 1"))),
}
