"""Check the files that a guest names: scripts and contexts must be in the project, images can be anywhere."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

import msgspec

from kvmcompose.core.environment import LARGEST_FILE, parse_environment
from kvmcompose.core.errors import Complaint, Location
from kvmcompose.core.image_source import ImageFile
from kvmcompose.core.project import FileKind, Flaw, ProjectFiles
from kvmcompose.guests._shell import CHECKED, reserved_variables, script_flaw

_Path = tuple[str | int, ...]


def _missing(at: _Path, path: str, kind: FileKind, wanted: str) -> Complaint:
    if kind is FileKind.MISSING:
        return Complaint(
            code="missing-file",
            path=at,
            message=f"{path!r} does not exist",
            wanted=wanted,
            hint="paths are relative to the project folder",
        )
    what = {FileKind.FOLDER: "is a folder", FileKind.UNREADABLE: "cannot be read"}
    message = f"{path!r} {what.get(kind, 'is neither a file nor a folder')}"
    return Complaint(code="bad-file", path=at, message=message, wanted=wanted)


def unreadable(at: _Path, path: str) -> Complaint:
    """Return the problem of a file that cannot be read."""
    return _missing(at, path, FileKind.UNREADABLE, "a file")


def carried(files: ProjectFiles, at: _Path, path: str) -> Iterator[Complaint]:
    """A file whose content is carried into a guest."""
    yield from _inside(files, at, path) or _a_file(files, at, path)


def folder(files: ProjectFiles, at: _Path, path: str) -> Iterator[Complaint]:
    """A folder from which an image is built."""
    yield from _inside(files, at, path, "copied into an image") or _a_folder(files, at, path)


def _inside(files: ProjectFiles, at: _Path, path: str, use: str = "copied into a guest") -> list[Complaint]:
    if files.is_inside(path):
        return []
    return [
        Complaint(
            code="outside-project",
            path=at,
            message=f"{path!r} is outside the project folder and would be {use}",
            hint="copy it into the project, or allow the folder with --allow-path DIR",
        )
    ]


def _a_file(files: ProjectFiles, at: _Path, path: str) -> list[Complaint]:
    kind = files.kind(path)
    return [] if kind is FileKind.FILE else [_missing(at, path, kind, "a file")]


def _a_folder(files: ProjectFiles, at: _Path, path: str) -> list[Complaint]:
    kind = files.kind(path)
    if kind is FileKind.FILE:
        return [Complaint(code="bad-file", path=at, message=f"{path!r} is a file", wanted="a folder")]
    return [] if kind is FileKind.FOLDER else [_missing(at, path, kind, "a folder")]


def _a_file_or_folder(files: ProjectFiles, at: _Path, path: str) -> list[Complaint]:
    kind = files.kind(path)
    known = kind in (FileKind.FILE, FileKind.FOLDER)
    return [] if known else [_missing(at, path, kind, "a file or a folder")]


def context(
    files: ProjectFiles, at: _Path, path: str, modes: Mapping[str, str], *, at_path: _Path
) -> Iterator[Complaint]:
    """A folder or a file that is carried into a guest. ``at_path`` is the place of its ``path``."""
    if wrong := _inside(files, at_path, path) or _a_file_or_folder(files, at_path, path):
        yield from wrong
        return
    for flaw in files.flaws(path, modes):
        yield _complaint(flaw, (*at, *flaw.at) if flaw.at else at_path)


def _complaint(flaw: Flaw, at: _Path) -> Complaint:
    return Complaint(code=flaw.code, path=at, message=flaw.message, hint=flaw.hint, at_key=bool(flaw.at))


def mounted(files: ProjectFiles, at: _Path, path: str) -> Iterator[Complaint]:
    """A folder or a file that a guest sees where it is; what cannot be copied does no harm in it."""
    wrong = _inside(files, at, path, "mounted in a guest") or _a_file_or_folder(files, at, path)
    yield from wrong or (
        each for each in context(files, at, path, {}, at_path=at) if each.code == "outside-project"
    )


def script(files: ProjectFiles, at: _Path, path: str | None) -> Iterator[Complaint]:
    """Yield the problems of a script that a guest runs."""
    if path is None:
        return
    wrong = [*carried(files, at, path)]
    wrong = wrong or [_complaint(each, at) for each in files.flaws(path, {})]
    data = files.content(path, CHECKED) if not wrong else None
    if wrong or data is None:
        yield from wrong or [_missing(at, path, FileKind.UNREADABLE, "a file")]
    elif flaw := script_flaw(data, path):
        yield Complaint(
            code="bad-script",
            path=at,
            message=flaw.message,
            hint=flaw.hint,
            severity=flaw.severity,
            location=Location(path, flaw.line, flaw.column),
        )


def environment(
    files: ProjectFiles, section: _Path, in_yaml: Mapping[str, str], path: str | None
) -> Iterator[Complaint]:
    """Yield the problems of a guest's variables: those ``in_yaml``, and those in the file at ``path``.

    A shell in the guest sets them, so that it must not set them itself.
    """
    variables: dict[str, str] = {}
    data = None
    if path is not None:
        variables, data, complaints = _variables(files, (*section, "environment_file"), in_yaml, path)
        yield from complaints
    if path is None or data is not None:
        file = (path, data) if path is not None and data is not None else None
        yield from reserved_variables(section, in_yaml, variables, file)


def environment_file(
    files: ProjectFiles, at: _Path, in_yaml: Mapping[str, str], path: str
) -> Iterator[Complaint]:
    """Yield the problems of a file of variables, which the key at ``at`` names, beside those ``in_yaml``."""
    yield from _variables(files, at, in_yaml, path)[2]


def _variables(
    files: ProjectFiles, at: _Path, in_yaml: Mapping[str, str], path: str
) -> tuple[dict[str, str], bytes | None, list[Complaint]]:
    """Return the variables of a file, its content, None if it has none to check, and its problems."""
    wrong = list(carried(files, at, path))
    data = files.content(path, LARGEST_FILE) if not wrong else None
    if wrong or data is None:
        return {}, None, wrong or [_missing(at, path, FileKind.UNREADABLE, "a file")]
    variables, problems = parse_environment(data, path)
    complaints = [
        Complaint(
            code=problem.code,
            path=at,
            message=problem.message,
            wanted=problem.wanted,
            hint=problem.hint,
            location=problem.location,
        )
        for problem in problems
    ]
    complaints += [
        Complaint(
            code="duplicate-variable",
            path=(*at[:-1], "environment", name),
            message=f"{name} is set in {path!r}, too",
            hint="set it in one of the two",
            at_key=True,
        )
        for name in sorted(variables.keys() & in_yaml)
    ]
    return variables, data, complaints


def image(
    files: ProjectFiles,
    at: _Path,
    path: str,
    wanted_format: str | None,
    *,
    is_said: bool = False,
    format_key: str | None = None,
) -> Iterator[Complaint]:
    """Yield the problems of a disk image, which may be anywhere. ``is_said``: the YAML says its format.

    ``format_key`` is the key that does, None where there is none.
    """
    kind = files.kind(path)
    if kind is not FileKind.FILE:
        yield _missing(at, path, kind, "a disk image")
    elif (flaw := files.image_flaw(path, wanted_format, is_said=is_said)) is not None:
        complaint = _complaint(flaw, at)
        if complaint.hint is None and wanted_format is None and format_key is not None:
            hint = f"if it is a raw disk, add {format_key}: raw"
            complaint = msgspec.structs.replace(complaint, hint=hint)
        yield complaint


def container_image(files: ProjectFiles, at: _Path, source: ImageFile) -> Iterator[Complaint]:
    """Yield the problems of a container's image in a file, or in a folder."""
    if source.path.startswith("~"):
        yield Complaint(
            code="bad-value",
            path=at,
            message="the server that reads the image may have another home folder",
            found=repr(source.path),
            wanted="an absolute path, or one relative to the project folder",
        )
        return
    if wrong := _inside(files, at, source.path, "loaded as an image"):
        yield from wrong
        return
    kind, wanted = files.kind(source.path), FileKind.FOLDER if source.is_folder else FileKind.FILE
    if kind is not wanted:
        what = "a folder with an OCI image layout" if source.is_folder else "an archive with an image"
        if kind is FileKind.FILE:
            message = f"{source.path!r} is a file"
            hint = f"write oci-archive:{source.path}"
            yield Complaint(code="bad-file", path=at, message=message, wanted=what, hint=hint)
        else:
            yield _missing(at, source.path, kind, what)
    elif isinstance(found := files.image_id(source), Flaw):
        yield _complaint(found, at)


def catalogue_image(files: ProjectFiles, at: _Path, name: str) -> Iterator[Complaint]:
    """Yield the problem of an image name that is neither in the catalogue nor added by the user."""
    known = files.image_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        yield Complaint(
            code="unknown-image",
            path=at,
            message=f"there is no cloud image {name!r}",
            wanted=f"one of: {', '.join(known)}",
            hint=f"did you mean {near[0]!r}?"
            if near
            else f"kvm-compose cloud-images add {name} FILE adds a local file under that name",
        )
