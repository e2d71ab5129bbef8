"""The templates of text artefacts: Jinja2, in a sandbox, with everything escaped.

Templates of a project folder may come from the internet with it, so none of them can reach beyond the
values it is given. In ``*.xml.j2`` values are escaped for XML; in all others each is written as JSON,
which is valid YAML: no value can end the place it stands in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kvmcompose.core.errors import KvmComposeError

if TYPE_CHECKING:  # Jinja2 takes its time to import, and is only needed by those who render
    from jinja2.sandbox import ImmutableSandboxedEnvironment

#: What a template must have in it to refer to another.
_REFERRING = re.compile("include|import|extends")
OWN_HINT = "a template of the project folder stands in for the one of kvmcompose"
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")


def to_yaml_flow(value: Any) -> str:
    """A value as one line of YAML: JSON, with what YAML calls unprintable escaped."""
    from jinja2 import Undefined  # noqa: PLC0415 (see above)

    if isinstance(value, Undefined):
        value = str(value)  # which raises, with the name of what is missing
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def refers(text: str) -> bool:
    """Whether a template may include another."""
    return _REFERRING.search(text) is not None


class Templates:
    """All templates by name, those of the project before ours."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = dict(texts)
        self._digests: dict[str, str] = {}

    @cached_property
    def _xml(self) -> ImmutableSandboxedEnvironment:
        return self._environment(autoescape=True)

    @cached_property
    def _yaml(self) -> ImmutableSandboxedEnvironment:
        return self._environment(autoescape=False, finalize=to_yaml_flow)

    def _environment(self, **options: Any) -> ImmutableSandboxedEnvironment:
        from jinja2 import DictLoader, StrictUndefined  # noqa: PLC0415 (see above)
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 (see above)

        from kvmcompose.render.template_code import CodeCache  # noqa: PLC0415 (imports Jinja2)

        return ImmutableSandboxedEnvironment(
            loader=DictLoader(self._texts),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            bytecode_cache=CodeCache((type(self), *sorted(options.items()))),
            **options,
        )

    def warm(self) -> None:
        """Import and prepare all that rendering needs."""
        for environment in (self._xml, self._yaml):
            environment.from_string("{% macro x() %}{{ 1|tojson }}{% endmacro %}{{ x() }}").render()

    def xml(self, name: str, values: Mapping[str, Any]) -> str:
        """An XML text. Raises KvmComposeError naming the template and its line."""
        return self._render(self._xml, name, values)

    def yaml(self, name: str, values: Mapping[str, Any]) -> str:
        """A YAML text. Raises KvmComposeError naming the template and its line."""
        return self._render(self._yaml, name, values)

    def digest(self, name: str) -> str:
        """The SHA-256 of a template and of all that it includes."""
        if name not in self._digests:
            parts = sorted(self.closure(name))
            text = "\0".join(f"{part}\0{self._texts.get(part, '')}" for part in parts)
            self._digests[name] = hashlib.sha256(text.encode()).hexdigest()
        return self._digests[name]

    def closure(self, name: str) -> set[str]:
        """The names of a template and of all that it includes."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            current = waiting.pop()
            if current in found:
                continue
            found.add(current)
            if not refers(self._texts.get(current, "")):
                continue
            from jinja2 import TemplateError, meta  # noqa: PLC0415 (see above)

            try:
                tree = self._xml.parse(self._texts.get(current, ""), current)
                named = set(meta.find_referenced_templates(tree))
            except (TemplateError, RecursionError, ValueError):
                continue  # said with its place when it is rendered
            # None stands for a name that is only known when it is rendered: it may be any
            waiting += self._texts if None in named else [each for each in named if each is not None]
        return found

    @staticmethod
    def _render(environment: ImmutableSandboxedEnvironment, name: str, values: Mapping[str, Any]) -> str:
        try:
            return environment.get_template(name).render(values)
        except Exception as error:  # whatever a template does wrong, macros that call themselves included
            line = getattr(error, "lineno", None)
            where = f"templates/{name}:{line}" if line else f"templates/{name}"
            raise KvmComposeError(
                f"{where}: {error}",
                hint=OWN_HINT,
            ) from error
