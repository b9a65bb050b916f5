"""What kernels are called with: the words of their argument arrays, by name and in order.

And the sizes of what they write for each other. Plain data: who writes programs needs no compiler.
"""

from __future__ import annotations

__all__ = [
    "ATTEND_ARGUMENTS",
    "ATTEND_ONE_ARGUMENTS",
    "CAP_COLUMNS",
    "EXPERT_MATMUL_ARGUMENTS",
    "HEAD_WORDS",
    "IN_USE_WORDS",
    "JOIN_ARGUMENTS",
    "LINE_BYTES",
    "MATMUL_ARGUMENTS",
    "MERGE_ARGUMENTS",
    "PACK_ARGUMENTS",
    "ROPE_ARGUMENTS",
    "ROUTE_ARGUMENTS",
    "TASK_WORDS",
    "list_words",
    "part_floats",
]

CAP_COLUMNS = 32
LINE_BYTES = 64  # between the words that threads of a crew claim tasks by
TASK_WORDS = 4  # kernel, arguments, begin, end
HEAD_WORDS, IN_USE_WORDS = 2, 3

PACK_ARGUMENTS = ("source", "row_bytes", "rows", "columns", "order", "out", "steps")

MATMUL_ARGUMENTS = (
    "weights",
    "group_bytes",
    "steps",
    "acts",
    "acts_stride",
    "tile_bytes",
    "out",
    "out_stride",
    "accumulate",
    "state",
)
"""What the argument array of a matmul kernel holds; `state` is the address of the token count."""

ROPE_ARGUMENTS = (
    "q",
    "k",
    "v",
    "q_stride",
    "kv_stride",
    "q_bias",
    "k_bias",
    "v_bias",
    "q_norm",
    "k_norm",
    "eps",
    "head_dim",
    "kv_heads",
    "group",
    "cos_sin",
    "k_cache",
    "v_cache",
    "capacity",
    "state",
)
"""Addresses of biases and norms are 0 where the model has none; `state`: token count, position."""

ATTEND_ARGUMENTS = (
    "q",
    "q_stride",
    "out",
    "head_dim",
    "kv_heads",
    "group",
    "k_cache",
    "v_cache",
    "capacity",
    "scale",
    "scratch",
    "scratch_bytes",
    "state",
    "window",
    "softcap",
)
"""`window`: how many keys a token sees, itself among them. 0 for what the layer has not."""

ATTEND_ONE_ARGUMENTS = (
    "q",
    "head_dim",
    "k_cache",
    "v_cache",
    "capacity",
    "scale",
    "parts",
    "splits",
    "scratch",
    "scratch_bytes",
    "state",
    "window",
    "softcap",
)
MERGE_ARGUMENTS = ("out", "head_dim", "group", "parts", "splits")

ROUTE_ARGUMENTS = (
    "logits",
    "stride",
    "experts",
    "used",
    "normalized",
    "lists",
    "most",
    "weights",
    "state",
)
"""`logits`: rows of the router, overwritten; `most`: assignments that `lists` has room for."""

EXPERT_MATMUL_ARGUMENTS = (
    "weights",
    "expert_bytes",
    "group_bytes",
    "groups",
    "steps",
    "acts",
    "row_bytes",
    "assignments_per_row",
    "out",
    "out_stride",
    "lists",
    "experts",
)
"""Activations lie row by row; those of `assignments_per_row` assignments are one row."""

JOIN_ARGUMENTS = (
    "found",
    "stride",
    "weights",
    "used",
    "x",
    "columns",
    "shared",
    "gate",
    "normed",
    "state",
)
"""All rows are `stride` bytes apart; `shared` and `gate` are 0 where there is no shared expert."""


def part_floats(rows: int, head_dim: int, lanes: int) -> int:
    """Floats that a part takes: for each row two of statistics, then the outputs of all rows."""
    return rows * (2 + -(-head_dim // lanes) * lanes)


def list_words(experts: int, assignments: int) -> int:
    """The size of `lists`."""
    return HEAD_WORDS + IN_USE_WORDS * experts + 2 * assignments
