"""Find the container engines of a host, for ``kvm-compose doctor``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from kvmcompose.core.errors import KvmComposeError
from kvmcompose.effects.survey import Finding
from kvmcompose.hosts.command import CommandRunner
from kvmcompose.providers.containers.interface import ContainerEngine

_INSTALL = "sudo apt-get install --no-install-recommends"
#: Prints which programs of engines are installed, and the sockets of users' engines.
_LOOK = """\
for program in dockerd podman; do command -v "$program" >/dev/null && echo "$program"; done
ls -d /run/user/*/docker.sock /run/user/*/podman/podman.sock 2>/dev/null
true
"""
#: How to start an engine that is installed, by its program.
_START = {
    "dockerd": "sudo systemctl enable --now docker.socket",
    "podman": "sudo systemctl enable --now podman.socket",
}
#: The longest message that is shown, in characters.
_LONGEST = 200


async def survey_engines(
    engines: Mapping[str, ContainerEngine], runner: CommandRunner, configured: str | None = None
) -> list[Finding]:
    """Ask the engines behind the sockets of a host, by path; return a finding for each that answers.

    Where none does there is one finding, which says what is missing. ``configured`` is the host's
    ``container_engine``.
    """
    asked = await asyncio.gather(*(each.facts() for each in engines.values()), return_exceptions=True)
    found, refused, answering = [], "", []
    for path, facts in zip(engines, asked, strict=True):
        if isinstance(facts, KvmComposeError):
            refused = facts.message if "denie" in facts.message else refused
            continue
        if isinstance(facts, BaseException):
            raise facts
        kind = "rootless, " if facts.rootless else ""
        limits = "" if facts.limits else "; it cannot limit CPUs and memory, or pause"
        detail = f"{kind}{facts.version} at {path}{limits}"
        found.append(_finding(facts.engine, None, detail))
        answering.append(path)
    if configured is not None and answering and not _is_among(configured, answering):
        mend = f"start it, or change container_engine in the config: {answering[0]} answers"
        what = f"{configured}, which the config names, does not answer"
        found.append(_finding("container engine", mend, what))
    try:
        done = await runner.run(["sh", "-c", _LOOK])
        lines = done.text.split()
    except KvmComposeError as error:
        return found or [_finding("container engine", error.hint, error.message)]
    answers = bool(found)
    others = [line for line in lines if line.startswith("/") and line not in engines]
    if others and configured is None:
        also = f"users' engines: {', '.join(others)}"
        hint = f'to use one: "container_engine": "{others[0]}" in kvm-compose-config.json'
        found.append(_finding("users' engines", None, f"{also}; {hint}"))
    if answers:
        return found
    return [_lacking([line for line in lines if line in _START], refused), *found]


def _is_among(configured: str, paths: list[str]) -> bool:
    """Return whether one of the sockets is that of the engine that a host names, by its name or its path."""
    return any(path == configured or path.endswith(f"/{configured}.sock") for path in paths)


def _lacking(installed: list[str], refused: str) -> Finding:
    if refused:
        mend = "sudo usermod -aG docker USER, then log in again; or run the server as root"
        return _finding("container engine", mend, refused)
    if installed:
        names = ", ".join(installed)
        return _finding("container engine", _START[installed[0]], f"{names}: installed, but does not answer")
    return _finding("container engine", f"{_INSTALL} docker.io (or podman)", "not installed")


def _finding(name: str, mend: str | None, detail: str) -> Finding:
    return Finding(
        name=name,
        ok=mend is None,
        detail=f"{detail[:_LONGEST]} (containers)",
        needed_for="extras",
        mend=mend,
    )
