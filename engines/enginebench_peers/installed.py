"""Whether somebody else's engine is installed, and which version: found out without starting it.

Engines of other projects often live in an environment of their own. A program on PATH that pip put
there names its interpreter in its first line, and the version stands beside that interpreter, so
that nothing of the engine has to be imported to know it.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from enginebench.types import Availability

__all__ = ["absent", "present", "script_interpreter", "script_version"]


def present(version: str | None) -> Availability:
    """It can run; `all` leaves it out, as every engine of this package."""
    return Availability(ok=True, version=version, by_name_only=True)


def absent(reason: str, fix: str, version: str | None = None) -> Availability:
    """It cannot run here."""
    return Availability(ok=False, version=version, reason=reason, fix=fix, by_name_only=True)


def script_version(distribution: str, script: str) -> str | None:
    """Version of `distribution` in the environment that `script` was installed into, if it says."""
    interpreter = script_interpreter(script)
    if interpreter is None:
        return None
    for folder in sorted(interpreter.parent.parent.glob("lib/python3*/site-packages")):
        for found in metadata.distributions(name=distribution, path=[str(folder)]):
            return found.version
    return None


def script_interpreter(script: str) -> Path | None:
    """The interpreter in the script's first line; None if there is no such line."""
    try:
        with Path(script).open("rb") as file:
            first = file.readline(1000)
    except OSError:
        return None
    words = first[2:].decode("utf-8", "replace").split()
    return Path(words[0]) if first.startswith(b"#!") and words else None
