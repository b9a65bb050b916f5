"""How many sockets a process may have: the usual limit, 1,024 files, is fewer than users."""

from __future__ import annotations

import resource

__all__ = ["allow_many_sockets"]

MANY = 65_536


def allow_many_sockets() -> None:
    """Raise this process's own limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY if hard == resource.RLIM_INFINITY else min(MANY, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
