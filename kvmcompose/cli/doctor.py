"""``kvm-compose doctor``: check the requirements on this machine and the other testbed hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvmcompose.core.errors import InputError, Severity

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from kvmcompose.core.model import Host
    from kvmcompose.effects.survey import Finding
    from kvmcompose.monitor.console import Console

NAME = "doctor"
HELP = "check what this machine and the testbed hosts can do, and say how to install what is missing"
EXAMPLE = """\
examples:
  kvm-compose doctor           a table, then a fix for each missing requirement
  kvm-compose doctor --json    the same for scripts

In a project with a kvm-compose-config.json, its other testbed hosts are checked, too,
over the same SSH connections as for up. Exits with status 1 if a requirement for
building artefacts (generate) is missing here, or one for up on another host.
The first run boots a small guest to find out whether KVM works: up to 10 seconds.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the survey; return the exit status."""
    from kvmcompose.effects.survey import survey
    from kvmcompose.effects.survey_ovn import survey_ovn
    from kvmcompose.images.store import default_store

    main, others = _hosts(arguments)
    engines, elsewhere = _survey_all(main, others)
    findings = [*survey(default_store().root), *survey_ovn(), *engines]
    can_generate = _lacks_nothing(findings, "generate")
    can_up = can_generate and _lacks_nothing(findings, "up")
    unfit = [name for name, found in elsewhere.items() if not _lacks_nothing(found, "up")]
    status = 0 if can_generate and not unfit else 1
    if arguments.json:
        document = {
            "can_generate": can_generate,
            "can_up": can_up,
            "findings": msgspec.to_builtins(findings),
        }
        hosts = {
            name: {"can_up": name not in unfit, "findings": msgspec.to_builtins(found)}
            for name, found in elsewhere.items()
        }
        console.json(document | ({"hosts": hosts} if hosts else {}))
        return status
    _show(findings, console)
    if can_up:
        console.data("this machine can build testbeds and bring them up")
    elif can_generate:
        console.data("this machine can build artefacts (generate), but not bring testbeds up")
    else:
        console.data("this machine cannot build artefacts yet")
    for name, found in elsewhere.items():
        console.data(f"\ntestbed host {name}:")
        _show(found, console)
        console.data(f"{name} {'cannot run guests of testbeds yet' if name in unfit else 'can run guests'}")
    return status


def _show(findings: Sequence[Finding], console: Console) -> None:
    console.table(
        [[_word(finding), finding.name, finding.needed_for, finding.detail] for finding in findings],
        ["", "WHAT", "NEEDED FOR", "FOUND"],
    )
    for finding in findings:
        if not finding.ok and finding.mend:
            console.data(f"{finding.name}: {finding.mend}")


def _hosts(arguments: argparse.Namespace) -> tuple[Host, list[Host]]:
    """Return the main host, and the other testbed hosts of the config. Raises InputError."""
    from kvmcompose.build.project_inputs import read_config
    from kvmcompose.cli._project import where
    from kvmcompose.core.model import Host
    from kvmcompose.effects.files import expand
    from kvmcompose.effects.resources import schemas
    from kvmcompose.pipeline.config import parse_hosts
    from kvmcompose.pipeline.logical import Documents
    from kvmcompose.pipeline.shape import shape_config

    this = Host(name="this machine", ip="127.0.0.1", is_main_host=True)
    folder = arguments.directory.resolve()
    config = read_config(folder, where(arguments))
    if config is None:
        return this, []
    value, problems = shape_config(Documents(config, config, schemas()).config, schemas())
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise InputError(problems)
    hosts = [
        host
        if host.identity_file is None
        else msgspec.structs.replace(host, identity_file=str(folder / expand(host.identity_file)))
        for host in parse_hosts(value)
    ]
    main = next((host for host in hosts if host.is_main_host), this)
    return main, [host for host in hosts if not host.is_main_host]


def _survey_all(main: Host, hosts: Sequence[Host]) -> tuple[list[Finding], Mapping[str, list[Finding]]]:
    """Check the other hosts, and the container engines of this one, all at once."""
    import asyncio

    from kvmcompose.effects.server_places import missing_modules
    from kvmcompose.effects.survey import Finding

    missing = missing_modules()
    if missing:
        lacking = Finding(
            name="connection",
            ok=False,
            detail=f"not checked: this installation lacks {', '.join(missing)}",
            needed_for="up",
            mend="pip install 'kvmcompose[server]'",
        )
        return [], {host.name: [lacking] for host in hosts}

    from kvmcompose.providers.engine_survey import survey_engines
    from kvmcompose.providers.host_survey import survey_host
    from kvmcompose.providers.real import RealDrivers

    async def check() -> list[list[Finding]]:
        drivers = RealDrivers()

        async def engines(host: Host) -> list[Finding]:
            return await survey_engines(drivers.engines(host), drivers.runner(host), host.container_engine)

        async def elsewhere(host: Host) -> list[Finding]:
            on_it = drivers.host(host)
            found = await survey_host(
                host, drivers.runner(host), on_it.hypervisor, on_it.switches, on_it.chassis
            )
            reached = len(found) > 1 and all(each.ok for each in found[:2])
            return [*found, *(await engines(host) if reached else [])]

        try:
            return await asyncio.gather(engines(main), *map(elsewhere, hosts))
        finally:
            await drivers.close()

    ours, *theirs = asyncio.run(check())
    return ours, dict(zip((host.name for host in hosts), theirs, strict=True))


def _lacks_nothing(findings: list[Finding], purpose: str) -> bool:
    return all(finding.ok for finding in findings if finding.needed_for == purpose)


def _word(finding: Finding) -> str:
    if finding.ok:
        return "ok"
    return "none" if finding.needed_for == "extras" else "LACKS"
