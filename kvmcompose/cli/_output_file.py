"""Write a result to a file that the command line names."""

from __future__ import annotations

from pathlib import Path

from kvmcompose.core.errors import KvmComposeError


def write_output(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write it completely or not at all, in a folder that exists. Raises KvmComposeError."""
    from kvmcompose.effects.files import write_atomic

    if not path.absolute().parent.is_dir():
        raise KvmComposeError(f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}")
    try:
        write_atomic(path, data, mode=mode)
    except OSError as error:
        raise KvmComposeError(f"cannot write {str(path)!r}: {error.strerror}") from error
