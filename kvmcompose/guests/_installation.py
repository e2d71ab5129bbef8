"""Media beside that of an installer: answer files, by which it asks nothing, and drivers."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from xml.parsers import expat

from kvmcompose.core.artefact import Artefact, BaseImage, LinkTo, Policy, Rendered
from kvmcompose.core.errors import Complaint, Location
from kvmcompose.core.project import ProjectFiles
from kvmcompose.core.state import GuestState
from kvmcompose.guests import _files
from kvmcompose.guests._disks import IsoGuest, LibvirtType
from kvmcompose.render.iso_values import IsoValues

_Path = tuple[str | int, ...]

#: The largest answer file, in bytes.
_LARGEST = 16 * 2**20
#: The label under which installers look for files of these names, and a name for a single file by its ending.
#: Windows Setup looks at all media, whatever their label is.
_LABELS = {"autounattend.xml": "UNATTEND", "ks.cfg": "OEMDRV", "user-data": "CIDATA"}
_NAMES = {".xml": "autounattend.xml", ".ks": "ks.cfg"}
_OTHER = "ANSWERS"
#: Ubuntu's installer takes a seed without meta-data for none.
_WITH = {"user-data": "meta-data"}


def answer_files(kind: LibvirtType) -> Mapping[str, str]:
    """Return the answer files of an installer by their names on the medium."""
    given = kind.iso_guest.unattended if kind.iso_guest is not None else None
    if given is None or isinstance(given, dict):
        return dict(sorted((given or {}).items()))
    name = posixpath.basename(given)
    return {name if name.lower() in _LABELS else _NAMES.get(posixpath.splitext(name)[1], name): given}


def _label(names: Mapping[str, str]) -> str:
    return next(
        (label for name, label in _LABELS.items() if name in {each.lower() for each in names}), _OTHER
    )


def _drivers(kind: LibvirtType) -> str | None:
    return kind.iso_guest.drivers if kind.iso_guest is not None else None


def installation_artefacts(guest: GuestState, kind: LibvirtType) -> Iterator[Artefact]:
    """Yield the image with answer files, and the link to that with drivers."""
    answers = answer_files(kind)
    if answers:
        empty = tuple(other for name, other in _WITH.items() if name in answers and other not in answers)
        yield Artefact(
            task=f"answers:{guest.name}",
            path=_answers_path(guest.identity),
            policy=Policy.REPRODUCIBLE,
            content=Rendered("iso", IsoValues(_label(answers), empty), files=dict(answers)),
            summary=f"answer files of {guest.name}",
            guest=guest.name,
            # they have passwords in them
            mode=0o600,
        )
    drivers = _drivers(kind)
    if drivers is not None:
        yield Artefact(
            task=f"media:{guest.name}:drivers",
            path=_drivers_path(guest.identity),
            policy=Policy.LINK,
            content=LinkTo(BaseImage(path=drivers, format="raw")),
            summary=f"CD-ROM with drivers of {guest.name}",
            guest=guest.name,
        )


def installation_media(identity: str, kind: LibvirtType) -> tuple[str, ...]:
    """Return the paths of these images, in the order of their CD-ROMs."""
    return (
        *((_answers_path(identity),) if answer_files(kind) else ()),
        *((_drivers_path(identity),) if _drivers(kind) is not None else ()),
    )


# a dot is in no name of a guest, so that these are not those of another guest, or of a further disk
def _answers_path(identity: str) -> str:
    return f"artefacts/{identity}.answers.own.iso"


def _drivers_path(identity: str) -> str:
    return f"artefacts/{identity}.drivers.own.iso"


def _check_xml(data: bytes, at: _Path, path: str) -> Iterator[Complaint]:
    """Yield what is wrong with XML, which Windows Setup says only after its first reboot, if at all."""
    try:
        expat.ParserCreate().Parse(data, True)
    except expat.ExpatError as error:
        yield Complaint(
            code="bad-answer-file",
            path=at,
            message=f"not valid XML: {expat.ErrorString(error.code)}",
            location=Location(path, error.lineno, error.offset + 1),
        )


def check_installation(section: IsoGuest, at: _Path, files: ProjectFiles) -> Iterator[Complaint]:
    """Yield the problems of answer files and drivers."""
    given = section.unattended
    named = {
        (*at, "unattended", *((name,) if isinstance(given, dict) else ())): path
        for name, path in answer_files(LibvirtType(iso_guest=section)).items()
    }
    for where, path in named.items():
        wrong = [*_files.carried(files, where, path)]
        data = files.content(path, _LARGEST) if not wrong else None
        if wrong or data is None:
            yield from wrong or [_files.unreadable(where, path)]
        elif len(data) > _LARGEST:
            yield Complaint(
                code="too-large", path=where, message=f"{path!r} is larger than {_LARGEST >> 20} MiB"
            )
        elif path.lower().endswith(".xml") or str(where[-1]).lower().endswith(".xml"):
            yield from _check_xml(data, where, path)
    if isinstance(given, dict):
        lower: dict[str, str] = {}
        for name in given:
            if name.lower() in lower:
                yield Complaint(
                    code="duplicate-path",
                    path=(*at, "unattended", name),
                    message=f"Windows cannot tell {name!r} from {lower[name.lower()]!r}",
                    at_key=True,
                )
            lower[name.lower()] = name
    if section.drivers is not None:
        yield from _files.image(files, (*at, "drivers"), section.drivers, "raw")
