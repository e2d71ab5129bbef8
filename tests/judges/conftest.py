"""Every golden project, built once, for validation by other programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The golden projects and the hosts are packages in the parent folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from golden.bench import Bench, cases, golden_bench
from hosts import TestHost, TestHosts


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bench]:
    """A bench for each golden project, built by a process of its own."""
    root = tmp_path_factory.mktemp("judged")
    benches = {case: golden_bench(root, case) for case in cases()}
    for bench in benches.values():
        ran = bench.spawn("generate")
        assert ran.status == 0, ran.said
    return benches


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestHost]:
    """A testbed host with a libvirtd of its own."""
    with TestHosts(1, directory=tmp_path_factory.mktemp("judges")) as hosts:
        yield hosts[0]
