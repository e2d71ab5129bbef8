"""``kvm-compose cloud-images``: the disk images that have a name."""

from __future__ import annotations

import argparse
import functools
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kvmcompose.core.errors import InputError, Location, Problem
from kvmcompose.images.catalogue import BuiltImage, unknown_image
from kvmcompose.images.store import default_store, read_catalogue

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmcompose.images.catalogue import CatalogueImage
    from kvmcompose.images.store import ImageStore, StoredImage
    from kvmcompose.monitor.console import Console

NAME = "cloud-images"
HELP = "list, download, build, add and verify the disk images of guests"
EXAMPLE = """\
examples:
  kvm-compose cloud-images                          list all images, and which are here
  kvm-compose cloud-images pull debian_12           fetch one now (a build fetches what it needs)
  kvm-compose cloud-images pull --refresh debian_12 check whether its publisher has replaced it
  kvm-compose cloud-images pull --accept debian_12  fetch the image that replaced it
  kvm-compose cloud-images build micro              build the small guest for demos and tests
  kvm-compose cloud-images add my_image disk.qcow2  give an image of your own a name
  kvm-compose cloud-images verify                   read all images again, and report changed ones

environment:
  KVM_COMPOSE_STORE   the folder of images (default ~/.local/share/kvm-compose/images)
  KVM_COMPOSE_MIRROR  the URL of a mirror: https://host/path is fetched from <mirror>/host/path
"""


class _Row(msgspec.Struct, kw_only=True):
    """A row of the list; sizes in bytes."""

    name: str
    title: str | None = None
    cached: bool = False
    added_by_user: bool = False
    built: bool = False
    path: str | None = None
    format: str | None = None
    size: int | None = None
    virtual_size: int | None = None
    sha256: str | None = None
    checksum_algorithm: str | None = None
    checksums_url: str | None = None
    url: str | None = None
    note: str | None = None
    signature: str | None = None


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    from kvmcompose.cli.main import add_global_options

    parser.add_argument("--json", action="store_true", help="print JSON (list and verify)")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions (without one: list)")
    action = functools.partial(actions.add_parser, allow_abbrev=False)
    listing = action("list", help="list the images of the catalogue, and which are here")
    pulling = action("pull", help="fetch images of the catalogue, unless they are here")
    add_pull_options(pulling, "+")
    build = action("build", help="build an image that is not published (micro), unless it is here")
    _add_names(build, "name")
    build.add_argument("--refresh", action="store_true", help="build again, from the newest packages")
    add = action("add", help="copy an image of your own into the store, under a name")
    add.add_argument("name", metavar="NAME")
    add.add_argument("file", metavar="FILE", type=Path)
    remove = action("remove", help="forget images (prune then frees the space)")
    _add_names(remove, "names", nargs="+")
    verify = action("verify", help="read every image again; exit with status 1 if one was changed")
    action("prune", help="remove unfinished images, and images without a name or a project's link")
    for child in (listing, verify):
        child.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    for child in actions.choices.values():
        add_global_options(child, top=False)


def add_pull_options(parser: argparse.ArgumentParser, nargs: str) -> None:
    """Add the names and options of ``pull``."""
    _add_names(parser, "names", nargs=nargs)
    parser.add_argument("--refresh", action="store_true", help="check whether its publisher has replaced it")
    parser.add_argument(
        "--accept", action="store_true", help="accept images that have changed since they were first fetched"
    )
    parser.add_argument(
        "--mirror", metavar="URL", help="fetch from URL/host/path (or set KVM_COMPOSE_MIRROR)"
    )


def _add_names(parser: argparse.ArgumentParser, name: str, nargs: str | None = None) -> None:
    names = parser.add_argument(name, nargs=nargs, metavar="NAME")
    names.completer = _complete_images  # type: ignore[attr-defined] # read by argcomplete


def _complete_images(**_rest: object) -> list[str]:
    """Complete names of images."""
    return sorted({*read_catalogue().names(), *(image.name for image in default_store().list())})


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command; return the exit status."""
    actions: dict[str | None, Callable[[argparse.Namespace, Console, ImageStore], int]] = {
        None: _list,
        "list": _list,
        "pull": pull,
        "build": _build,
        "add": _add,
        "remove": _remove,
        "verify": _verify,
        "prune": _prune,
    }
    return actions[arguments.action](arguments, console, default_store())


def _list(arguments: argparse.Namespace, console: Console, store: ImageStore) -> int:
    here = {image.name: image for image in store.list()}
    catalogue = read_catalogue()
    known: tuple[CatalogueImage | BuiltImage, ...] = (*catalogue.images, *catalogue.built)
    rows = [_row(image.name, image, here.pop(image.name, None)) for image in known]
    rows += [_row(image.name, None, image) for image in here.values()]
    if arguments.json:
        console.json(msgspec.to_builtins(rows))
        return 0
    header = ["NAME", "HERE", "SIZE", "SHA-256, OR WHERE CHECKSUMS ARE", "FROM"]
    console.table([_cells(row) for row in rows], header)
    return 0


def _row(name: str, known: CatalogueImage | BuiltImage | None, here: StoredImage | None) -> _Row:
    row = _Row(name=name)
    if isinstance(known, BuiltImage):
        row.title, row.built = known.title, True
    elif known is not None:
        row.title, row.format, row.url, row.sha256 = known.title, known.format, known.url, known.sha256
        row.checksum_algorithm, row.checksums_url = known.checksum_algorithm, known.checksums_url
        row.note = known.note or None
    if here is not None:
        row.cached, row.added_by_user, row.path = True, here.added_by_user, str(here.path)
        row.format, row.url, row.sha256 = here.format, here.url, here.sha256
        row.size, row.virtual_size = here.size, here.virtual_size
        row.signature = here.signature
    return row


def _cells(row: _Row) -> list[str]:
    here = "added" if row.added_by_user else "yes" if row.cached else "no"
    size = "-" if row.size is None else _in_units(row.size)
    source = "added by you" if row.added_by_user else "built here" if row.built else row.url or "-"
    return [row.name, here, size, row.sha256 or row.checksums_url or "-", source]


def pull(arguments: argparse.Namespace, console: Console, store: ImageStore) -> int:
    """Fetch images by name; all names are checked first. Raises InputError."""
    catalogue = read_catalogue()
    wanted: list[CatalogueImage] = []
    problems: list[Problem] = []
    for name in dict.fromkeys(arguments.names):
        image = catalogue.find(name)
        if image is not None:
            wanted.append(image)
        elif built := catalogue.find_built(name):
            problems.append(_wrong_way(name, "is built, not fetched", built.command))
        elif store.find(name) is None:
            problems += unknown_image(name, catalogue.names()).problems
        else:
            console.say(f"{name} was added by you: nothing to fetch")
    if problems:
        raise InputError(problems)
    for image in wanted:
        before = store.find(image.name)
        with console.progress(image.name) as progress:
            stored = store.pull(
                image,
                mirror=arguments.mirror,
                progress=progress,
                refresh=arguments.refresh,
                accept=arguments.accept,
            )
        if before is not None and before.sha256 == stored.sha256:
            console.say(f"{image.name} is here already, sha256 {stored.sha256}")
        else:
            console.say(f"{image.name}: {_in_units(stored.size)}, sha256 {stored.sha256}")
            console.say(f"    checked against the {_vouched(stored)}")
            if stored.signature is not None:
                console.say(f"    signature: {stored.signature}")
    return 0


def _build(arguments: argparse.Namespace, console: Console, store: ImageStore) -> int:
    import microimage

    name, catalogue = arguments.name, read_catalogue()
    if catalogue.find(name):
        raise InputError([_wrong_way(name, "is fetched, not built", f"kvm-compose cloud-images pull {name}")])
    if name != microimage.NAME:
        raise unknown_image(name, [image.name for image in catalogue.built])
    before = store.find(name)
    make = functools.partial(microimage.build, report=lambda text: console.say(f"{name}: {text}"))
    stored = store.build(name, microimage.recipe_digest(), make, refresh=arguments.refresh)
    if before is not None and before.sha256 == stored.sha256:
        console.say(f"{name} is here already, sha256 {stored.sha256}")
    else:
        console.say(f"{name}: {_in_units(stored.size)}, sha256 {stored.sha256}")
    return 0


def _wrong_way(name: str, message: str, command: str) -> Problem:
    return Problem(
        code="image-source", message=f"{name} {message}", location=Location("command line"), hint=command
    )


def _vouched(image: StoredImage) -> str:
    algorithm = (image.checksum or "").partition(":")[0]
    weak = " (which detects damage, but not an attack)" if algorithm in ("md5", "sha1") else ""
    return f"{algorithm} of {image.checksum_from}{weak}"


def _add(arguments: argparse.Namespace, console: Console, store: ImageStore) -> int:
    before = store.find(arguments.name)
    image = store.add(arguments.name, arguments.file)
    size = f"{_in_units(image.size)}, a disk of {_in_units(image.virtual_size)}"
    console.say(f"{image.name}: {image.format}, {size}, sha256 {image.sha256}")
    if before is not None and before.sha256 != image.sha256:
        console.warn(f"{image.name} was {before.sha256} until now")
    return 0


def _remove(arguments: argparse.Namespace, console: Console, store: ImageStore) -> int:
    known = [image.name for image in store.list()]
    problems = [
        problem
        for name in arguments.names
        if name not in known
        for problem in unknown_image(name, known).problems
    ]
    if problems:
        raise InputError(problems)
    for name in arguments.names:
        store.remove(name)
    console.say("to free the space: kvm-compose cloud-images prune")
    return 0


def _verify(arguments: argparse.Namespace, console: Console, store: ImageStore) -> int:
    problems = store.verify()
    if arguments.json:
        console.json([{**msgspec.structs.asdict(problem), "path": str(problem.path)} for problem in problems])
    else:
        for problem in problems:
            console.data(f"{problem.name}: {problem.path}: {problem.message}\n    hint: {problem.hint}")
    if not problems:
        console.say(f"{len(store.list())} images are unchanged")
    return 1 if problems else 0


def _prune(_arguments: argparse.Namespace, console: Console, store: ImageStore) -> int:
    pruned = store.prune()
    for path in pruned.paths:
        console.data(str(path))
    for path, doubt in pruned.kept:
        console.say(f"kept: {path}, for {str(doubt.place)!r}: {doubt.why}")
        console.say(f"  if that project was removed: rm {shlex.quote(str(doubt.note))}, and prune again")
    console.say(f"{_in_units(pruned.freed)} freed")
    return 0


def _in_units(size: float) -> str:
    """Format a number of bytes: ``512 B``, ``16.3 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
