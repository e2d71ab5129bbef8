"""Check a compiled project: choose the oracle for its network, and judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from kvmcompose.core.answers import Oracle
from kvmcompose.core.checked import CheckDocument
from kvmcompose.core.errors import RefusedError
from kvmcompose.core.expectation import PING, Traffic
from kvmcompose.core.model import LogicalTestbed
from kvmcompose.effects.resources import schemas
from kvmcompose.networks import dialect
from kvmcompose.pipeline.compile import Compiled
from kvmcompose.pipeline.logical import Documents, InputFile
from kvmcompose.reachability import oracle
from kvmcompose.reachability.judge import Judge
from kvmcompose.reachability.ovn_check import Described, ovn_oracle


def check(compiled: Compiled, testbed: InputFile, matrix: Traffic | None = None) -> CheckDocument:
    """Return what holds of a project; ``testbed`` is its YAML.

    Raises RefusedError when a program is missing that the dialect needs for it, InputError for rules that OVN
    does not understand, KvmComposeError when OVN fails.
    """
    documents = Documents(testbed, None, schemas())
    with _oracle(compiled, documents) as known:
        return Judge(compiled.placed.logical, documents, known).document(matrix)


def standing_probes(compiled: Compiled) -> tuple[Traffic, ...]:
    """Return probes that represent traffic of every kind in a project's network."""
    module = dialect(compiled.placed.logical.dialect)
    if not hasattr(module, "northbound"):
        return (PING,)
    return oracle.standing_probes(cast(Described, module).northbound(compiled.state, management=False))


@contextmanager
def _oracle(compiled: Compiled, documents: Documents) -> Iterator[Oracle]:
    logical = compiled.placed.logical
    module = dialect(logical.dialect)
    connectivity = getattr(module, "connectivity", None)
    if connectivity is not None:
        yield cast(Callable[[LogicalTestbed], Oracle], connectivity)(logical)
        return
    if not hasattr(module, "northbound"):
        raise RefusedError(f"networks of the dialect {logical.dialect!r} cannot be checked")
    with ovn_oracle(compiled, documents, cast(Described, module)) as known:
        yield known
