"""doit's records of tasks, kept in the ledger, so that ``doit forget`` reaches our records, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from doit.exceptions import InvalidCommand, InvalidDodoFile

from kvmcompose.build.ledger import open_ledger
from kvmcompose.build.project import ledger_path
from kvmcompose.core.errors import KvmComposeError

#: The tasks that ran in this run of doit. doit removes its record of one that failed, which must not make the
#: ledger forget what the artefact was made of: the next plan has to say what changed.
attempted: set[str] = set()

#: The names of all our tasks, as opposed to those of the user's ``dodo.py``. The ledger decides on them, so
#: two of doit's records are not kept: that the user ignores a task, which would leave an artefact out of date
#: that counts as built; and which class compares its files, of which it has none: on a change of that class
#: doit forgets the task.
ours: set[str] = set()
_NOT_KEPT = frozenset({"ignore:", "checker:"})

#: The end of a ledger's path.
_PLACE = ledger_path(Path()).parts


@contextmanager
def errors_for_doit() -> Iterator[None]:
    """Turn our errors into doit's, which it prints in one line; for others it prints a traceback."""
    try:
        yield
    except KvmComposeError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        raise InvalidDodoFile(f"{error.message}{hint}") from error


class LedgerStore:
    """A backend for doit (see ``doit.dependency``): name it in ``DOIT_CONFIG`` as ``kvm-compose``."""

    desc = "the ledger of kvm-compose"

    def __init__(self, name: str, codec: Any, **_: Any) -> None:
        del codec  # rows are small, and JSON is what doit's own codec is
        self.name = name
        if Path(name).parts[-2:] != _PLACE:  # opening a ledger closes its folder to other users
            raise InvalidDodoFile(
                f"{name!r} cannot hold the records of kvm-compose's tasks: they are in {'/'.join(_PLACE)}"
                "\nhint: leave out --db-file, or take dep_file from doit_config() in dodo.py"
            )
        with errors_for_doit():
            self._ledger = open_ledger(Path(name))
        attempted.clear()  # there is one store per run of doit, and it is there before any task runs
        self._rows: dict[str, dict[str, Any]] = {}
        for task, data in self._ledger.doit_rows().items():
            try:
                self._rows[task] = json.loads(data)
            except ValueError:
                continue  # a row that cannot be read is a task that never ran
        self._changed: set[str] = set()
        self._removed: set[str] = set()

    def get(self, task_id: str, dependency: str) -> Any:
        """A value of a task, or None."""
        if dependency in _NOT_KEPT and task_id in ours:
            return None  # a ledger of an earlier version may have it
        return self._rows.get(task_id, {}).get(dependency)

    def set(self, task_id: str, dependency: str, value: Any) -> None:
        """Store a value of a task. Raises InvalidCommand for a task of ours that is to be ignored."""
        if dependency in _NOT_KEPT and task_id in ours:
            if dependency == "ignore:":
                raise InvalidCommand(
                    f"{task_id!r} cannot be ignored: kvm-compose decides on its own tasks what is up to date"
                    "\nhint: to build only some of them, name them: kvm-compose generate NAME"
                )
            return
        self._rows.setdefault(task_id, {})[dependency] = value
        self._changed.add(task_id)

    def in_(self, task_id: str) -> bool:
        """Return whether a task has ever run."""
        return task_id in self._rows

    def remove(self, task_id: str) -> None:
        """Forget a task: the recipe of its artefact becomes unknown, so the artefact is made again."""
        self._rows.pop(task_id, None)
        self._removed.add(task_id)
        if task_id not in attempted:
            with errors_for_doit():
                self._ledger.invalidate(task_id)

    def remove_all(self) -> None:
        """Forget all tasks."""
        self._removed.update(self._rows)
        self._rows.clear()
        with errors_for_doit():
            self._ledger.invalidate(None)

    def dump(self) -> None:
        """Write the changes down."""
        kept = (task for task in sorted(self._changed) if task in self._rows)
        if self._ledger.read_only:
            return
        changed = [(task, json.dumps(self._rows[task])) for task in kept if not task.startswith("batch:")]
        with errors_for_doit():
            self._ledger.save_doit_rows(changed, sorted(self._removed))
        self._changed.clear()
        self._removed.clear()
