"""A rank that is not the first: loads its part and repeats what the first rank does.

`python -m enginebench_paged.parallel.follower POST` is started by `crew`, which holds our standard
input: the port comes on it, and its end is ours. Signals are left to the first rank: who presses
Ctrl-C means the server, which lets its requests finish.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn

from enginebench.errors import BenchError
from enginebench.types import OptionValue
from enginebench_paged.threads import spin_briefly

if TYPE_CHECKING:
    from enginebench_paged.parallel.ranks import Ranks

__all__ = ["serve_rank"]


def main() -> None:
    """Do as the first rank, which started this process, until it says so or ends."""
    from enginebench_paged.parallel.post import Post

    post = Post.decode(sys.argv[1])

    def meet() -> Ranks:
        from enginebench_paged.parallel.meeting import join, meeting_point

        port = sys.stdin.buffer.readline()
        if not port:  # the first rank ended before it had one
            os._exit(1)
        threading.Thread(target=_end_with_the_first, daemon=True).start()
        return join(post.place, meeting_point(post.place.count, int(port)))

    serve_rank(meet, post.model, post.options)


def serve_rank(
    meet: Callable[[], Ranks], model: str, options: Mapping[str, OptionValue]
) -> NoReturn:
    """Meet the others, load this rank's part, and do what the first rank does; ends the process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    spin_briefly()
    from enginebench_models import open_model
    from enginebench_paged.engine import PagedEngine
    from enginebench_paged.parallel.lead import follow

    code = 0
    try:
        ranks = meet()
        follow(PagedEngine(open_model(model), options, ranks), ranks)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except RuntimeError:
        logging.exception("a rank has failed")
        code = 1
    sys.stderr.flush()
    os._exit(code)  # what NCCL has running must not keep us


def _end_with_the_first() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
