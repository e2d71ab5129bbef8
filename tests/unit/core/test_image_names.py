"""Names of images as Docker completes them."""

from __future__ import annotations

import pytest

from kvmcompose.core.deployable import SNAPSHOT_REPOSITORY
from kvmcompose.core.image_source import qualified

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("nginx", "docker.io/library/nginx"),
        ("nginx:1.25", "docker.io/library/nginx:1.25"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
        ("grafana/grafana:10", "docker.io/grafana/grafana:10"),
        ("docker.io/nginx", "docker.io/library/nginx"),
        ("index.docker.io/nginx:1", "docker.io/library/nginx:1"),
        ("docker.io/grafana/grafana", "docker.io/grafana/grafana"),
        ("quay.io/a/b:1", "quay.io/a/b:1"),
        ("registry:5000/a:1", "registry:5000/a:1"),
        ("localhost/tiny:1", "localhost/tiny:1"),
        (f"{SNAPSHOT_REPOSITORY}/lab-web:before", f"localhost/{SNAPSHOT_REPOSITORY}/lab-web:before"),
        (DIGEST, DIGEST),
        ("a" * 64, "a" * 64),
        ("0123456789ab", "0123456789ab"),
    ],
)
def test_completed(given: str, wanted: str) -> None:
    assert qualified(given) == wanted
    assert qualified(wanted) == wanted
