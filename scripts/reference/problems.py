"""The reference of problem codes: the meaning of each, and the output of an example that causes it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from markdown_text import document
from ovn_codes import OVN_CODES
from problem_codes import BASE, CODES, CONFIG, PUBLIC_KEY, Example

import kvmcompose
from kvmcompose.cli.main import main
from kvmcompose.effects.resources import schemas
from kvmcompose.pipeline import messages

EVERY = CODES | OVN_CODES
_INTRO = """\
# Problems

Errors in the input. Each problem has a code in brackets at the end of its first line, which does not
change between versions; `validate --json` has it as `code`. All problems of a phase are reported at once;
a problem that prevents reading a file hides the ones after it. With an error the exit status is 2, and
nothing was changed. Warnings do not affect the status.

The examples show the output of `kvm-compose` for a testbed of two machines with one mistake.
"""


def page() -> str:
    """Return the page. Raises ValueError for a code without explanation, or an explanation without code."""
    known = set(_codes())
    if known != set(EVERY):
        raise ValueError(f"explain in problem_codes.py, or remove there: {sorted(known ^ set(EVERY))}")
    parts = [_INTRO]
    for name in sorted(EVERY):
        meaning, example = EVERY[name]
        parts += [f"## {name}", meaning]
        if example is not None:
            parts.append(f"```text\n{_provoke(name, example)}\n```")
    return document(parts)


def _codes() -> Iterator[str]:
    """Yield every code in the source and in the schemas."""
    for path in sorted(Path(kvmcompose.__file__).parent.rglob("*.py")):
        yield from re.findall(r'(?:code=|refuse\(\s*|self\.stop\(\s*)"([a-z0-9-]+)"', path.read_text())
    yield from messages._CODES.values()  # noqa: SLF001
    yield "bad-value"  # what a keyword without a code of its own has
    waiting: list[object] = list(schemas().files.values())
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield from part.get("x-codes", {}).values()
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _provoke(code: str, example: Example) -> str:
    """Run an example and return the lines of the first problem with the code."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["KVM_COMPOSE_STORE"] = f"{folder}/store"
        try:
            for name, text in {"key": "", "key.pub": PUBLIC_KEY, "setup.sh": "", **example.files}.items():
                Path(name).parent.mkdir(exist_ok=True)
                Path(name).write_text(text)
            Path("kvm-compose.yaml").write_bytes(_edited(BASE, example.yaml).encode(example.encoding))
            Path("kvm-compose-config.json").write_text(_edited(CONFIG, example.config))
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                main([*example.argv, "--project-name", "lab"] if example.named else list(example.argv))
        finally:
            del os.environ["KVM_COMPOSE_STORE"]
    found = re.search(rf"^.* \[{code}\](?:\n    hint: .*)?$", said.getvalue(), re.MULTILINE)
    if found is None or folder in found[0]:
        raise ValueError(f"the example of {code} says: {said.getvalue()}")
    return found[0]


def _edited(text: str, edits: tuple[tuple[str, str], ...]) -> str:
    for old, new in edits:
        if old not in text:
            raise ValueError(f"no {old!r} to be replaced")
        text = text.replace(old, new, 1)
    return text
