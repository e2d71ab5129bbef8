"""Where the image of a container is from: as the YAML writes it."""

from __future__ import annotations

import re

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
#: References (distribution specification, "Pulling manifests"; Docker's package ``reference``).
_REFERENCE = re.compile(
    rf"(?:{_DOMAIN}(?::[0-9]+)?/)?(?P<name>{_PART}(?:/{_PART})*)"
    r"(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
#: Prefixes of files (containers-transports(5)). The first would be an image of that name, with a tag.
_FILES = ("docker-archive:", "oci:", "oci-archive:")
#: The longest name of a repository, without its registry, in characters (Docker's package ``reference``).
_LONGEST_NAME = 255


def is_reference(image: str) -> bool:
    """Return whether this names an image of a registry."""
    match = None if image.startswith(_FILES) else _REFERENCE.fullmatch(image)
    return match is not None and len(match["name"]) <= _LONGEST_NAME
