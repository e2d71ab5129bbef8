"""Files with the elements of the existing system's examples are accepted, or refused for a reason."""

from __future__ import annotations

import pytest
from ovn_labs import CLOUD, DHCP, PUBLIC, SW0, SW1, codes, lab, machine, problems

NGINX = "docker: {image: 'nginx:stable', environment: {A: B}}"


def clones(kind: str, first: int, last: int) -> str:
    """Return a machine with clones on ``sw0`` that get their addresses by DHCP."""
    scaling = (
        f"scaling: {{count: {last - first + 1}, interfaces: {{sw0: {{clones: {[*range(last - first + 1)]}, "
        f'gateway: 10.0.0.1, ip_type: dynamic, mac_range: {{from: "00:00:00:00:00:{first:02x}", '
        f'to: "00:00:00:00:00:{last:02x}"}}}}}}}}'
    )
    return f"  - name: clones\n    {kind[:-1]}, {scaling}}}\n"


RULE = "{direction: to-lport, priority: %d, match: %s, action: %s}"
CASES = {
    "acl": (
        lab(
            machine("client1", 1) + machine("client2", 2),
            ports=(SW0, SW1, PUBLIC),
            routes=(
                "{prefix: 0.0.0.0/0, nexthop: 172.16.1.1}",
                "{prefix: 10.0.0.0/24, nexthop: 10.0.0.1}",
            ),
            switches="sw0: {subnet: 10.0.0.0/24}\n      sw1: {subnet: 10.0.1.0/24}",
            acl="{switches: {sw0: [%s]}}" % (RULE % (10, "\"ip4.src == '10.0.0.10'\"", "allow")),
        ),
        [
            ("useless-route", "network.ovn.routers.lr0.static_routes[1].nexthop"),
            ("bad-match", "network.ovn.acl.switches.sw0[0].match"),
        ],
    ),
    "android": (
        lab(machine("phone", 1, "dynamic", body="android: {avd: {android_api_version: 28}}"), dhcp=DHCP),
        [("unknown-key", "machines[0].android")],
    ),
    "clones": (
        lab(clones(CLOUD, 1, 3), ports=(SW0,), dhcp=DHCP),
        [
            ("unknown-next-hop", "network.ovn.routers.lr0.static_routes[0].nexthop"),
            ("nat-without-gateway", "network.ovn.routers.lr0.nat"),
        ],
    ),
    "docker": (
        lab(machine("nginx", 1, body=NGINX) + clones(NGINX, 1, 2), dhcp=DHCP),
        [
            ("cannot-run-yet", "machines[0].docker"),
            ("duplicate-mac", "machines[1].docker.scaling.interfaces.sw0.mac_range"),
        ],
    ),
    "multi-interface": (
        lab(
            machine("client1", 3) + "  - name: client2\n    network:\n"
            '      - {switch: sw0, gateway: 10.0.0.1, mac: "00:00:00:00:00:01", ip: 10.0.0.10}\n'
            '      - {switch: sw0, gateway: 10.0.0.1, mac: "00:00:00:00:00:02", ip: 10.0.0.11}\n'
            f"    {CLOUD}\n",
            acl="{apply_deny_all: false, switches: {sw0: ["
            + RULE % (1001, "ip", "drop")
            + ", "
            + RULE % (1002, "ip4 && ip4.src == 10.0.0.11 && ip4.dst == 10.0.0.12", "allow-related")
            + "]}}",
        ),
        [],
    ),
    "two routers": (
        lab(
            machine("client1", 1, "dynamic"),
            ports=(
                SW0,
                '{name: lr0-mid, mac: "00:00:00:00:ff:02", gateway_ip: 10.0.1.1/24, switch: sw-mid}',
                PUBLIC,
            ),
            routes=("{prefix: 0.0.0.0/0, nexthop: 172.16.1.1}", "{prefix: 10.0.2.0/24, nexthop: 10.0.1.2}"),
            switches="sw0: {subnet: 10.0.0.0/24}\n      sw1: {subnet: 10.0.2.0/24}\n"
            "      sw-mid: {subnet: 10.0.1.0/24}",
            dhcp=DHCP,
            more='lr1: {ports: [{name: lr1-mid, mac: "00:00:00:00:ff:03", gateway_ip: 10.0.1.2/24, '
            'switch: sw-mid}, {name: lr1-sw1, mac: "00:00:00:00:ff:04", gateway_ip: 10.0.2.1/24, '
            "switch: sw1}], static_routes: [{prefix: 0.0.0.0/0, nexthop: 10.0.1.1}]}",
        ),
        [],
    ),
    "existing disk": (
        lab(
            machine(
                "client1",
                1,
                "dynamic",
                body="libvirt: {cpus: 2, memory_mb: 6144, extended_graphics_support: true, libvirt_type: "
                "{existing_disk: {path: disk.qcow2, driver_type: qcow2, run_script: run.sh, context: x}}}",
            ),
            ports=(SW0,),
        ),
        [
            ("no-dhcp", "machines[0].network.ip"),
            ("unknown-next-hop", "network.ovn.routers.lr0.static_routes[0].nexthop"),
            ("nat-without-gateway", "network.ovn.routers.lr0.nat"),
        ],
    ),
    "signal": (lab(machine("server", 1) + machine("client1", 2) + machine("client2", 3)), []),
}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("case", sorted(CASES))
def test_files_of_the_existing_system(case: str, count: int) -> None:
    text, wanted = CASES[case]
    assert codes(text, count) == wanted
    for problem in problems(text, count):
        assert problem.location.line > 1


def test_keys_that_nothing_uses_are_warned_of() -> None:
    body = (
        "libvirt: {cpus: 2, memory_mb: 64, extended_graphics_support: true, libvirt_type: "
        "{existing_disk: {path: disk.qcow2, driver_type: qcow2, run_script: run.sh, context: x}}}"
    )
    text = lab(machine("a", 1, body=body) + machine("b", 2, body=body)) + "tooling: {}\n"
    found = problems(text)
    assert {each.code for each in found} == {"ignored-key"}
    assert [each.path.rpartition(".")[2] for each in found] == [  # once each
        "extended_graphics_support",
        "run_script",
        "context",
    ]
