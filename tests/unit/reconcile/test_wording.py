"""Changes in words."""

from __future__ import annotations

import pytest

from kvmcompose.core.resource import Change, Ref, Resource, Verb
from kvmcompose.reconcile.wording import subject


@pytest.mark.parametrize(
    ("name", "guest", "said"),
    [
        ("w-0", "w-0", "disk of w-0"),
        ("artefacts/w-0.data.qcow2", "w-0", "disk artefacts/w-0.data.qcow2 of w-0"),
        ("artefacts/shared.quorum.raw", None, "disk artefacts/shared.quorum.raw"),
    ],
)
def test_disks_of_a_guest_are_told_apart(name: str, guest: str | None, said: str) -> None:
    ref = Ref("disk", name, "two")
    wanted = Resource(ref=ref, spec=None, needs=(), guest=guest)
    assert subject(Change(verb=Verb.MOVE, ref=ref, wanted=wanted)) == said
