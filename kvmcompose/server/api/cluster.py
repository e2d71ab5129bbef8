"""The cluster's ``kvm-compose-config.json`` as the server keeps it: a file in its state folder."""

from __future__ import annotations

import threading
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from kvmcompose.core.errors import InputError, KvmComposeError, Location, Problem
from kvmcompose.effects.files import write_atomic
from kvmcompose.effects.resources import schemas
from kvmcompose.pipeline.read import read_json
from kvmcompose.pipeline.shape import shape_config
from kvmcompose.server.api.problems import ApiError

_HOSTS = "testbed_host_ssh_config"
_MAIN = "is_main_host"
_NAME = "kvm-compose-config.json"

Config = dict[str, Any]

#: With no document there is this machine, as in a project that has none.
_DEFAULT: Config = {
    _HOSTS: {"main": {"ip": "127.0.0.1", _MAIN: True, "virt_type": "auto", "datapath_type": "auto"}}
}


class ClusterConfig:
    """The document and its main host's entry. ``folder`` None keeps it in RAM."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / _NAME if folder else None
        self._memory: bytes | None = None
        self._changing = threading.RLock()  # requests are served in threads

    def get(self) -> Config:
        """The document; what stands for it when there is none. Raises KvmComposeError."""
        try:
            data = self._path.read_bytes() if self._path else self._memory
        except FileNotFoundError:
            data = None
        except OSError as error:
            raise KvmComposeError(f"cannot read {self._path}: {error.strerror}") from error
        if data is None:
            return _DEFAULT
        try:
            return _checked(data, str(self._path or _NAME))
        except InputError as error:
            raise KvmComposeError(
                f"the server's own configuration was spoilt: {error.message}", hint=f"mend {self._path}"
            ) from error

    def put(self, data: bytes) -> Config:
        """Keep this document. Raises ApiError for one that is wrong."""
        with self._changing:
            return self._put(data)

    def _put(self, data: bytes) -> Config:
        try:
            config = _checked(data, _NAME)
        except InputError as error:
            raise ApiError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(str(each) for each in error.problems)
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the request's body: {error}") from error
        encoded = msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n"
        if self._path is None:
            self._memory = encoded
            return config
        try:
            write_atomic(self._path, encoded, mode=0o600)
        except OSError as error:
            raise KvmComposeError(f"cannot write {self._path}: {error.strerror}") from error
        return config

    def get_host(self) -> Config:
        """The entry of the main host."""
        config = self.get()
        entry: Config = config[_HOSTS][_main(config)]
        return entry

    def put_host(self, data: bytes) -> Config:
        """Put this in the place of the main host's entry."""
        try:
            entry = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"the request's body: {error}") from error
        with self._changing:
            config = self.get()
            name = _main(config)
            hosts = {**config[_HOSTS], name: entry}
            stored = self._put(msgspec.json.encode({**config, _HOSTS: hosts}))
        kept: Config = stored[_HOSTS][name]
        return kept


def _main(config: Config) -> str:
    return next(str(name) for name, entry in config[_HOSTS].items() if entry.get(_MAIN))


def _checked(data: bytes, name: str) -> Config:
    """The document, if it is of the right shape and has one main host. Raises InputError."""
    value, problems = shape_config(read_json(data, name), schemas())
    if not problems:
        # a schema types what stands in a file, quoted or not; over the wire a number is not a text
        problems = (*_other_types(value, msgspec.json.decode(data), name), *_main_problems(value, name))
    if problems:
        raise InputError(problems)
    return value


def _other_types(value: Config, sent: Any, name: str) -> tuple[Problem, ...]:
    if value == sent:
        return ()
    message = "a value is not of the type that the schema asks for"
    return (Problem(code="wrong-type", message=message, location=Location(name)),)


def _main_problems(value: Config, name: str) -> tuple[Problem, ...]:
    main = [host for host, entry in value[_HOSTS].items() if entry.get(_MAIN)]
    if len(main) == 1:
        return ()
    return (
        Problem(
            code="two-main-hosts" if main else "no-main-host",
            message=f"{len(main)} main hosts",
            location=Location(name),
            wanted="`is_main_host: true` at exactly one host",
        ),
    )
