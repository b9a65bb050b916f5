"""The keeper: removes a checkout when its owner ends, however that came about.

    python -I -S keeper.py REPOSITORY FOLDER

The owner holds the other end of stdin. When that pipe closes (done, crash, SIGKILL of the owner),
the git worktree `FOLDER/tree` is given up and FOLDER removed with everything in it. Run by
file path, standard library only, in a session of its own, so that Ctrl-C does not reach it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

PATIENCE_S = 60.0
"""An installation that is being ended too may still write into the folder for a while."""
POLL_S = 0.1


def main(arguments: list[str]) -> int:
    repository, folder = arguments
    while os.read(0, 4096):
        pass
    deadline = time.monotonic() + PATIENCE_S
    while os.path.exists(folder) and time.monotonic() < deadline:
        _git(repository, "worktree", "remove", "--force", "--force", os.path.join(folder, "tree"))
        shutil.rmtree(folder, ignore_errors=True)
        if os.path.exists(folder):
            time.sleep(POLL_S)
    _git(repository, "worktree", "prune")
    return int(os.path.exists(folder))


def _git(repository: str, *arguments: str) -> None:
    """What fails is tried again, or was gone before."""
    subprocess.run(["git", "-C", repository, *arguments], capture_output=True, check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
