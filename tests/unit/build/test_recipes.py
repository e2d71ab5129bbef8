"""Recipes are encoded in pieces: a byte other than in the whole document would rebuild everything."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from kvmcompose.build.recipes import seal_rendered, shared_inputs
from kvmcompose.core.artefact import Rendered
from kvmcompose.core.environment import digests
from kvmcompose.effects.resources import code_digest
from kvmcompose.render import RENDERERS
from kvmcompose.render.seed import SeedInterface, SeedValues
from kvmcompose.render.templates import Templates

TEMPLATES = Templates({"a.j2": "a", "b.j2": "b"})
EPOCH = 315532800
NIC = SeedInterface(
    name="eth0", mac="52:54:00:00:00:01", ip="10.0.0.2", prefix_length=24, mtu=1442, gateway=None
)


def seed(environment: dict[str, str]) -> SeedValues:
    return SeedValues(
        project="lab",
        guest="a",
        hostname='lab-"é"',
        username="nocloud",
        interfaces=(NIC,),
        environment=environment,
    )


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (Rendered("xml", {"b": [1, None], "a": "é"}, templates=("b.j2", "a.j2")), {"b": [1, None], "a": "é"}),
        (
            Rendered(
                "seed", seed({"Z": "secret", "A": "s"}), templates=("a.j2",), files={"key": "k", "b": "f"}
            ),
            seed(digests({"Z": "secret", "A": "s"})),
        ),
        (Rendered("seed", seed({})), seed({})),
    ],
)
def test_the_bytes_are_those_of_the_whole_document(content: Rendered, values: object) -> None:
    digests_of_files = {name: f"digest of {path}" for name, path in content.files.items()}
    document = {
        "values": values,
        "templates": {name: TEMPLATES.digest(name) for name in content.templates},
        "renderer": {"name": content.renderer, "code": code_digest(RENDERERS[content.renderer].modules)},
    }
    if content.files:
        document["files"] = {
            name: {"path": path, "content": digests_of_files[name]} for name, path in content.files.items()
        }
    if content.renderer == "seed":
        document["source_date_epoch"] = EPOCH
    found = seal_rendered(content, shared_inputs(content, TEMPLATES, digests_of_files, EPOCH))
    assert found.inputs == msgspec.json.Encoder(order="deterministic").encode(document)
    assert found.digest == hashlib.sha256(found.inputs).hexdigest()
    assert b"secret" not in found.inputs
