"""Which commit is at work: that of the git repository in which a command was typed.

A Run stores it, so that a history can file the Run under its commit. `ENGINEBENCH_REVISION`
overrules: `bench check` sets it for the arm that comes from another checkout, and so may a
container that has the code without its repository. What is changed and not committed shows as
`+changes`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

__all__ = ["CHANGES", "REVISION_VARIABLE", "git", "revision", "tree_digest"]

REVISION_VARIABLE = "ENGINEBENCH_REVISION"
CHANGES = "+changes"


def revision(folder: Path | None = None) -> str | None:
    """The commit of `folder` (None: the working folder); None where nothing tells."""
    if told := os.environ.get(REVISION_VARIABLE):
        return told
    commit = git("rev-parse", "--verify", "HEAD^{commit}", folder=folder)
    if commit is None:
        return None
    changes = git("status", "--porcelain", "--untracked-files=no", folder=folder)
    return commit + (CHANGES if changes else "")


def tree_digest(folder: Path | None = None) -> str | None:
    """The commit of `folder` and a digest of what is changed; None outside a repository."""
    commit = git("rev-parse", "--verify", "HEAD^{commit}", folder=folder)
    if commit is None:
        return None
    changes = git("diff", "HEAD", "--binary", folder=folder) or ""
    return f"{commit} {hashlib.blake2b(changes.encode(), digest_size=8).hexdigest()}"


def git(*arguments: str, folder: Path | None = None) -> str | None:
    """What `git` prints; None when it fails, or is not installed."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, encoding="utf-8", errors="replace"
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
