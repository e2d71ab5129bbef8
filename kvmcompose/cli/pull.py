"""``kvm-compose pull``: fetches the images of the project, or those that are named."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvmcompose.monitor.console import Console

if TYPE_CHECKING:
    from kvmcompose.build.project import Project

NAME = "pull"
HELP = "fetch the images that the project needs (see cloud-images pull)"
EXAMPLE = """\
examples:
  kvm-compose pull                 the images of this project; pins those of containers in images.lock
  kvm-compose pull --refresh       likewise, and pins what their tags stand for now
  kvm-compose pull debian_12       cloud-images pull debian_12

generate and up fetch images that are missing, too.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    from kvmcompose.cli.cloud_images import add_pull_options

    add_pull_options(parser, "*")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Fetch them."""
    from kvmcompose.cli._image_lock import write_image_lock
    from kvmcompose.cli._project import open_project
    from kvmcompose.cli.cloud_images import pull
    from kvmcompose.images.store import default_store, read_catalogue

    store = default_store()
    if not arguments.names:
        project = open_project(arguments, console)
        has_containers = write_image_lock(project, console, refresh=arguments.refresh)
        arguments.names = _needed(project)
        built = read_catalogue().find_built
        arguments.names = [name for name in arguments.names if not (built(name) and store.find(name))]
        if not arguments.names:
            if not has_containers:
                console.say("the project needs no image of the catalogue")
            return 0
    return pull(arguments, console, store)


def _needed(project: Project) -> list[str]:
    """Return the names of the catalogue's images that the project needs."""
    from kvmcompose.build.base_images import image_of

    artefacts = project.compiled.artefacts
    images = [image for artefact in artefacts if (image := image_of(artefact)) is not None]
    return list(dict.fromkeys(image.name for image in images if image.name is not None))
