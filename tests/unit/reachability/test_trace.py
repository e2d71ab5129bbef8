"""Traces of ovn-trace 23.03, shortened, as the oracle reads them."""

from __future__ import annotations

import pytest

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.reachability.trace import read_trace

FIELDS = {
    "eth.src": "00:00:00:00:00:10",
    "eth.dst": "00:00:00:00:01:00",
    "ip4.src": "10.0.0.10",
    "ip4.dst": "172.16.1.112",
}
TRANSLATED = """\
# icmp,reg14=0x1,nw_src=10.0.0.10,nw_dst=172.16.1.112
# Detailed trace.

ingress(dp="s0", inport="p0")
-----------------------------
 6. ls_in_pre_stateful (northd.c:6140): reg0[0] == 1, priority 100, uuid c5a42fb7
    ct_next;

ct_next(ct_state=new|trk)
-------------------------
 8. ls_in_acl (northd.c:6809): ip && !ct.est, priority 1, uuid 3833e9bb
    reg0[1] = 1;
    next;

egress(dp="r", inport="rp0", outport="rpp")
-------------------------------------------
 3. lr_out_snat (northd.c:13975): ip && ip4.src == 10.0.0.0/24, priority 154, uuid 894f9a26
    ct_snat(172.16.1.200);

ct_snat(ip4.src=172.16.1.200)
-----------------------------
 5. lr_out_egr_loop (northd.c:14524): ip4.dst == 172.16.1.112, priority 100, uuid 7b898c43
    clone { ct_clear; inport = outport; next(pipeline=ingress, table=0); };

clone
-----
    ct_clear;
    inport = outport;

ingress(dp="r", inport="rpp")
-----------------------------
 7. lr_in_dnat (northd.c:13779): ip && ip4.dst == 172.16.1.112, priority 100, uuid 799c3a8a
    ct_dnat_in_czone(10.0.1.12);

ct_dnatin_czone(ip4.dst=10.0.1.12)
----------------------------------
13. lr_in_ip_routing (northd.c:10388): ip4.dst == 10.0.1.0/24, priority 74, uuid b8a2226c
    ip.ttl--;

egress(dp="s1", inport="s1r", outport="p2")
-------------------------------------------
 9. ls_out_apply_port_sec (northd.c:5777): 1, priority 0, uuid bde14629
    output;
    /* output to "p2", type "" */
# Minimal trace.
ct_next(ct_state=new|trk) {
    ip.ttl--;
    eth.src = 00:00:00:00:01:02;
    ct_snat(ip4.src=172.16.1.200) {
        clone {
            eth.dst = 00:00:00:00:01:02;
            ct_dnatin_czone(ip4.dst=10.0.1.12) {
                eth.dst = 00:00:00:00:00:12;
                output("p2");
            };
        };
    };
};
"""


def test_fields_are_those_where_the_packet_leaves() -> None:
    (output,) = read_trace(TRANSLATED, FIELDS).outputs
    assert output.port == "p2"
    assert output.is_original
    assert output.fields == {
        "eth.src": "00:00:00:00:01:02",
        "eth.dst": "00:00:00:00:00:12",
        "ip4.src": "172.16.1.200",
        "ip4.dst": "10.0.1.12",
    }


def test_translations_have_the_place_and_the_fields_before() -> None:
    source, target = read_trace(TRANSLATED, FIELDS).translations
    assert (source.is_source, source.field, source.place.outport) == (True, "ip4.src", "rpp")
    assert source.before["ip4.src"] == "10.0.0.10"
    assert (target.is_source, target.field, target.place.inport) == (False, "ip4.dst", "rpp")
    assert target.before["ip4.src"] == "172.16.1.200"


def test_lookups_are_those_of_ports_and_steps_have_their_flows() -> None:
    found = read_trace(TRANSLATED, FIELDS)
    assert found.lookups == ("p0",)
    assert [step.uuid for step in found.steps][:2] == ["c5a42fb7", "3833e9bb"]
    assert found.steps[1].place.datapath == "s0"
    assert found.steps[-1].actions == ("output;", '/* output to "p2", type "" */')


def test_a_packet_made_because_of_another_is_not_that_packet() -> None:
    text = (
        TRANSLATED.partition("# Minimal")[0]
        + '# Minimal trace.\nicmp4 {\n    eth.dst = 00:00:00:00:00:10;\n    output("p0");\n};\n'
    )
    (output,) = read_trace(text, FIELDS).outputs
    assert not output.is_original


def test_no_flow_that_matches_is_a_step_too() -> None:
    text = """\
# Detailed trace.

ingress(dp="r", inport="rp0")
-----------------------------
13. lr_in_ip_routing: no match (implicit drop)
# Minimal trace.
"""
    found = read_trace(text, FIELDS)
    assert found.outputs == ()
    (step,) = found.steps
    assert (step.stage, step.uuid) == ("lr_in_ip_routing", "")


def test_a_message_is_an_error() -> None:
    with pytest.raises(KvmComposeError, match="unknown datapath"):
        read_trace('ovn-trace: unknown datapath "x"\n', FIELDS)
