"""Which data a change loses, as its provider says."""

from __future__ import annotations

import pytest

from kvmcompose.core.instance import GONE
from kvmcompose.core.resource import Change, Found, Loss, Reason, ReasonCode, Ref, Verb
from kvmcompose.reconcile import wording
from kvmcompose.server.orchestrator.resources import providers
from kvmcompose.server.orchestrator.resources._domain_spec import DomainSpec

MOVED = Reason(ReasonCode.CHANGED, "host", "one", "two")
RECREATED = Reason(ReasonCode.ASKED, "up --recreate")


def lost(
    kind: str, verb: Verb, reason: Reason = MOVED, state: str = "running", *, tpm: bool = False
) -> object:
    spec = DomainSpec(guest={"name": "web", "libvirt": {"tpm": tpm}}, xml="") if kind != "container" else None
    ref = Ref(kind, "p-web", "one")
    found = Found(ref=ref, spec=spec, state=state)
    return providers()[kind].loses(Change(verb=verb, ref=ref, reasons=(reason,), found=found))


@pytest.mark.parametrize(
    ("verb", "reason", "tpm", "loss"),
    [
        (Verb.MOVE, MOVED, True, Loss.TPM),
        (Verb.MOVE, MOVED, False, None),
        (Verb.RESTART, MOVED, True, None),
        (Verb.REPLACE, RECREATED, True, Loss.DISK),
    ],
)
def test_a_domain_loses_its_tpm_with_its_host_and_its_disk_when_asked(
    verb: Verb, reason: Reason, tpm: bool, loss: Loss | None
) -> None:
    assert lost("libvirt-domain", verb, reason, tpm=tpm) is loss


@pytest.mark.parametrize(
    ("verb", "state", "loss"),
    [
        (Verb.REPLACE, "exited", Loss.OWN_FILES),
        (Verb.REMOVE, "running", Loss.OWN_FILES),
        (Verb.REPLACE, GONE, None),
        (Verb.RESTART, "running", None),
    ],
)
def test_a_container_loses_its_files_when_it_goes(verb: Verb, state: str, loss: Loss | None) -> None:
    assert lost("container", verb, state=state) is loss


def test_nothing_else_loses_data() -> None:
    assert lost("ovs-bridge", Verb.REPLACE) is None


@pytest.mark.parametrize("loss", Loss)
def test_each_loss_has_words(loss: Loss) -> None:
    change = Change(verb=Verb.REPLACE, ref=Ref("container", "p-web", "one"), loss=loss)
    assert wording.loss(change)
    assert wording.sentence(change).endswith(f"; {wording.loss(change)}")
