"""What an engine may offer beyond `TokenEngine`; the server looks for each by its protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

__all__ = ["CacheFiles", "DeviceEngine", "SlottedEngine"]


@runtime_checkable
class SlottedEngine(Protocol):
    """An engine that computes at most `slots` requests at once; None: any number.

    The server keeps what comes beyond them in its own queue, which is fair between clients, and
    hands the engine only a few more, so that no slot ever waits for the server. Without it, all
    requests go to the engine as they come.
    """

    slots: int | None


@runtime_checkable
class DeviceEngine(Protocol):
    """An engine that holds memory of accelerators, which its process's own size does not show."""

    @property
    def device_bytes(self) -> int:
        """What it has taken of all devices."""
        ...


@runtime_checkable
class CacheFiles(Protocol):
    """An engine whose prompt cache can be kept in a file: llama-server's slot save and restore.

    They are called between steps and while no request runs. Files raise `OSError` where the file
    cannot be read or written and `ValueError` where it is not a cache of this model.
    """

    def save_cache(self, path: Path) -> int:
        """Write what the cache holds to `path`, atomically; the number of tokens."""
        ...

    def restore_cache(self, path: Path) -> int:
        """Replace the cache by what `path` holds; the number of tokens.

        Sizes that the file states are checked against the model and the file's own length before
        anything is allocated.
        """
        ...

    def erase_cache(self) -> int:
        """Forget what the cache holds; the number of tokens."""
        ...
