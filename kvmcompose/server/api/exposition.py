"""The server's metrics in the formats that Prometheus reads.

Names and units follow https://prometheus.io/docs/practices/naming/. Values of labels are the names of
deployments, guests and hosts, and words of fixed sets; never text of a guest, a client or an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from kvmcompose.core.instance import Measured
from kvmcompose.server.action_counts import BOUNDS, Ended
from kvmcompose.server.api.figures import DeploymentFigures, ServerFigures
from kvmcompose.server.orchestrator.metering import GuestFigures, TestbedFigures

_MIB = 1 << 20
#: Counters have 64 bits; an engine could say any number, and not all are floats.
_LARGEST = 1 << 64
_GUEST = ("deployment", "guest", "host", "kind")
_HOST = ("deployment", "host")
_ACTION = ("deployment", "command")
_OPENMETRICS = "application/openmetrics-text"
#: This function of the library has no types.
_openmetrics: Callable[[CollectorRegistry], bytes] = openmetrics.generate_latest
#: Reads /proc when it is asked.
_process = ProcessCollector(registry=None)


class _Family(Protocol):
    def add_metric(self, labels: Sequence[str], value: float) -> None: ...


def exposition(
    deployments: Sequence[DeploymentFigures], server: ServerFigures, accept: str
) -> tuple[bytes, str]:
    """Return the metrics and their media type: OpenMetrics where ``accept`` names it, or else plain text."""
    families = [*_of_deployments(deployments), *_of_actions(deployments), *_of_server(server)]
    # one registry for each answer: what has gone is in none
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given([*families, *_process.collect()]))
    if any(each.partition(";")[0].strip().lower() == _OPENMETRICS for each in accept.split(",")):
        return _openmetrics(registry), openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


class _Given:
    """A collector of what is given."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield from self._families

    def describe(self) -> Iterable[Metric]:
        """Return nothing: names are not checked against others."""
        return ()


def _of_deployments(deployments: Sequence[DeploymentFigures]) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "kvmcompose_deployment_state", "1 for the state that a deployment is in.",
        labels=("deployment", "state"),
    )  # fmt: skip
    success = GaugeMetricFamily(
        "kvmcompose_deployment_scrape_success",
        "Whether what a deployment consists of could be read (1), so that its guests are shown, or not (0).",
        labels=("deployment",),
    )
    for each in deployments:
        state.add_metric((each.deployment.name, each.deployment.state), 1)
        success.add_metric((each.deployment.name,), each.readable)
    yield from (state, success)
    shown = [(each.deployment.name, each.testbed) for each in deployments if each.testbed is not None]
    yield from _of_hosts(shown)
    yield from _of_guests([(name, guest) for name, testbed in shown for guest in testbed.guests])


def _of_hosts(shown: Sequence[tuple[str, TestbedFigures]]) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "kvmcompose_host_up",
        "Whether what runs a deployment's guests on a host responds (1) or not in time (0).",
        labels=_HOST,
    )
    cpus = GaugeMetricFamily("kvmcompose_host_cpus", "Processors of a host.", labels=_HOST)
    memory = GaugeMetricFamily("kvmcompose_host_memory_bytes", "Memory of a host.", labels=_HOST)
    for name, testbed in shown:
        for host in testbed.hosts:
            labels = (name, host.name)
            up.add_metric(labels, host.responds)
            if host.size is not None:
                _add_known(cpus, labels, host.size.cpus)
                _add_known(memory, labels, host.size.memory_mb * _MIB)
    yield from (up, cpus, memory)


#: Metrics of guests by the field of ``Measured`` that has the value.
_GAUGES = {
    "uptime": ("kvmcompose_guest_uptime_seconds", "Time since a guest was started."),
    "memory": ("kvmcompose_guest_memory_resident_bytes", "Memory of the host that a guest occupies."),
    "used": ("kvmcompose_guest_memory_used_bytes", "Memory that a guest itself uses, as its driver reports."),
}
_COUNTERS = {
    "cpu_seconds": ("kvmcompose_guest_cpu_seconds", "Processor time of a guest since its start."),
    "reads": ("kvmcompose_guest_disk_reads", "Read requests of a guest to its disks."),
    "read_bytes": ("kvmcompose_guest_disk_read_bytes", "Bytes that a guest has read from its disks."),
    "writes": ("kvmcompose_guest_disk_writes", "Write requests of a guest to its disks."),
    "written_bytes": ("kvmcompose_guest_disk_written_bytes", "Bytes that a guest has written to its disks."),
    "received_packets": ("kvmcompose_guest_network_receive_packets", "Packets that a guest has received."),
    "received_bytes": ("kvmcompose_guest_network_receive_bytes", "Bytes that a guest has received."),
    "sent_packets": ("kvmcompose_guest_network_transmit_packets", "Packets that a guest has sent."),
    "sent_bytes": ("kvmcompose_guest_network_transmit_bytes", "Bytes that a guest has sent."),
}


def _of_guests(guests: Sequence[tuple[str, GuestFigures]]) -> Iterator[Metric]:
    up = GaugeMetricFamily("kvmcompose_guest_up", "Whether a guest is running (1) or not (0).", labels=_GUEST)
    state = GaugeMetricFamily(
        "kvmcompose_guest_state",
        "1 for the state that a guest is in; unknown where its host does not respond.",
        labels=(*_GUEST, "state"),
    )
    health = GaugeMetricFamily(
        "kvmcompose_guest_health",
        "1 for the last result of the healthcheck of a running guest: starting, healthy or unhealthy.",
        labels=(*_GUEST, "health"),
    )
    given = GaugeMetricFamily(
        "kvmcompose_guest_memory_limit_bytes", "Memory that a guest has been given.", labels=_GUEST
    )
    values: list[tuple[str, Metric, _Family]] = []
    for field, (name, text) in _GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=_GUEST)
        values.append((field, gauge, gauge))
    for field, (name, text) in _COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=_GUEST)
        values.append((field, counter, counter))
    for deployment, guest in guests:
        labels = (deployment, guest.name, guest.host, guest.kind)
        up.add_metric(labels, guest.state == "running")
        state.add_metric((*labels, guest.state), 1)
        if guest.health:
            health.add_metric((*labels, guest.health), 1)
        if guest.memory_mb is not None:
            given.add_metric(labels, guest.memory_mb * _MIB)
        if guest.measured is not None:
            _add(values, labels, guest.measured)
    yield from (up, state, health, given)
    yield from (metric for _, metric, _ in values)


def _add(values: Sequence[tuple[str, Metric, _Family]], labels: Sequence[str], measured: Measured) -> None:
    """Add what is known of a guest."""
    for field, _, family in values:
        _add_known(family, labels, getattr(measured, field))


def _add_known(family: _Family, labels: Sequence[str], value: float | None) -> None:
    """Add a value of a host, unless it is not known, or is none that there can be."""
    if value is not None and 0 <= value <= _LARGEST:
        family.add_metric(labels, value)


def _of_actions(deployments: Sequence[DeploymentFigures]) -> Iterator[Metric]:
    running = GaugeMetricFamily("kvmcompose_actions_running", "Actions that are running.", labels=_ACTION)
    ended = CounterMetricFamily(
        "kvmcompose_actions",
        "Actions that have ended since the server started: succeeded, failed, cancelled or refused.",
        labels=(*_ACTION, "result"),
    )
    durations = HistogramMetricFamily(
        "kvmcompose_action_duration_seconds", "Durations of actions that have ended.", labels=_ACTION
    )
    for each in deployments:
        name = each.deployment.name
        for command in sorted({*each.running, *each.ended}):
            running.add_metric((name, command), each.running.count(command))
        for command, those in sorted(each.ended.items()):
            for result, count in sorted(those.results.items()):
                ended.add_metric((name, command, result), count)
            durations.add_metric((name, command), _buckets(those), those.seconds)
    yield from (running, ended, durations)


def _buckets(ended: Ended) -> list[tuple[str, float]]:
    """Return how many actions took at most so many seconds."""
    total, found = 0, []
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), ended.counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found


def _of_server(server: ServerFigures) -> Iterator[Metric]:
    build = GaugeMetricFamily("kvmcompose_build_info", "The version of the server.", labels=("version",))
    build.add_metric((server.version,), 1)
    answered = CounterMetricFamily(
        "kvmcompose_http_requests",
        "Requests that were answered since the server started; other: of no route, or refused before.",
        labels=("method", "route", "status"),
    )
    for (method, route, status), count in sorted(server.answered.items()):
        answered.add_metric((method, route, str(status)), count)
    yield from (build, answered)
    for name, text, value in (
        ("kvmcompose_http_requests_in_progress", "Requests that are being served.", server.requests),
        ("kvmcompose_websockets", "WebSockets that are open.", server.websockets),
        ("kvmcompose_event_sockets", "Those of them that follow events.", server.event_sockets),
    ):
        yield GaugeMetricFamily(name, text, value=value)
