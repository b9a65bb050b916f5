"""A Run folder on its way from one machine to another: a zip archive in memory."""

from __future__ import annotations

import io
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

__all__ = ["pack", "unpack"]


def pack(folder: Path) -> bytes:
    """The folder's content, compressed."""
    parcel = io.BytesIO()
    with ZipFile(parcel, "w", ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return parcel.getvalue()


def unpack(parcel: bytes, folder: Path) -> None:
    """Make `folder`, with what `pack` took; it appears whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    temporary.mkdir(parents=True)
    with ZipFile(io.BytesIO(parcel)) as archive:
        archive.extractall(temporary)
    temporary.rename(folder)
