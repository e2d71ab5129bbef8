"""Shared by the commands that work on a project."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.core.plain import plain
from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from kvmcompose.build.project import Project
    from kvmcompose.build.project_inputs import Where


def where(arguments: argparse.Namespace) -> Where:
    """Return the project that the global options name."""
    from kvmcompose.build.project_inputs import Where

    return Where(
        directory=arguments.directory,
        input=arguments.input,
        config=arguments.config,
        project_name=arguments.project_name,
        allow_paths=tuple(arguments.allow_path),
    )


def find_project(arguments: argparse.Namespace) -> Project:
    """The project. Raises InputError when its files cannot be read."""
    from kvmcompose.build.decision import Options
    from kvmcompose.build.project import Project

    options = Options(
        overwrite=getattr(arguments, "overwrite", False),
        provision=getattr(arguments, "provision", False),
        verify=getattr(arguments, "verify", False),
    )
    return Project(where(arguments), options)


def open_project(arguments: argparse.Namespace, console: Console) -> Project:
    """Return the project, and print its warnings. Raises InputError with all problems of its files."""
    from kvmcompose.build.outputs import PRIVATE_FOLDER
    from kvmcompose.effects.private import complaint

    project = find_project(arguments)
    for warning in project.compiled.warnings:
        console.problem(warning)
    trouble = complaint(project.folder / PRIVATE_FOLDER)
    if trouble is not None:  # builds fail then, commands that only read do without the folder
        console.say(f"warning: {trouble.message}\n    hint: {trouble.hint}")
    return project


def add_names(
    parser: argparse.ArgumentParser, what: str = "guests, tasks or artefacts (default: all)"
) -> None:
    """Add the positional NAMES, which the shell can complete."""
    names = parser.add_argument("names", metavar="NAME", nargs="*", help=what)
    names.completer = complete_names  # type: ignore[attr-defined] # argcomplete looks for it


def names_of(arguments: argparse.Namespace, project: Project) -> list[str]:
    """Return the NAMES, or the guests that ``--label`` selects. Raises InputError."""
    from kvmcompose.cli._labels import labelled_in
    from kvmcompose.cli._server import usage_error

    names: list[str] = arguments.names
    if not arguments.labels:
        return names
    if names:
        raise usage_error("--label and NAME exclude each other")
    return labelled_in(project.compiled.state, arguments.labels)


def complete_names(parsed_args: argparse.Namespace, **_rest: object) -> list[str]:
    """Return the names of guests and tasks, for the shell."""
    guests, tasks, _paths = _names(parsed_args)
    return _clean([*guests, *tasks])


def complete_artefacts(parsed_args: argparse.Namespace, **_rest: object) -> list[str]:
    """Return the paths of artefacts and their tasks, for the shell."""
    _guests, tasks, paths = _names(parsed_args)
    return _clean([*paths, *tasks])


def _clean(names: list[str]) -> list[str]:
    """Return the names without control characters: the shell prints them unchanged."""
    return [name for name in names if plain(name) == name]


def _names(parsed_args: argparse.Namespace) -> tuple[list[str], list[str], list[str]]:
    """Return guests, tasks and paths: of the last build if it is newer than the YAML."""
    from kvmcompose.build.ledger import names_built

    built = names_built(parsed_args.directory, parsed_args.input or "kvm-compose.yaml")
    if built is not None:
        guests = dict.fromkeys(task.partition(":")[2] for task in built.values() if ":" in task)
        return list(guests), list(built.values()), list(built)

    from kvmcompose.build.project import Project

    compiled = Project(where(parsed_args)).compiled
    return (
        list(compiled.state.testbed_guests),
        [artefact.task for artefact in compiled.artefacts],
        [artefact.path for artefact in compiled.artefacts],
    )
