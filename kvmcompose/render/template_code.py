"""What templates are compiled to, kept for this process: to compile them takes half of a small build."""

from __future__ import annotations

from collections.abc import Hashable
from types import CodeType
from typing import TYPE_CHECKING

from jinja2 import BytecodeCache

if TYPE_CHECKING:
    from jinja2.bccache import Bucket

#: The most templates that are kept. With ``up --watch`` there is one more with each edit of one.
_MOST = 64
_known: dict[Hashable, CodeType] = {}


class CodeCache(BytecodeCache):
    """Keeps the code of templates by their text, for environments of one ``kind``.

    The options of an environment decide what a template is compiled to, so those of a kind must be the same.
    """

    def __init__(self, kind: Hashable) -> None:
        self._kind = kind

    def load_bytecode(self, bucket: Bucket) -> None:
        """Give the bucket the code of its template, if that is known."""
        bucket.code = _known.get((self._kind, bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code of the bucket."""
        if bucket.code is None:
            return
        _known[self._kind, bucket.key, bucket.checksum] = bucket.code
        for oldest in list(_known)[:-_MOST]:
            _known.pop(oldest, None)
