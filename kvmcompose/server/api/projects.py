"""What the API does with the YAML of a project: by the command line, as the owner of the deployment."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import msgspec

from kvmcompose.core.command_output import ActionBegun, CommandEnded, CommandEvent, Message
from kvmcompose.core.commands import Up
from kvmcompose.core.errors import InputError, KvmComposeError
from kvmcompose.core.explained import Explanation
from kvmcompose.core.plain import plain
from kvmcompose.core.planned import PlanDocument
from kvmcompose.core.project_file import (
    LARGEST_FILE,
    CheckedFile,
    NewText,
    ProjectFile,
    ProjectOptions,
    ProjectUp,
    SavedText,
)
from kvmcompose.effects.files import digest_bytes
from kvmcompose.effects.opening import read_regular
from kvmcompose.effects.owner_files import OwnerFiles
from kvmcompose.effects.threads import in_thread
from kvmcompose.hosts.command import Completed
from kvmcompose.hosts.errors import DriverError
from kvmcompose.server.api.problems import ApiError
from kvmcompose.server.api.rights import check_change
from kvmcompose.server.api.service import Service
from kvmcompose.server.byte_stream import BegunStream
from kvmcompose.server.people import Asker
from kvmcompose.server.project_commands import OwnedProject, ProjectCommands

T = TypeVar("T")

_YAML = "kvm-compose.yaml"
_LONGEST_MESSAGE = 16 << 10
_REFUSED = 3

_checked: msgspec.json.Decoder[CheckedFile] = msgspec.json.Decoder(CheckedFile)
_plan: msgspec.json.Decoder[PlanDocument] = msgspec.json.Decoder(PlanDocument)
_explained: msgspec.json.Decoder[tuple[Explanation, ...]] = msgspec.json.Decoder(tuple[Explanation, ...])
_event: msgspec.json.Decoder[CommandEvent] = msgspec.json.Decoder(CommandEvent)
_message: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class _Begun(msgspec.Struct):
    """What ``--detach --json`` prints at the end."""

    uuid: str


_begun: msgspec.json.Decoder[_Begun] = msgspec.json.Decoder(_Begun)


class Projects:
    """The projects of deployments. The methods raise ApiError, RefusedError, DriverError."""

    def __init__(self, service: Service, commands: ProjectCommands) -> None:
        self._service = service
        self._commands = commands

    async def file(self, asker: Asker, name: str) -> ProjectFile:
        """Return the YAML of a project, and its problems."""
        project = await self._project(asker, name)
        path = project.folder / _YAML
        try:
            data = await in_thread(_read, path, project.owner.uid)
            text = data.decode()
        except UnicodeDecodeError:
            return await self._unread(project, path, "it is not UTF-8")
        except OSError as error:
            return await self._unread(project, path, (error.strerror or str(error)).lower())
        return await self._file(project, path, text, data)

    async def save(self, asker: Asker, name: str, saved: SavedText) -> ProjectFile:
        """Save a text that is valid, if the file is still the one that was read."""
        project = await self._project(asker, name)
        check_change(asker)
        data = _encoded(saved.text)
        words = ["validate", "--stdin", "--save", saved.digest, "--json"]
        completed = await self._commands.look(project, words, data)
        checked = _decoded(_checked, completed)
        if not checked.valid:
            count = len([each for each in checked.problems if each.severity.value == "error"])
            raise ApiError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"the text is not saved: it has {count} error{'s' if count != 1 else ''}",
                hint=str(checked.problems[0]) if checked.problems else None,
            )
        return ProjectFile(
            path=str(project.folder / _YAML),
            text=saved.text,
            digest=digest_bytes(data),
            unread=None,
            valid=True,
            problems=checked.problems,
        )

    async def check(self, asker: Asker, name: str, new: NewText) -> CheckedFile:
        """Return the problems of a text that is not saved."""
        project = await self._project(asker, name)
        asker.note.changed = False
        return await self._check(project, _encoded(new.text))

    async def plan(self, asker: Asker, name: str, wanted: ProjectOptions) -> PlanDocument:
        """Return what ``up`` would do to files and on hosts, and why."""
        project = await self._project(asker, name)
        asker.note.changed = False
        words = ["plan", "--json", *(["--diff"] if wanted.diff else ())]
        words += _words(wanted.options, allow_moves=wanted.allow_moves)
        return _decoded(_plan, await self._commands.look(project, words))

    async def why(self, asker: Asker, name: str, guest: str) -> tuple[Explanation, ...]:
        """Return what a guest is made of, and what of that has changed since the last build."""
        project = await self._project(asker, name)
        return _decoded(_explained, await self._commands.look(project, ["why", "--json", "--", guest]))

    async def up(self, asker: Asker, name: str, wanted: ProjectUp) -> BegunStream:
        """Build a project and start the action that brings it up: the events of the command, as lines."""
        asker.note.command = {
            "name": "up",
            "consent": list(wanted.consent),
            "planned": wanted.plan is not None,
        }
        project = await self._project(asker, name)
        check_change(asker)
        words = ["up", "--detach", "--json", *(f"--consent={digest}" for digest in wanted.consent)]
        stdin = b""
        if wanted.options.expected is not msgspec.UNSET:
            raise ApiError(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "expected: the build can change what is to be done; give the plan itself",
            )
        if wanted.plan is None:
            words += _words(wanted.options, allow_moves=wanted.allow_moves)
        elif wanted.allow_moves or wanted.options != Up(keep_going=wanted.options.keep_going):
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "a plan excludes options: it has its own")
        else:
            words += ["--plan", "-", *(["--keep-going"] if wanted.options.keep_going else ())]
            stdin = msgspec.json.encode(wanted.plan)
        events = self._events(project, words, stdin)
        return BegunStream(await anext(events), events)

    async def _events(self, project: OwnedProject, words: list[str], stdin: bytes) -> AsyncGenerator[bytes]:
        """Yield what a command that builds prints, a line each, and its end."""
        lines = self._commands.build(project, words, stdin)
        try:
            async for line in lines:
                event = _event_of(line) if isinstance(line, bytes) else CommandEnded(status=line)
                if event is not None:
                    yield msgspec.json.encode(event) + b"\n"
        except DriverError as error:  # the stream has begun
            message = Message(level="error", message=error.message, hint=error.hint)
            for last in (message, CommandEnded(status=None)):
                yield msgspec.json.encode(last) + b"\n"
        finally:
            await lines.aclose()

    async def _project(self, asker: Asker, name: str) -> OwnedProject:
        deployment, folder, owner = await self._service.project_of(asker, name)
        return OwnedProject(deployment=deployment.name, folder=folder, owner=owner, asker=asker)

    async def _check(self, project: OwnedProject, data: bytes) -> CheckedFile:
        return _decoded(_checked, await self._commands.look(project, ["validate", "--stdin", "--json"], data))

    async def _file(self, project: OwnedProject, path: Path, text: str, data: bytes) -> ProjectFile:
        checked = await self._check(project, data)
        return ProjectFile(
            path=str(path),
            text=text,
            digest=digest_bytes(data),
            unread=None,
            valid=checked.valid,
            problems=checked.problems,
        )

    async def _unread(self, project: OwnedProject, path: Path, why: str) -> ProjectFile:
        """Return a file that cannot be shown, with what ``validate`` says of it."""
        checked = _decoded(_checked, await self._commands.look(project, ["validate", "--json"]))
        return ProjectFile(
            path=str(path),
            text=None,
            digest=None,
            unread=why,
            valid=checked.valid,
            problems=checked.problems,
        )


def _read(path: Path, uid: int) -> bytes:
    """Read a file of a project with the rights of a user. Blocks. Raises OSError."""
    if os.geteuid() == uid:
        return read_regular(path, limit=LARGEST_FILE)
    files = OwnerFiles(uid)
    try:
        seen = files.see(path)
        if seen.size > LARGEST_FILE:
            raise OSError(errno.EFBIG, f"it is larger than {LARGEST_FILE >> 20} MiB", str(path))
        return files.read(path, LARGEST_FILE)
    finally:
        files.close()


def _encoded(text: str) -> bytes:
    """Return a text as bytes. Raises ApiError for one that is too long, or that no file can have."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the text is not Unicode: {error.reason}") from error
    if len(data) > LARGEST_FILE:
        raise ApiError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file may have {LARGEST_FILE >> 20} MiB at most"
        )
    return data


def _words(options: Up, *, allow_moves: bool) -> list[str]:
    """Return the words of the command line for options of ``up``."""
    flags = {
        "--rerun-scripts": options.rerun_scripts or bool(options.rerun_guests),
        "--reset-clones": options.reset_clones,
        "--provision": options.provision,
        "--restart": options.restart,
        "--no-repair": options.no_repair,
        "--no-restart": options.no_restart,
        "--allow-moves": allow_moves,
    }
    words = [f"--recreate={guest}" for guest in options.recreate]
    words += [f"--abandon={host}" for host in options.abandon]
    for flag, is_set in flags.items():
        if is_set:
            words.append(flag)
            words += options.rerun_guests if flag == "--rerun-scripts" else ()
    return [*words, "--", *options.guests]


def _decoded(decoder: msgspec.json.Decoder[T], completed: Completed) -> T:
    """Return what a command has printed. Raises the error that it reports instead."""
    try:
        return decoder.decode(completed.stdout)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _failure(completed) from None


def _failure(completed: Completed) -> KvmComposeError:
    """Return the error that a command reports."""
    messages = [_message_of(line) for line in completed.stderr.splitlines() if line.strip()]
    errors = [each for each in messages if each.level == "error"] or messages[-1:]
    if not errors:
        return DriverError(f"the command line ended with status {completed.status} and said nothing")
    first = errors[0]
    problem = first.problem
    text = str(problem).partition("\n")[0] if problem is not None else first.message
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    hint = first.hint or (problem.hint if problem is not None else None)
    status = {
        InputError.exit_code: HTTPStatus.UNPROCESSABLE_ENTITY,
        _REFUSED: HTTPStatus.CONFLICT,
    }.get(completed.status, HTTPStatus.BAD_GATEWAY)
    return ApiError(status, f"{text}{more}", hint=hint)


def _message_of(line: bytes) -> Message:
    try:
        return _message.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = plain(line.decode(errors="replace").strip())
        return Message(level="info", message=text[:_LONGEST_MESSAGE])


def _event_of(line: bytes) -> CommandEvent | None:
    """Return what a line of a command says; None for an empty one."""
    if not line.strip():
        return None
    try:
        return _event.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return ActionBegun(uuid=_begun.decode(line).uuid)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _message_of(line)
