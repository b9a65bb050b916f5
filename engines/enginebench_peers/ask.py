"""What a program answers when it is run for a moment: its version, its devices."""

from __future__ import annotations

import subprocess
from typing import Final

__all__ = ["ask"]

_TIMEOUT_S: Final = 60.0


def ask(*command: str) -> str:
    """What a command says, on either stream; nothing if it cannot be run."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")
