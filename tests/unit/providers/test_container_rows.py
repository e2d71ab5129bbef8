"""What engines say about containers and images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError

from kvmcompose.hosts.errors import DriverError
from kvmcompose.providers.containers import measuring, rows
from kvmcompose.providers.netns.container_nics import FoundNic, parse_nics


def inspected(**state: Any) -> dict[str, Any]:
    labels = {"kvm-compose.project": "p", "kvm-compose.guest": "a", "kvm-compose.made": "v1"}
    return {
        "Id": "5" * 64,
        "Name": "/p-a",
        "Image": "6" * 64,
        "Config": {"Labels": labels},
        "State": {"StartedAt": "0001-01-01T00:00:00Z", **state},
    }


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"Status": "exited", "ExitCode": 0}, None),
        ({"Status": "exited", "ExitCode": 2}, "exit status 2"),
        ({"Status": "exited", "ExitCode": 137}, "killed by SIGKILL"),
        ({"Status": "exited", "ExitCode": 255}, "exit status 255"),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, "out of memory"),
        ({"Status": "created", "ExitCode": 0}, None),
        ({"Status": "exited", "ExitCode": 127, "Error": "no such\nfile"}, "no such file"),
        ({"Status": "running", "Running": True, "Pid": 7}, None),
    ],
)
def test_why_a_container_does_not_run(state: dict[str, Any], reason: str | None) -> None:
    assert rows.observed_in(inspected(**state)).reason == reason


def test_a_running_container() -> None:
    found = rows.observed_in(
        inspected(
            Status="running",
            Running=True,
            Pid=77,
            StartedAt="2026-11-28T00:37:54.052520969Z",
            Health={"Status": "healthy"},
        )
    )
    assert (found.name, found.guest, found.made, found.pid) == ("p-a", "a", "v1", 77)
    assert found.started == pytest.approx(1795826274.05252)
    assert (found.health, found.exit_code, found.image) == ("healthy", None, f"sha256:{'6' * 64}")


@pytest.mark.parametrize(
    ("checks", "reason"),
    [
        ([{"ExitCode": 1, "Output": ""}, {"ExitCode": 127, "Output": "sh: x: not found"}], "exit status 127"),
        ([{"ExitCode": -1, "Output": "Health check exceeded timeout (1s)"}], "it did not end in time"),
        ([{"ExitCode": 1, "Output": ""}, {"ExitCode": 0, "Output": ""}], ""),
        (None, ""),
    ],
)
def test_why_a_container_is_unhealthy(checks: list[dict[str, Any]] | None, reason: str) -> None:
    found = rows.observed_in(
        inspected(Status="running", Running=True, Health={"Status": "unhealthy", "Log": checks})
    )
    assert (found.health, found.health_reason) == ("unhealthy", reason)


def test_a_container_that_has_not_started_has_no_time_and_no_process() -> None:
    found = rows.observed_in(inspected(Status="configured", Pid=77))  # as Podman calls it
    assert (found.state, found.started, found.pid) == ("created", None, 0)


def test_images_of_podman_are_named_as_those_of_docker() -> None:
    found = rows.image_in({"Id": "6" * 64, "RepoTags": ["localhost/tiny:1", "<none>:<none>"], "Size": 5})
    assert (found.id, found.tags, found.digests) == (f"sha256:{'6' * 64}", ("tiny:1",), ())


def test_memory_that_the_kernel_can_drop_is_not_used() -> None:
    found = rows.usage_in({
        "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
        "memory_stats": {"usage": 30 << 20, "stats": {"total_inactive_file": 10 << 20}},
    })  # fmt: skip
    assert (found.cpu_seconds, found.memory_mb) == (2.5, 20)
    assert rows.usage_in({}).memory_mb == 0


def test_a_rootless_engine_limits_nothing_in_the_first_control_groups() -> None:
    version = {"Components": [{"Name": "Podman Engine"}], "Version": "4.3.1"}
    info = {"NCPU": 2, "MemTotal": 1 << 30, "MemoryLimit": True, "SecurityOptions": ["name=rootless"]}
    found = rows.facts_in({**info, "CgroupVersion": "1"}, version)
    assert (found.engine, found.rootless, found.limits, found.memory_mb) == ("Podman", True, False, 1024)
    assert rows.facts_in({**info, "CgroupVersion": "2"}, version).limits


def test_the_ends_of_a_pair_are_found_by_both_indexes() -> None:
    """An interface of the host with the same number is not the other end."""
    inside = (
        b'[{"ifname": "lo"}, {"ifname": "eth0", "ifindex": 5, "link_index": 9,'
        b' "address": "02:00:00:00:00:01",'
        b' "mtu": 1442, "flags": ["UP"], "linkinfo": {"info_kind": "veth"}, "addr_info":'
        b' [{"scope": "global", "local": "192.0.2.1", "prefixlen": 24},'
        b' {"scope": "link", "local": "fe80::1"}]}]\n'
        b'[{"dst": "default", "gateway": "192.0.2.254", "dev": "eth0", "table": "main"},'
        b' {"dst": "default", "gateway": "192.0.2.9", "dev": "eth0", "table": "5"}]\n[]\n[]\n'
    )
    here = b'[{"ifindex": 9, "ifname": "t-1", "link_index": 5}, {"ifindex": 3, "ifname": "eno1"}]'
    found = FoundNic(
        name="eth0",
        end="t-1",
        mac="02:00:00:00:00:01",
        mtu=1442,
        up=True,
        addresses=("192.0.2.1/24",),
        gateways=("192.0.2.254",),
    )
    assert parse_nics(inside, here) == [(found,), ()]
    ((other,), _) = parse_nics(inside, here.replace(b'"link_index": 5', b'"link_index": 6'))
    assert other.end == ""
    with pytest.raises(DriverError, match="invalid output"):
        parse_nics(b"[]\n", here)


STATS = {
    "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
    "memory_stats": {"usage": 5000, "stats": {"inactive_file": 1000}},
    "blkio_stats": {
        "io_service_bytes_recursive": [
            {"major": 254, "minor": 0, "op": "read", "value": 4096},
            {"major": 254, "minor": 1, "op": "Read", "value": 1},
            {"major": 254, "minor": 0, "op": "write", "value": 8192},
        ],
        "io_serviced_recursive": None,
    },
}
RUNNING = {"Status": "running", "Running": True, "Pid": 7, "StartedAt": "2026-11-28T00:00:00Z"}


def test_what_a_container_has_used() -> None:
    found = measuring.measured_in(inspected(**RUNNING), STATS, now=1795824000.0 + 60)
    assert (found.project, found.name, found.state, found.uptime) == ("p", "p-a", "running", 60)
    assert (found.cpu_seconds, found.memory, found.used) == (2.5, 4000, None)
    assert (found.read_bytes, found.written_bytes, found.reads, found.writes) == (4097, 8192, None, None)
    assert rows.usage_in(STATS).memory_mb == 0


@pytest.mark.parametrize("stats", [None, STATS])
def test_a_container_that_does_not_run_uses_nothing(stats: dict[str, Any] | None) -> None:
    health = {"Health": {"Status": "unhealthy"}}
    found = measuring.measured_in(inspected(Status="exited", ExitCode=1, **health), stats, now=1.0)
    assert (found.state, found.health, found.uptime, found.cpu_seconds, found.memory) == (
        "exited", "", None, None, None
    )  # fmt: skip


def test_an_engine_that_measures_nothing_knows_the_state() -> None:
    found = measuring.measured_in(inspected(**RUNNING), None, now=1795824001.0)
    assert (found.state, found.uptime, found.cpu_seconds) == ("running", 1, None)


@pytest.mark.parametrize(("status", "is_left_out"), [(404, True), (500, True), (403, False)])
def test_a_container_that_goes_while_it_is_measured_is_left_out(status: int, is_left_out: bool) -> None:
    def refuse(*_asked: object, **_options: object) -> None:
        raise APIError("no", response=SimpleNamespace(status_code=status))

    client: Any = SimpleNamespace(stats=refuse)
    if is_left_out:
        assert measuring.used(client, "5") is None
    else:
        with pytest.raises(APIError):
            measuring.used(client, "5")


def test_what_interfaces_have_counted() -> None:
    shown = """\
/proc/7/net/dev:Inter-|   Receive                                                |  Transmit
/proc/7/net/dev:    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
/proc/7/net/dev:  eth0:    1000      10    0    0    0     0          0         0      300       3    0    0    0     0       0          0
/proc/7/net/dev:  eth1:      24       1    0    0    0     0          0         0        1       2    0    0    0     0       0          0
/proc/8/net/dev:    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
/proc/9/net/dev:  eth0:  12 13
"""  # noqa: E501
    assert measuring.interfaces_in(shown) == {7: (1024, 11, 301, 5)}
