"""What the commands that work on a project share."""

from __future__ import annotations

import argparse

from kvmcompose.monitor.console import Console
from kvmcompose.tasks.decide import Options
from kvmcompose.tasks.project import Project, Where


def where(arguments: argparse.Namespace) -> Where:
    """Which project the global options name."""
    return Where(
        directory=arguments.directory,
        input=arguments.input,
        config=arguments.config,
        project_name=arguments.project_name,
        allow_paths=tuple(arguments.allow_path),
    )


def open_project(arguments: argparse.Namespace, console: Console) -> Project:
    """The project, its warnings said. Raises InputError with all problems of its files."""
    options = Options(
        overwrite=getattr(arguments, "overwrite", False),
        provision=getattr(arguments, "provision", False),
        verify=getattr(arguments, "verify", False),
    )
    project = Project(where(arguments), options)
    for warning in project.compiled.warnings:
        console.problem(warning)
    return project


def add_names(
    parser: argparse.ArgumentParser, what: str = "guests, tasks or artefacts (default: all)"
) -> None:
    """The positional NAMES, which the shell can complete."""
    names = parser.add_argument("names", metavar="NAME", nargs="*", help=what)
    names.completer = complete_names  # type: ignore[attr-defined] # argcomplete looks for it


def complete_names(parsed_args: argparse.Namespace, **_rest: object) -> list[str]:
    """Names of guests and tasks, for the shell."""
    project = Project(where(parsed_args))
    guests = [guest.name for guest in project.compiled.placed.logical.guests]
    return [*guests, *(artefact.task for artefact in project.compiled.artefacts)]


def complete_artefacts(parsed_args: argparse.Namespace, **_rest: object) -> list[str]:
    """Paths of artefacts and their tasks, for the shell."""
    artefacts = Project(where(parsed_args)).compiled.artefacts
    return [artefact.path for artefact in artefacts] + [artefact.task for artefact in artefacts]
