"""An overview of a project's tasks, without importing doit, which takes time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from kvmcompose.build.base_images import image_of, image_task
from kvmcompose.core.artefact import Artefact

#: The task that depends on all others.
GROUP = "generate"
GROUP_DOC = "build what is missing or changed"

_GROUP_DOCS = {
    "answers": "answer files of installers",
    "clone": "linked clones of golden images",
    "disk": "disks of guests and golden images",
    "domain-xml": "libvirt domains",
    "image": "disk images that guests are made from",
    "media": "CD-ROM images of guests",
    "nvram": "variables of guests' UEFIs",
    "remove": "files that are no longer wanted",
    "seed-iso": "cloud-init seeds",
    "shared-disk": "disks that guests share",
}


def groups(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The groups that tasks of these names are in, each with what it is."""
    for base in dict.fromkeys([name.partition(":")[0] for name in names if ":" in name]):
        yield base, _GROUP_DOCS.get(base, f"all tasks {base}:…")


def overview(artefacts: Collection[Artefact], stale: Iterable[str] = ()) -> str:
    """What ``doit list`` says of a project: every task that is in no group, and every group.

    ``stale`` are the paths of artefacts that were built and are not wanted any more.
    """
    images = {image for image in map(image_of, artefacts) if image is not None}
    names = [*map(image_task, images), *[artefact.task for artefact in artefacts]]
    alone = [(artefact.task, artefact.summary) for artefact in artefacts if ":" not in artefact.task]
    rows = dict([*groups([*names, *(f"remove:{path}" for path in stale)]), *alone, (GROUP, GROUP_DOC)])
    # names that start with "_" are doit's way of keeping tasks to itself
    shown = sorted((name, doc) for name, doc in rows.items() if not name.startswith("_"))
    width = max(len(name) for name, _ in shown) + 3
    return "".join(f"{name:<{width}}{doc}\n" for name, doc in shown)
