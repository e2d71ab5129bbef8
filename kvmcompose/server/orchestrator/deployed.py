"""What was brought up last, as the server stores it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import msgspec

from kvmcompose.core.deployable import VethPair
from kvmcompose.server.orchestrator.project_folder import ProjectFolder
from kvmcompose.server.orchestrator.testbed import LoadedTestbed


class _Hosts(msgspec.Struct, frozen=True):
    """The part of a state that ``Deployed.hosts`` decodes."""

    testbed_hosts: Any = None


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """What was brought up: the state's document and the digests of the files it was started from.

    Noted before anything is changed, so that whatever happens then it can be taken down again. An entry of
    a guest that was up already is what it was started from. ``links`` are veth pairs that are no longer
    wanted and may exist yet, as an ``up`` has not ended: their names tell that they are the project's.
    """

    state: msgspec.Raw
    files: dict[str, str]
    links: tuple[VethPair, ...] = ()

    @staticmethod
    def of(testbed: LoadedTestbed, hosts: Mapping[str, Any] = MappingProxyType({})) -> Deployed:
        """Return the testbed as built last, with ``hosts`` of what was up before in place of its own."""
        document = testbed.document
        if hosts:
            state = msgspec.json.decode(document)
            state["testbed_hosts"] |= hosts
            document = msgspec.json.encode(state)
        return Deployed(state=msgspec.Raw(document), files=testbed.digests)

    @property
    def hosts(self) -> dict[str, Any]:
        """The hosts, as they are in the document; none where it has none."""
        with suppress(msgspec.ValidationError):
            hosts = msgspec.json.decode(self.state, type=_Hosts).testbed_hosts
            return hosts if isinstance(hosts, dict) else {}
        return {}

    def encode(self) -> bytes:
        """Return it for the store, compressed: the event loop waits until it is written."""
        return zlib.compress(msgspec.json.encode(self), 1)

    def testbed(self, folder: ProjectFolder) -> LoadedTestbed:
        """Return it as a testbed. Raises KvmComposeError for what no build could have written."""
        # with the end that a build writes, so that what is up and what is built are one document
        return LoadedTestbed(folder, bytes(self.state) + b"\n", self.files)


def decode_deployed(document: bytes | None) -> Deployed | None:
    """Return what ``Deployed.encode`` has stored."""
    return msgspec.json.decode(unpacked(document), type=Deployed) if document is not None else None


def unpacked(document: bytes) -> bytes:
    """Return the JSON of what the store has; earlier versions stored that itself."""
    return document if document.startswith(b"{") else zlib.decompress(document)
