"""Files that appear whole or not at all: temporary file, fsync, rename, fsync of the folder.

Every failure of the file system becomes a StoreError that names the path; the file that was there
before is untouched.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from enginebench.errors import StoreError

__all__ = ["replacing", "write_bytes", "write_error", "write_json"]


def write_error(path: Path, error: OSError) -> StoreError:
    """The StoreError for a write to `path` that failed."""
    reason = error.strerror or str(error)
    fix = "check the path and its permissions"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        fix = "free some space, then go on with `bench run --resume`; what is sealed is intact"
    return StoreError(f"cannot write {path}: {reason}; {fix}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what was written there becomes `path` at the end."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Replace `path` by `data`, atomically; `mode` as for open(2), less the umask."""
    with replacing(path) as temporary:
        temporary.touch(mode)
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON, atomically; dataclasses are objects."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
