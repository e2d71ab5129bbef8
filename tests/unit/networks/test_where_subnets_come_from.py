"""Whether the project's name or a guest's ``ip`` decides the subnet: hints depend on it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.memory import MemoryFiles, compile_text, hosts
from kvmcompose.core.state import decode_state, encode_state
from kvmcompose.hosts.errors import SubnetTakenError
from kvmcompose.networks import dialect
from kvmcompose.server.orchestrator.resources import libvirt_network

TEXT = """\
machines:
  - name: web
    interfaces: [{{bridge: {bridge}{ip}}}]
    libvirt: {{cpus: 1, memory_mb: 128, libvirt_type: {{cloud_image: {{name: debian_12}}}}}}
  - name: db
    interfaces: [{{bridge: lone{other}}}]
    libvirt: {{cpus: 1, memory_mb: 128, libvirt_type: {{cloud_image: {{name: debian_12}}}}}}
network:
  bridges: [{{name: first}}, {{name: second}}, {{name: lone}}]
  bridge_connections: {{second: first}}
  {external}
"""


def derived(
    project: str, *, bridge: str = "first", external: str = "second", ip: str = "", other: str = ""
) -> bool:
    text = TEXT.format(
        bridge=bridge,
        external=f"external_bridge: {external}" if external else "",
        ip=f", ip: {ip}" if ip else "",
        other=f", ip: {other}" if other else "",
    )
    compiled = compile_text(text, on=hosts(1), files=MemoryFiles({"key", "key.pub"}), project=project)
    state = decode_state(encode_state(compiled.state))
    return dialect("bridges").network_plan(state).network.subnet_is_derived


@given(
    st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True),
    st.sampled_from(["first", "second"]),
    st.sampled_from(["", "first", "second", "lone"]),
)
def test_without_an_ip_names_decide(project: str, bridge: str, external: str) -> None:
    assert derived(project, bridge=bridge, external=external)


@pytest.mark.parametrize("ip", ["10.0.0.5", "192.168.122.5", "172.16.4.4", "10.77.16.9"])
def test_an_ip_decides_on_its_own_network(ip: str) -> None:
    assert not derived("lab", ip=ip)
    assert not derived("lab", ip=ip, external="first")
    # one on a network that does not reach the host has no part in it
    assert derived("lab", other=ip)


@pytest.mark.parametrize(
    ("ip", "wanted", "unwanted"),
    [("192.168.122.5", "`ip`", "name"), ("", "--project-name", "`ip`")],
)
def test_a_conflict_names_the_cause(
    monkeypatch: pytest.MonkeyPatch, ip: str, wanted: str, unwanted: str
) -> None:
    class Taken:
        async def start(self, _xml: str) -> None:
            raise SubnetTakenError("it is in use", hint="inspect it")

    text = TEXT.format(
        bridge="first", external="external_bridge: first", ip=f", ip: {ip}" if ip else "", other=""
    )
    compiled = compile_text(text, on=hosts(1), files=MemoryFiles({"key", "key.pub"}))
    plan = dialect("bridges").network_plan(decode_state(encode_state(compiled.state)))
    testbed: Any = SimpleNamespace(network_plan=plan, digests={}, dynamic=())
    host: Any = SimpleNamespace(hypervisor=SimpleNamespace(networks=Taken()))
    monkeypatch.setattr(libvirt_network, "network_xml", lambda *_: "")
    work: Any = SimpleNamespace(context=None, testbed=testbed)
    wanted_network: Any = SimpleNamespace(spec=libvirt_network.NetworkSpec(plan.network, ""))
    change: Any = SimpleNamespace(found=None, wanted=wanted_network)
    with pytest.raises(SubnetTakenError) as raised:
        asyncio.run(libvirt_network._start(work, host, change, None))  # type: ignore[arg-type]
    assert raised.value.hint is not None
    assert wanted in raised.value.hint
    assert unwanted not in raised.value.hint
