"""What an fp8 KV cache multiplies its values by: fixed before the first request, a scale per head.

Found by computing one prompt of tokens from all over the vocabulary into a cache that rounds
nothing, and twice the largest value of each head taken as the end of fp8's range. Twice, because
other prompts reach further, and a floating type loses nothing by the room: it has 15 binades of
full precision. What exceeds even that is stored as the largest number. Scales that followed the
values while serving would change what a cached block means, and with it equal prompts' answers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from enginebench_paged.cache import KVCache, KVScales
from enginebench_paged.config import PagedConfig
from enginebench_paged.inputs import Sizes, device_views, host_views
from enginebench_paged.model import Transformer

__all__ = ["calibrated"]

_TOKENS = 512
_LARGEST = 448.0  # of e4m3
_ROOM = 2.0


@torch.inference_mode()
def calibrated(model: Transformer, config: PagedConfig) -> KVScales:
    """The scales of each layer and head; they depend on the model alone."""
    count = min(_TOKENS, config.context_length)
    blocks = -(-count // config.block_size)
    tables = torch.arange(blocks, dtype=torch.int32, device=config.device)[None]
    sizes = Sizes(count, 1, 1, decodes=0, max_query_len=count, width=blocks)
    packed = np.zeros(sizes.words, np.int64)
    x = host_views(packed, sizes)
    x.token_ids[:] = np.random.default_rng(0).integers(0, model.config.vocab_size, count)
    x.positions[:] = x.cache_slots[:] = np.arange(count)
    x.sample_rows[:] = count - 1
    x.context_lens[:] = x.query_starts[1:] = count
    inputs = device_views(torch.from_numpy(packed).to(config.device), sizes)
    cache = KVCache.allocate(blocks, config, model.config, dtype=config.dtype)
    model.hidden(inputs.token_ids, inputs, tables, cache)
    return KVScales(_scales(cache.keys), _scales(cache.values))


def _scales(layers: tuple[Tensor, ...]) -> Tensor:
    """(layers, kv_heads) of caches (num_blocks, kv_heads, block_size, head_dim)."""
    largest = torch.stack([layer.float().abs().amax((0, 2, 3)) for layer in layers])
    return torch.where(largest > 0, largest * (_ROOM / _LARGEST), 1.0)
