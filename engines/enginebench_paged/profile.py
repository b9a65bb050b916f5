"""How many KV blocks a GPU has room for, found by running the largest step on it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from enginebench_models import ModelConfig
from enginebench_paged.cache import block_bytes, fitting_blocks
from enginebench_paged.config import PagedConfig
from enginebench_paged.graphs import Forward, decode_buckets, mixed_sizes
from enginebench_paged.inputs import Sizes, StepInputs, device_views, host_views

__all__ = ["gpu_block_count", "largest_step"]

_GRAPH_BYTES = 1 << 30  # what the driver keeps of graphs


@torch.inference_mode()
def gpu_block_count(config: PagedConfig, model: ModelConfig, forward: Forward) -> int:
    """As told by `kv_memory_gb`, else what weights and the largest step leave of the fraction."""
    if config.kv_memory_bytes is not None:
        return fitting_blocks(config.kv_memory_bytes, config, model)
    device = config.device
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    forward(largest_step(config))
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    others = total - free - reserved
    peak = torch.cuda.max_memory_allocated(device)
    activations = peak - before
    torch.cuda.empty_cache()
    graphs = _graph_bytes(config, model, activations) if config.cuda_graphs else 0
    room = int(total * config.gpu_memory_fraction) - others - peak - graphs
    return fitting_blocks(room - block_bytes(config, model), config, model)


def _graph_bytes(config: PagedConfig, model: ModelConfig, activations: int) -> int:
    """Graphs share activations among themselves, in a pool of their own; each keeps its logits."""
    rows = sum(decode_buckets(config.max_batch))
    rows += sum(sizes.samples for sizes in mixed_sizes(config))
    return _GRAPH_BYTES + activations + rows * model.vocab_size * config.dtype.itemsize


def largest_step(config: PagedConfig) -> StepInputs[Tensor]:
    """`step_tokens` tokens in prompts of equal length, all `max_batch` of them sampled."""
    batch = config.max_batch
    lengths = np.full(batch, config.step_tokens // batch, np.int64)
    lengths[0] += config.step_tokens - lengths.sum()
    lengths = np.minimum(lengths, config.context_length)
    ends = np.cumsum(lengths)
    sizes = Sizes(int(ends[-1]), batch, batch, decodes=0, max_query_len=int(lengths.max()))
    packed = np.zeros(sizes.words, np.int64)
    x = host_views(packed, sizes)
    x.positions[:] = np.concatenate([np.arange(length) for length in lengths])
    x.cache_slots[:] = -1
    x.sample_rows[:] = ends - 1
    x.sample_slots[:] = x.sequence_slots[:] = np.arange(batch)
    x.context_lens[:] = lengths
    x.query_starts[1:] = ends
    return device_views(torch.from_numpy(packed).to(config.device), sizes)
