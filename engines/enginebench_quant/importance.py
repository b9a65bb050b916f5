"""What goes into each weight of a model while it reads a text, as sums for an importance matrix.

Computed with float32 on dequantized weights, as `ExactScorer` does: slow, and no kernel's rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from enginebench_models import Model
from enginebench_models.imatrix import InputSums
from enginebench_quant.perplexity import Windows
from enginebench_quant.scorers import ExactScorer

__all__ = ["input_sums"]

Floats = NDArray[np.float32]
LAYER_INPUTS = (
    ("attn_q", "attn_k", "attn_v"),
    ("attn_output",),
    ("ffn_gate", "ffn_up"),
    ("ffn_down",),
)


class _Watch:
    """Sees what goes into the products, in the order of the layers, window after window."""

    def __init__(self, n_layers: int) -> None:
        self._weights = [
            tuple(f"blk.{layer}.{part}.weight" for part in parts)
            for layer in range(n_layers)
            for parts in LAYER_INPUTS
        ]
        self._weights.append(("output.weight",))
        self._next = 0
        self.sums: dict[str, InputSums] = {}

    def __call__(self, x: Floats) -> Floats:
        squares = np.square(x, dtype=np.float64).reshape(-1, x.shape[-1])
        for name in self._weights[self._next]:
            before = self.sums.get(name, InputSums(np.zeros(x.shape[-1]), 0))
            self.sums[name] = InputSums(
                before.squares + squares.sum(0), before.count + len(squares)
            )
        self._next = (self._next + 1) % len(self._weights)
        return x


def input_sums(
    model: Model, windows: Windows, progress: Callable[[int], None]
) -> dict[str, InputSums]:
    """By tensor name; `progress` hears of each window that is done."""
    watch = _Watch(model.config.n_layers)
    scorer = ExactScorer(model, activations=watch)
    for index, window in enumerate(windows.tokens):
        for _ in scorer.logits(window, len(window)):
            raise AssertionError("no logits were asked for")
        progress(index + 1)
    if model.config.tie_word_embeddings:  # the head is the embedding table, under its name
        watch.sums["token_embd.weight"] = watch.sums.pop("output.weight")
    return watch.sums
