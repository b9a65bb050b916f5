"""What parts of a model take on a GPU, and so how its layers are split between GPU and CPU."""

from __future__ import annotations

from collections.abc import Sequence

from enginebench.errors import ModelError
from enginebench_models import Model, ModelConfig, Tensor
from enginebench_quant.gpu.cache import cache_bytes
from enginebench_quant.gpu.layer_split import Costs, Split, split_layers
from enginebench_quant.gpu.state import MAX_CHUNK_TOKENS
from enginebench_quant.kernels.gpu.planes import BLOCK, FORMATS

__all__ = ["RESERVED_BYTES", "buffer_bytes", "costs_of", "fitting_split"]

RESERVED_BYTES = 512 << 20  # CUDA graphs, the library's workspaces, what fragments waste
WIDE_BYTES = 2  # of a number in a chunk's buffers


def fitting_split(
    model: Model, context: int, free: Sequence[int], wanted: int | None, kv_type: str = "f16"
) -> Split:
    """`wanted` layers (None: as many as fit) on GPUs with `free` bytes; else ModelError."""
    costs, fixed = costs_of(model, context, kv_type), RESERVED_BYTES + buffer_bytes(model.config)
    room = [max(0, each - fixed) for each in free]
    split = split_layers(costs, room, wanted)
    if split is not None:
        return split
    most = split_layers(costs, room, None)
    assert most is not None
    fitting = model.config.n_layers - most.cpu
    have = ", ".join(f"{each / 1e9:.2f}" for each in free)
    raise ModelError(
        f"{wanted} layers of {model.info.name} with a context of {context} do not fit the GPU, "
        f"which has {have} GB free: {fitting} do; set gpu_layers={fitting} or auto (with hardware "
        "cuda:0+cpu the CPU computes the rest), lower the context, or take a smaller file"
    )


def costs_of(model: Model, context: int, kv_type: str) -> Costs:
    """Each layer's with its share of the cache."""
    config, layers = model.config, [0] * model.config.n_layers
    for name, tensor in model.weights.items():
        if name.startswith("blk."):
            layers[int(name.split(".")[1])] += _bytes(tensor)
    cache, tied = cache_bytes(config, context, kv_type), config.tie_word_embeddings
    head, embedding = "token_embd.weight" if tied else "output.weight", "token_embd.weight"
    return Costs(
        layers=[own + cache for own in layers],
        head=_bytes(model.weights[head]),
        embedding=_bytes(model.weights[embedding]),
        tied=tied,
    )


def buffer_bytes(config: ModelConfig) -> int:
    """Of a program: a chunk's rows, the largest matrix expanded, logits."""
    q_size, kv_size = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    inner, hidden = config.intermediate_size, config.hidden_size
    row = 4 * hidden + WIDE_BYTES * (2 * hidden + 3 * q_size + 2 * kv_size + 3 * inner)
    largest = WIDE_BYTES * max(2 * inner * hidden, (q_size + 2 * kv_size) * hidden)
    return MAX_CHUNK_TOKENS * row + largest + 64 * config.vocab_size


def _bytes(tensor: Tensor) -> int:
    form = FORMATS.get(tensor.type.name)
    return tensor.size_bytes if form is None else int(tensor.size / BLOCK * form.bytes_per_block)
