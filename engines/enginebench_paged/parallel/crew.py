"""The processes of all ranks but the first, where we start them.

They (`follower`) are told where to meet through their standard input, which is held open: when the
first rank ends, however that is, they end. A rank that dies ends the first at once, even inside a
collective that would never return; the server then sees an engine that died, and builds it again.

Under torchrun all processes are there already, and it sees to it that they end together.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Final

from enginebench_paged.parallel.post import Post

__all__ = ["Crew"]

logger = logging.getLogger(__name__)

LEAVE_S: Final = 5.0


class Crew:
    """Starts one process for each post."""

    def __init__(self, posts: Sequence[Post]) -> None:
        self._leaving = False
        self._processes = [_start(post) for post in posts]
        for post, process in zip(posts, self._processes, strict=True):
            watch = threading.Thread(target=self._watch, args=(post.place.rank, process))
            watch.daemon = True
            watch.start()

    def meet_at(self, port: int) -> None:
        """Tell them where the first rank waits."""
        for process in self._processes:
            with suppress(BrokenPipeError):  # has ended: `_watch` sees to that
                _input(process).write(f"{port}\n".encode())
                _input(process).flush()

    def release(self) -> None:
        """From now on they may end."""
        self._leaving = True

    def see_off(self) -> None:
        """They were told to end; see that they do."""
        for process in self._processes:
            try:
                process.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if not self._leaving:
            logger.error("rank %d has ended with code %d; its engine ends with it", rank, code)
            logging.shutdown()
            os._exit(1)


def _start(post: Post) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "enginebench_paged.parallel.follower", post.encode()]
    return subprocess.Popen(argv, stdin=subprocess.PIPE)


def _input(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin is not None
    return process.stdin
