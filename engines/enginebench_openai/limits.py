"""What a server takes on at most, how long it lets anybody wait, and what it keeps in memory: the
operator's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits", "PoolSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Durations in seconds; None: no limit.

    `max_queue`: generations that wait for a slot. `queue_timeout_s`: for a slot.
    `request_timeout_s`: from the request's arrival to the last token. `stall_timeout_s`: for a
    client to send the rest of a request, or to read what was sent to it.
    """

    max_body_bytes: int = 16 * 2**20
    max_queue: int = 4096
    queue_timeout_s: float | None = 600.0
    request_timeout_s: float | None = 3600.0
    stall_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """`restarts`: tries in a row to restart an engine that died. `idle_timeout_s` None: never.

    `max_loaded` None: as many models as `memory_bytes` holds (None: no matter how large).
    """

    max_loaded: int | None = 1
    memory_bytes: int | None = None
    idle_timeout_s: float | None = None
    restarts: int = 0
