"""Where the logits of `bench perplexity` come from: this engine's kernels, or plain numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from enginebench.errors import ModelError
from enginebench_models import Model
from enginebench_quant.kernels.reference import Shape, forward

__all__ = ["EngineRunner", "EngineScorer", "ExactScorer"]

CHUNK_TOKENS = 128
Logits = NDArray[np.float32]


class ExactScorer:
    """float32 over dequantized weights, in numpy: what the weights are worth, no kernel's rounding.

    Takes every type, and 4 bytes of memory for each weight.
    """

    def __init__(self, model: Model, activations: Callable[[Logits], Logits] = lambda x: x) -> None:
        """`activations` sees what goes into each product, see `reference.forward`."""
        config = model.config
        self._activations = activations
        config.refuse_beyond_llama("--engine exact", "leave it out, or take --engine quant")
        if config.sliding_window is not None:
            raise ModelError(
                f"{model.info.name}: sliding windows are not computed by --engine exact"
            )
        self._weights = {name: tensor.dequantize() for name, tensor in model.weights.items()}
        self._shape = Shape(
            n_layers=config.n_layers,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            eps=config.rms_norm_eps,
            adjacent_pairs=config.rope_pairs == "adjacent",
            frequencies=config.inverse_frequencies(),
        )

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Logits]:
        """See `perplexity.Scorer`."""
        yield from forward(self._shape, self._weights, np.array(tokens), self._activations)[first:]


class EngineRunner(Protocol):
    """What computes: `QuantModel`, `LogitsModel` on a GPU, or both as `SplitModel`."""

    def forward(
        self, tokens: Sequence[int], position: int, *, want_logits: bool = True
    ) -> Logits | None: ...

    def forward_each(self, tokens: Sequence[int], position: int) -> Iterator[Logits]: ...

    def close(self) -> None: ...


class EngineScorer:
    """The engine itself: weights as they are in the file, activations rounded as its kernels do.

    With `is_decoding` each token goes through alone, as it does in an answer; else in chunks, as a
    prompt does. On a CPU both round alike, on a GPU prompts are not rounded to int8.
    """

    def __init__(self, runner: EngineRunner, *, is_decoding: bool = False) -> None:
        self._runner, self._is_decoding = runner, is_decoding
        self._chunk = CHUNK_TOKENS

    def logits(self, tokens: Sequence[int], first: int) -> Iterator[Logits]:
        """See `perplexity.Scorer`."""
        for start in range(0, first, self._chunk):
            end = min(first, start + self._chunk)
            self._runner.forward(tokens[start:end], start, want_logits=False)
        if self._is_decoding:
            for position in range(first, len(tokens)):
                row = self._runner.forward(tokens[position : position + 1], position)
                assert row is not None
                yield row
            return
        for start in range(first, len(tokens), self._chunk):
            yield from self._runner.forward_each(tokens[start : start + self._chunk], start)

    def close(self) -> None:
        """Free what it computes with."""
        self._runner.close()
