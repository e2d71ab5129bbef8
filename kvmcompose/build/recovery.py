"""Reads the ledger after a build that was killed: what that had put in place counts as built."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kvmcompose.build.decide import lstat
from kvmcompose.build.ledger import Ledger, LedgerEntry, as_built
from kvmcompose.effects.files import digest_file, digest_link, is_readable
from kvmcompose.effects.stat_cache import Signature


def recover(ledger: Ledger, folder: Path, *, write: bool) -> dict[str, LedgerEntry]:
    """The records, after a build that was killed: what it put in place counts as built.

    Only with ``write`` this is noted in the ledger.
    """
    found = ledger.records()
    done, undone = [], []
    for intent in ledger.intents():
        path = folder / intent.path
        status = lstat(path)
        if status is None or not _holds(path, status, intent.content):
            undone.append(intent.path)
            continue
        record = as_built(intent, Signature.of(status))
        done.append(record)
        found[intent.path] = record
    if done and write:
        ledger.record(done)
    if undone and write:
        ledger.drop_intents(undone)
    return found


def _holds(path: Path, status: os.stat_result, content: str) -> bool:
    if stat.S_ISLNK(status.st_mode):
        return digest_link(path) == content
    return stat.S_ISREG(status.st_mode) and is_readable(path) and digest_file(path) == content
