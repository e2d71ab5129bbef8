"""Templates whose output is the same in every build, and whose digest shows every change."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.render.templates import Templates

if TYPE_CHECKING:  # Jinja2 takes its time to import
    from jinja2.sandbox import ImmutableSandboxedEnvironment

#: What Jinja2 offers that draws random numbers.
_RANDOM_GLOBALS = ("lipsum",)
_RANDOM_FILTERS = ("random",)
#: An object that has no text of its own: Python shows its address, which is another one in each process.
_ADDRESS = re.compile(
    r"(?:<|&lt;|\\u003c)((?=[a-z_])[^<>&\n]{0,200}(?:object|function|method)[^<>&\n]{0,200})"
    r" at 0x[0-9a-f]{6,16}(?:>|&gt;|\\u003e)",
    re.IGNORECASE,
)


class SteadyTemplates(Templates):
    """Templates without sources of randomness."""

    def _environment(self, **options: Any) -> ImmutableSandboxedEnvironment:
        environment = super()._environment(**options)
        for name in _RANDOM_GLOBALS:
            del environment.globals[name]
        for name in _RANDOM_FILTERS:
            del environment.filters[name]
        return environment

    @staticmethod
    def _render(environment: ImmutableSandboxedEnvironment, name: str, values: Mapping[str, Any]) -> str:
        text = Templates._render(environment, name, values)  # noqa: SLF001 (that of the class above)
        found = _ADDRESS.search(text)
        if found is not None:
            # the process with limits, see ``confined_templates``, returns no hints
            raise KvmComposeError(
                f"templates/{name}: it writes {found[1]!r}, which has another address in each build:"
                " end the expression with () or |list"
            )
        return text

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a template and of all that it includes, whether it exists or not."""
        if name not in self._digests:
            texts = {part: self._texts.get(part) for part in sorted(self.closure(name))}
            if any(text is not None and (not text or "\0" in text) for text in texts.values()):
                # the digest of version 0.1 takes a part that is empty for one that does not exist
                self._digests[name] = hashlib.sha256(msgspec.json.encode(texts)).hexdigest()
            else:
                super().digest(name)
        return self._digests[name]
