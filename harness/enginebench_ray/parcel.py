"""A Run folder on its way from one machine to another: a tar archive in memory."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

__all__ = ["pack", "unpack"]


def pack(folder: Path) -> bytes:
    """The folder's content, compressed."""
    parcel = io.BytesIO()
    with tarfile.open(fileobj=parcel, mode="w:gz") as archive:
        archive.add(folder, arcname=".")
    return parcel.getvalue()


def unpack(parcel: bytes, folder: Path) -> None:
    """Make `folder`, with what `pack` took; it appears whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    temporary.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(parcel)) as archive:
        archive.extractall(temporary, filter="data")
    temporary.rename(folder)
