"""Where the harness finds the common figures among our server's metrics. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["SERVER_METRICS"]

SERVER_METRICS: Final[Mapping[str, Sequence[str]]] = {
    "server_running": ("enginebench:requests_running",),
    "server_waiting": ("enginebench:requests_waiting",),
    "server_kv_used_share": ("enginebench:kv_blocks_used/enginebench:kv_blocks",),
    "server_kv_filled_share": ("enginebench:kv_slots_filled/enginebench:kv_slots_held",),
    "server_prefix_queried_tokens": ("enginebench:prefix_cache_queried_tokens_total",),
    "server_prefix_hit_tokens": ("enginebench:prefix_cache_hit_tokens_total",),
    "server_preemptions": ("enginebench:preemptions_total",),
}
