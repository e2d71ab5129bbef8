"""``doit dumpdb`` in a project: doit's own command reads only dbm files."""

from __future__ import annotations

import contextlib
import dbm
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from doit.cmd_dumpdb import DumpDB as DoitDumpDB
from doit.exceptions import InvalidCommand

from kvmcompose.build.ledger import copy_of_ledger
from kvmcompose.build.project import ledger_path


class DumpDB(DoitDumpDB):  # type: ignore[misc] # doit has no types
    """Prints doit's records of tasks from the ledger of the project in the current folder.

    Where there is no ledger, or with ``--db-file``, it is doit's own command.
    """

    def execute(self, opt_values: Mapping[str, Any], pos_args: Sequence[str]) -> Any:
        """Print a line of JSON for each task."""
        ledger = ledger_path(Path())
        if opt_values["dep_file"] == self._default() and ledger.is_file():
            with contextlib.closing(copy_of_ledger(ledger)) as records:
                for task, data in sorted(records.doit_rows().items()):
                    sys.stdout.write(f"{task} -> {json.dumps(json.loads(data), sort_keys=True)}\n")
            return 0
        if dbm.whichdb(opt_values["dep_file"]) is None:  # doit's own command ends in a traceback then
            raise InvalidCommand("no task has been recorded yet")
        return super().execute(opt_values, pos_args)

    def _default(self) -> str:
        default: str = next(option["default"] for option in self.cmd_options if option["name"] == "dep_file")
        return default
