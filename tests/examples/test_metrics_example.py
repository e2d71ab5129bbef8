"""The dashboard, the alerts and the page about metrics name those that exist, with labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from kvmcompose.core.deployment import Deployment, Phase
from kvmcompose.core.instance import HostSize, Measured
from kvmcompose.server.action_counts import ActionCounts
from kvmcompose.server.api.exposition import exposition
from kvmcompose.server.api.figures import DeploymentFigures, ServerFigures
from kvmcompose.server.orchestrator.metering import GuestFigures, HostFigures, TestbedFigures

REPOSITORY = Path(__file__).resolve().parent.parent.parent
EXAMPLE = REPOSITORY / "examples" / "metrics"
PAGE = REPOSITORY / "docs" / "how-to" / "metrics.md"
#: What Prometheus adds.
_ADDED = {"job", "instance"}


@pytest.fixture(scope="module")
def samples() -> dict[str, set[str]]:
    """The labels of each sample of a server that has something to show for every metric."""
    words = {"project": "p", "name": "p-a", "state": "running", "health": "healthy"}
    measured = msgspec.convert({name: words.get(name, 1) for name in Measured.__struct_fields__}, Measured)
    guest = GuestFigures(
        name="a",
        kind="libvirt",
        host="one",
        state="running",
        health="healthy",
        memory_mb=1,
        measured=measured,
    )
    host = HostFigures(name="one", responds=True, size=HostSize(cpus=1, memory_mb=1))
    counts = ActionCounts()
    counts.add("p", "up", "failed", 1)
    deployment = DeploymentFigures(
        deployment=Deployment(name="p", project_location="/", state=Phase.UP),
        testbed=TestbedFigures(hosts=(host,), guests=(guest,)),
        readable=True,
        running=("up",),
        ended=counts.of("p"),
    )
    server = ServerFigures(
        version="1", answered={("GET", "/metrics", 200): 1}, requests=1, websockets=1, event_sockets=1
    )
    content, _ = exposition([deployment], server, "")
    families = text_string_to_metric_families(content.decode())
    return {each.name: set(each.labels) for family in families for each in family.samples}


def panels() -> list[dict[str, Any]]:
    found = json.loads((EXAMPLE / "grafana" / "kvmcompose.json").read_text())["panels"]
    assert isinstance(found, list)
    return found


def queries() -> dict[str, str]:
    """The queries of the dashboard by their panel's title, and those of the alerts by their name."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    blocks = re.findall(r"```yaml\n(groups:.*?)```", PAGE.read_text(), re.DOTALL)
    alerts = {rule["alert"]: rule["expr"] for rule in yaml.safe_load(blocks[0])["groups"][0]["rules"]}
    return found | alerts


@pytest.mark.parametrize("title", queries())
def test_queries_name_metrics_and_labels_that_exist(title: str, samples: dict[str, set[str]]) -> None:
    query = queries()[title]
    assert query.count("(") == query.count(")")
    named = re.findall(r"\b((?:kvmcompose|process)_\w+)(?:\{([^}]*)\})?", query)
    assert named
    labels = set[str]()
    for name, selector in named:
        assert name in samples
        labels |= samples[name] | _ADDED
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= samples[name] | _ADDED
    for grouped in re.findall(r"\bby \(([^)]*)\)", query):
        assert set(grouped.replace(" ", "").split(",")) <= labels


def test_legends_name_labels_that_the_query_leaves(samples: dict[str, set[str]]) -> None:
    for panel in panels():
        for target in panel["targets"]:
            names = re.findall(r"(?:kvmcompose|process)_\w+", target["expr"])
            left = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            known = set(left[-1].replace(" ", "").split(",")) if left else samples[names[0]]
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known, panel["title"]


def test_the_page_has_every_metric_and_no_other(samples: dict[str, set[str]]) -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `kvmcompose_")]
    documented = {name for row in rows for name in re.findall(r"`(kvmcompose_\w+)`", row)}
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in samples if name.startswith("kvmcompose_")}
    assert documented == shown


def test_the_files_fit_together() -> None:
    services = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"]
    mounted = {
        volume.split(":")[0]: volume.split(":")[1]
        for service in services.values()
        for volume in service["volumes"]
        if volume.startswith("./")
    }
    assert set(mounted) == {
        f"./{path.relative_to(EXAMPLE)}"
        for path in EXAMPLE.rglob("*")
        if path.is_file() and path.name not in ("README.md", "compose.yaml")
    }
    provider = yaml.safe_load((EXAMPLE / "grafana" / "dashboards.yml").read_text())["providers"][0]
    dashboard = Path(mounted["./grafana/kvmcompose.json"])
    assert provider["options"]["path"] == str(dashboard.parent)
    grafana = services["grafana"]["environment"]
    assert grafana["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == str(dashboard)
    source = yaml.safe_load((EXAMPLE / "grafana" / "datasource.yml").read_text())["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}
    assert (
        f"--web.listen-address={source['url'].removeprefix('http://')}" in services["prometheus"]["command"]
    )
    (job,) = yaml.safe_load((EXAMPLE / "prometheus.yml").read_text())["scrape_configs"]
    token = job["authorization"]["credentials_file"]
    assert any(volume.endswith(f":{token}:ro") for volume in services["prometheus"]["volumes"])
