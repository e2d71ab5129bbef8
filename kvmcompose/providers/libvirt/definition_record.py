"""Whether a definition still is the one that kvm-compose made, or was edited (virsh edit, net-edit).

libvirt completes a definition when it is made, so the two cannot be compared; but it describes an unchanged
one always alike. So a digest of that description is kept in the metadata, together with the version
of libvirt, as another one may complete more. Runs in the threads of a libvirt connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import libvirt

from kvmcompose.providers.libvirt import definitions as xmls

#: Metadata may change and does not make another guest.
_METADATA = re.compile(r"\n  <metadata[ >].*\n  </metadata>", re.DOTALL)


def record(domain: Any) -> None:
    """Record the definition that a domain has now."""
    flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    kind, space = libvirt.VIR_DOMAIN_METADATA_ELEMENT, xmls.GUEST_NAMESPACE
    mark = str(domain.metadata(kind, space, flags))
    made = digest(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), domain.connect().getLibVersion())
    domain.setMetadata(kind, xmls.marked(mark, definition=made), xmls.GUEST_PREFIX, space, flags)


def is_edited(xml: str, recorded: str, version: int) -> bool:
    """Return whether a definition is another than the recorded one; False when that cannot be known."""
    return recorded.startswith(f"{version}:") and recorded != digest(xml, version)


@contextlib.contextmanager
def own_change(domain: Any) -> Iterator[None]:
    """Record the definition after a change of ours, unless it was edited before."""
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    owner = xmls.domain_identity(xml)
    edited = is_edited(xml, owner.definition, domain.connect().getLibVersion())
    yield
    if owner.definition and not edited:
        record(domain)


def digest(xml: str, version: int) -> str:
    """Return what is recorded of a description of a definition by this version of libvirt."""
    return f"{version}:{hashlib.sha256(_METADATA.sub('', xml).encode()).hexdigest()}"
